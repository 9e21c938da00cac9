"""Log-mel features of a few clips, in memory."""

from collections.abc import Sequence

import numpy as np
import torch

from kmed_bench.asr.features.store import Dtype, pad_to_window, rounded_frames


class ClipFeatures:
    """Frames of clips that are decoded at once: a `FeatureSource` whose names are the clips' numbers as text.

    Parameters
    ----------
    clips : sequence of numpy.ndarray
        Mono float32 samples at 16 kHz; 30 s of each count.
    """

    def __init__(self, clips: Sequence[np.ndarray], dtype: Dtype) -> None:
        self._frames = {str(number): rounded_frames(clip, dtype) for number, clip in enumerate(clips)}
        self.names = list(self._frames)

    def n_frames(self, utterance_id: str) -> int:
        """Return a clip's number of frames of 10 ms."""
        return len(self._frames[utterance_id][0])

    def window(self, utterance_ids: Sequence[str], n_frames: int) -> torch.Tensor:
        """Return clips padded with their own silence, fp32, shape (batch, 80, n_frames)."""
        return pad_to_window([self._frames[name] for name in utterance_ids], n_frames)

"""Decoding of samples in memory."""

from collections.abc import Sequence

import numpy as np
import torch
from whisper.audio import N_SAMPLES, SAMPLE_RATE

from kmed_bench.asr.decoding.decode import decode_clips
from kmed_bench.asr.decoding.options import DecodingOptions
from kmed_bench.asr.features.log_mel import N_MELS, log_mel, pad_value
from kmed_bench.asr.features.resampling import resample
from kmed_bench.asr.model.whisper import Whisper
from kmed_bench.config import EvalConfig
from kmed_bench.core.errors import KmedError
from kmed_bench.corpus.archives.wav import MAX_LEVEL, MAX_RATE_HZ, MIN_RATE_HZ

_WINDOW_S = N_SAMPLES // SAMPLE_RATE


class _Frames:
    """Log-mel frames of clips in memory: a `FeatureSource`."""

    def __init__(self, frames: dict[str, np.ndarray]) -> None:
        self._frames = frames

    def n_frames(self, utterance_id: str) -> int:
        return len(self._frames[utterance_id])

    def window(self, utterance_ids: Sequence[str], n_frames: int) -> torch.Tensor:
        batch = np.empty((len(utterance_ids), n_frames, N_MELS), dtype=np.float32)
        for row, name in zip(batch, utterance_ids, strict=True):
            frames = self._frames[name][:n_frames]
            row[: len(frames)], row[len(frames) :] = frames, pad_value(self._frames[name])
        return torch.from_numpy(batch).transpose(1, 2)


def transcribe_arrays(
    model: Whisper, clips: Sequence[np.ndarray], config: EvalConfig | None = None, *, rate_hz: int = SAMPLE_RATE
) -> list[str]:
    """Return the transcripts of clips in memory, decoded as `evaluate` decodes those of a split.

    Parameters
    ----------
    clips : sequence of numpy.ndarray
        Mono samples, full scale 1, each of shape (n_samples,) and of at most 30 s.
    config : EvalConfig, optional
        How to decode, such as ``load_config("sound").eval``; None: the defaults.
    rate_hz : int
        Sample rate of all clips.

    Raises
    ------
    KmedError
        When a clip is empty, too long, not mono, has integers, or samples that are not finite or over full scale, or
        the rate is none of speech.
    """
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise KmedError(f"The clips' rate is {rate_hz} Hz; {MIN_RATE_HZ:,} to {MAX_RATE_HZ:,} Hz are read.")
    frames = {str(i): _frames(samples, i, rate_hz) for i, samples in enumerate(clips)}
    was_training = model.training
    model.eval()
    decoded = decode_clips(model, _Frames(frames), list(frames), DecodingOptions.from_config(config or EvalConfig()))
    texts = {clip.utterance_id: clip.text for clip in decoded}
    model.train(was_training)
    return [texts[name] for name in frames]


def _frames(samples: np.ndarray, i: int, rate_hz: int) -> np.ndarray:
    """Return a clip's log-mel frames, shape (n_frames, 80)."""
    samples = np.asarray(samples)
    if samples.ndim != 1 or samples.dtype.kind != "f":
        raise KmedError(
            f"Clip {i} is an array of shape {samples.shape} of {samples.dtype}; give mono floats, shape "
            "(n_samples,), full scale 1: average the channels, and divide 16-bit integers by 32768."
        )
    duration_s = len(samples) / rate_hz
    if not 0 < duration_s <= _WINDOW_S:
        raise KmedError(f"Clip {i} has {duration_s:g} s; one window takes up to {_WINDOW_S} s: cut it in pauses.")
    loudest = float(np.abs(samples).max())
    if not loudest <= MAX_LEVEL:  # also NaN
        raise KmedError(f"Clip {i} has samples of up to {loudest:g}, and full scale is 1; divide them by their scale.")
    return log_mel(resample(samples.astype(np.float32), rate_hz, SAMPLE_RATE))

"""The audio window: which log-mel frames the encoder reads, and which of its positions are computed.

Whisper always encodes 30 s. A clip of 4 s is followed by 26 s of silence, which takes most of the encoder's time.
Leaving the silence out changes what a pretrained model writes and what a model learns. Silence pooling computes the
clip and few positions of the silence instead: each of these keeps its own positional embedding and represents a group
of positions, by adding the logarithm of the group's size to its logits in every attention, as if its key and value
occurred that many times. The result is close to the full window's but not equal to it, so it must not be used where
texts have to match openai-whisper's. ``benchmarks/decode.py`` compares CER and texts with the full window's,
``benchmarks/train.py --quality`` compares what a model learns.
"""

import dataclasses
import functools
import itertools
import math

import torch
from whisper.audio import N_FRAMES

from kmed_bench.config import Context
from kmed_bench.core.batching import round_up

N_POSITIONS = N_FRAMES // 2  # the encoder's second convolution halves the frames

# An encoder position depends on this many positions' frames to either side, by the two convolutions.
_REACH = 2

# A CPU's matrix library compiles its kernels for each new shape, which took a third of a training step of base while
# every batch had its own length (docs/LOG.md, 2026-11-26). Lengths are therefore rounded up to a few values.
_BUCKET = 64  # frames of 10 ms: 32 encoder positions, the rows of a tile of the matrix unit


@dataclasses.dataclass(frozen=True)
class SilencePooling:
    """How much of the silence after a clip is computed.

    Attributes
    ----------
    margin : int
        Positions of 20 ms after the clip that are computed in full, since they still carry traces of its sound.
    groups : int
        Maximum number of positions that represent all later ones.
    """

    margin: int
    groups: int


TRAINING = SilencePooling(margin=16, groups=16)
"""More positions do not improve what is learned (docs/decisions/010-training-context.md). With a clip of whole buckets,
32 positions keep the number of shapes small and fill whole tiles of the matrix unit."""
DECODING = SilencePooling(margin=50, groups=144)
"""Texts should be the full window's: 258 of 303 clips are, and only 201 with ``TRAINING``."""


@dataclasses.dataclass(frozen=True)
class Window:
    """The part of Whisper's 30 s audio window that is computed for a batch.

    Attributes
    ----------
    n_frames : int
        Log-mel frames of 10 ms that the encoder reads; the rest of the 30 s is silence like the last of them.
    counts : tuple of int
        For each computed encoder position, the number of positions of the 30 s window that it represents.
    """

    n_frames: int
    counts: tuple[int, ...]

    @classmethod
    def for_clips(cls, context: Context, longest_frames: int, pooling: SilencePooling) -> "Window":
        """Return the window of a batch: the whole 30 s (full), or its longest clip and pooled silence (dynamic).

        Parameters
        ----------
        longest_frames : int
            Frames of the longest clip; rounded up to whole buckets (`bucket_frames`).
        """
        return FULL_WINDOW if context == "full" else pooled_window(bucket_frames(longest_frames), pooling)

    @property
    def is_full(self) -> bool:
        """Whether every position of the 30 s is computed."""
        return self.n_frames == N_FRAMES

    @property
    def n_read(self) -> int:
        """Number of positions that the frames give in a pooled window; the others are the silence after these."""
        return self.n_frames // 2 - _REACH

    def positions(self, device: torch.device) -> torch.Tensor:
        """Return the computed positions' indices in the 30 s window, shape (n_positions,)."""
        return _window_tensors(self, device)[0]

    def log_counts(self, device: torch.device) -> torch.Tensor | None:
        """Return the logarithm of ``counts``, shape (n_positions,), fp32; None for the full window."""
        return None if self.is_full else _window_tensors(self, device)[1]


FULL_WINDOW = Window(N_FRAMES, (1,) * N_POSITIONS)


@functools.cache
def pooled_window(n_frames: int, pooling: SilencePooling) -> Window:
    """Return the window of a clip of n_frames with the silence after it pooled; full where no silence can be spared."""
    n_read = n_frames // 2 + pooling.margin
    n_frames_read = 2 * (n_read + _REACH)
    if n_frames_read >= N_FRAMES:
        return FULL_WINDOW
    size = math.ceil((N_POSITIONS - n_read) / pooling.groups)
    n_groups, rest = divmod(N_POSITIONS - n_read, size)
    return Window(n_frames_read, (1,) * n_read + (size,) * n_groups + ((rest,) if rest else ()))


@functools.lru_cache(maxsize=256)
def _window_tensors(window: Window, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return positions and logarithms of counts on a device; each group is represented by its middle position."""
    starts = itertools.accumulate(window.counts[:-1], initial=0)
    with torch.inference_mode(False):  # the cache serves training too, which can't save inference tensors
        positions = torch.tensor([start + n // 2 for start, n in zip(starts, window.counts, strict=True)])
        return positions.to(device), torch.tensor(window.counts).log().to(device)


def bucket_frames(n_frames: int) -> int:
    """Return a length in frames rounded up to whole buckets of 0.64 s, at most 30 s."""
    return min(round_up(n_frames, _BUCKET), N_FRAMES)

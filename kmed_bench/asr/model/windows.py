"""``dynamic``: the 30 s window at a fraction of its cost, since few positions stand for the silence after a clip.

Whisper hears a clip of 4 s followed by 26 s of silence, and most of its encoder's work goes into that
silence. Leaving it out changes what an untouched model writes, and what a model learns. Here the positions
beyond the clip are thinned instead: of each group one stays, with its own positional embedding, and
stands for its group in every attention, as if its key and value were there once for each (the logarithm of the
count is added to its logits). What is computed is close to the full window's and not equal to it, so that this is
no replacement where texts must be openai-whisper's: CER and texts beside the full window's are measured
by ``benchmarks/decode.py``, what a model learns so by ``benchmarks/train.py --quality``.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
from whisper.audio import N_FRAMES

from kmed_bench.config import Context

# The second convolution halves the frames and, with the first, sees two frames on either side.
STRIDE, REACH = 2, 2


@dataclasses.dataclass(frozen=True)
class ContextThinning:
    """How much of the silence after a clip is computed.

    Attributes
    ----------
    margin : int
        Positions of 20 ms after the clip that are computed, since its sound still echoes there.
    groups : int
        Positions, at most, that stand for all others.
    """

    margin: int
    groups: int

    def frames(self, n_frames: int) -> int:
        """Return how many frames of the window are read for a clip of n_frames: the rest is silence like theirs."""
        return min(N_FRAMES, STRIDE * (n_frames // STRIDE + self.margin) + 2 * REACH)

    def positions(self, n_frames: int) -> tuple[list[int], list[int]]:
        """Return the positions that are computed for a clip of n_frames, and how many each of them stands for."""
        n_positions = N_FRAMES // STRIDE
        n_whole = n_positions if self.frames(n_frames) == N_FRAMES else n_frames // STRIDE + self.margin
        size = max(1, math.ceil((n_positions - n_whole) / self.groups))
        alike = [range(start, min(start + size, n_positions)) for start in range(n_whole, n_positions, size)]
        chosen = [*range(n_whole), *(positions[len(positions) // 2] for positions in alike)]
        return chosen, [1] * n_whole + [len(positions) for positions in alike]

    def bias(self, n_frames: int) -> torch.Tensor:
        """Return what attention adds to the logits of each computed position, shape (n_positions,)."""
        return torch.tensor(self.positions(n_frames)[1]).log()


TRAINING = ContextThinning(margin=16, groups=16)
"""What is learned is no worse than with more of the silence (docs/decisions/010-training-context.md). Beside a clip of
whole buckets, 32 positions keep shapes few and rows of the matrix unit's tiles full."""
DECODING = ContextThinning(margin=50, groups=144)
"""Texts shall stay: of 303 clips, 258 read as in the full window, and 201 as training has it."""


T = TypeVar("T")


# A processor's library compiles its matrix products for every new shape, which took a third of a step of base while
# each batch had its own (docs/LOG.md, 2026-11-26). Lengths are rounded up, so that few shapes occur.
_BUCKET = 64  # frames of 10 ms: 32 encoder positions, a row of tiles of the matrix unit


def bucket_frames(n_frames: int) -> int:
    """Return a length in frames rounded up to whole buckets of 0.64 s, at most 30 s."""
    return min(round_up(n_frames, _BUCKET), N_FRAMES)


def thinned_after(context: Context, longest: int) -> int | None:
    """Return the frames after which silence is thinned out; None: nowhere, as where a clip fills the window."""
    return longest if context == "dynamic" and longest < N_FRAMES else None


def window_frames(context: Context, longest: int, thinning: ContextThinning) -> int:
    """Return the frames of a batch's tensor: 30 s (full), or its longest clip's and some silence (dynamic).

    Parameters
    ----------
    longest : int
        The longest clip's length in whole buckets (``bucket_frames``).
    """
    return thinning.frames(longest) if context == "dynamic" else N_FRAMES


def round_up(n: int, step: int) -> int:
    """Return the smallest multiple of step that is not below n."""
    return -(-n // step) * step


def chunks(items: Sequence[T], size: int) -> Iterator[list[T]]:
    """Yield lists of size items, the last one shorter."""
    for start in range(0, len(items), size):
        yield list(items[start : start + size])

"""Cutting sequences into batches, and rounding sizes up."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def chunks(items: Sequence[T], size: int) -> Iterator[list[T]]:
    """Yield consecutive lists of ``size`` items; the last one may be shorter."""
    for start in range(0, len(items), size):
        yield list(items[start : start + size])


def round_up(n: int, step: int) -> int:
    """Return the smallest multiple of ``step`` that is at least ``n``."""
    return -(-n // step) * step

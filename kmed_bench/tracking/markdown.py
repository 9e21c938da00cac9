"""Pieces of Markdown that run notes and model cards share."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kmed_bench.core.quantities import percent

SYNTHETIC_NOTE = (
    "The speech is the generated demo corpus, spoken by a synthesiser: the figures show that the program works, "
    "and say nothing about patients."
)


def whole_number(value: float | None) -> str:
    """Return a number without decimals; a dash if there is none."""
    return "–" if value is None else str(int(value))


def interval(figures: Mapping[str, Any], prefix: str = "") -> str:
    """Return the interval of a CER, such as ``10.0 % to 15.0 %``; empty if there is none.

    Parameters
    ----------
    figures : mapping
        With ``<prefix>cer_low`` and ``<prefix>cer_high`` as fractions.
    """
    low, high = figures.get(f"{prefix}cer_low"), figures.get(f"{prefix}cer_high")
    return "" if low is None or high is None else f"{percent(low)} to {percent(high)}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table; bars in cells are escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]

"""Scores and comparisons as people read them on a terminal."""

import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kmed_bench.core.quantities import explain_rates, percent
from kmed_bench.core.schema import SCORE_FIELDS, UNKNOWN

if TYPE_CHECKING:
    from kmed_bench.core.contracts import BaselineComparison, Comparison, EvaluatedScores, SideScores
    from kmed_bench.core.error_contracts import PageContents

_RATES = ("cer", "cer_number", "wer", "number_exact", "term_recall", "perfect_rate", "hallucination_rate", "empty_rate")


def print_scores(scores: "EvaluatedScores", out: Path, sides: "SideScores | None" = None) -> None:
    """Print the main rates with their intervals, both sides of the notation, groups, comparisons, and where files are.

    Parameters
    ----------
    sides : SideScores, optional
        What ``scoring.sides.score_sides`` returned.
    """
    overall = scores["overall"]
    print(f"CER {percent(overall['cer'])} ({_interval(overall, 'cer')}; {_counts(overall)})")
    print()
    print("\n".join(table_lines(("rate", "value", "95 % interval"), [*_rates(overall)])))
    _print_dashes([overall], _RATES)
    if sides is not None:
        print()
        print("\n".join(table_lines(("scored against", "CER", "95 % interval", "cer_number", "WER"), [*_sides(sides)])))
        if sides["hint"]:
            print(f"Hint: {sides['hint']}")
    if groups := _group_cells(scores):
        print()
        print("\n".join(table_lines(("group", "clips", "speakers", "CER", "95 % interval"), [*_groups(groups)])))
        print("*: fewer clips or speakers than the minimum for a ranking")
        _print_dashes(groups.values(), ("cer",))
    print()
    against = scores.get("comparisons", ())
    for row in against:
        print(_say_against(row))
    if why := explain_rates(*_shown_rates(scores, sides)):
        print(why)
    print(f"Scores: {out / 'scores.json'}")
    if "comparisons" in scores:
        print(f"Comparisons: {out / 'comparisons.json'}")


def comparison_lines(compared: "Comparison", a: str, b: str) -> Iterator[str]:
    """Yield a paired comparison in lines: both systems, the difference with its interval, and the test."""
    name = compared["metric"]
    yield from table_lines(("system", name), [(f"A {a}", percent(compared["a"])), (f"B {b}", percent(compared["b"]))])
    yield f"B minus A: {_say_difference(compared)}; {compared['better']} is better"
    yield f"p {compared['p_value']:.4f} ({compared['test']}); {_counts(compared)}"
    if "margin" in compared:
        yield f"Margin: {compared['margin']['verdict']}"
    if why := explain_rates(compared["a"], compared["b"]):
        yield why


def contents_lines(page: "PageContents") -> Iterator[str]:
    """Yield what an error page holds of the clips and of their recordings, and what is left out of it and why."""
    enough = f"--max-mib {page['needed_mib']} takes all, into a new folder"
    if page["clips_left_out"]:
        yield f"{page['clips_left_out']} clips, with the fewest errors, are left out for the page's size; {enough}."
    if page["recordings"] is None:
        yield "No recordings in the page; --audio SPLIT, a split or a manifest, adds them."
        return
    yield (
        f"Recordings of {page['recordings']} of {page['clips']} clips, {page['audio_s'] / 60:.1f} minutes at "
        f"{page['audio_mib_per_minute']:.2f} MiB a minute ({page['audio_form']})."
    )
    if page["recordings_unreadable"]:
        yield f"{page['recordings_unreadable']} recordings can't be read; the page says why at each clip."
    if page["recordings_left_out"]:
        yield f"{page['recordings_left_out']} recordings are left out for the page's size; {enough}."


def table_lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table: the first column to the left, the others to the right. Hangul takes two places."""
    widths = [max(map(_width, column)) for column in zip(header, *rows, strict=True)]
    for cells in (header, *rows):
        padded = (" " * (width - _width(cell)) for cell, width in zip(cells, widths, strict=True))
        parts = (cell + gap if place == 0 else gap + cell for place, (cell, gap) in enumerate(zip(cells, padded)))  # noqa: B905
        yield "  ".join(parts).rstrip()


def _width(text: str) -> int:
    return sum(1 + (unicodedata.east_asian_width(character) in "WF") for character in text)


def _rates(cell: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for name in _RATES:
        yield name, percent(cell.get(name)), _bounds(cell, name) if f"{name}_low" in cell else ""


def _sides(sides: "SideScores") -> Iterator[tuple[str, ...]]:
    for name in ("pronunciation", "spelling"):
        cell: Mapping[str, Any] = sides[name]
        yield name, percent(cell["cer"]), _bounds(cell, "cer"), percent(cell["cer_number"]), percent(cell["wer"])


def _group_cells(scores: "EvaluatedScores") -> dict[str, Mapping[str, Any]]:
    """Return each single group of a field with two values or more, or with one that is known."""
    return {
        f"{field} {value}": cell
        for field in SCORE_FIELDS
        if len(cells := scores["groups"].get(field, {})) > 1 or cells.keys() - {*UNKNOWN, "none"}
        for value, cell in cells.items()
    }


def _groups(cells: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    for name, cell in cells.items():
        counts = str(cell["n_clips"]), str(cell["n_speakers"])
        yield name + "*" * cell["below_minimum"], *counts, percent(cell["cer"]), _bounds(cell, "cer")


def _print_dashes(cells: Iterable[Mapping[str, Any]], names: Sequence[str]) -> None:
    """Print the reasons for which rates of a table have no interval, if there are any."""
    reasons = {
        cell.get("no_interval", {}).get(name): None
        for cell in cells
        for name in names
        if cell.get(f"{name}_low", "") is None
    }
    if known := [*filter(None, reasons)]:
        print(f"–: no interval ({'; '.join(known)})")


def _shown_rates(scores: "EvaluatedScores", sides: "SideScores | None") -> Iterator[float | None]:
    """Yield every rate that `print_scores` shows, and upper ends of intervals."""
    overall: Mapping[str, Any] = scores["overall"]
    yield from (overall.get(name + end) for name in _RATES for end in ("", "_high"))
    both: tuple[Mapping[str, Any], ...] = () if sides is None else (sides["pronunciation"], sides["spelling"])
    yield from (cell[name] for cell in both for name in ("cer", "cer_high", "cer_number", "wer"))
    yield from (cell[name] for cell in _group_cells(scores).values() for name in ("cer", "cer_high"))
    yield from (row["a"] for row in scores.get("comparisons", ()))


def _bounds(cell: Mapping[str, Any], name: str) -> str:
    low, high = cell[f"{name}_low"], cell[f"{name}_high"]
    return "–" if low is None or high is None else f"{percent(low).removesuffix(' %')} to {percent(high)}"


def _interval(cell: Mapping[str, Any], name: str) -> str:
    bounds = _bounds(cell, name)
    return f"no interval: {cell['no_interval'].get(name, 'not known')}" if bounds == "–" else f"95 % interval {bounds}"


def _counts(cell: Mapping[str, Any]) -> str:
    return f"{cell['n_clips']} clips, {cell['n_speakers'] or 'no known'} speakers"


def _say_difference(row: "Comparison") -> str:
    if row["delta"] is None:
        return "no clip can be scored"
    low, high = row["delta_low"], row["delta_high"]
    none = f"no interval: {row['no_interval']}"
    points = "95 % interval {:+.2f} to {:+.2f} points"
    interval = none if low is None or high is None else points.format(100 * low, 100 * high)
    return f"{100 * row['delta']:+.2f} points ({interval})"


def _say_against(row: "BaselineComparison") -> str:
    """Return a comparison in a line: by how much the new system differs from a baseline."""
    if row["delta"] is None:
        return f"Against {row['baseline']}: no clip can be scored."
    return (
        f"Against {row['baseline']}: CER {_say_difference(row)}, p {row['p_holm']:.4f} (Holm), from "
        f"{percent(row['a'])} to {percent(row['b'])} on {_counts(row)}"
    )

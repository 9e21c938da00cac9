"""How numbers are shown: each on the page is a ``<data>`` element that also has the exact value."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pandas as pd
from markupsafe import Markup, escape

from kmed_bench.core.language import gettext, translate_stored
from kmed_bench.core.quantities import explain_rates, percent

Kind = Literal[
    "text", "percent", "points", "spread", "count", "number", "seconds", "minutes", "hours", "bytes", "p_value"
]
"""How a value is shown: one of ``seconds`` is in seconds, one of ``minutes`` or ``hours`` in hours."""


NOT_MEANT = "not meant to have one"
"""Reason of a value in a column of intervals that has none by design; it is shown alone."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a table on the page.

    Attributes
    ----------
    low, high : str or None
        Columns of an interval, shown in brackets. Where a value has none, the column ``NAME_reason`` beside
        ``NAME_low``, or ``no_interval``, says why.
    until : str or None
        Column of a range's upper end, shown if it has a value.
    hint : str or None
        Column of a text that appears when the pointer rests on the cell.
    weak : str or None
        A boolean column; where it is true, this column's cell is set in grey.
    words : bool
        Whether its texts are this program's words, which are translated; otherwise they are data, shown as they are.
    """

    key: str
    label: str
    kind: Kind = "text"
    low: str | None = None
    high: str | None = None
    until: str | None = None
    hint: str | None = None
    weak: str | None = None
    words: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """A table as the page shows it.

    Attributes
    ----------
    weak : str or None
        A boolean column; rows where it is true are set in grey.
    strong : str or None
        The same for rows to be set in bold.
    is_slim : bool
        Whether its numbers are so short that a phone has room for them whatever their number.
    """

    name: str
    caption: str
    columns: Sequence[Column]
    rows: pd.DataFrame
    weak: str | None = None
    strong: str | None = None
    is_slim: bool = False

    @property
    def is_wide(self) -> bool:
        """Whether the table is too wide for a phone, which then shows each row as a card."""
        texts = sum(column.kind == "text" for column in self.columns)
        intervals = sum(column.low is not None for column in self.columns)
        return not self.is_slim and len(self.columns) + max(0, texts - 2) + intervals > 4

    @property
    def explanation(self) -> str:
        """Why rates of the table, or ends of their intervals, exceed 100 %, where one does."""
        shown = [key for column in self.columns if column.kind == "percent" for key in (column.key, column.high)]
        rates = [pd.to_numeric(self.rows[key], errors="coerce") for key in shown if key in self.rows]
        return explain_rates(*(values.max() for values in rates if len(values)))

    def table(self) -> pd.DataFrame:
        """Return the table with labels as columns and each cell's text as on the page."""
        rows = [{column.label: cell(row, column).striptags() for column in self.columns} for row in self.records()]
        return pd.DataFrame(rows, columns=[column.label for column in self.columns])

    def records(self) -> list[dict[str, Any]]:
        """Return the rows as dictionaries."""
        return [{str(key): value for key, value in row.items()} for row in self.rows.to_dict("records")]


def is_absent(value: Any) -> bool:
    """Return whether a value is None or not a number."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def format_value(value: Any, kind: Kind) -> str:
    """Return a value as text: rates in percent, long times in minutes and hours."""
    if kind == "text":
        return str(value)
    if kind == "percent":
        return percent(value, 2)
    if kind in ("points", "spread"):
        points = f"{100 * value:+.2f}".replace("-", "−") if kind == "points" else f"{100 * value:.2f}"
        return gettext("{points} pp", points=points)
    if kind == "count":
        if float(value).is_integer():
            return f"{int(value):,}"
        return f"{value:,.2f}" if abs(value) >= 0.1 else f"{value:.2g}"
    if kind == "seconds":
        return _duration(float(value))
    if kind == "minutes":
        return gettext("{minutes:.3g} min", minutes=60 * value)
    if kind == "hours":
        return gettext("{hours:.3g} h", hours=value)
    if kind == "bytes":
        return f"{value / 2**20:,.0f} MiB"
    if kind == "p_value":
        return "< 0.001" if value < 0.001 else f"{value:.3f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 60:
        return gettext("{seconds:.1f} s", seconds=seconds)
    whole = round(seconds)
    if whole < 3600:
        return gettext("{minutes} min {seconds:02d} s", minutes=whole // 60, seconds=whole % 60)
    return gettext("{hours} h {minutes:02d} min", hours=whole // 3600, minutes=whole % 3600 // 60)


def number(value: Any, kind: Kind = "number") -> Markup:
    """Return a number as markup with its exact value and its short form; a dash if it is absent."""
    if is_absent(value):
        return Markup('<span class="absent">–</span>')
    if kind == "text":
        return escape(str(value))
    return Markup('<data value="{}">{}</data>').format(repr(float(value)), format_value(value, kind))


def interval(low: Any, high: Any, kind: Kind = "percent", *, reason: Any = "") -> Markup:
    """Return a 95 % interval in brackets, without the unit; the reason in words if a bound is absent."""
    if is_absent(low) or is_absent(high):
        words = gettext("none was logged") if is_absent(reason) or not reason else translate_stored(reason)
        text = gettext("(no interval: {reason})", reason=words)
        return Markup('<span class="interval reason">{}</span>').format(text)
    short = [
        Markup('<data value="{}">{}</data>').format(repr(float(bound)), format_value(bound, kind).rpartition(" ")[0])
        for bound in (low, high)
    ]
    text = Markup(gettext("({low} to {high})")).format(low=short[0], high=short[1])
    return Markup('<span class="interval">{}</span>').format(text)


def cell(row: Mapping[str, Any], column: Column) -> Markup:
    """Return one cell's content."""
    value = row.get(column.key)
    shown = number(translate_stored(value) if column.words and isinstance(value, str) else value, column.kind)
    if column.until is not None and not is_absent(row.get(column.until)):
        return Markup(gettext("{low} to {high}")).format(low=shown, high=number(row[column.until], column.kind))
    if column.low is None or column.high is None or is_absent(row.get(column.key)):
        return shown
    reason = row.get(column.low.removesuffix("_low") + "_reason", row.get("no_interval"))
    if reason == NOT_MEANT:
        return shown
    bounds = interval(row.get(column.low), row.get(column.high), column.kind, reason=reason)
    return Markup("{} {}").format(shown, bounds)

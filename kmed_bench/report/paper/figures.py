"""The report's figures at the width of a paper's columns, as PDF and PNG, in colours that survive grey printing."""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.artist import Artist
from matplotlib.collections import Collection
from matplotlib.colors import to_hex, to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from kmed_bench.core.files import write_bytes_atomically
from kmed_bench.report.fonts import plot_style
from kmed_bench.report.plots import PART_COLOURS, SIZE_COLOURS, Plot, colour_of
from kmed_bench.report.score_plots import KIND_COLOURS

SINGLE_MM, DOUBLE_MM = 85.0, 175.0
DPI = 300
_MM_PER_INCH = 25.4
_WIDE = ("all-", "groups", "error-kinds")
_WIDE_ENDS = ("-speakers",)
_SHRINK = (0.62, 0.8)
"""Least and largest factor of a figure's height; in between it shrinks like the width."""
_CELL_POINTS = 7
_NARROW_TICKS = 5

# Three colours of Okabe and Ito's palette (Color universal design, 2008), whose lightness differs most: about 71, 46
# and 0 of 100, so they are told apart in grey too. Each key is a colour on the page.
_ORANGE, _BLUE, _BLACK = "#e69f00", "#0072b2", "#000000"
_PRINTED = {
    SIZE_COLOURS["tiny"]: _ORANGE,
    SIZE_COLOURS["base"]: _BLUE,
    SIZE_COLOURS["small"]: _BLACK,
    colour_of(""): "#cc79a7",
    PART_COLOURS["train"]: _ORANGE,
    PART_COLOURS["valid"]: _BLUE,
}
_PRINTED_KINDS = dict(zip(KIND_COLOURS.values(), (_BLUE, _ORANGE, _BLACK), strict=True))


@contextmanager
def paper_style() -> Iterator[None]:
    """Apply the plot settings of a paper inside the ``with`` block: 8 points, fonts embedded as TrueType."""
    settings: dict[Any, Any] = {
        "font.size": 8,
        "axes.labelsize": 8,
        "xtick.labelsize": 7,
        "ytick.labelsize": 7,
        "legend.fontsize": 7,
        "legend.title_fontsize": 7,
        "lines.linewidth": 1.2,
        "lines.markersize": 4,
        "axes.linewidth": 0.6,
        "grid.linewidth": 0.4,
        "hatch.linewidth": 0.4,
        "pdf.fonttype": 42,
    }
    subsetting = logging.getLogger("fontTools.subset")
    before = subsetting.level
    subsetting.setLevel(logging.ERROR)  # it warns of NanumGothic's leftover tables, which it drops
    try:
        with plot_style(), mpl.rc_context(settings):
            yield
    finally:
        subsetting.setLevel(before)


def is_wide(name: str) -> bool:
    """Return whether a figure takes both columns."""
    return name.startswith(_WIDE) or name.endswith(_WIDE_ENDS)


def fit_columns(figure: Figure, name: str) -> None:
    """Make a figure of the page exactly one or two columns wide, without its title and in printed colours."""
    width = (DOUBLE_MM if is_wide(name) else SINGLE_MM) / _MM_PER_INCH
    drawn_width, drawn_height = figure.get_size_inches()
    least, largest = _SHRINK
    figure.set_layout_engine("constrained")
    figure.set_size_inches(width, drawn_height * min(largest, max(least, width / drawn_width)))
    for axes in figure.axes:
        axes.set_title("", loc="left")  # the paper's caption says it
        for text in axes.texts:
            text.set_fontsize(min(_CELL_POINTS, text.get_fontsize()))
        ticks = axes.xaxis.get_major_locator()
        if isinstance(ticks, MaxNLocator) and not is_wide(name):
            ticks.set_params(nbins=_NARROW_TICKS)
    recolour(figure, _PRINTED | (_PRINTED_KINDS if name == "error-kinds" else {}))


def save_figure(folder: Path, figure: Figure, name: str, caption: str) -> Plot:
    """Write ``figure-NAME.pdf`` and ``.png``, exactly one or two columns wide; call it inside `paper_style`."""
    fit_columns(figure, name)
    formats: dict[str, dict[str, Any]] = {
        "pdf": {"metadata": {"CreationDate": None, "Creator": None, "Producer": None}},
        "png": {"dpi": DPI},
    }
    for ending, options in formats.items():
        content = io.BytesIO()
        figure.savefig(content, format=ending, facecolor="white", **options)
        write_bytes_atomically(folder / f"figure-{name}.{ending}", content.getvalue())
    plt.close(figure)
    return Plot(name=name, caption=caption, svg="", formats=tuple(formats))


def recolour(figure: Figure, colours: dict[str, str]) -> None:
    """Replace colours of lines, bars, bands and legends; transparency stays, and so do colours without an entry."""

    def of_kind(artist: Artist) -> bool:
        return isinstance(artist, Line2D | Patch | Collection)

    for artist in figure.findobj(of_kind):
        names = (
            ("color", "markerfacecolor", "markeredgecolor")
            if isinstance(artist, Line2D)
            else ("facecolor", "edgecolor")
        )
        if isinstance(artist, Collection) and artist.get_array() is not None:
            continue  # coloured by its values
        for name in names:
            value = getattr(artist, f"get_{name}")()
            given = list(value) if isinstance(artist, Collection) else [value]
            replaced = [_printed(colour, colours) for colour in given]
            if any(new is not old for new, old in zip(replaced, given, strict=True)):
                getattr(artist, f"set_{name}")(replaced if isinstance(artist, Collection) else replaced[0])


def _printed(colour: Any, colours: dict[str, str]) -> Any:
    """Return the printed colour with the alpha of the shown one; the same object where there is no entry."""
    if isinstance(colour, str) and colour in ("none", "auto"):
        return colour
    shown = to_hex(colour)
    return to_rgba(colours[shown], to_rgba(colour)[3]) if shown in colours else colour

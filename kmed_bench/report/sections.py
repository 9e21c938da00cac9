"""Further sections of a report: a tuning study, imported logs."""

import base64
import dataclasses
import re
from collections.abc import Collection, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from kmed_bench.core.files import write_bytes_atomically, write_text_atomically
from kmed_bench.core.spreadsheets import csv_text
from kmed_bench.report.plots import Plot, inline_svg, render_figure
from kmed_bench.report.table_view import View

# Names become files and ids of the page.
_NAME = re.compile(r"[a-z][a-z0-9_-]*")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExtraFigure:
    """A picture of a section, as SVG, PNG or both; the page shows the SVG if there is one.

    Attributes
    ----------
    name : str
        Name of its files and its id on the page: lower-case Latin letters, digits, ``_`` and ``-``.
    alt : str
        What the picture shows, for readers who can't see it.
    """

    name: str
    alt: str
    caption: str
    png: bytes | None = None
    svg: bytes | None = None

    def __post_init__(self) -> None:
        if self.png is None and self.svg is None:
            raise ValueError(f"Figure {self.name!r} has neither PNG nor SVG bytes.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExtraSection:
    """A section at the end of the report, before its provenance.

    Attributes
    ----------
    lead : str
        Plain text under the title; empty lines separate paragraphs.
    tables : sequence of View
        Each is also written as ``<name>.csv``; those without a row are left out.
    """

    title: str
    lead: str
    figures: Sequence[ExtraFigure] = ()
    tables: Sequence[View] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlacedSection:
    """A section as the page's template shows it."""

    id: str
    title: str
    paragraphs: list[str]
    plots: list[Plot]
    views: list[View]


def draw_figure(figure: Figure, name: str, *, alt: str, caption: str) -> ExtraFigure:
    """Close a matplotlib figure and return it for a section; draw it inside ``fonts.plot_style``."""
    png, svg = render_figure(figure, name)
    return ExtraFigure(name=name, alt=alt, caption=caption, png=png, svg=svg)


def save_sections(sections: Sequence[ExtraSection], out: Path, taken: Collection[str]) -> list[PlacedSection]:
    """Write the figures and tables of sections into the page's folder and return the sections for its template.

    Parameters
    ----------
    taken : collection of str
        Names of the benchmark's own figures and tables.

    Raises
    ------
    ValueError
        When a name is unfit for a file, or is used twice.
    """
    used = set(taken)
    names = [figure.name for section in sections for figure in section.figures]
    names += [view.name for section in sections for view in section.tables]
    for name in names:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} can't name a figure or table; use lower-case Latin letters, digits, _ and -.")
        if name in used:
            raise ValueError(f"Two figures or tables of the report are called {name!r}; give one another name.")
        used.add(name)
    return [_place(section, f"extra-{number}", out) for number, section in enumerate(sections, start=1)]


def _place(section: ExtraSection, identity: str, out: Path) -> PlacedSection:
    shown = [view for view in section.tables if len(view.rows)]
    for view in shown:
        write_text_atomically(out / f"{view.name}.csv", csv_text(view.rows))
    return PlacedSection(
        id=identity,
        title=section.title,
        paragraphs=[text.strip() for text in section.lead.split("\n\n") if text.strip()],
        plots=[_save_figure(figure, out) for figure in section.figures],
        views=shown,
    )


def _save_figure(figure: ExtraFigure, out: Path) -> Plot:
    formats = {"png": figure.png, "svg": figure.svg}
    contents = {ending: content for ending, content in formats.items() if content is not None}
    for ending, content in contents.items():
        write_bytes_atomically(out / f"{figure.name}.{ending}", content)
    if "svg" in contents:
        element = inline_svg(contents["svg"].decode(), figure.name)
    else:
        element = f'<img src="data:image/png;base64,{base64.b64encode(contents["png"]).decode()}" alt="">'
    return Plot(name=figure.name, caption=figure.caption, svg=element, alt=figure.alt, formats=tuple(contents))

"""Curves by epoch, and figures as files; each ``plot_…`` function returns an open figure in the current rcParams."""

import dataclasses
import io
import re
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import Formatter, MaxNLocator, PercentFormatter

from kmed_bench.core.files import write_bytes_atomically
from kmed_bench.core.language import N_, gettext
from kmed_bench.report.fonts import INK, RULE, SOFT

# Readable on white and on near-black; parts and sizes never share a figure.
PART_COLOURS = {"train": "#d9822b", "valid": "#3b82c4"}
SIZE_COLOURS = {"tiny": "#c9882b", "base": "#3b82c4", "small": "#3c9a6e"}
ALL_SEEDS = ("pi", 100)  # the band is the whole range over seeds

# The curve's metrics and what the legend calls them. The two CERs are different quantities: the train
# one takes the argmax while the true text so far is fed in, the valid one compares decoded transcripts.
CURVES = {
    "loss": {"train/loss": N_("train"), "valid/loss": N_("valid")},
    "cer": {"train/cer_teacher_forced": N_("train, teacher-forced"), "valid/cer": N_("valid, decoded")},
}
QUANTITIES = {"loss": N_("loss"), "cer": N_("CER")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plot:
    """One saved figure.

    Attributes
    ----------
    svg : str
        An element for use inside a page; the text of an ``<svg>`` has the page's colour, and its ids are unique.
    alt : str
        Text for readers who can't see the figure; empty: the caption.
    formats : tuple of str
        File endings of the figure beside the page.
    """

    name: str
    caption: str
    svg: str
    alt: str = ""
    formats: tuple[str, ...] = ("png", "svg")


def colour_of(size: str) -> str:
    """Return the colour of a size in every figure; names that are not Whisper sizes share one."""
    return SIZE_COLOURS.get(size, "#8a63b8")


def has_curve(history: pd.DataFrame, size: str, quantity: str) -> bool:
    """Return whether a size has any value of a quantity's curves."""
    return bool(((history["size"] == size) & history["metric"].isin(CURVES[quantity])).any())


def plot_curves(history: pd.DataFrame, size: str, quantity: str) -> Figure:
    """Return one of the original benchmark's two plots of a size: loss or CER by epoch, a line per part.

    Parameters
    ----------
    history : pandas.DataFrame
        As ``tables.history_table`` returns it; of several seeds the mean is drawn, with their whole range as a band.
    quantity : str
        ``loss`` or ``cer``.
    """
    import seaborn as sns  # slow to import, and only the curves need it

    labels = {metric: gettext(label) for metric, label in CURVES[quantity].items()}
    rows = history[(history["size"] == size) & history["metric"].isin(labels)]
    data = rows.assign(data=rows["metric"].map(labels))
    colours = {label: PART_COLOURS[metric.partition("/")[0]] for metric, label in labels.items()}
    present = [label for label in labels.values() if (data["data"] == label).any()]
    grid = sns.relplot(
        data=data,
        x="epoch",
        y="value",
        hue="data",
        hue_order=present,
        style="data",
        style_order=present,
        markers=["o", "s"][: len(present)],
        dashes=False,
        palette=[colours[label] for label in present],
        kind="line",
        errorbar=ALL_SEEDS if data["seed"].nunique() > 1 else None,
        height=3.4,
        aspect=1.45,
        facet_kws={"legend_out": False},
    )
    axes = grid.ax
    _label_axes(axes, quantity)
    axes.set_title(
        gettext("{size}: {quantity} by epoch", size=size, quantity=gettext(QUANTITIES[quantity])), loc="left"
    )
    sns.move_legend(axes, "upper left", bbox_to_anchor=(0, -0.2), ncol=2, title=None)
    figure: Figure = grid.figure
    return figure


def plot_all_sizes(history: pd.DataFrame, quantity: str) -> Figure:
    """Return one plot of all sizes' loss or CER by epoch: a colour per size, dashes for the part, bands over seeds."""
    import seaborn as sns  # slow to import, and only the curves need it

    labels = {metric: gettext(label) for metric, label in CURVES[quantity].items()}
    data = history[history["metric"].isin(labels)]
    data = data.assign(data=data["metric"].map(labels))
    sizes = list(dict.fromkeys(data["size"]))
    grid = sns.relplot(
        data=data,
        x="epoch",
        y="value",
        hue="size",
        hue_order=sizes,
        style="data",
        style_order=[label for label in reversed(labels.values()) if (data["data"] == label).any()],
        palette=[colour_of(size) for size in sizes],
        kind="line",
        errorbar=ALL_SEEDS if data["seed"].nunique() > 1 else None,
        height=3.8,
        aspect=1.4,
        facet_kws={"legend_out": False},
    )
    _label_axes(grid.ax, quantity)
    title = gettext("All sizes: {quantity} by epoch", quantity=gettext(QUANTITIES[quantity]))
    grid.ax.set_title(title, loc="left")
    sns.move_legend(grid.ax, "upper left", bbox_to_anchor=(1.02, 1))
    headings = {"size": gettext("size"), "data": gettext("data")}
    for text in grid.ax.get_legend().get_texts():
        text.set_text(headings.get(text.get_text(), text.get_text()))
    figure: Figure = grid.figure
    return figure


def _label_axes(axes: Axes, quantity: str) -> None:
    axes.set(xlabel=gettext("epoch (0: untouched)"), ylabel=gettext(QUANTITIES[quantity]))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=0)
    if quantity == "cer":
        axes.yaxis.set_major_formatter(percent_ticks())


def percent_ticks() -> Formatter:
    """Return the labels of an axis of fractions, spelled as `quantities.percent` does."""
    return PercentFormatter(xmax=1, symbol=" %")


def save_plot(folder: Path, figure: Figure, name: str, caption: str) -> Plot:
    """Write ``name.png`` and ``name.svg`` into a folder, close the figure, and return it for the page."""
    png, svg = render_figure(figure, name)
    write_bytes_atomically(folder / f"{name}.png", png)
    write_bytes_atomically(folder / f"{name}.svg", svg)
    return Plot(name=name, caption=caption, svg=inline_svg(svg.decode(), name))


def render_figure(figure: Figure, name: str) -> tuple[bytes, bytes]:
    """Close a figure and return it as PNG and as SVG; equal input and name give equal bytes."""
    if figure.get_layout_engine() is not None:  # it moves what is measured, at its first draw and at each later one
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
    box = figure.get_tightbbox().padded(0.08)  # inches; measured once, since "tight" would lay out at each save
    png, svg = io.BytesIO(), io.BytesIO()
    figure.savefig(png, format="png", bbox_inches=box, facecolor="white")
    metadata = {"Creator": None, "Date": None, "Format": None, "Type": None}
    with plt.rc_context({"svg.hashsalt": name}):
        figure.savefig(svg, format="svg", bbox_inches=box, transparent=True, metadata=metadata)
    plt.close(figure)
    return png.getvalue(), svg.getvalue()


def inline_svg(text: str, name: str) -> str:
    """Return a matplotlib SVG file as an element for a page, with the page's colours and unique ids."""
    svg = text[text.index("<svg") :]
    head, _, body = svg.partition(">")
    width = re.search(r'\swidth="([\d.]+)pt"', head)
    head = re.sub(r'\s(width|height|xmlns:xlink|version)="[^"]*"', "", head)
    if width is not None:  # never larger than drawn, or its text outgrows the page's
        head += f' style="max-width: {float(width.group(1)):.0f}pt"'
    svg = f"{head}>{body}".replace("xlink:href", "href")
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    for before in ('id="', 'href="#', "url(#"):
        svg = svg.replace(before, f"{before}{name}-")
    return svg.replace(INK, "currentColor").replace(RULE, "var(--rule)").replace(SOFT, "var(--soft)").strip()

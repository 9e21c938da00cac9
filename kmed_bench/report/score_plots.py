"""Figures on the test part: intervals, groups, kinds of errors, accuracy against cost, the corpus's shape."""

import math
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from kmed_bench.core.language import N_, gettext
from kmed_bench.core.quantities import percent
from kmed_bench.report.fonts import INK, RULE, SOFT
from kmed_bench.report.plots import SIZE_COLOURS, colour_of, percent_ticks
from kmed_bench.report.score_tables import age_rank

_HUES = LinearSegmentedColormap.from_list("fewer-more", ["#2f6ea8", "#f1f1ee", "#b8651b"])
_LEAST_HUE, _MOST_HUE = 0.4, 1.6
ARROW_FROM = 0.1
"""Relative difference from the overall CER from which a cell has an arrow, which grey print keeps."""
_SPEAKER_AREA = 36.0
"""Mean area of a speaker's marker, in square points."""
_DARK = "#050505"  # not pure black: an SVG leaves that out, and the page's own colour would show
KIND_COLOURS = {N_("substitutions"): "#3b82c4", N_("deletions"): "#d9822b", N_("insertions"): "#8a63b8"}


def plot_test_cer(sizes: pd.DataFrame, runs: pd.DataFrame) -> Figure:
    """Return a plot of test CER by size: untouched and chosen run with 95 % intervals, each seed as a small dot."""
    figure, axes = plt.subplots(figsize=(6.4, 0.8 + 0.9 * len(sizes)))
    for row_index, row in enumerate(sizes.to_dict("records")):
        height, colour = len(sizes) - 1 - row_index, colour_of(row["size"])
        seeds = runs[(runs["size"] == row["size"]) & runs["test_cer"].notna()]
        axes.plot(seeds["test_cer"], [height - 0.15] * len(seeds), ".", color=colour, alpha=0.5, markersize=5)
        for key, offset, filled in (("untouched_test_cer", 0.15, False), ("test_cer", -0.15, True)):
            _draw_interval(axes, row, key, height + offset, colour, filled=filled)
    axes.set_yticks(range(len(sizes)), list(sizes["size"])[::-1])
    axes.set_ylim(-0.6, len(sizes) - 0.4)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(percent_ticks())
    axes.set_xlabel(gettext("test CER (decoded), 95 % interval"))
    axes.grid(axis="y", visible=False)
    handles = [
        axes.plot([], [], "o", markerfacecolor="none", markeredgecolor=INK, label=gettext("untouched"))[0],
        axes.plot([], [], "o", color=INK, label=gettext("fine-tuned"))[0],
    ]
    axes.legend(handles=handles, loc="lower right", bbox_to_anchor=(1, 1), ncol=2)
    axes.set_title(gettext("Test CER by size"), loc="left")
    return figure


def _draw_interval(axes: Axes, row: Mapping[Any, Any], key: str, height: float, colour: str, *, filled: bool) -> None:
    value, low, high = row[key], row[f"{key}_low"], row[f"{key}_high"]
    if math.isnan(value):
        return
    if not (math.isnan(low) or math.isnan(high)):
        axes.plot([low, high], [height, height], color=colour, linewidth=2, solid_capstyle="butt")
    face = colour if filled else "none"
    axes.plot([value], [height], "o", color=colour, markerfacecolor=face, markersize=7)


def plot_groups(groups: pd.DataFrame, overall: dict[str, float], *, rows: str, columns: str, title: str) -> Figure:
    """Return a heatmap of CER by group, with the CER and the number of clips in each cell.

    The colour is the cell's CER over its column's overall CER, which makes columns of different level comparable.
    An arrow says the same from ``ARROW_FROM`` on. Cells under the minimum are hatched.

    Parameters
    ----------
    groups : pandas.DataFrame
        Columns named by ``rows`` and ``columns``, and cer, n_clips, below_minimum.
    overall : dict
        Column value to the CER that its colours are relative to.
    """
    data = groups.assign(ratio=groups["cer"] / groups[columns].map(overall))
    order = list(dict.fromkeys(data[rows])), list(dict.fromkeys(data[columns]))
    if columns == "age":
        order[1].sort(key=age_rank)

    def spread(key: str) -> pd.DataFrame:
        return data.pivot(index=rows, columns=columns, values=key).loc[order[0], order[1]]

    ratio, cer, n_clips = (spread(key).astype(float) for key in ("ratio", "cer", "n_clips"))
    hidden = spread("below_minimum").ne(False) | ratio.isna()  # absent cells are NaN, so not False
    words = pd.DataFrame("", index=ratio.index, columns=ratio.columns)
    for name in order[0]:
        for column in order[1]:
            if not math.isnan(n_clips.loc[name, column]):
                rate = "" if math.isnan(cer.loc[name, column]) else f"{percent(cer.loc[name, column])}  "
                words.loc[name, column] = f"{rate}n={int(n_clips.loc[name, column])}"
    figure, axes = plt.subplots(figsize=(1.8 + 1.35 * len(order[1]), 0.7 + 0.33 * len(order[0])))
    hues = ratio.mask(hidden).to_numpy(dtype=float)
    axes.pcolormesh(
        np.ma.masked_invalid(hues), cmap=_HUES, vmin=_LEAST_HUE, vmax=_MOST_HUE, edgecolors="none", linewidth=0
    )
    for (i, j), word in np.ndenumerate(words.to_numpy()):
        if math.isnan(hues[i, j]) and word:  # too few to compare: hatched, in the page's own ink
            axes.add_patch(Rectangle((j, i), 1, 1, fill=False, hatch="///", edgecolor=RULE, linewidth=0))
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
            axes.text(j + 0.5, i + 0.5, word, ha="center", va="center", size=9, color="#20242a", bbox=box)
            continue
        share = (hues[i, j] - _LEAST_HUE) / (_MOST_HUE - _LEAST_HUE)
        text = f"{_arrow(float(hues[i, j]))}{word}"
        axes.text(j + 0.5, i + 0.5, text, ha="center", va="center", size=9, color=_ink_on(_HUES(share)))
    axes.invert_yaxis()
    axes.set_xticks(np.arange(len(order[1])) + 0.5, order[1])
    axes.set_yticks(np.arange(len(order[0])) + 0.5, order[0])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_title(title, loc="left")
    return figure


def _arrow(ratio: float) -> str:
    if math.isnan(ratio) or abs(ratio - 1) < ARROW_FROM:
        return ""
    return "▲ " if ratio > 1 else "▼ "


def _ink_on(colour: Any) -> str:
    """Return white or near-black, whichever stands out more from a colour."""
    return _DARK if contrast(_DARK, colour) > contrast("white", colour) else "white"


def contrast(one: Any, other: Any) -> float:
    """Return the contrast ratio of two colours, 1 to 21 (Web Content Accessibility Guidelines 2.2)."""

    def luminance(colour: Any) -> float:
        parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in to_rgb(colour)]
        return float(np.dot(parts, (0.2126, 0.7152, 0.0722)))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def plot_speakers(speakers: pd.DataFrame, *, size: str) -> Figure:
    """Return a plot of each speaker's CER untouched and fine-tuned, from the lowest untouched one.

    Parameters
    ----------
    speakers : pandas.DataFrame
        Columns untouched, tuned and n_characters, one row per speaker; a marker's area grows with the characters of
        the references. Without their numbers all markers are equal.
    """
    figure, axes = plt.subplots(figsize=(6.4, 3.2))
    places = range(1, len(speakers) + 1)
    colour = colour_of(size)
    axes.vlines(places, speakers["untouched"], speakers["tuned"], color=SOFT, linewidth=1.2, zorder=1)
    characters = speakers["n_characters"].astype(float).fillna(1.0)
    areas = _SPEAKER_AREA * characters / characters.mean()
    axes.scatter(places, speakers["untouched"], s=areas, facecolor="none", edgecolor=INK, zorder=2)
    axes.scatter(places, speakers["tuned"], s=areas, color=colour, zorder=2)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(percent_ticks())
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel=gettext("speakers, by untouched CER"), ylabel=gettext("test CER"))
    handles = [
        axes.plot([], [], "o", markerfacecolor="none", markeredgecolor=INK, label=gettext("untouched"))[0],
        axes.plot([], [], "o", color=colour, label=gettext("fine-tuned"))[0],
    ]
    axes.legend(handles=handles, loc="lower right", bbox_to_anchor=(1, 1), ncol=2)
    axes.set_title(gettext("{size}: test CER by speaker", size=size), loc="left")
    return figure


def plot_error_kinds(kinds: pd.DataFrame) -> Figure:
    """Return a bar chart of the CER of each size and state, each bar split into its three kinds of errors."""
    figure, axes = plt.subplots(figsize=(6.4, 0.9 + 0.42 * len(kinds)))
    names = [f"{size}, {gettext(state)}" for size, state in zip(kinds["size"], kinds["state"], strict=True)]
    left = np.zeros(len(kinds))
    for kind, colour in KIND_COLOURS.items():
        axes.barh(names, kinds[kind], left=left, color=colour, label=gettext(kind), height=0.65)
        left = left + kinds[kind].to_numpy()
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(percent_ticks())
    axes.set_xlabel(gettext("errors over reference characters"))
    axes.grid(axis="y", visible=False)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncol=3, columnspacing=1, handlelength=1)
    axes.set_title(gettext("Kinds of errors"), loc="left", pad=24)
    return figure


def plot_pareto(points: pd.DataFrame, *, cost: str, label: str, more_is_better: bool, title: str) -> Figure:
    """Return a plot of test CER against a cost; a line joins the sizes that no other size beats in both.

    Parameters
    ----------
    points : pandas.DataFrame
        Columns size, test_cer, test_cer_low, test_cer_high and the one named by ``cost``.
    """
    figure, axes = plt.subplots(figsize=(5.2, 3.4))
    front = pareto_front(points, cost=cost, more_is_better=more_is_better).sort_values(cost)
    axes.plot(front[cost], front["test_cer"], color=SOFT, linewidth=1.2, linestyle="--", zorder=1)
    for row in points.to_dict("records"):
        colour = colour_of(row["size"])
        if not (math.isnan(row["test_cer_low"]) or math.isnan(row["test_cer_high"])):
            axes.plot([row[cost]] * 2, [row["test_cer_low"], row["test_cer_high"]], color=colour, linewidth=1.5)
        axes.plot(row[cost], row["test_cer"], "o", color=colour, markersize=8)
        axes.annotate(
            row["size"],
            (row[cost], row["test_cer"]),
            xytext=(8, -12 if more_is_better else 5),
            textcoords="offset points",
        )
    if points[cost].max() > 3 * points[cost].min():
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter("")
        axes.set_xticks(sorted(points[cost]), [_short(value) for value in sorted(points[cost])])
    axes.margins(x=0.18)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(percent_ticks())
    axes.set(xlabel=label, ylabel=gettext("test CER"))
    axes.set_title(title, loc="left")
    return figure


def _short(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def pareto_front(points: pd.DataFrame, *, cost: str, more_is_better: bool) -> pd.DataFrame:
    """Return the rows that no other row beats: one at least as good in both CER and cost, and better in one."""
    sign = -1 if more_is_better else 1
    costs, cers = sign * points[cost].to_numpy(), points["test_cer"].to_numpy()
    kept = [not any((costs <= c) & (cers <= e) & ((costs < c) | (cers < e))) for c, e in zip(costs, cers, strict=True)]
    return points[kept]


def plot_histogram(histogram: pd.DataFrame, *, label: str, title: str, counted: str) -> Figure:
    """Return a histogram of bins of one width; those of earlier releases have bars of one width, named by their edge.

    Parameters
    ----------
    histogram : pandas.DataFrame
        Columns low, high and n.
    counted : str
        What the bins count.
    """
    figure, axes = plt.subplots(figsize=(5.2, 2.8))
    widths = histogram["high"] - histogram["low"]
    if widths.notna().all() and widths.nunique() == 1:
        axes.bar(histogram["low"], histogram["n"], width=0.94 * widths, align="edge", color=SIZE_COLOURS["base"])
        axes.xaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10], nbins=7))
        axes.margins(x=0.05 if len(histogram) > 2 else 1)  # a bar alone would fill the figure
    else:
        axes.bar(range(len(histogram)), histogram["n"], color=SIZE_COLOURS["base"], width=0.85)
        edges = histogram[["low", "high"]].to_numpy()
        axes.set_xticks(range(len(histogram)), [f"{low:g}" + "+" * math.isnan(high) for low, high in edges], size=7)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10], nbins=6))
    axes.grid(axis="x", visible=False)
    axes.set(xlabel=label, ylabel=counted)
    axes.set_title(title, loc="left")
    return figure

"""The figure of a learning curve: the untouched model beside the amounts, the fit, and how far it is extended."""

from typing import Literal

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from kmed_bench.core.curve_contracts import CurveRate, LearningCurve
from kmed_bench.core.language import gettext
from kmed_bench.report.fonts import INK
from kmed_bench.report.plots import colour_of, percent_ticks

_MINUTES_BELOW_H = 2.0
"""Amounts are in minutes where the largest is below this."""


def unit_of(curve: LearningCurve) -> Literal["hours", "minutes"]:
    """Return the unit in which a curve's amounts are shown."""
    return "minutes" if curve["amounts"][-1]["hours"] < _MINUTES_BELOW_H else "hours"


def plot_learning_curve(curve: LearningCurve) -> Figure:
    """Return CER by amount of training speech on a log axis, with 95 % intervals; zero has an axis of its own.

    Small dots are single trainings where an amount has several.
    """
    in_minutes = unit_of(curve) == "minutes"
    scale = 60.0 if in_minutes else 1.0
    colour = colour_of(curve["size"])
    figure, (left, axes) = plt.subplots(
        1, 2, sharey=True, figsize=(5.2, 3.8), width_ratios=[1, 7], layout="constrained"
    )
    _draw_rate(left, 0.0, curve["untouched"], INK, filled=False)
    axes.axhline(curve["untouched"]["cer"], color=INK, linewidth=0.8, linestyle=":", zorder=1)
    _draw_fit(axes, curve, scale, colour)
    for one in curve["trainings"] if len(curve["trainings"]) > len(curve["amounts"]) else ():
        axes.plot(scale * one["hours"], one["cer"], ".", color=colour, alpha=0.5, markersize=5, zorder=3)
    for amount in curve["amounts"]:
        _draw_rate(axes, scale * amount["hours"], amount, colour, filled=True)
    ticks = [scale * amount["hours"] for amount in curve["amounts"]]
    if curve["extension"]["cer"] is not None:
        ticks.append(scale * curve["extension"]["hours"])
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FixedFormatter([f"{tick:.3g}" for tick in ticks]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(ticks[0] / 1.25, ticks[-1] * 1.25)
    left.set_xlim(-1, 1)
    left.set_xticks([0], ["0"])
    left.set_ylim(bottom=0)
    left.yaxis.set_major_formatter(percent_ticks())
    left.set_ylabel(gettext("CER of the {part} part", part=gettext(curve["part"])))
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(gettext("training speech, min") if in_minutes else gettext("training speech, h"))
    handles, labels = axes.get_legend_handles_labels()
    models = [
        axes.plot([], [], "o", color=INK, markerfacecolor="white")[0],
        axes.plot([], [], "o", color=colour)[0],
    ]
    shown = [*models, *handles]
    figure.legend(
        shown,
        [gettext("untouched"), gettext("fine-tuned"), *labels],
        loc="outside lower center",
        ncol=len(shown),
        columnspacing=1,
        handlelength=1.4,
    )
    return figure


def _draw_rate(axes: Axes, place: float, rate: CurveRate, colour: str, *, filled: bool) -> None:
    low, high = rate["cer_low"], rate["cer_high"]
    if low is not None and high is not None:
        axes.plot([place, place], [low, high], color=colour, linewidth=1.5, solid_capstyle="butt", zorder=4)
    face = colour if filled else "white"
    axes.plot([place], [rate["cer"]], "o", color=colour, markerfacecolor=face, markersize=6, zorder=5)


def _draw_fit(axes: Axes, curve: LearningCurve, scale: float, colour: str) -> None:
    """Draw the fit between the amounts and, dashed, beyond them, each with its band."""
    fit, beyond = curve["fit"], curve["extension"]
    if fit is None:
        return
    line = fit["line"]
    _draw_line(axes, line, scale, colour, "-", gettext("fit"))
    if beyond["cer"] is not None:
        _draw_line(axes, [line[-1], *beyond["line"]], scale, colour, "--", gettext("extrapolated"))


def _draw_line(
    axes: Axes, line: list[dict[str, float | None]], scale: float, colour: str, style: str, label: str
) -> None:
    hours = [scale * (place["hours"] or 0.0) for place in line]
    axes.plot(hours, [place["cer"] or 0.0 for place in line], style, color=colour, linewidth=1.2, zorder=2, label=label)
    lows, highs = ([place[bound] for place in line] for bound in ("low", "high"))
    if None not in (*lows, *highs):
        alpha = 0.22 if style == "-" else 0.1
        axes.fill_between(
            hours, [low or 0.0 for low in lows], [high or 0.0 for high in highs], color=colour, alpha=alpha, linewidth=0
        )

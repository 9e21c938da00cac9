"""The page of a learning curve: sentences, tables, and the figure for the page and for a paper."""

from pathlib import Path
from typing import Any

import pandas as pd

from kmed_bench.core.curve_contracts import CurveFit, CurveParameter, LearningCurve
from kmed_bench.core.files import write_json, write_text_atomically
from kmed_bench.core.language import N_, gettext, translate_stored
from kmed_bench.core.quantities import percent
from kmed_bench.report.curve_plot import plot_learning_curve, unit_of
from kmed_bench.report.fonts import plot_style
from kmed_bench.report.paper.figures import paper_style, save_figure
from kmed_bench.report.rendering import render
from kmed_bench.report.sections import ExtraSection, draw_figure, save_sections
from kmed_bench.report.table_view import Column, View, format_value

FIGURE = "learning-curve"
_WHAT = N_(
    "{n_trainings} trainings of {size} on {n_amounts} amounts of speech, from {least} to {most}, each of {epochs} "
    "epochs, so smaller amounts take fewer steps. Larger amounts have all speakers of the smaller ones of their draw. "
    "CER is of the {part} part: {n_clips} clips of {n_speakers} speakers."
)
_CLOSED = N_(
    "The test part stayed closed: how much speech to record is decided on the valid part. Each training's epoch is "
    "selected on that part too, so the fine-tuned CERs are a little lower than on new speech; the untouched model's is "
    "not."
)
_OPENED = N_(
    "The test part was opened for the untouched model and once for each training; the store keeps a record of each."
)
_HELPS = N_("Shown to be better than the untouched model (CER {cer}), after Holm's correction: with {amounts}.")
_NO_HELP = N_(
    "Training is not shown to help at any amount: at none of them is the CER below the untouched model's {cer} by more "
    "than chance explains."
)
_HARMS = N_("Shown to be worse than the untouched model: with {amounts}.")
_LAW = N_(
    "Fit, with h in hours: CER = a · h^(−b) + c with a = {scale}, b = {exponent} and c = {floor}, the CER that no "
    "amount of speech goes below."
)
_PLAIN_LAW = N_(
    "Fit, with h in hours: CER = a · h^(−b) with a = {scale} and b = {exponent}. {n_amounts} amounts are too few to "
    "fit a limit below which the CER does not go; if there is one, this fit falls too fast."
)
_DRAWN = N_("Intervals of the fit are 95 %, from {draws:,} samples of the part's speakers.")
_COUNTED = {
    False: N_("They count which speakers were recorded."),
    True: N_(
        "They count which speakers were recorded, and which subsets and seeds the amounts with several trainings had."
    ),
}
"""What the intervals count, by whether an amount has several trainings."""
_NOT_COUNTED = {
    False: N_(
        "They do not count which sentences these read, whether the formula holds, how much another subset or seed "
        "would give at an amount that was trained once, or that epochs were selected by their CER."
    ),
    True: N_(
        "They do not count which sentences these read, whether the formula holds, or that epochs were selected by "
        "their CER."
    ),
}
"""What they leave out, by whether every amount has several trainings."""
_COMPARED = N_("The differences from the untouched model and their p-values count speakers and sentences alone.")
_NO_INTERVAL = N_("The fit has no interval: {reason}.")
_EXTENDED = N_(
    "Extrapolation: with {amount}, {factor:g} times the largest amount, the fit gives a CER of {cer} ({low} to "
    "{high}). Nothing was measured there, and the interval assumes that the formula holds."
)
_NOT_EXTENDED = N_("The fit is not extended to {amount}, {factor:g} times the largest amount: {reason}.")
_CAPTION = N_(
    "CER of the {part} part by amount of training speech (log scale), {size}, with 95 % intervals; on the left, and "
    "dotted, the untouched model, which is no part of the fit."
)
_BAND = N_("Line and band: power law and its 95 % interval over speakers.")
_BEYOND = N_("Dashed: extrapolated.")


def describe_curve(curve: LearningCurve) -> list[str]:
    """Return what a curve shows in paragraphs: what was done, whether training helps, the fit, and its extension."""
    amounts = curve["amounts"]
    what = gettext(
        _WHAT,
        n_trainings=len(curve["trainings"]),
        size=curve["size"],
        n_amounts=len(amounts),
        least=_amount(curve, amounts[0]["hours"]),
        most=_amount(curve, amounts[-1]["hours"]),
        epochs=curve["epochs"],
        part=gettext(curve["part"]),
        n_clips=curve["n_clips"],
        n_speakers=curve["n_speakers"],
    )
    opened = gettext(_CLOSED if curve["part"] == "valid" else _OPENED)
    told = [f"{what} {opened}", _describe_help(curve)]
    told += [gettext("Left out: {what}.", what=translate_stored(words)) for words in curve["repeated"]]
    fit = curve["fit"]
    if fit is None:
        return [*told, gettext("No fit: {reason}.", reason=translate_stored(curve["no_fit"]))]
    return [*told, f"{_describe_law(fit, len(amounts))} {_describe_interval(curve, fit)}", *_describe_extension(curve)]


def _describe_help(curve: LearningCurve) -> str:
    def listed(outcome: str) -> str:
        return ", ".join(_amount(curve, one["hours"]) for one in curve["amounts"] if one["outcome"] == outcome)

    better, worse, cer = listed("better"), listed("worse"), percent(curve["untouched"]["cer"], 2)
    said = [gettext(_HELPS, cer=cer, amounts=better) if better else gettext(_NO_HELP, cer=cer)]
    return " ".join([*said, *([gettext(_HARMS, amounts=worse)] if worse else [])])


def _describe_law(fit: CurveFit, n_amounts: int) -> str:
    scale, floor = (_parameter(fit[name], rate=True) for name in ("scale", "floor"))
    exponent = _parameter(fit["exponent"], rate=False)
    if fit["with_floor"]:
        return gettext(_LAW, scale=scale, exponent=exponent, floor=floor)
    return gettext(_PLAIN_LAW, scale=scale, exponent=exponent, n_amounts=n_amounts)


def _parameter(parameter: CurveParameter, *, rate: bool) -> str:
    value, low, high = parameter["value"], parameter["low"], parameter["high"]
    shown = [("–" if one is None else percent(one, 2) if rate else f"{one:.3f}") for one in (value, low, high)]
    bounds = "" if low is None else gettext("({low} to {high})", low=shown[1], high=shown[2])
    return f"{shown[0]} {bounds}".rstrip()


def _describe_interval(curve: LearningCurve, fit: CurveFit) -> str:
    if fit["reason"]:
        return gettext(_NO_INTERVAL, reason=translate_stored(fit["reason"]))
    several = [one["n_trainings"] > 1 for one in curve["amounts"]]
    counted = (gettext(_COUNTED[any(several)]), gettext(_NOT_COUNTED[all(several)]), gettext(_COMPARED))
    return " ".join([gettext(_DRAWN, draws=fit["draws"]), *counted])


def _describe_extension(curve: LearningCurve) -> list[str]:
    beyond = curve["extension"]
    amount, factor = _amount(curve, beyond["hours"]), beyond["factor"]
    if beyond["cer"] is not None:
        cer, low, high = (percent(beyond[name], 2) for name in ("cer", "low", "high"))
        return [gettext(_EXTENDED, amount=amount, factor=factor, cer=cer, low=low, high=high)]
    if not beyond["reason"]:  # not asked for
        return []
    return [gettext(_NOT_EXTENDED, amount=amount, factor=factor, reason=translate_stored(beyond["reason"]))]


def _amount(curve: LearningCurve, hours: float) -> str:
    return format_value(hours, unit_of(curve))


def curve_view(curve: LearningCurve) -> View:
    """Return the table of a curve: the untouched model, then a row for each amount."""
    first: dict[str, Any] = {"hours": 0.0, "n_trainings": 0, **curve["untouched"], "outcome": "untouched"}
    return View(
        name="curve",
        caption=gettext(
            "CER by amount of training speech, and its difference from the untouched model, 95 % intervals in "
            "brackets; p after Holm's correction."
        ),
        columns=[
            Column(key="hours", label=gettext("speech"), kind=unit_of(curve)),
            Column(key="outcome", label=gettext("against untouched"), words=True),
            Column(key="n_speakers", label=gettext("speakers"), kind="count"),
            Column(key="n_clips", label=gettext("clips"), kind="count"),
            Column(key="n_trainings", label=gettext("trainings"), kind="count"),
            Column(key="cer", label="CER", kind="percent", low="cer_low", high="cer_high"),
            Column(key="delta", label=gettext("difference"), kind="points", low="delta_low", high="delta_high"),
            Column(key="p_holm", label=gettext("p"), kind="p_value"),
        ],
        rows=pd.DataFrame([first, *curve["amounts"]]),
    )


def training_view(curve: LearningCurve) -> View:
    """Return the table with a row for each training."""
    rows = pd.DataFrame(curve["trainings"])
    rows["note"] = [N_("trained by another command") if reused else "" for reused in rows["reused"]]
    return View(
        name="trainings",
        caption=gettext("Each training."),
        columns=[
            Column(key="hours", label=gettext("speech"), kind=unit_of(curve)),
            Column(key="draw", label=gettext("draw"), kind="count"),
            Column(key="seed", label=gettext("seed"), kind="count"),
            Column(key="n_speakers", label=gettext("speakers"), kind="count"),
            Column(key="n_clips", label=gettext("clips"), kind="count"),
            Column(key="cer", label="CER", kind="percent"),
            Column(key="best_epoch", label=gettext("epoch"), kind="count"),
            Column(key="note", label=gettext("note"), words=True),
        ],
        rows=rows,
    )


WRITTEN = (
    "index.html",
    "curve.json",
    "curve.csv",
    "trainings.csv",
    *(f"{FIGURE}.{ending}" for ending in ("png", "svg")),
    *(f"figure-{FIGURE}.{ending}" for ending in ("pdf", "png")),
)
"""Names of the files of a curve; none has a transcript."""


def write_curve(curve: LearningCurve, out: Path) -> Path:
    """Write curve.json, curve.csv, trainings.csv, the figure and the page, and return the path of the page.

    Page and figure are in the language in use; the other files are English.

    The figure of the page is ``learning-curve.png`` and ``.svg``; ``figure-learning-curve.pdf`` and ``.png`` are a
    column wide, for a paper.
    """
    out.mkdir(parents=True, exist_ok=True)
    more = [_BAND] * (curve["fit"] is not None) + [_BEYOND] * (curve["extension"]["cer"] is not None)
    caption = gettext(_CAPTION, part=gettext(curve["part"]), size=curve["size"])
    caption = " ".join([caption, *map(gettext, more)])
    with plot_style():
        figure = draw_figure(plot_learning_curve(curve), FIGURE, alt=caption, caption=caption)
    with paper_style():
        save_figure(out, plot_learning_curve(curve), FIGURE, caption)
    section = ExtraSection(
        title=gettext("Learning curve of {size}", size=curve["size"]),
        lead="\n\n".join(describe_curve(curve)),
        figures=[figure],
        tables=[curve_view(curve), training_view(curve)],
    )
    (placed,) = save_sections([section], out, {"index"})
    write_text_atomically(out / "index.html", render("curve.html", record=curve, section=placed))
    write_json(out / "curve.json", curve)
    return out / "index.html"

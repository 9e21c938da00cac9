"""Logs of the original benchmark as a section of the report of their own, never mixed with our figures."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from kmed_bench.core.language import N_, gettext, ngettext
from kmed_bench.core.records import BenchRecord, ImportedRecord
from kmed_bench.report.fonts import RULE, SOFT, plot_style
from kmed_bench.report.plots import CURVES, PART_COLOURS, QUANTITIES
from kmed_bench.report.sections import ExtraFigure, ExtraSection, draw_figure
from kmed_bench.report.table_view import Column, View
from kmed_bench.report.tables import history_table, size_rank

LEAD = N_(
    "These runs were imported from logs of the original benchmark. They are no results of this bench, and their "
    "figures are no recognition rates: nothing was decoded. Each CER is teacher-forced, which means that the model was "
    "given the true text so far at every position, and what the logs call validation was computed over the training "
    "data. A low value shows that the training clips were memorised."
    "\n\n"
    "The original's losses count the padding of each label too, so they are lower than ours for the same model. Each "
    "side has axes of its own: compare the shapes, not the heights."
)

# The original's curves and what the legend calls them.
THEIR_CURVES = {
    "loss": {"train/loss": N_("train"), "imported/valid_loss": N_("“valid” (training data)")},
    "cer": {
        "train/cer_teacher_forced": N_("train, teacher-forced"),
        "imported/valid_cer_teacher_forced": N_("“valid” (training data), teacher-forced"),
    },
}
_THEIR_COLOURS = ("#8d8d8d", "#5b6471")


def imported_section(imported: Sequence[ImportedRecord], bench: BenchRecord | None = None) -> ExtraSection:
    """Return the section on imported logs: curves of each size next to this benchmark's, and a table of the runs.

    Parameters
    ----------
    imported : sequence of ImportedRecord
        At least one.
    bench : BenchRecord, optional
        Its curves are drawn on the right. None, and for sizes that it lacks: only the original's are drawn.
    """
    theirs = _imported_history(imported)
    ours = pd.DataFrame(columns=["size"]) if bench is None else history_table(bench)
    figures = []
    with plot_style():
        for size in sorted(set(theirs["size"]), key=size_rank):
            pair = theirs[theirs["size"] == size], ours[ours["size"] == size]
            figures += [_draw(size, quantity, *pair) for quantity in QUANTITIES]
    return ExtraSection(
        title=gettext("Imported logs of the original benchmark"),
        lead=gettext(LEAD),
        figures=figures,
        tables=[_view(imported)],
    )


def _imported_history(imported: Sequence[ImportedRecord]) -> pd.DataFrame:
    named = [record.history.assign(size=record.size, run=record.run_id) for record in imported]
    return pd.concat(named, ignore_index=True).rename(columns={"step": "epoch"})


def _draw(size: str, quantity: str, theirs: pd.DataFrame, ours: pd.DataFrame) -> ExtraFigure:
    their_curves, our_curves = (
        {metric: gettext(label) for metric, label in curves[quantity].items()} for curves in (THEIR_CURVES, CURVES)
    )
    shown = theirs[theirs["metric"].isin(their_curves)], ours
    if len(ours):
        shown = shown[0], ours[ours["metric"].isin(our_curves)].rename(columns={"run_id": "run"})
    beside = len(shown[1]) > 0
    figure, axes = plt.subplots(1, 1 + beside, figsize=(4.6 * (1 + beside), 3.4), squeeze=False)
    colours = dict(zip(their_curves.values(), _THEIR_COLOURS, strict=True))
    _draw_curves(axes[0, 0], shown[0], their_curves, colours, dashed=True)
    axes[0, 0].set_title(gettext("{size}: the original's log (imported)", size=size), loc="left", color=SOFT)
    axes[0, 0].set_facecolor(f"{RULE}40")
    if beside:
        colours = {label: PART_COLOURS[metric.partition("/")[0]] for metric, label in our_curves.items()}
        _draw_curves(axes[0, 1], shown[1], our_curves, colours, dashed=False)
        axes[0, 1].set_title(gettext("{size}: this bench", size=size), loc="left")
    for panel in axes[0]:
        _label(panel, quantity)
    return _close(figure, size, quantity, len(set(theirs["run"])), beside=beside)


def _draw_curves(
    axes: Axes, rows: pd.DataFrame, labels: Mapping[str, str], colours: Mapping[str, str], *, dashed: bool
) -> None:
    """Draw a thin line per run and curve, without averaging repetitions."""
    data = rows.assign(curve=rows["metric"].map(labels))
    present = [label for label in labels.values() if (data["curve"] == label).any()]
    sns.lineplot(
        data=data,
        x="epoch",
        y="value",
        hue="curve",
        hue_order=present,
        palette=[colours[label] for label in present],
        units="run",
        estimator=None,
        linestyle="--" if dashed else "-",
        linewidth=1.3,
        ax=axes,
    )
    sns.move_legend(axes, "upper left", bbox_to_anchor=(0, -0.2), title=None, fontsize=8)


def _label(axes: Axes, quantity: str) -> None:
    axes.set(xlabel=gettext("epoch"), ylabel=gettext(QUANTITIES[quantity]))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=0)
    if quantity == "cer":
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))


def _close(figure: Figure, size: str, quantity: str, n_runs: int, *, beside: bool) -> ExtraFigure:
    figure.tight_layout(w_pad=2.5)
    name = gettext(QUANTITIES[quantity])
    runs = ngettext("{n} imported repetition", "{n} imported repetitions", n_runs)
    captions = [
        gettext(
            "{size}, {quantity} by epoch: on the left, dashed, {runs}; on the right this bench's runs, on axes of "
            "their own.",
            size=size,
            quantity=name,
            runs=runs,
        )
        if beside
        else gettext("{size}, {quantity} by epoch: on the left, dashed, {runs}.", size=size, quantity=name, runs=runs)
    ]
    if quantity == "cer" and beside:
        captions.append(
            gettext(
                "The imported CER is teacher-forced and over training data; this bench's valid CER compares decoded "
                "transcripts."
            )
        )
    elif quantity == "cer":
        captions.append(gettext("The imported CER is teacher-forced and over training data."))
    alt = (
        gettext(
            "Curves of {quantity} by epoch for {size}, from imported logs and from this bench.",
            quantity=name,
            size=size,
        )
        if beside
        else gettext("Curves of {quantity} by epoch for {size}, from imported logs.", quantity=name, size=size)
    )
    return draw_figure(figure, f"imported-{size}-{quantity}", alt=alt, caption=" ".join(captions))


def _view(imported: Sequence[ImportedRecord]) -> View:
    rows = []
    for record in imported:
        last = record.history.sort_values("step").groupby("metric")["value"].last()
        row = {"name": record.name, "size": record.size, "version": record.version, "file": record.file}
        row |= {"epochs": record.history["step"].nunique(), "time_s": record.time_s, "run_id": record.run_id}
        row |= {str(name).replace("/", "_"): value for name, value in last.items()}
        rows.append(row)
    columns = [
        Column(key="name", label=gettext("imported run")),
        Column(key="file", label=gettext("log")),
        Column(key="version", label=gettext("repetition"), kind="count"),
        Column(key="epochs", label=gettext("epochs"), kind="count"),
        Column(key="train_cer_teacher_forced", label=gettext("last train CER, teacher-forced"), kind="percent"),
        Column(
            key="imported_valid_cer_teacher_forced",
            label=gettext("last “valid” CER, teacher-forced, training data"),
            kind="percent",
        ),
        Column(key="time_s", label=gettext("time in the log"), kind="seconds"),
    ]
    caption = gettext("In grey: none of these figures is a recognition rate.")
    return View(
        name="imported", caption=caption, columns=columns, rows=pd.DataFrame(rows).assign(weak=True), weak="weak"
    )

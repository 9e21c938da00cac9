"""Optuna's own plots of a study, for the report."""

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import matplotlib.pyplot as plt
import optuna
from matplotlib.axes import Axes
from matplotlib.text import Text
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState
from optuna.visualization import matplotlib as draw

from kmed_bench.core.language import N_, gettext
from kmed_bench.report.fonts import plot_style
from kmed_bench.report.sections import ExtraFigure, draw_figure

_FEWEST = 2
_OPTUNA = (
    *(N_("Optimization History Plot"), N_("Trial"), N_("Best Value")),
    *(N_("Hyperparameter Importances"), N_("Hyperparameter Importance"), N_("Hyperparameter")),
    *(N_("Parallel Coordinate Plot"), N_("Pareto-front Plot"), N_("Best Trial")),
)
"""What Optuna writes into its plots; it has no other language."""


def draw_study(study: optuna.Study) -> list[ExtraFigure]:
    """Return history, importance and parallel coordinates of a study, and the Pareto front of two objectives.

    The pictures are in the language in use; their captions are English, as they are stored. Plots that the trials do
    not allow yet are left out: importance needs two complete trials with different values.
    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not complete:
        return []
    target: dict[str, Any] = {"target_name": gettext("valid CER")}
    if len(study.directions) > 1:
        target["target"] = _cer
    plots: list[tuple[str, str, Callable[[], Any]]] = [
        (
            "history",
            N_("Valid CER of each complete trial, and the lowest so far."),
            lambda: draw.plot_optimization_history(study, **target),
        )
    ]
    if len(complete) >= _FEWEST and _varies(complete):
        plots += [
            (
                "importance",
                N_("How much of the spread of valid CER each setting explains (PED-ANOVA). Few trials say little."),
                lambda: draw.plot_param_importances(study, **target),
            ),
            (
                "parallel",
                N_("Each line is a complete trial; its colour is the valid CER."),
                lambda: draw.plot_parallel_coordinate(study, **target),
            ),
        ]
    if len(study.directions) > 1:
        plots.append(
            (
                "front",
                N_("Valid CER and decoding time; on the front are the trials that no other beats in both."),
                lambda: draw.plot_pareto_front(study, target_names=[gettext("valid CER"), gettext("seconds per clip")]),
            )
        )
    with plot_style(), _latin_first(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # Optuna's word for its matplotlib plots since 2.2
        warnings.filterwarnings("ignore", "Attempting to set identical low and high ylims")  # of a setting all share
        return [_draw(plot, f"tuning-{name}", caption) for name, caption, plot in plots]


def _latin_first() -> AbstractContextManager[None]:
    """Return a context in which Latin letters are DejaVu's: the Korean font has no minus for negative exponents."""
    return plt.rc_context({"font.family": plt.rcParams["font.family"][::-1]})


def _cer(trial: FrozenTrial) -> float:
    return float(trial.values[0])


def _varies(trials: Sequence[FrozenTrial]) -> bool:
    return len({trial.values[0] for trial in trials}) > 1


def _draw(plot: Callable[[], Any], name: str, caption: str) -> ExtraFigure:
    axes = plot()
    figure = axes.figure if hasattr(axes, "figure") else axes[0].figure
    _clear_legend(figure.axes[0])
    for text in figure.findobj(Text):
        if text.get_text() in _OPTUNA:
            text.set_text(gettext(text.get_text()))
    return draw_figure(figure, name, alt=caption, caption=caption)


def _clear_legend(axes: Axes) -> None:
    """Put a legend beside the points that Optuna lets it cover; one of a single entry repeats the axis' label."""
    legend = axes.get_legend()
    if legend is None:
        return
    if len(legend.get_texts()) == 1:
        legend.remove()
    else:
        axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1))

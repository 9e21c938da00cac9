"""Optuna's own plots of a study, for the report."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState
from optuna.visualization import matplotlib as draw

from kmed_bench.report.fonts import plot_style
from kmed_bench.report.sections import ExtraFigure, draw_figure

_FEWEST = 2


def draw_study(study: optuna.Study) -> list[ExtraFigure]:
    """Return history, importance and parallel coordinates of a study, and its front where it has two objectives.

    A picture that the trials can't give yet is left out: importance needs two complete trials that differ.
    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not complete:
        return []
    target: dict[str, Any] = {"target_name": "valid CER"}
    if len(study.directions) > 1:
        target["target"] = _cer
    # Optuna's axes are logarithmic and its texts Latin; the Korean font has no sign for powers below zero.
    with plot_style(), plt.rc_context({"font.family": ["DejaVu Sans"]}), warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # Optuna's name for its matplotlib plots since 2.2
        made = [
            _draw(
                lambda: draw.plot_optimization_history(study, **target),
                "tuning-history",
                "Valid CER of each complete trial, and the lowest so far.",
            )
        ]
        if len(complete) >= _FEWEST and _varies(complete):
            made.append(
                _draw(
                    lambda: draw.plot_param_importances(study, **target),
                    "tuning-importance",
                    "How much of the spread of valid CER each setting explains (PED-ANOVA). Few trials say little.",
                )
            )
            made.append(
                _draw(
                    lambda: draw.plot_parallel_coordinate(study, **target),
                    "tuning-parallel",
                    "Each line is a complete trial; its colour is the valid CER.",
                )
            )
        if len(study.directions) > 1:
            names = ["valid CER", "seconds per clip"]
            made.append(
                _draw(
                    lambda: draw.plot_pareto_front(study, target_names=names),
                    "tuning-front",
                    "Valid CER and decoding time; on the front are the trials that no other beats in both.",
                )
            )
    return made


def _cer(trial: FrozenTrial) -> float:
    return float(trial.values[0])


def _varies(trials: Sequence[FrozenTrial]) -> bool:
    return len({trial.values[0] for trial in trials}) > 1


def _draw(plot: Callable[[], Any], name: str, caption: str) -> ExtraFigure:
    axes = plot()
    figure = axes.figure if hasattr(axes, "figure") else axes[0].figure
    # Optuna lays out at each drawing; the box that is cut out must be measured after the last one.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return draw_figure(figure, name, alt=caption, caption=caption)

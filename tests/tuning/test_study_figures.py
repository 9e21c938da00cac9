"""Optuna's plots as the report shows them: no legend covers a trial."""

import random

import optuna
import pytest
from drawn import covered
from matplotlib.figure import Figure

from kmed_bench.report import sections
from kmed_bench.tuning import plots

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning:optuna")]


def test_no_legend_covers_a_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}

    def look(figure: Figure, name: str, **words: str) -> sections.ExtraFigure:
        found[name] = covered(figure)
        return sections.draw_figure(figure, name, **words)

    def objective(trial: optuna.Trial) -> list[float]:
        trial.suggest_float("train.lr", 1e-6, 1e-3, log=True)
        trial.suggest_int("train.warmup_steps", 0, 500)
        return [noise.random(), noise.random()]

    monkeypatch.setattr(plots, "draw_figure", look)
    noise = random.Random(1)
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=optuna.samplers.RandomSampler(seed=1))
    study.optimize(objective, n_trials=200)  # enough that a legend inside the axes has no empty place
    plots.draw_study(study)
    names = ("history", "importance", "parallel", "front")
    assert found == {f"tuning-{name}": [] for name in names}

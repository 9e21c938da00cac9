"""Optuna's plots as the report shows them: no legend covers a trial, and they have the page's language."""

import random

import optuna
import pytest
from drawn import covered
from latin_words import latin_words
from matplotlib.figure import Figure
from matplotlib.text import Text

from kmed_bench.core.language import use_language
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


def test_pictures_in_korean_have_hangul_and_no_english(monkeypatch: pytest.MonkeyPatch) -> None:
    """Optuna writes English; a missing glyph is a warning of matplotlib's, and a warning is an error here."""
    found: dict[str, list[str]] = {}

    def look(figure: Figure, name: str, **words: str) -> sections.ExtraFigure:
        drawn = sections.draw_figure(figure, name, **words)
        found[name] = [text.get_text() for text in figure.findobj(Text) if text.get_visible()]
        return drawn

    def objective(trial: optuna.Trial) -> list[float]:
        return [trial.suggest_float("train.lr", 1e-6, 1e-3, log=True), float(trial.number)]

    monkeypatch.setattr(plots, "draw_figure", look)
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=optuna.samplers.RandomSampler(seed=1))
    study.optimize(objective, n_trials=4)
    with use_language("ko"):
        figures = plots.draw_study(study)
    assert [figure.name for figure in figures] == [*found]
    assert {"최적화 과정", "시행", "검증 CER"} <= {*found["tuning-history"]}
    assert {"파레토 전선", "최적 시행"} <= {*found["tuning-front"]}
    texts = [text for of_one in found.values() for text in of_one]
    assert {text: words for text in texts if (words := latin_words(text, ["mathdefault", "times"]))} == {}
    assert all(figure.caption.isascii() for figure in figures)  # translated where the page shows them

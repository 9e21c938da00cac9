"""Figures can be read: no legend covers what is drawn, on the page and at a paper's width, and labels stand out."""

from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from bench_records import make_bench
from drawn import covered
from matplotlib.figure import Figure

from kmed_bench.report import original, sections
from kmed_bench.report.figures import save_plots
from kmed_bench.report.fonts import plot_style
from kmed_bench.report.page_tables import make_frames
from kmed_bench.report.paper.figures import fit_columns, paper_style
from kmed_bench.report.plots import Plot
from kmed_bench.report.score_plots import ARROW_FROM, contrast, plot_groups
from kmed_bench.scoring.recommendation import recommend

LEAST_CONTRAST = 4.5  # Web Content Accessibility Guidelines 2.2, level AA


@pytest.mark.slow
@pytest.mark.parametrize(("style", "fit"), [(plot_style, lambda figure, name: None), (paper_style, fit_columns)])
def test_no_legend_covers_anything(style: Any, fit: Callable[[Figure, str], None]) -> None:
    found = {}

    def look(figure: Figure, name: str, caption: str) -> Plot:
        fit(figure, name)
        found[name] = covered(figure)
        plt.close(figure)
        return Plot(name=name, caption=caption, svg="")

    bench = make_bench(sizes=("tiny", "base"), epochs=2)
    advice = recommend(bench)
    frames = make_frames(bench, bench.comparisons, advice)
    with style():
        save_plots(frames, advice.best, look)
    assert {"all-cer", "base-loss", "groups", "test-cer", "error-kinds"} <= set(found)
    assert {name: what for name, what in found.items() if what} == {}


@pytest.mark.slow
def test_no_legend_covers_the_originals_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Curves that stay high are where a legend inside the axes would be."""
    found = []

    def look(figure: Figure, name: str, **words: str) -> sections.ExtraFigure:
        found.extend(covered(figure))
        return sections.draw_figure(figure, name, **words)

    monkeypatch.setattr(original, "draw_figure", look)
    epochs = range(1, 9)
    theirs = pd.DataFrame([(name, n, 0.9) for name in original.THEIR_CURVES["loss"] for n in epochs])
    theirs = theirs.set_axis(["metric", "epoch", "value"], axis=1).assign(run="i", size="base")
    ours = pd.DataFrame([(name, n, 0.9) for name in ("train/loss", "valid/loss") for n in epochs])
    ours = ours.set_axis(["metric", "epoch", "value"], axis=1).assign(run_id="b", size="base")
    with plot_style():
        original._draw("base", "loss", theirs, ours)
    assert found == []


@pytest.mark.parametrize("place", ["line", "bar", "point", "area", "title"])
def test_what_a_legend_covers_is_found(place: str) -> None:
    figure, axes = plt.subplots()
    axes.plot([], [], label="a curve")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.legend(
        loc="lower center" if place == "title" else "center", bbox_to_anchor=(0.5, 1 if place == "title" else 0.5)
    )
    draw: dict[str, Callable[[], Any]] = {
        "line": lambda: axes.plot([0, 1], [0.5, 0.5]),
        "bar": lambda: axes.barh([0.5], [1], height=0.001),
        "point": lambda: axes.scatter([0.1, 0.5], [0.1, 0.5]),
        "area": lambda: axes.fill_between([0, 1], [0.49, 0.49], [0.51, 0.51]),
        "title": lambda: axes.set_title("title"),
    }
    assert covered(figure) == []
    draw[place]()
    assert [what.split()[0] for what in covered(figure)] == [place]
    plt.close(figure)


def test_labels_of_groups_stand_out_and_say_the_direction_in_grey() -> None:
    ratios = np.linspace(0.2, 1.8, 65)
    cells = {"group": [f"{ratio:.3f}" for ratio in ratios], "size": "base", "cer": 0.2 * ratios, "n_clips": 9}
    with plot_style():
        figure = plot_groups(
            pd.DataFrame(cells).assign(below_minimum=False), {"base": 0.2}, rows="group", columns="size", title="Groups"
        )
    (axes,), (mesh,) = figure.axes, figure.axes[0].collections
    figure.draw_without_rendering()
    assert len(axes.texts) == len(ratios)
    for ratio, text, colour in zip(ratios, axes.texts, mesh.get_facecolor(), strict=True):
        assert contrast(text.get_color(), colour) >= LEAST_CONTRAST, ratio
        arrow = "" if abs(ratio - 1) < ARROW_FROM else "▲ " if ratio > 1 else "▼ "
        assert text.get_text().startswith(f"{arrow}{20 * ratio:.1f} %"), ratio
    plt.close(figure)


def test_contrast_is_the_guidelines() -> None:
    """Their examples' limits: 21 between black and white, 1 of a colour with itself, 4.54 of grey 118 on white."""
    assert contrast("black", "white") == pytest.approx(21)
    assert contrast("#336699", "#336699") == 1
    assert contrast("#767676", "white") == pytest.approx(4.54, abs=0.005)

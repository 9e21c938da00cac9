"""The page of a learning curve: what it says, its figure for a paper, and its tables."""

import re
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from curve_records import make_curve

from kmed_bench.core.curve_contracts import CURVE
from kmed_bench.report.curve_plot import plot_learning_curve
from kmed_bench.report.fonts import plot_style
from kmed_bench.report.learning_curve import curve_view, describe_curve, write_curve
from kmed_bench.report.terminal import plain_lines


def test_what_is_shown_is_said() -> None:
    what, helps, law, beyond = describe_curve(make_curve())
    assert "from 30 min to 60 min, each of 3 epochs" in what
    assert "The test part stayed closed" in what
    assert helps == "Shown to be better than the untouched model (CER 30.00 %), after Holm's correction: with 60 min."
    assert "a = 20.00 % (10.00 % to 30.00 %) and b = 0.200 (0.100 to 0.300). 2 amounts are too few" in law
    assert "how much another subset or seed would give" in law
    assert beyond.startswith("Extrapolation: with 120 min, 2 times the largest amount, the fit gives a CER of 18.00 %")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"outcomes": ("not shown", "not shown")}, "Training is not shown to help at any amount"),
        ({"outcomes": ("worse", "not shown")}, "Shown to be worse than the untouched model: with 30 min."),
        ({"part": "test"}, "The test part was opened for the untouched model and once for each training"),
        ({"fit": None, "no_fit": "one amount shows no curve"}, "No fit: one amount shows no curve."),
        ({"repeated": ["this"]}, "Left out: this."),
    ],
)
def test_what_is_not_shown_is_said_too(changes: dict[str, Any], said: str) -> None:
    assert said in "\n".join(describe_curve(make_curve(**changes)))


def test_a_refused_extension_gives_its_reason_and_no_figure() -> None:
    refused = {"factor": 2.0, "hours": 2.0, "cer": None, "low": None, "high": None, "reason": "too wide", "line": []}
    curve = make_curve(extension=refused)
    assert describe_curve(curve)[-1] == "The fit is not extended to 120 min, 2 times the largest amount: too wide."
    with plot_style():
        figure = plot_learning_curve(curve)
    axes = figure.axes[1]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["30", "60"]
    assert "extrapolated" not in [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_figure_has_the_untouched_model_apart_and_the_extrapolation_dashed() -> None:
    with plot_style():
        left, axes = plot_learning_curve(make_curve()).axes
    assert [float(x) for line in left.lines for x in line.get_xdata()] == [0, 0, 0]
    assert axes.get_xscale() == "log"
    assert [line.get_linestyle() for line in axes.lines if line.get_label() == "extrapolated"] == ["--"]
    assert left.get_ylim()[0] == 0


def test_files_of_a_curve(tmp_path: Path) -> None:
    curve = make_curve()
    page = write_curve(curve, tmp_path).read_text(encoding="utf-8")
    assert CURVE.read(tmp_path / "curve.json") == curve
    assert "default-src 'none'" in page
    assert page.count("<svg") == 1
    table = pd.read_csv(tmp_path / "curve.csv")
    assert table["hours"].tolist() == [0.0, 0.5, 1.0]
    assert table["outcome"].tolist() == ["untouched", "not shown", "better"]
    assert pd.read_csv(tmp_path / "trainings.csv")["reused"].tolist() == [False, True]
    for name in ("learning-curve.png", "figure-learning-curve.png"):
        assert_whole(tmp_path / name)
    pdf = (tmp_path / "figure-learning-curve.pdf").read_bytes()
    box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) [\d.]+ \]", pdf)
    assert box is not None
    assert float(box[1]) == pytest.approx(85 / 25.4 * 72, abs=0.1)
    assert b"/FontFile2" in pdf


def test_the_terminal_has_a_line_for_each_amount() -> None:
    lines = list(plain_lines(curve_view(make_curve())))
    assert lines[1].startswith(
        "  untouched: speech 0 min, speakers –, clips –, trainings 0, CER 30.00 % (15.00 to 25.00)"
    )
    assert lines[3].endswith("CER 20.00 % (15.00 to 25.00), difference −10.00 pp (−20.00 to −1.00), p 0.010")


def assert_whole(picture: Path) -> None:
    """What is measured before it is laid out is cut off, and then something stands at an edge."""
    pixels = plt.imread(picture)[..., :3]
    edges = (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1])
    assert [float(edge.min()) for edge in edges] == [1, 1, 1, 1]

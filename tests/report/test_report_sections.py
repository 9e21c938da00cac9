"""Further sections of the report: their place, their files, and what they may be called."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from bench_records import make_bench
from test_report_page import Page

from kmed_bench.core.quantities import OVER_WHOLE
from kmed_bench.report.page import write_report
from kmed_bench.report.sections import ExtraFigure, ExtraSection, draw_figure
from kmed_bench.report.table_view import Column, View


def make_table(name: str = "trials", n_rows: int = 2) -> View:
    rows = pd.DataFrame({"trial": list(range(n_rows)), "cer": [0.25, 0.125, 0.5][:n_rows]})
    columns = [Column(key="trial", label="trial", kind="count"), Column(key="cer", label="CER", kind="percent")]
    return View(name=name, caption="Every trial.", columns=columns, rows=rows)


def draw(name: str) -> ExtraFigure:
    figure, axes = plt.subplots()
    axes.plot([0, 1], [0.5, 0.25])
    return draw_figure(figure, name, alt="A falling line", caption="CER by trial.")


@pytest.mark.parametrize(("rate", "high", "said"), [(0.5, 0.9, ""), (1.5, None, OVER_WHOLE), (0.5, 2.7, OVER_WHOLE)])
def test_a_table_explains_rates_and_ends_of_intervals_over_100_percent(
    rate: float, high: float | None, said: str
) -> None:
    rows = pd.DataFrame({"cer": [rate, None], "cer_low": [0.1, None], "cer_high": [high, None]})
    column = Column(key="cer", label="CER", kind="percent", low="cer_low", high="cer_high")
    assert View(name="x", caption="", columns=[column], rows=rows).explanation == said


@pytest.mark.slow
def test_section_stands_before_the_provenance_with_its_files(tmp_path: Path) -> None:
    vector, pixels = draw("study-cer"), draw("study-space")
    pixels = ExtraFigure(name="study-space", alt="A map", caption="The space.", png=pixels.png)
    section = ExtraSection(
        title="Tuning <study>",
        lead="First paragraph.\n\nSecond paragraph.",
        figures=(vector, pixels),
        tables=(make_table(), make_table("nothing", n_rows=0)),
    )
    html = write_report(make_bench(sizes=("base",), epochs=1), tmp_path, extra=[section]).read_text(encoding="utf-8")
    page = Page(html)

    assert html.index("<h2>Data quality") < html.index("<h2>Tuning &lt;study&gt;</h2>") < html.index("<h2>Provenance")
    assert '<li><a href="#extra-1">Tuning &lt;study&gt;</a></li>' in html
    assert "<p>First paragraph.</p>\n<p>Second paragraph.</p>" in html
    assert page.tables["trials"][1:] == [{"trial": ["0.0"], "CER": ["0.25"]}, {"trial": ["1.0"], "CER": ["0.125"]}]
    assert "nothing" not in page.tables
    assert pd.read_csv(tmp_path / "trials.csv")["cer"].tolist() == [0.25, 0.125]
    for link in page.links:
        assert link.startswith(("#", "data:image/png;base64,")) or (tmp_path / link).is_file(), link
    assert (tmp_path / "study-cer.svg").read_bytes() == vector.svg
    assert (tmp_path / "study-space.png").read_bytes() == pixels.png
    assert not (tmp_path / "study-space.svg").exists()
    assert html.count('aria-label="A falling line"') == 1
    assert len(page.ids) == len(set(page.ids))


@pytest.mark.slow
def test_contents_name_every_section_in_its_order(tmp_path: Path) -> None:
    section = ExtraSection(title="Imported", lead="Words.")
    html = write_report(make_bench(epochs=1), tmp_path, extra=[section]).read_text(encoding="utf-8")
    contents = html[html.index("<nav") : html.index("</nav>")]
    listed = [link.removeprefix("#") for link in Page(contents).links]
    sections = [part[: part.index('"')] for part in html.split('<section id="')[1:]]
    assert listed == sections[1:]  # the headline stands above the list
    assert listed[-2:] == ["extra-1", "origin"]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["sizes"], "called 'sizes'"),
        (["trials", "trials"], "called 'trials'"),
        (["../x"], "can't name"),
        (["a b"], "'a b'"),
    ],
)
def test_names_that_cannot_be_are_refused(names: list[str], words: str, tmp_path: Path) -> None:
    section = ExtraSection(title="T", lead="L", tables=[make_table(name) for name in names])
    with pytest.raises(ValueError, match=words):
        write_report(make_bench(sizes=()), tmp_path, extra=[section])


def test_a_figure_needs_bytes() -> None:
    with pytest.raises(ValueError, match="neither PNG nor SVG"):
        ExtraFigure(name="x", alt="x", caption="x")

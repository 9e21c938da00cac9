"""Imported logs in the report: their own figures, apart from ours, and what they are."""

import dataclasses
from pathlib import Path

import pandas as pd
import pytest
from bench_records import make_bench
from test_report_page import Page

from kmed_bench.core.records import ImportedRecord
from kmed_bench.report.original import imported_section
from kmed_bench.report.page import write_report

pytestmark = pytest.mark.slow


def make_imported(size: str, version: int, epochs: int = 3) -> ImportedRecord:
    rows = []
    for epoch in range(1, epochs + 1):
        left = (0.5 + 0.1 * version) / epoch
        rows += [("train/loss", epoch, left), ("imported/valid_loss", epoch, 0.8 * left)]
        rows += [("train/cer_teacher_forced", epoch, 0.3 * left)]
        rows += [("imported/valid_cer_teacher_forced", epoch, 0.2 * left)]
    return ImportedRecord(
        run_id=f"i{size}{version}",
        name=f"imported-{size}-v{version}",
        size=size,
        version=version,
        sha256="ab" * 32,
        file="logging_<1>.json",
        params={},
        time_s=3723.0,
        history=pd.DataFrame(rows, columns=["metric", "step", "value"]),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    bench = make_bench(sizes=("base",), epochs=2)
    imported = [make_imported("tiny", 1), make_imported("base", 1), make_imported("base", 2)]
    out = tmp_path_factory.mktemp("report")
    write_report(bench, out, extra=[imported_section(imported, bench)])
    return out


def test_figures_are_the_logs_and_stand_apart(folder: Path) -> None:
    html = (folder / "index.html").read_text(encoding="utf-8")
    page = Page(html)
    rows = {row["imported run"][0]: row for row in page.tables["imported"][1:]}
    assert list(rows) == ["imported-tiny-v1", "imported-base-v1", "imported-base-v2"]
    last = rows["imported-base-v2"]
    assert last["last “valid” CER, teacher-forced, training data"] == [repr(0.2 * (0.5 + 0.1 * 2) / 3)]
    assert last["time in the log"] == ["3723.0"]
    assert html.index("<h2>Beside published") < html.index("<h2>Imported logs of the original benchmark")
    section = html[html.index("<h2>Imported logs") : html.index("<h2>Provenance")]
    for words in ("teacher-forced", "over the training data", "no recognition rates", "nothing was decoded"):
        assert words in section
    assert section.count('<tr class="weak">') == 3
    for name in ("sizes", "runs", "published", "rates"):
        assert not any("imported" in str(row) for row in page.tables.get(name, []))


def test_each_size_has_its_two_plots_beside_ours_where_there_are_ours(folder: Path) -> None:
    html = (folder / "index.html").read_text(encoding="utf-8")
    for size in ("tiny", "base"):
        for quantity in ("loss", "cer"):
            assert (folder / f"imported-{size}-{quantity}.svg").is_file()
            assert f'id="plot-imported-{size}-{quantity}"' in html
    assert "2 imported repetitions; on the right this bench" in html
    assert "1 imported repetition." in html  # the bench has no tiny
    assert pd.read_csv(folder / "imported.csv")["run_id"].tolist() == ["itiny1", "ibase1", "ibase2"]


def test_a_log_without_a_time_leaves_it_out(tmp_path: Path) -> None:
    record = dataclasses.replace(make_imported("base", 1), time_s=None)
    page = write_report(make_bench(sizes=()), tmp_path, extra=[imported_section([record])])
    (row,) = Page(page.read_text(encoding="utf-8")).tables["imported"][1:]
    assert row["time in the log"] == ["–"]

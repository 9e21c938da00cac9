"""The page on a corpus: its counts are the manifest's, and it names no one and quotes nothing."""

import copy
import dataclasses
import html
import itertools
import re
from pathlib import Path
from typing import Any, get_args

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from downloads import label, stem, wav, write_tree

from kmed_bench.cli import main
from kmed_bench.config import DataConfig
from kmed_bench.core.corpus_contracts import DATA_PAGE, QualityReport
from kmed_bench.core.schema import RejectReason, WarningKind, read_manifest
from kmed_bench.corpus.ingest.manifest import ingest
from kmed_bench.report.data_page import (
    DOUBTS,
    REJECTS,
    crossed_views,
    group_views,
    summary_views,
    write_data_page,
)
from kmed_bench.report.data_tables import HISTOGRAMS
from kmed_bench.report.score_plots import plot_histogram
from kmed_bench.report.table_view import View
from kmed_bench.report.terminal import plain_lines, print_views

DIALECTS = ("경상", "전라", "<b>충청</b>")
PLANTED = "가짜로 심은 문장"
N_USABLE = 24


@dataclasses.dataclass(frozen=True)
class Corpus:
    folder: Path
    manifest: pd.DataFrame
    rejects: pd.DataFrame
    quality: QualityReport
    page: str


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    root = tmp_path_factory.mktemp("page")
    files: dict[str, bytes] = {"stray-9.wav": wav(), "readme.txt": b""}
    for at in range(N_USABLE):
        name, seconds = stem(f"PA_{at % 8:04d}", at), 0.5 + at / 4
        changes = {"Gender": ("Female", "Male")[at % 2], "Dialect": DIALECTS[at % 3], "text": f"{PLANTED} {at}번"}
        files |= {f"{name}.json": label(seconds=seconds, **changes), f"{name}.wav": wav(seconds)}
    files |= {
        f"{stem('PA_0009', 90)}.json": label(f"{PLANTED} 90번"),
        f"{stem('PA_0009', 91)}.json": label(Gender=None),
    }
    quality = ingest([write_tree(root / "recordings", files)], root / "out", DataConfig(workers=1))
    page = write_data_page(quality, root / "out", name="<i>병원</i>")
    assert page == root / "out" / DATA_PAGE
    return Corpus(
        root,
        read_manifest(root / "out" / "manifest.parquet"),
        pd.read_csv(root / "out" / "rejects.csv"),
        quality,
        page.read_text(encoding="utf-8"),
    )


def shown(page: str, table: str) -> list[list[str]]:
    """Return the cells of a table of the page; numbers by their exact values, a range by its lower end."""
    body = re.search(f'<table id="{table}".*?<tbody>(.*?)</tbody>', page, re.DOTALL)
    assert body is not None, table
    rows = re.findall(r"<tr.*?>(.*?)</tr>", body[1], re.DOTALL)
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL) for row in rows]
    return [
        [found[1] if (found := re.match(r'<data value="([^"]*)"', cell)) else html.unescape(cell) for cell in row]
        for row in cells
    ]


@pytest.mark.parametrize("field", ["gender", "dialect", "age", "role", "release"])
def test_groups_are_those_of_the_manifest(corpus: Corpus, field: str) -> None:
    found = {}
    for value, n, share, hours, speakers in shown(corpus.page, f"group-{field}"):
        found[value] = (float(n), float(share), float(speakers))
        rows = corpus.manifest[corpus.manifest[field] == value]
        assert float(hours) == pytest.approx(rows["duration_s"].sum() / 3600, abs=5e-5)
    assert found == {
        value: (len(rows), len(rows) / N_USABLE, rows["speaker_id"].nunique())
        for value, rows in corpus.manifest.groupby(field)
    }
    assert sum(share for _, share, _ in found.values()) == pytest.approx(1)


def test_crossed_groups_are_those_of_the_manifest(corpus: Corpus) -> None:
    counts = pd.crosstab(corpus.manifest["dialect"], corpus.manifest["gender"])
    (view,) = crossed_views(corpus.quality)  # all are patients in their sixties
    columns = [column.label for column in view.columns[1:]]
    table = {row[0]: dict(zip(columns, map(float, row[1:]), strict=True)) for row in shown(corpus.page, view.name)}
    assert table == counts.to_dict("index")


def test_rejects_are_those_of_rejects_csv(corpus: Corpus) -> None:
    found = {reason: int(float(n)) for reason, _, n, _ in shown(corpus.page, "rejected")}
    assert found == corpus.rejects["reason"].value_counts().to_dict() == {"audio_missing": 1, "label_incomplete": 1}
    assert shown(corpus.page, "incomplete") == [["no Gender in 화자정보", "1.0"]]
    doubts = {kind: float(n) for kind, _, n in shown(corpus.page, "doubts")}
    assert doubts == corpus.quality["warnings"] == {"audio_without_label": 1, "metadata_differs": N_USABLE // 2}


def test_bins_are_of_one_width_and_hold_the_whole_manifest(corpus: Corpus) -> None:
    n_speakers = corpus.manifest["speaker_id"].nunique()
    rows = shown(corpus.page, "bins")
    assert {row[0].partition(":")[0] for row in rows} == {title for title, *_ in HISTOGRAMS.values()}
    for what, bins in itertools.groupby(rows, key=lambda row: row[0]):
        lows, counts = zip(*((float(low), float(n)) for _, low, n in bins), strict=True)
        assert len({high - low for low, high in itertools.pairwise(lows)}) <= 1, what
        assert sum(counts) == (n_speakers if what.startswith("Utterances per speaker") else N_USABLE), what
    assert corpus.page.count('<figure id="plot-') == len(HISTOGRAMS)
    assert f"Durations: {N_USABLE} utterances, bin width 1 s." in corpus.page
    assert f"Utterances per speaker: {n_speakers} speakers, bin width 1." in corpus.page


def test_the_page_quotes_nothing_and_names_no_one(corpus: Corpus) -> None:
    words = {word for text in corpus.manifest["text"] for word in text.split()}
    ids = {*corpus.manifest["utterance_id"], *corpus.rejects["utterance_id"], "stray-9"}
    speakers = {*corpus.manifest["speaker_id"], "PA_0009"}
    hidden = words | ids | speakers | {str(corpus.folder), "recordings/", *corpus.manifest["audio"]}
    assert len(hidden) > 3 * N_USABLE
    assert {text for text in hidden if text in corpus.page} == set()


def test_the_page_is_its_owners_has_hangul_and_escapes_values(corpus: Corpus) -> None:
    assert (corpus.folder / "out" / DATA_PAGE).stat().st_mode & 0o777 == 0o600
    assert 'font-family: "Kmed Hangul"; src: url("data:font/woff;base64,' in corpus.page
    assert "&lt;b&gt;충청&lt;/b&gt;" in corpus.page
    assert "&lt;i&gt;병원&lt;/i&gt;" in corpus.page
    assert "<b>" not in corpus.page
    assert "href=" not in corpus.page.replace('<a href="rejects.csv">', "").replace('href="#', "")


def test_groups_of_few_speakers_are_marked(corpus: Corpus) -> None:
    few = {view.name: view.rows.set_index("value")["few"].to_dict() for view in group_views(corpus.quality)}
    assert few["group-gender"] == {"Female": True, "Male": True}  # of 4 speakers each
    assert few["group-role"] == {"patient": False}
    assert corpus.page.count('<tr class="weak">') >= 2
    assert "In grey: groups of fewer than 5 speakers" in corpus.page


def test_crossed_cells_of_few_speakers_are_marked(corpus: Corpus, tmp_path: Path) -> None:
    """Two fields together point at people where neither does alone."""
    pairs: dict[str, Any] = copy.deepcopy(dict(corpus.quality["pairs"]))
    pairs["dialect,gender"]["경상"]["Female"]["speakers"] = 5
    del pairs["dialect,gender"]["전라"]["Male"]  # nobody can be recognised where nobody is
    changed = corpus.quality | {"pairs": pairs}
    (view,) = crossed_views(changed)
    marks = {
        (row["value"], column.label): row[column.weak]
        for row in view.records()
        for column in view.columns
        if column.weak
    }
    assert {cell for cell, few in marks.items() if not few} == {("경상", "Female"), ("전라", "Male")}
    page = write_data_page(changed, tmp_path, name="x").read_text(encoding="utf-8")
    assert page.count('<td class="count weak"') == len(marks) - 2 == 4


def test_each_reason_and_doubt_has_a_meaning() -> None:
    assert {*REJECTS} == {*get_args(RejectReason)} - {"label_too_long"}
    assert {*DOUBTS} == {*get_args(WarningKind)}


def test_many_values_are_taken_together(corpus: Corpus) -> None:
    counts: dict[str, int] = {f"v{at}": 100 - at for at in range(40)}
    quality: dict[str, Any] = {**corpus.quality, "usable": sum(counts.values()), "by": {"region": counts}}
    quality |= {"hours_by": {"region": counts}, "speakers_by": {"region": dict.fromkeys(counts, 9)}}
    (view,) = group_views(quality)
    assert len(view.rows) == 31
    assert view.rows["value"].iloc[-1] == "(10 other values)"
    assert view.rows["n"].sum() == quality["usable"]
    assert view.rows["share"].sum() == pytest.approx(1)


def test_a_corpus_without_faults_says_so(corpus: Corpus, tmp_path: Path) -> None:
    quality: Any = {**corpus.quality, "rejected": {}, "incomplete": {}, "warnings": {}, "histograms": {}}
    page = write_data_page(quality, tmp_path, name="").read_text(encoding="utf-8")
    assert "No label was rejected." in page
    assert "There are none." in page
    assert [view.name for view in summary_views(quality)] == ["totals", "groups"]


def test_import_corpus_has_the_page_too(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # without a store
    recordings = corpus.folder / "recordings"
    rows = [f"{path},문장 {at},s{at % 3},여" for at, path in enumerate(sorted(recordings.glob("PA*.wav")))]
    (tmp_path / "list.csv").write_text("\n".join(["audio,text,speaker,gender", *rows, "none.wav,네,s1,여"]), "utf-8")
    assert main(["import-corpus", "list.csv", "out", "--name", "병원"]) == 0
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o700
    page = (tmp_path / "out" / DATA_PAGE).read_text(encoding="utf-8")
    assert shown(page, "group-gender") == [["Female", "24.0", "1.0", shown(page, "group-gender")[0][3], "3.0"]]
    assert [row[0] for row in shown(page, "rejected")] == ["audio_missing"]
    assert "병원" in page
    assert str(tmp_path) not in page
    assert "  audio_missing, there is no audio for it: labels 1, share of labels 4.00 %" in (
        capsys.readouterr().out.splitlines()
    )


def test_bars_stand_where_their_bins_are() -> None:
    rows = pd.DataFrame({"low": [2.0, 4.0, 6.0], "high": [4.0, 6.0, 8.0], "n": [3, 0, 5]})
    figure = plot_histogram(rows, label="s", title="t", counted="utterances")
    bars = figure.axes[0].patches
    assert [bar.get_x() for bar in bars] == [2, 4, 6]
    assert [bar.get_height() for bar in bars] == [3, 0, 5]
    assert len({bar.get_width() for bar in bars}) == 1
    plt.close(figure)


def test_a_log_has_a_line_for_each_row(corpus: Corpus, capsys: pytest.CaptureFixture[str]) -> None:
    print_views(summary_views(corpus.quality))
    lines = capsys.readouterr().out.splitlines()
    assert f"  usable: {N_USABLE}" in lines
    assert "  audio_missing, there is no audio for it: labels 1, share of labels 3.85 %" in lines
    assert "  no Gender in 화자정보: 1" in lines
    assert "  dialect, 경상: utterances 8, share 33.33 %, hours 0.0069, speakers 8" in lines
    assert not [line for line in lines if PLANTED in line or "PA_0" in line or line != line.rstrip()]


def test_a_terminal_gets_tables_and_no_orders(corpus: Corpus, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    print_views(summary_views(corpus.quality))
    drawn = capsys.readouterr().out
    assert re.search(r"dialect +경상 +8 +33\.33 % +0\.0069 +8", drawn)
    (view,) = (view for view in summary_views(corpus.quality) if view.name == "groups")
    rows = view.rows.assign(value="\x1b[2J[red]\n")
    assert [*plain_lines(View(name="x", caption="", columns=view.columns, rows=rows))][1].startswith(
        "  gender, \N{REPLACEMENT CHARACTER}[2J[red]"
    )

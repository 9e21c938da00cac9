"""The report of a real store: the command writes it, and every number on it is the store's."""

import contextlib
import json
import re
import shutil
import sqlite3
import statistics
import time
import zlib
from collections import defaultdict
from importlib import resources
from math import fsum, isclose
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow.entities import Metric, Run
from mlflow.tracking import MlflowClient
from small_store import SmallStore, shared_store
from test_report_page import Page, numbers_of

from kmed_bench.cli import main
from kmed_bench.config import TrackingConfig
from kmed_bench.report.page import write_report
from kmed_bench.report.paper.figures import DOUBLE_MM, SINGLE_MM, is_wide
from kmed_bench.tracking.read import read_bench
from kmed_bench.tracking.store import local_folder, open_store, sqlite_file

pytestmark = pytest.mark.slow

SHARES = {
    "deletions among errors": "deletion_share",
    "hallucinated transcripts": "hallucination_rate",
    "CER, numbers in one form": "cer_number",
    "numbers reproduced": "number_exact",
    "medical terms found": "term_recall",
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    return shared_store(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def written(store: SmallStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    assert main(["report", str(out), "--paper", "--tracking.uri", store.uri]) == 0
    return out


@pytest.fixture(scope="module")
def html(written: Path) -> str:
    return (written / "index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def runs(store: SmallStore) -> list[Run]:
    """The benchmark's runs as MLflow's own client reads them."""
    client = MlflowClient(tracking_uri=store.uri)
    (place,) = [found.experiment_id for found in client.search_experiments() if found.name == "kmed-bench"]
    return list(client.search_runs([place]))


def artifact(store: SmallStore, run: Run, name: str, folder: Path) -> Any:
    path = MlflowClient(tracking_uri=store.uri).download_artifacts(run.info.run_id, name, str(folder))
    return json.loads(Path(path).read_text(encoding="utf-8"))


def of_kind(runs: list[Run], kind: str) -> list[Run]:
    return [run for run in runs if run.data.tags.get("kmed.kind") == kind]


def derived_numbers(store: SmallStore, runs: list[Run]) -> set[float]:
    """What the page works out from the store: counts, sums, medians and means over epochs and seeds."""
    client = MlflowClient(tracking_uri=store.uri)
    known, by_size = set(), defaultdict(list)
    for run in of_kind(runs, "train"):
        run_id, metrics = run.info.run_id, run.data.metrics
        by_size[run.data.tags["kmed.size"]].append(metrics)
        seconds = [point.value for point in client.get_metric_history(run_id, "time/epoch_s")]
        known |= {float(len(seconds)), fsum(seconds), statistics.median(seconds), float(run.data.tags["kmed.seed"])}
        known |= {point.value for name in metrics for point in client.get_metric_history(run_id, name)}
    for group in by_size.values():
        known |= {statistics.fmean(m[name] for m in group) for name in ("test/cer", "best/valid_cer")}
        known.add(float(len(group)))
    published = pd.read_csv(resources.files("kmed_bench.report") / "published.csv")
    return known | set(published["cer"]) | set(published["cer_high"].dropna())


def test_no_number_on_the_page_is_from_elsewhere(store: SmallStore, runs: list[Run], html: str, tmp_path: Path) -> None:
    (split,), (bench,) = of_kind(runs, "split"), of_kind(runs, "bench")
    accounts = [artifact(store, split, name, tmp_path) for name in ("split.json", "quality.json")]
    accounts.append(artifact(store, bench, "comparisons.json", tmp_path))
    accounts += [artifact(store, run, "scores.json", tmp_path) for run in of_kind(runs, "train")]
    known = set(numbers_of(accounts)) | derived_numbers(store, runs)
    for entry in accounts[0]["merged_strata"]:  # shares of merged values are summed
        field, _, values = entry.partition(": ")
        shares = [accounts[0]["shares"][field][value] for value in values.split("+")]
        known |= {fsum(share[part] for share in shares) for part in ("corpus", "train", "valid", "test")}
    data = Page(html).data
    assert len(data) > 300
    assert [(value, text) for value, text in data if not any(isclose(value, k) for k in known)] == []


def test_figures_of_each_size_stand_where_they_belong(runs: list[Run], html: str) -> None:
    tables = Page(html).tables
    rows = {row["size"][0]: row for row in tables["sizes"][1:]}
    costs = {row["size"][0]: row for row in tables["costs"][1:]}
    assert list(rows) == ["tiny", "base"]
    for size, row in rows.items():
        of_size = [run for run in of_kind(runs, "train") if run.data.tags["kmed.size"] == size]
        metrics = min((run.data.metrics for run in of_size), key=lambda m: m["best/valid_cer"])
        assert row["fine-tuned, valid CER"] == [repr(metrics["best/valid_cer"])]
        assert row["fine-tuned, test CER"] == [repr(metrics[f"test/cer{end}"]) for end in ("", "_low", "_high")]
        ends = ("", "_low", "_high")
        assert row["untouched, test CER"] == [repr(metrics[f"untouched/test_cer{end}"]) for end in ends]
        assert costs[size]["parameters"] == [repr(metrics["speed/parameters"])]
        rates = {line["measure"][0]: line for line in tables["rates"][1:]}
        for label, name in SHARES.items():
            cells = {"fine-tuned": f"test/{name}", "untouched": f"untouched/test_{name}"}
            for model, key in cells.items():
                known = [repr(metrics[f"{key}{end}"]) for end in ends if f"{key}{end}" in metrics]
                assert rates[label][f"{size} {model}"] == known
                assert len(known) == (1 if name == "deletion_share" else 3)  # which has no interval
    (headline,) = re.findall(r'<p class="headline"><strong>(.*?)</strong>', html)
    assert headline == f"Use base fine-tuned: test CER {100 * metrics['test/cer']:.1f}\N{NO-BREAK SPACE}%."  # of base
    assert "no weights; give --weights" in html


def test_seeds_are_a_band_and_sizes_a_front(html: str) -> None:
    captions = [part.partition("</figcaption>")[0] for part in html.split("<figcaption>")[1:]]
    banded = [words for words in captions if "Mean of 2 seeds; the band is their whole range." in words]
    assert len(banded) == 6  # two plots of each size, two of all together
    for name in ("pareto-test-rtfx", "pareto-parameters", "test-cer", "groups", "error-kinds"):
        assert f'id="plot-{name}"' in html
        assert f'href="{name}.svg"' in html


def fill_bench(uri: str, n_runs: int) -> str:
    """Return the id of a benchmark with many train runs of 20 epochs and their scores.

    One run of each size is logged; the others are copies of its rows, which differ in seed and values.
    """
    client = MlflowClient(tracking_uri=uri)
    place = client.create_experiment("many")
    bench = client.create_run(place, run_name="bench-many", tags={"kmed.kind": "bench", "kmed.profile": "sound"})
    patterns = [_fill_run(client, place, bench.info.run_id, size) for size in ("tiny", "base", "small")]
    file = sqlite_file(uri)
    assert file is not None
    with contextlib.closing(sqlite3.connect(file)) as base, base:
        for table in ("runs", "tags", "metrics", "latest_metrics"):
            base.row_factory = sqlite3.Row
            for number in range(3, n_runs):
                source = patterns[number % 3].info
                rows = [dict(row) for row in base.execute(f"SELECT * FROM {table} WHERE run_uuid = ?", [source.run_id])]
                for row in rows:
                    row["run_uuid"] = f"{number:032x}"
                    if "artifact_uri" in row:
                        row["artifact_uri"] = source.artifact_uri.replace(source.run_id, row["run_uuid"])
                    if row.get("key") == "kmed.seed":
                        row["value"] = str(number)
                    elif "step" in row and row["key"] != "best/epoch":
                        row["value"] += number / 10_000
                marks = ", ".join("?" * len(rows[0]))
                base.executemany(f"INSERT INTO {table} VALUES ({marks})", [list(row.values()) for row in rows])
    for number in range(3, n_runs):
        source = patterns[number % 3].info
        folder = local_folder(source.artifact_uri)
        assert folder is not None
        shutil.copytree(folder, str(folder).replace(source.run_id, f"{number:032x}"))
    client.set_terminated(bench.info.run_id, "FINISHED")
    return str(bench.info.run_id)


def _fill_run(client: MlflowClient, place: str, parent: str, size: str) -> Run:
    seed = str(("tiny", "base", "small").index(size))
    tags = {"kmed.kind": "train", "kmed.size": size, "kmed.seed": seed, "mlflow.parentRunId": parent}
    run = client.create_run(place, run_name=f"{size}-s{seed}", tags=tags)
    names = ("train/loss", "valid/loss", "train/cer_teacher_forced", "valid/cer", "time/epoch_s")
    metrics = [Metric(name, 0.5 / (1 + epoch), 0, epoch) for name in names for epoch in range(21)]
    summary = {"best/valid_cer": 0.1, "best/epoch": 20.0, "test/cer": 0.1, "test/cer_low": 0.09, "test/cer_high": 0.11}
    client.log_batch(run.info.run_id, metrics + [Metric(name, value, 0, 0) for name, value in summary.items()])
    cell = {"cer": 0.1, "cer_low": 0.09, "cer_high": 0.11, "n_clips": 100, "n_speakers": 10}
    scores = {"overall": cell, "groups": {"gender": {"Female": cell, "Male": cell}}}
    client.log_dict(run.info.run_id, scores, "scores.json")
    client.set_terminated(run.info.run_id, "FINISHED")
    return client.get_run(run.info.run_id)


def test_a_thousand_runs_are_read_and_shown_within_half_a_minute(tmp_path: Path) -> None:
    uri = open_store(TrackingConfig(uri=f"sqlite:///{tmp_path / 'mlflow.db'}"))
    bench = fill_bench(uri, 1_000)
    began = time.process_time()
    record = read_bench(uri, bench)
    write_report(record, tmp_path / "report")
    spent_s = time.process_time() - began  # of this process: other programs on the machine don't count
    assert len(record.trains) == len(record.scores) == 1_000
    runs = pd.read_csv(tmp_path / "report" / "runs.csv")
    assert runs["test_cer"].nunique() == 998  # the three that were logged share theirs
    assert spent_s < 30


def test_a_report_is_brought_up_to_date_and_another_ones_page_stays(
    store: SmallStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, page = ["report", str(tmp_path), "--tracking.uri", store.uri], tmp_path / "index.html"
    assert main(command) == 0
    page.write_text(page.read_text(encoding="utf-8").replace("</body>", "<!-- old --></body>"), encoding="utf-8")
    assert main(command) == 0
    text = page.read_text(encoding="utf-8")
    assert "<!-- old -->" not in text
    (run_id,) = re.findall('name="kmed-bench-run" content="([0-9a-f]{32})"', text)
    page.write_text(text.replace(run_id, "0" * 32), encoding="utf-8")
    assert main(command) == 2
    assert f"is not of benchmark {run_id}, and is not overwritten" in capsys.readouterr().err
    assert page.read_text(encoding="utf-8") == text.replace(run_id, "0" * 32)


def test_a_paper_s_figures_have_embedded_fonts_and_the_width_of_columns(written: Path) -> None:
    paper = written / "paper"
    figures = sorted(paper.glob("figure-*.pdf"))
    assert {path.stem for path in figures} == {path.stem for path in paper.glob("figure-*.png")}
    shown = re.findall(r"\{(figure-[\w-]+)\.pdf\}", (paper / "figures.tex").read_text(encoding="utf-8"))
    assert sorted(shown) == sorted(path.stem for path in figures)
    for path in figures:
        content = path.read_bytes()
        (width,) = re.findall(rb"/MediaBox \[ 0 0 ([\d.]+)", content)
        expected = DOUBLE_MM if is_wide(path.stem.removeprefix("figure-")) else SINGLE_MM
        assert float(width) * 25.4 / 72 == pytest.approx(expected, abs=0.01)
        fonts = re.findall(rb"/FontName /\S+", content)
        assert fonts
        assert content.count(b"/FontFile2") == len(fonts)  # each is embedded, as TrueType
        assert b"/Type3" not in content
    streams = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", (paper / "figure-groups.pdf").read_bytes(), re.DOTALL)
    maps = b"".join(text for s in streams if b"beginbfrange" in (text := zlib.decompressobj().decompress(s)))
    assert f"<{ord('경'):04x}>".encode() in maps  # Hangul can be shown, searched and copied
    for named in re.findall(r"\\input\{([\w-]+)\}", (paper / "paper.tex").read_text(encoding="utf-8")):
        assert (paper / f"{named}.tex").stat().st_size > 0
    shares = pd.read_csv(paper / "table-split.csv")
    assert list(shares["Part"]) == ["train", "valid", "test"]
    assert "no patients" in (paper / "methods-en.md").read_text(encoding="utf-8")

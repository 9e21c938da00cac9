"""The notebooks run on a store, show what the store holds, and are kept without outputs."""

import os
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from small_store import SmallStore, shared_store

import kmed_bench
from kmed_bench.report.table_view import format_value
from kmed_bench.tracking.read import read_bench

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
SYSTEMS = ("tiny fine-tuned", "base fine-tuned")
NAMES = sorted(path.name for path in FOLDER.glob("*.ipynb"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    return shared_store(tmp_path_factory.getbasetemp())


def execute(name: str, store: SmallStore, cwd: Path, **variables: str) -> Any:
    """Return a notebook after running it as a user would, with the store named by the environment."""
    book = nbformat.read(FOLDER / name, as_version=4)
    named = {"MLFLOW_TRACKING_URI": store.uri, "KMED_OUT": str(store.out), "OMP_NUM_THREADS": "1"} | variables
    environment = {key: value for key, value in os.environ.items() if key not in ("MPLBACKEND", "KMED_BENCH")} | named
    client = NotebookClient(book, timeout=180, resources={"metadata": {"path": str(cwd)}})
    return client.execute(env=environment)


def texts(book: Any) -> str:
    """Everything that the cells print and show, as text and HTML."""
    found = []
    for output in (output for cell in book.cells for output in cell.get("outputs", ())):
        found += [output.get("text", "")]
        found += [value for kind, value in output.get("data", {}).items() if kind.startswith("text/")]
    return "\n".join(found)


def count_pictures(book: Any) -> int:
    outputs = [output for cell in book.cells for output in cell.get("outputs", ())]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def test_there_are_four() -> None:
    assert NAMES == ["01_data.ipynb", "02_results.ipynb", "03_errors.ipynb", "04_compare_runs.ipynb"]


@pytest.mark.parametrize("name", NAMES)
def test_they_are_kept_without_outputs(name: str) -> None:
    book = nbformat.read(FOLDER / name, as_version=4)
    nbformat.validate(book)
    for cell in book.cells:
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)
    first = next(cell for cell in book.cells if cell.cell_type == "code")
    assert all(word in first.source for word in ("KMED_BENCH", "KMED_OUT", "MLFLOW_TRACKING_URI"))
    assert set(book.metadata) <= {"kernelspec", "language_info"}


@pytest.mark.slow
def test_data_shows_the_accounts_of_ingest_and_split(store: SmallStore, tmp_path: Path) -> None:
    book = execute("01_data.ipynb", store, tmp_path)
    shown = texts(book)
    bench = read_bench(store.uri)
    assert bench.split["sha256"] in shown
    for value in ("경기/서울", "audio_missing", f">{bench.quality['labels']}<", "Rare values taken together"):
        assert value in shown
    assert "Glyph" not in shown  # a font without Hangul warns
    assert count_pictures(book) == 5 + 2 + len(bench.split["shares"])


@pytest.mark.slow
def test_results_are_those_of_the_store(store: SmallStore, tmp_path: Path) -> None:
    book = execute("02_results.ipynb", store, tmp_path, KMED_BENCH=store.run_id)
    shown = texts(book)
    bench = read_bench(store.uri)
    best = min(bench.trains, key=lambda run: run.metrics["best/valid_cer"])
    assert best.size == "base"
    assert f"Use base fine-tuned: test CER {100 * best.metrics['test/cer']:.1f} %." in shown
    for run in bench.trains:
        if run.seed == 0:
            assert format_value(run.metrics["test/cer"], "percent") in shown
            assert format_value(run.metrics["untouched/test_cer"], "percent") in shown
    for words in ("Demo corpus: synthetic speech", "size small", "no weights; give --weights", "base fine-tuned"):
        assert words in shown
    assert count_pictures(book) == 2 + 2 * 2 + 1


@pytest.mark.slow
def test_errors_shows_transcripts_and_says_that_it_stays_local(store: SmallStore, tmp_path: Path) -> None:
    book = execute("03_errors.ipynb", store, tmp_path, KMED_SIZE="tiny")
    shown = texts(book)
    assert "tiny, seed 0: 24 clips of the test part" in shown
    assert "허" in shown
    assert count_pictures(book) == 4
    said = "\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")
    assert "Private" in said
    assert "don't log, attach or publish" in said


@pytest.mark.slow
def test_runs_are_compared_by_the_public_names_alone(store: SmallStore, tmp_path: Path) -> None:
    book = execute("04_compare_runs.ipynb", store, tmp_path, KMED_BENCH=store.run_id)
    shown = texts(book)
    assert "4 trainings, 2 sizes" in shown
    (found,) = [row for row in read_bench(store.uri).comparisons if (row["a_name"], row["b_name"]) == SYSTEMS]
    assert f">{found['delta']:.2%}<" in shown
    assert shown.count(">tiny → base<") == 3
    assert count_pictures(book) == 1 + 2
    assert not [out for cell in book.cells for out in cell.get("outputs", ()) if out.get("name") == "stderr"]
    code = "\n".join(cell.source for cell in book.cells if cell.cell_type == "code")
    assert set(re.findall(r"kmed\.(\w+)", code)) <= set(kmed_bench.PUBLIC)
    assert re.findall(r"(?:import|from) (kmed_bench\S*)", code) == ["kmed_bench"]

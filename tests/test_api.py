"""What `import kmed_bench` promises: the names, and the documented path from a manifest to a comparison."""

import re
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow.utils.autologging_utils import AUTOLOGGING_INTEGRATIONS
from small_store import shared_store

import kmed_bench
from kmed_bench.asr.model import weights
from kmed_bench.config import load_config
from kmed_bench.corpus.demo.demo import make_demo_corpus

DOCUMENT = (Path(__file__).resolve().parents[1] / "docs" / "api.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(kmed_bench.PUBLIC))
def test_every_public_name_is_there_documented_and_described(name):
    value = getattr(kmed_bench, name)
    assert value.__doc__
    assert value.__module__.startswith("kmed_bench.")
    assert f"`{name}" in DOCUMENT.split("```")[0]


def test_the_page_lists_no_name_that_is_not_public():
    table = DOCUMENT.split("```")[0]
    assert set(re.findall(r"`([A-Za-z_]+)\(", table)) <= set(kmed_bench.PUBLIC) | {"help", "transcribe"}
    with pytest.raises(AttributeError, match="no attribute 'narrate'"):
        _ = kmed_bench.narrate


def test_importing_the_package_loads_no_library():
    code = "import sys, kmed_bench; sys.exit(bool({'torch', 'pandas', 'mlflow', 'pydantic'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_the_documented_path_runs_as_printed(tiny_checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_demo_corpus(tmp_path / "corpus", speakers=4, sentences=16, seed=1, layout="tree")
    kmed_bench.ingest([tmp_path / "corpus"], tmp_path / "kmed-output" / "manifest", load_config("demo").data)
    # The same lines on a corpus and a model that take seconds.
    found = weights.Weights("base", tiny_checkpoint, "path", "0" * 64)
    monkeypatch.setattr(weights, "find_weights", lambda size: found)
    block = code_of("From a manifest")
    small = {"split.train": "8", "split.valid": "2", "split.test": "2"}
    for key, value in small.items():
        block, n = re.subn(rf'"{key}": \d+', f'"{key}": {value}', block)
        assert n == 1
    block = block.replace('"train.epochs": 1', '"train.epochs": 1, "split.disjoint": "none", "eval.max_new_tokens": 8')
    names: dict[str, object] = {}
    exec(block, names)
    epoch, rates, delta = capsys.readouterr().out.splitlines()
    assert epoch.startswith("1 ")
    cer = names["scores"]["overall"]["cer"]
    assert rates.split()[0] == str(cer)
    before = kmed_bench.score_predictions(names["untouched"])["overall"]["cer"]
    assert float(delta) == pytest.approx(cer - before)
    assert len(names["tuned"]) == 2
    samples_in_memory(names, tmp_path, capsys)
    a_run_of_the_users_own(names, tmp_path)


def code_of(heading: str) -> str:
    """The first block of Python after a heading or sentence of the page."""
    after = DOCUMENT[DOCUMENT.index(heading) :]
    return re.search(r"```python\n(.*?)```", after, flags=re.DOTALL)[1]


def samples_in_memory(names, folder, capsys):
    """The second example writes what the split's own clip was decoded to."""
    from kmed_bench.corpus.archives.reader import AudioReader

    row = names["split"].parts["test"].iloc[0]
    with AudioReader() as reader:
        (folder / "clip.wav").write_bytes(reader.read(row["audio"]))
    exec(code_of("## Samples in memory"), names)
    expected = next(clip.hypothesis for clip in names["tuned"] if clip.utterance_id == row["utterance_id"])
    assert capsys.readouterr().out.strip() == str([expected])


def a_run_of_the_users_own(names, folder):
    """The third example logs into an experiment, store and run that stay the caller's, without autologging."""
    uri, before = f"sqlite:///{folder / 'mine.db'}", mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment("mine")
    block = code_of("## In an MLflow run")
    inside = "    seen = (mlflow.active_run().info.run_id, mlflow.get_tracking_uri())\n"
    try:
        exec(block + inside, names)
        assert names["seen"] == (names["run"].info.run_id, uri)
        assert mlflow.active_run() is None
        assert mlflow.get_tracking_uri() == uri
        assert set(AUTOLOGGING_INTEGRATIONS) <= {"mlflow"}  # its own tracing, off
        assert not any(AUTOLOGGING_INTEGRATIONS.values())
        runs = mlflow.search_runs(search_all_experiments=True, output_format="list")
        assert [run.info.run_id for run in runs] == [names["run"].info.run_id]
        assert mlflow.get_experiment(runs[0].info.experiment_id).name == "mine"
        assert [made.name for made in mlflow.search_experiments()] == ["mine", "Default"]
    finally:
        mlflow.set_tracking_uri(before)
    (run,) = runs
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "my-model"
    assert run.data.metrics["test/cer"] == pytest.approx(names["scores"]["overall"]["cer"])
    assert run.data.metrics["test/cer_delta"] == pytest.approx(names["difference"]["delta"])
    assert any(name.startswith("test/cer/gender/") for name in run.data.metrics)
    assert "train/loss" in run.data.metrics
    assert not [name for name in run.data.tags if name.startswith("kmed.")]


@pytest.mark.slow
def test_the_documented_frames_are_those_of_the_store(tmp_path, tmp_path_factory, monkeypatch):
    store = shared_store(tmp_path_factory.getbasetemp())
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"kmed": kmed_bench}
    exec(code_of("## Runs as data frames").replace("sqlite:///mlflow.db", store.uri), names)
    assert names["runs"][["size", "seed"]].values.tolist() == [["tiny", 0], ["tiny", 1], ["base", 0], ["base", 1]]
    assert names["sizes"]["size"].tolist() == ["tiny", "base"]
    assert names["bench"].run_id == store.run_id
    assert {path.name for path in tmp_path.glob("*.png")} == {"sizes.png", "curves.png"}


@pytest.mark.parametrize(
    ("clip", "said"),
    [
        (np.zeros((2, 100), np.float32), r"shape \(2, 100\) of float32"),
        (np.zeros(100, np.int16), "of int16.*32768"),
        (np.zeros(0, np.float32), "has 0 s"),
        (np.zeros(16_000 * 31, np.float32), "has 31 s.*30 s"),
        (np.full(100, np.nan), "up to nan"),
        (np.full(100, 3e4), "up to 30000"),
    ],
)
def test_arrays_that_are_no_clip_are_refused(clip, said):
    with pytest.raises(kmed_bench.KmedError, match=f"^Clip 1 .*{said}"):
        kmed_bench.transcribe_arrays(None, [np.zeros(100), clip])
    with pytest.raises(kmed_bench.KmedError, match="rate is 0 Hz"):
        kmed_bench.transcribe_arrays(None, [np.zeros(100)], rate_hz=0)

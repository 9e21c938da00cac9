"""Runs as they are logged and as they are read back."""

import dataclasses
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from kmed_bench.config import Config, flatten, load_config
from kmed_bench.core.errors import KmedError
from kmed_bench.tracking import params, processes, runs, store
from kmed_bench.tracking import read as readback
from kmed_bench.tracking.run import TrackedRun

SHA = "ab" * 32

# MLflow's own tables use a loader that SQLAlchemy 2.1 deprecates.


@pytest.fixture(scope="module")
def uri(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store for the module."""
    return f"sqlite:///{shutil.copy(empty_database, tmp_path_factory.mktemp('store'))}"


@pytest.fixture
def config(uri: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Config:
    """Settings with an experiment for each test alone."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    return load_config("demo", {"tracking.uri": uri, "tracking.experiment": request.node.name})


@pytest.fixture(autouse=True)
def no_run_left_active() -> Iterator[None]:
    yield
    assert mlflow.active_run() is None


def client_of(config: Config) -> MlflowClient:
    return MlflowClient(tracking_uri=config.tracking.uri)


@pytest.mark.slow
def test_the_default_store_is_made_in_the_working_folder_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri = store.open_store(Config().tracking)
    assert uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mlflow.db"]
    assert store.open_store(Config().tracking) == uri
    assert capfd.readouterr() == ("", "")


def test_uri_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert store.resolve_uri("sqlite:///other.db") == f"sqlite:///{tmp_path}/other.db"
    assert store.resolve_uri(None) == "http://127.0.0.1:5000"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert store.resolve_uri(None) == f"sqlite:///{tmp_path}/mlflow.db"


@pytest.mark.parametrize(
    ("uri", "named"),
    [
        ("http://127.0.0.1:9", "http://127.0.0.1:9"),
        ("sqlite:////proc/nowhere/mlflow.db", "/proc/nowhere/mlflow.db"),
        ("postgresql://someone:secret@127.0.0.1:9/db", "***@127.0.0.1:9"),
        ("nonsense://x", "nonsense://x"),
    ],
)
def test_a_store_out_of_reach_is_one_paragraph(uri: str, named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(KmedError) as caught:
        store.open_store(dataclasses.replace(Config().tracking, uri=uri))
    message = str(caught.value)
    assert named in message
    assert "tracking.uri" in message
    assert "secret" not in message
    assert "\n" not in message


def test_a_bench_and_its_children_are_read_back(config: Config, uri: str, tmp_path: Path) -> None:
    with runs.bench_run(config, code_version="abc1234") as bench:
        runs.log_skipped(bench, {"tiny": "no weights; give model.weights"})
        with bench.child("split", "split", tags={"kmed.split_sha256": SHA}) as split:
            split.log_json({"sha256": SHA, "counts": {"train": 3}}, "split.json")
            split.log_json({"labels": 4, "usable": 3}, "quality.json")
            split.log_dataset(sha256=SHA, counts={"train": 3, "valid": 2, "test": 1}, context="split")
        with bench.child(
            "train", "train-base-0", tags={"kmed.size": "base", "kmed.seed": "0"}, params={"lr": 1e-5}
        ) as t:
            t.log_epoch(0, {"valid/cer": 0.5, "valid/loss": 2.0})
            t.log_epoch(1, {"valid/cer": 0.4})
            t.log_epoch(1, {"valid/cer": 0.3})  # a resumed run logs an epoch again
            t.log_metrics({"best/epoch": 1, "test/cer": 0.31})
            t.log_json({"overall": {"cer": 0.31}, "이름": "값"}, "scores.json")
            (tmp_path / "history.csv").write_text("epoch\n")
            t.log_file(tmp_path / "history.csv", "tables")
    record = readback.read_bench(uri, bench.run_id)
    assert record.name.startswith("bench-demo-")
    assert record.status == "FINISHED"
    assert record.skipped == {"tiny": "no weights; give model.weights"}
    assert record.split == {"sha256": SHA, "counts": {"train": 3}}
    assert record.quality == {"labels": 4, "usable": 3}
    assert record.tags["kmed.kind"] == "bench"
    assert record.tags["kmed.code_version"] == "abc1234"
    (train,) = record.trains
    assert (train.size, train.seed, train.status, train.name) == ("base", 0, "FINISHED", "train-base-0")
    assert train.params == {"lr": "1e-05"}
    assert train.tags["mlflow.parentRunId"] == bench.run_id
    assert record.scores == {train.run_id: {"overall": {"cer": 0.31}, "이름": "값"}}
    points = {(row.metric, row.step): row.value for row in train.history.itertuples()}
    assert points == {
        ("valid/cer", 0): 0.5,
        ("valid/loss", 0): 2.0,
        ("valid/cer", 1): 0.3,
    }
    assert train.metrics == {"valid/cer": 0.3, "valid/loss": 2.0, "best/epoch": 1.0, "test/cer": 0.31}
    assert [a.path for a in client_of(config).list_artifacts(t.run_id, "tables")] == ["tables/history.csv"]


def test_settings_are_logged_flat_and_whole_without_paths(config: Config) -> None:
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, source="/home/hong-gildong/aihub208"))
    with runs.bench_run(config, code_version="x") as bench:
        pass
    run = client_of(config).get_run(bench.run_id)
    assert set(run.data.params) == set(flatten(config))
    assert run.data.params["data.source"] == "aihub208"
    assert run.data.params["train.seeds"] == "0"
    text = Path(client_of(config).download_artifacts(bench.run_id, "config.yaml")).read_text(encoding="utf-8")
    assert "source: aihub208" in text
    assert "gildong" not in text + str(run.data)


def test_passwords_are_not_logged() -> None:
    config = load_config("demo", {"tracking.uri": "postgresql://someone:secret@db.example/mlflow"})
    assert params.shareable(config).tracking.uri == "postgresql://***@db.example/mlflow"


def test_what_a_cluster_is_told_names_nobody() -> None:
    told = {"account": "gildong-lab", "setup": ". /home/gildong/venv/bin/activate", "cpus": "6"}
    told |= {"python": "/home/gildong/venv/bin/python", "directives": "mail-user=gildong@ward.example"}
    shown = params.shareable(load_config("demo", {f"slurm.{name}": value for name, value in told.items()})).slurm
    assert (shown.account, shown.setup, shown.directives) == ("***", "***", "***")
    assert (shown.python, shown.cpus, shown.partition) == ("python", 6, None)


def test_values_over_the_limits_are_cut(config: Config) -> None:
    with (
        runs.bench_run(config, code_version="x") as bench,
        bench.child("train", "t", tags={"long": "가" * 9_000}, params={"long": "나" * 7_000, "empty": None}) as child,
    ):
        pass
    data = client_of(config).get_run(child.run_id).data
    assert data.params == {"long": "나" * 5_999 + "…", "empty": "none"}
    assert data.tags["long"] == "가" * 7_999 + "…"


@pytest.mark.parametrize(
    ("error", "status"),
    [(ValueError("broken"), "FAILED"), (KmedError("bad"), "FAILED"), (KeyboardInterrupt(), "KILLED")],
)
def test_no_run_stays_running(config: Config, error: BaseException, status: str) -> None:
    with (
        pytest.raises(type(error)),
        runs.bench_run(config, code_version="x") as bench,
        bench.child("train", "t") as child,
    ):
        raise error
    assert [client_of(config).get_run(r.run_id).info.status for r in (child, bench)] == [status, status]


def test_termination_ends_the_runs(config: Config) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with (
        pytest.raises(KeyboardInterrupt),
        runs.bench_run(config, code_version="x") as bench,
        bench.child("train", "t") as child,
    ):
        os.kill(os.getpid(), signal.SIGTERM)
    assert [client_of(config).get_run(r.run_id).info.status for r in (child, bench)] == ["KILLED", "KILLED"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_failed_child_leaves_its_bench_open(config: Config) -> None:
    with runs.bench_run(config, code_version="x") as bench:
        with pytest.raises(ValueError, match="broken"), bench.child("train", "a"):
            raise ValueError("broken")
        with bench.child("trial", "pruned") as pruned:
            pruned.ends_as = "KILLED"
    client = client_of(config)
    assert client.get_run(bench.run_id).info.status == "FINISHED"
    assert client.get_run(pruned.run_id).info.status == "KILLED"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_metrics_that_are_no_numbers_are_refused(config: Config, value: float) -> None:
    with (
        pytest.raises(KmedError, match=r"train/loss = -?(nan|inf) at step 3 .*train\.lr"),
        runs.bench_run(config, code_version="x") as bench,
        bench.child("train", "t") as child,
    ):
        child.log_epoch(3, {"train/loss": value, "valid/cer": 0.1})
    assert client_of(config).get_run(child.run_id).data.metrics == {}


def test_the_dataset_has_counts_and_the_hash_but_no_path(config: Config) -> None:
    with runs.bench_run(config, code_version="x") as bench:
        bench.log_dataset(sha256=SHA, counts={"train": 3, "valid": 2, "test": 1}, context="training", part="train")
    (given,) = client_of(config).get_run(bench.run_id).inputs.dataset_inputs
    assert given.dataset.name == "AI Hub 208, train"
    assert given.dataset.digest == SHA[:36]
    assert given.dataset.profile == '{"num_rows": 3, "n_train": 3, "n_valid": 2, "n_test": 1}'
    assert {tag.key: tag.value for tag in given.tags} == {
        "mlflow.data.context": "training",
        "kmed.split_sha256": SHA,
        "kmed.source_kind": "split",
    }


def test_the_run_of_mlflow_run_is_adopted(config: Config, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store.open_store(config.tracking)
    client = client_of(config)
    made = client.create_run("0", run_name="nervous-fox-12", tags={"mlflow.project.entryPoint": "main"})
    client.log_param(made.info.run_id, "lr", "1e-5")
    client.log_param(made.info.run_id, "train.lr", "2e-05")
    monkeypatch.setenv("MLFLOW_RUN_ID", made.info.run_id)
    with runs.bench_run(config, code_version="x") as bench:
        pass
    run = client.get_run(bench.run_id)
    assert bench.run_id == made.info.run_id
    assert run.info.run_name.startswith("bench-demo-")
    assert (run.data.params["lr"], run.data.params["train.lr"]) == ("1e-5", "2e-05")
    assert run.info.status == "FINISHED"


def test_the_latest_bench_is_the_default(config: Config, uri: str) -> None:
    made = []
    for _ in range(2):
        with runs.bench_run(config, code_version="x") as bench:
            made.append(bench.run_id)
    assert readback.read_bench(uri).run_id == made[-1]
    experiment = client_of(config).get_experiment_by_name(config.tracking.experiment)
    assert f"#/experiments/{experiment.experiment_id}/runs?" in experiment.tags["mlflow.note.content"]


def test_runs_that_are_no_bench_are_refused(config: Config, uri: str) -> None:
    with runs.bench_run(config, code_version="x") as bench, bench.child("train", "t") as child:
        pass
    with pytest.raises(KmedError, match=f"is a train run, not a bench; its parent is {bench.run_id}"):
        readback.read_bench(uri, child.run_id)
    with pytest.raises(KmedError, match=f"its latest benchmarks are: .*{bench.run_id}"):
        readback.read_bench(uri, "0" * 32)


def test_an_empty_store_says_how_to_fill_it(empty_database: Path) -> None:
    uri = store.open_store(dataclasses.replace(Config().tracking, uri=f"sqlite:///{empty_database}"))
    with pytest.raises(KmedError, match=r"has no benchmark; make one with `kmed-bench run`"):
        readback.read_bench(uri)


def test_a_moved_store_is_named(empty_database: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    shutil.copy(empty_database, tmp_path / "a")
    config = load_config("demo", {"tracking.uri": f"sqlite:///{tmp_path}/a/mlflow.db"})
    with runs.bench_run(config, code_version="x"):
        pass
    (tmp_path / "a").rename(tmp_path / "b")
    moved = f"sqlite:///{tmp_path}/b/mlflow.db"
    with pytest.raises(KmedError, match=rf"should be in {tmp_path}/a/mlruns/kmed-bench, which does not exist"):
        readback.read_bench(moved)
    store.open_store(dataclasses.replace(config.tracking, uri=moved))
    assert readback.read_bench(moved).status == "FINISHED"


@pytest.mark.parametrize(
    ("text", "fault"), [("[1]", "holds a list, not an object"), ("[" * 100_000, "can't be read .maximum recursion")]
)
def test_an_artifact_that_is_no_json_is_named(
    text: str, fault: str, config: Config, uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "scores.json").write_text(text)
    with runs.bench_run(config, code_version="x") as bench, bench.child("train", "t") as child:
        child.log_file(tmp_path / "scores.json")
    assert "has no note in the MLflow UI" in caplog.text
    assert client_of(config).get_run(bench.run_id).info.status == "FINISHED"
    with pytest.raises(KmedError, match=f"scores.json of run {child.run_id} {fault}"):
        readback.read_bench(uri, bench.run_id)


def diverge(child: TrackedRun) -> None:
    child.log_metrics({"test/cer": 0.25})
    child.log_epoch(1, {"train/loss": math.nan})


def test_notes_are_written_even_when_the_benchmark_fails(config: Config) -> None:
    tags = {"kmed.size": "base", "kmed.seed": "0"}
    with (
        pytest.raises(KmedError, match="train/loss = nan"),
        runs.bench_run(config, code_version="x") as bench,
        bench.child("train", "t", tags=tags) as child,
    ):
        diverge(child)
    client = client_of(config)
    assert "| base | 0 |" in client.get_run(bench.run_id).data.tags["mlflow.note.content"]
    assert "test CER **25.0 %**" in client.get_run(child.run_id).data.tags["mlflow.note.content"]


@pytest.mark.slow
def test_runs_of_a_killed_process_are_ended_by_the_next(config: Config, uri: str) -> None:
    program = (
        "import os, signal\n"
        "from kmed_bench.config import load_config\n"
        "from kmed_bench.tracking import runs\n"
        f"place = {{'tracking.uri': {uri!r}, 'tracking.experiment': {config.tracking.experiment!r}}}\n"
        "config = load_config('demo', place)\n"
        "with runs.bench_run(config, code_version='x') as bench, bench.child('train', 't') as child:\n"
        "    print(bench.run_id, child.run_id, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = done.stdout.split()
    client = client_of(config)
    assert [client.get_run(run_id).info.status for run_id in left] == ["RUNNING", "RUNNING"]
    with runs.bench_run(config, code_version="x") as bench, bench.child("train", "t") as child:
        assert [client.get_run(run_id).info.status for run_id in left] == ["KILLED", "KILLED"]
        assert processes.end_abandoned(client) == []
    assert client.get_run(child.run_id).info.status == "FINISHED"


def test_a_run_in_a_jobs_hands_is_running_until_the_job_is_lost(config: Config) -> None:
    with runs.bench_run(config, code_version="x") as bench:
        processes.hand_over(bench, "slurm:hal:7")
    client = client_of(config)
    with runs.bench_run(config, code_version="x"):  # which ends what processes have left behind
        pass
    left = client.get_run(bench.run_id)
    assert (left.info.status, left.data.tags["kmed.process"]) == ("RUNNING", "slurm:hal:7")
    processes.end_lost(client, bench.run_id, "Slurm's job 7 ended as NODE_FAIL")
    processes.end_lost(client, bench.run_id, "another reason")  # it has ended
    ended = client.get_run(bench.run_id)
    assert (ended.info.status, ended.data.tags["kmed.failure"]) == ("FAILED", "Slurm's job 7 ended as NODE_FAIL")


def test_a_job_writes_its_runs_in_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KMED_SLURM_JOB", "slurm:hal:17_3")
    assert processes.this_process() == "slurm:hal:17_3"


def test_processes_elsewhere_are_left_alone() -> None:
    own = processes.this_process()
    assert not processes.is_gone(own)
    machine, pid, started = own.split(":")
    boot, ticks = started.split("-")
    assert processes.is_gone(f"{machine}:{pid}:{boot}-{int(ticks) - 100}")
    assert processes.is_gone(f"{machine}:{pid}:{'0' * 8}-{ticks}")  # before the machine was started again
    assert not processes.is_gone(f"{'0' * 12}:{pid}:{boot}-{int(ticks) - 100}")
    assert not processes.is_gone("")
    assert not processes.is_gone(f"{machine}:x:y")

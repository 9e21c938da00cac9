"""Runs that are reopened, and benchmarks that are found again."""

import contextlib
import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from kmed_bench.config import Config, benchmark_digest, load_config
from kmed_bench.core.errors import KmedError
from kmed_bench.tracking import read as readback
from kmed_bench.tracking import resume, runs, store

SHA = "ab" * 32


@pytest.fixture
def config(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    return load_config("demo", {"tracking.uri": f"sqlite:///{shutil.copy(empty_database, tmp_path)}"})


def client_of(config: Config) -> MlflowClient:
    return MlflowClient(tracking_uri=config.tracking.uri)


def start(config: Config, error: type[BaseException] = KeyboardInterrupt) -> tuple[str, str]:
    """Log two epochs of a training in a benchmark, and stop."""
    tags = {resume.HASH_TAG: benchmark_digest(config), "kmed.split_sha256": SHA}
    with contextlib.suppress(error), runs.bench_run(config, code_version="1", tags=tags) as bench:
        with bench.child("split", "split"):
            pass
        with bench.child("train", "train-tiny-seed0", tags={resume.HASH_TAG: "t0"}) as done:
            done.log_metrics({"test/cer": 0.4})
        with bench.child("train", "train-tiny-seed1", tags={resume.HASH_TAG: "t1"}) as child:
            child.log_dataset(sha256=SHA, counts={"train": 3}, context="training")
            child.log_metrics({"data/train_examples": 3})
            for epoch in (0, 1):
                child.log_epoch(epoch, {"valid/cer": 0.5 - 0.1 * epoch, "time/epoch_s": 1.0, "latency/clip_s_p50": 1.0})
            raise error
    return bench.run_id, child.run_id


@pytest.mark.slow
def test_a_reopened_run_goes_on_without_repeating_itself(config: Config) -> None:
    bench_id, child_id = start(config)
    client = client_of(config)
    before = client.get_run(bench_id)
    assert before.info.status == client.get_run(child_id).info.status == "KILLED"
    client.set_tag(bench_id, "kmed.failed", "train-tiny-seed1")
    with runs.bench_run(config, code_version="2", run_id=bench_id) as bench:
        assert client.get_run(bench_id).info.status == "RUNNING"
        with bench.child("train", "train-tiny-seed1", run_id=child_id) as child:
            assert client.get_run(child_id).info.status == "RUNNING"
            child.log_dataset(sha256=SHA, counts={"train": 3}, context="training")
            child.log_metrics({"data/train_examples": 3})
            for epoch in (0, 1, 2):
                child.log_epoch(
                    epoch, {"valid/cer": 0.5 - 0.1 * epoch + 1e-7, "time/epoch_s": 2.0, "latency/clip_s_p50": 2.0}
                )
            child.log_epoch(2, {"valid/cer": 0.3})
    curve = [(point.step, point.value) for point in client.get_metric_history(child_id, "valid/cer")]
    assert curve == [(0, 0.5), (1, 0.4), (2, pytest.approx(0.3))]
    times = [point.value for point in client.get_metric_history(child_id, "time/epoch_s")]
    assert times == [1.0, 1.0, 2.0]
    assert len(client.get_metric_history(child_id, "data/train_examples")) == 1
    assert len(client.get_run(child_id).inputs.dataset_inputs) == 1
    after = client.get_run(bench_id)
    assert (after.info.status, after.info.start_time, after.info.run_name) == (
        "FINISHED",
        before.info.start_time,
        before.info.run_name,
    )
    assert (after.data.tags["kmed.code_version"], after.data.tags["kmed.continued_by_code_version"]) == ("1", "2")
    assert "kmed.failed" not in after.data.tags
    assert [run.info.run_id for run in readback.search_runs(client, "tags.`kmed.kind` = 'bench'")] == [bench_id]


@pytest.mark.slow
def test_another_value_for_a_known_step_is_refused(config: Config) -> None:
    bench_id, child_id = start(config)
    with (
        runs.bench_run(config, code_version="1", run_id=bench_id) as bench,
        pytest.raises(KmedError, match=r"valid/cer at step 1 of run \w+ was 0.4 .* is 0.45 now"),
        bench.child("train", "train-tiny-seed1", run_id=child_id) as child,
    ):
        child.log_epoch(1, {"valid/cer": 0.45})
    client = client_of(config)
    assert client.get_run(child_id).info.status == "FAILED"
    assert [point.value for point in client.get_metric_history(child_id, "valid/cer")] == [0.5, 0.4]


def test_the_hash_is_of_what_decides_the_result(config: Config) -> None:
    own = benchmark_digest(config)
    same = {
        "data.workers": 9, "train.checkpoint_steps": 3, "train.keep_checkpoints": 2, "train.out_of_memory": "halve",
        "tracking.experiment": "other", "tracking.register": False,
    }  # fmt: skip
    assert benchmark_digest(load_config("demo", same)) == own
    for key, value in {"train.lr": 1e-3, "split.seed": 5, "train.seeds": "7", "model.sizes": "base"}.items():
        assert benchmark_digest(load_config("demo", {key: value})) != own
    elsewhere = [
        dataclasses.replace(config, data=dataclasses.replace(config.data, source=f"/{place}/208"))
        for place in ("a", "b")
    ]
    assert benchmark_digest(elsewhere[0]) == benchmark_digest(elsewhere[1]) != own


@pytest.mark.slow
def test_the_latest_unfinished_benchmark_is_found(config: Config) -> None:
    uri = store.open_store(config.tracking)
    assert resume.find_bench(config, uri) is None
    first, child_id = start(config)
    found = resume.find_bench(config, uri)
    assert found is not None
    resume.check_ended(found, uri)
    assert (found.run_id, found.status, found.n_finished, found.split_sha256) == (first, "KILLED", 1, SHA)
    assert {key: run.status for key, run in found.trains.items()} == {"t0": "FINISHED", "t1": "KILLED"}
    assert found.trains["t1"].run_id == child_id
    assert {key: run.status for key, run in found.stages.items()} == {"split": "FINISHED"}
    second, _ = start(config, KmedError)
    tags = {resume.HASH_TAG: benchmark_digest(config)}
    with runs.bench_run(config, code_version="1", tags=tags) as finished:
        pass
    found = resume.find_bench(config, uri)
    assert found is not None
    assert found.run_id == second
    for run_id in (first, second):
        client_of(config).set_terminated(run_id, "FINISHED")
    found = resume.find_bench(config, uri)
    assert found is not None
    assert found.run_id == finished.run_id


@pytest.mark.slow
def test_a_benchmark_at_work_is_not_continued(config: Config) -> None:
    uri = store.open_store(config.tracking)
    tags = {resume.HASH_TAG: benchmark_digest(config)}
    with runs.bench_run(config, code_version="1", tags=tags):
        found = resume.find_bench(config, uri)
        assert found is not None
        with pytest.raises(KmedError, match=r"is marked RUNNING, .* mark it with `python -c"):
            resume.check_ended(found, uri)
    client_of(config).set_terminated(found.run_id, "RUNNING")
    client_of(config).set_tag(found.run_id, "kmed.process", gone_process())
    resume.check_ended(found, uri)


def gone_process() -> str:
    """The tag of a process that has ended."""
    program = "from kmed_bench.tracking.processes import this_process; print(this_process())"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()

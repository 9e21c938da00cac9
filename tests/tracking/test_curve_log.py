"""Curves on their way to the store, and the machine's use beside them."""

import shutil
import time
from pathlib import Path

import pytest

from kmed_bench.config import load_config
from kmed_bench.tracking import runs
from kmed_bench.tracking.curves import curve_log, system_metrics
from kmed_bench.tracking.run import TrackedRun


@pytest.fixture
def run(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrackedRun:
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    config = load_config("demo", {"tracking.uri": f"sqlite:///{shutil.copy(empty_database, tmp_path)}"})
    with runs.bench_run(config, code_version="x") as bench, bench.child("train", "t") as child:
        return child


def points(run: TrackedRun, name: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in run.client.get_metric_history(run.run_id, name)]


def stop_after(run: TrackedRun, n_points: int) -> None:
    with curve_log(run) as log:
        for step in range(1, n_points + 1):
            log.add(step, {"step/loss": 1.0 / step})
        assert len(log._points) == n_points
        assert points(run, "step/loss") == []
        raise RuntimeError("diverged")


def test_points_wait_and_are_logged_together_also_when_training_fails(run: TrackedRun) -> None:
    with pytest.raises(RuntimeError, match="diverged"):
        stop_after(run, 2_500)  # more than one call may hold
    assert points(run, "step/loss") == [(step, 1.0 / step) for step in range(1, 2_501)]


def test_a_continued_run_has_each_point_once(run: TrackedRun) -> None:
    with curve_log(run) as log:
        log.add(50, {"step/loss": 3.0, "step/lr": 0.1})
        log.add(100, {"step/loss": 2.0, "step/lr": 0.1})
    again = TrackedRun(run.client, run.run_id, reopened=True)
    with curve_log(again) as log:  # the state was saved in step 70: the next point sums up fewer steps
        log.add(100, {"step/loss": 1.9, "step/lr": 0.1})
        log.add(150, {"step/loss": 1.0, "step/lr": 0.1})
    assert points(run, "step/loss") == [(50, 3.0), (100, 2.0), (150, 1.0)]


@pytest.mark.slow
def test_the_use_of_the_machine_is_logged_if_asked_for(run: TrackedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    run.client.update_run(run.run_id, status="RUNNING")
    with system_metrics(run, enabled=False):
        pass
    assert not any(name.startswith("system/") for name in run.client.get_run(run.run_id).data.metrics)
    with system_metrics(run, enabled=True):
        for _ in range(600):
            if "system/cpu_utilization_percentage" in run.client.get_run(run.run_id).data.metrics:
                break
            time.sleep(0.1)
    metrics = run.client.get_run(run.run_id).data.metrics
    assert 0 <= metrics["system/cpu_utilization_percentage"] <= 100

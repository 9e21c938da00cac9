"""A study shared by processes: exact totals, one of them killed or interrupted, MLflow and Optuna agreeing."""

import contextlib
import json
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
from forked import Forked
from mlflow.tracking import MlflowClient
from optuna.trial import FrozenTrial, TrialState
from random_whisper import save_random_whisper

from kmed_bench.config import SplitConfig
from kmed_bench.corpus.splitting.split import split_manifest, write_split
from kmed_bench.tracking.trials import read_trial_runs

pytestmark = pytest.mark.slow

PROGRAM = "import runpy; runpy.run_module('tuning_worker', run_name='__main__', alter_sys=True)"
STATES = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "KILLED", TrialState.FAIL: "FAILED"}
DEADLINE_S = 240


@pytest.fixture
def place(tone_part, tmp_path: Path) -> Path:
    write_split(
        split_manifest(tone_part, SplitConfig(train=6, valid=3, test=3, by=(), disjoint=())), tmp_path / "split"
    )
    save_random_whisper(tmp_path / "tiny.pt")
    return tmp_path


@pytest.fixture
def start(place: Path) -> Iterator[Callable[..., Forked]]:
    """A function that starts one more process of the study; none outlives the test."""
    started: list[Forked] = []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "KMED_CACHE": str(place / "cache")}
    for name in ("MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI"):
        environment.pop(name, None)

    def begin(**settings: str) -> Forked:
        words = [f"{key}={value}" for key, value in settings.items()]
        process = Forked(PROGRAM, [str(place), *words], cwd=place, env=environment)
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def finish(process: Forked) -> list[str]:
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


def load(place: Path) -> optuna.Study:
    return optuna.load_study(study_name="shared", storage=f"sqlite:///{place}/optuna.db")


def trials_of(place: Path, pid: int) -> list[FrozenTrial]:
    if not (place / "optuna.db").exists():
        return []
    try:
        trials = load(place).trials
    except KeyError:  # tables without a study
        return []
    return [trial for trial in trials if trial.user_attrs.get("kmed.process", "").split(":")[1:2] == [str(pid)]]


def wait_for_trial(place: Path, process: Forked, matches: Callable[[FrozenTrial], bool]) -> FrozenTrial:
    """The first trial of a process that matches; fails at once if the process ends before that."""
    until = time.monotonic() + DEADLINE_S
    while time.monotonic() < until:
        for trial in trials_of(place, process.pid):
            if matches(trial):
                return trial
        if process.poll() is not None:
            raise AssertionError(f"ended with status {process.returncode}:\n{process.communicate()[1]}")
        time.sleep(0.1)
    raise AssertionError(f"no such trial in {DEADLINE_S} s: {trials_of(place, process.pid)}")


def is_in_training(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.RUNNING and bool(trial.intermediate_values)


def is_free(database: Path) -> bool:
    """Whether no process is writing to a SQLite file."""
    with contextlib.closing(sqlite3.connect(database, timeout=0)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
    return True


def freeze_in_trial(place: Path, process: Forked) -> FrozenTrial:
    """Stop a process in the middle of a trial, while it holds no lock of a store, and return the trial.

    A kill in the middle of a write to a store is not tested here; scripts/kill_commands.py kills at any moment.
    """
    while True:
        wait_for_trial(place, process, is_in_training)
        process.send_signal(signal.SIGSTOP)
        if is_free(place / "optuna.db") and is_free(place / "mlflow.db"):
            running = [trial for trial in trials_of(place, process.pid) if is_in_training(trial)]
            if running:
                return running[0]
        process.send_signal(signal.SIGCONT)
        time.sleep(0.05)


def assert_agreement(place: Path) -> None:
    """Every trial has one MLflow run, with the same state, value, epochs and parameters."""
    study, uri = load(place), f"sqlite:///{place}/mlflow.db"
    client = MlflowClient(tracking_uri=uri)
    parent = study.user_attrs["kmed.mlflow_run"]
    assert client.get_run(parent).info.status == "FINISHED"
    runs = {int(run.data.tags["kmed.trial"]): run for run in read_trial_runs(client, parent)}
    trials = study.trials
    assert len(runs) == len(read_trial_runs(client, parent)) == len(trials)
    for trial in trials:
        run = runs[trial.number]
        assert trial.user_attrs["kmed.run_id"] == run.info.run_id
        assert run.info.status == STATES[trial.state]
        assert ("kmed.pruned" in run.data.tags) == (trial.state == TrialState.PRUNED)
        assert float(run.data.params["train.lr"]) == trial.params["train.lr"]
        if trial.state != TrialState.FAIL:
            assert run.data.metrics["best/valid_cer"] == trial.value
            curve = client.get_metric_history(run.info.run_id, "valid/cer")
            lowest = [min(m.value for m in curve[:n]) for n in range(1, len(curve) + 1)]
            assert trial.intermediate_values == dict(enumerate(lowest, start=1))


def test_twelve_trials_in_two_processes(place: Path, start: Callable[..., Forked]) -> None:
    both = [start(tune__trials="12", train__epochs="2"), start(tune__trials="12", train__epochs="2")]
    for process in both:
        assert len(finish(process)) == 12
    trials = load(place).trials
    assert len(trials) == 12
    assert all(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in trials)
    assert len({trial.params["train.lr"] for trial in trials}) == 12
    assert trials[0].params == {"train.lr": 2e-5}
    assert {trial.user_attrs["kmed.process"].split(":")[1] for trial in trials} == {str(p.pid) for p in both}
    assert_agreement(place)
    assert (place / "out" / "best.yaml").is_file()
    # The same command a second time finds nothing to do.
    assert finish(start(tune__trials="12", train__epochs="2")) == [t.state.name.lower() for t in trials]


def test_a_killed_process_loses_no_trial(place: Path, start: Callable[..., Forked]) -> None:
    settings = {"train__epochs": "8", "tune__pruner": "none", "tune__trials": "3"}
    victim = start(**settings)
    lost = freeze_in_trial(place, victim)  # so that it is still there when the other process has started
    survivor = start(**settings)
    wait_for_trial(place, survivor, lambda trial: True)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    finish(survivor)
    trials = load(place).trials
    assert len(trials) == 4
    assert trials[lost.number].state == TrialState.FAIL
    repeat = trials[3]
    assert repeat.params == lost.params
    assert repeat.system_attrs["retry_history"] == [lost.number]
    assert [t.state for t in trials if t.number != lost.number] == [TrialState.COMPLETE] * 3
    assert_agreement(place)
    client = MlflowClient(tracking_uri=f"sqlite:///{place}/mlflow.db")
    dead, alive = (client.get_run(t.user_attrs["kmed.run_id"]) for t in (trials[lost.number], repeat))
    assert dead.data.tags["kmed.retried_as"] == alive.info.run_id
    assert alive.data.tags["kmed.retry_of"] == dead.info.run_id
    assert "queued again" in dead.data.tags["kmed.ended"]


def test_an_interrupted_study_goes_on(place: Path, start: Callable[..., Forked]) -> None:
    settings = {"train__epochs": "6", "tune__pruner": "none", "tune__trials": "2"}
    first = start(**settings)
    begun = wait_for_trial(place, first, is_in_training)
    first.send_signal(signal.SIGTERM)
    _, err = first.communicate(timeout=DEADLINE_S)
    assert first.returncode != 0
    assert "the same command continues the study" in err.decode()
    study = load(place)
    assert [t.state for t in study.trials if t.number != begun.number][-1] == TrialState.WAITING
    client = MlflowClient(tracking_uri=f"sqlite:///{place}/mlflow.db")
    assert client.get_run(study.user_attrs["kmed.mlflow_run"]).info.status == "KILLED"
    assert client.get_run(begun.user_attrs["kmed.run_id"]).info.status == "FAILED"
    finish(start(**settings))
    trials = load(place).trials
    assert trials[-1].params == begun.params
    assert sum(t.state == TrialState.COMPLETE for t in trials) == 2
    assert len(trials) == 3
    assert_agreement(place)

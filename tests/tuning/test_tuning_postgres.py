"""Trials of one study shared through PostgreSQL, where its server and driver are installed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from optuna.trial import TrialState
from postgres_server import database  # noqa: F401 (a fixture: a server of its own)
from tuning_worker import settings

from kmed_bench.core.errors import KmedError
from kmed_bench.tracking.store import sqlite_file
from kmed_bench.tuning.storage import check_storage, open_storage
from kmed_bench.tuning.study_queue import StudyQueue

pytest.importorskip("psycopg", reason="psycopg is not installed")

pytestmark = pytest.mark.slow

WORKER = """
import sys
from kmed_bench.tracking.processes import this_process
from kmed_bench.tuning.study_queue import PROCESS, StudyQueue
from kmed_bench.tuning.space import suggest
from tuning_worker import settings
from pathlib import Path

config = settings(Path(sys.argv[1]), tune__storage=sys.argv[2], tune__trials="8")
queue = StudyQueue(config, "shared", setup={"a": 1}, on_lost=lambda trial: None)

def objective(trial, lock):
    chosen = suggest(trial, config)
    trial.set_user_attr(PROCESS, this_process())
    lock.release()
    for epoch in (1, 2):
        trial.report(chosen["train.lr"], epoch)
    return chosen["train.lr"]

queue.work(objective, ())
"""


def test_three_processes_start_a_study_at_once(database: str, tmp_path: Path) -> None:  # noqa: F811
    """The tables, the study and its slots are made once, and each slot is run once."""
    paths = [str(Path(__file__).resolve().parents[1]), *sys.path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WORKER, str(tmp_path), database]
    started = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for process in started:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    config = settings(tmp_path, tune__storage=database, tune__trials="8")
    queue = StudyQueue(config, "shared", setup={"a": 1}, on_lost=lambda trial: None)
    trials = queue.trials()
    queue.close()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 8
    assert len({trial.params["train.lr"] for trial in trials}) == 8
    assert trials[0].params == {"train.lr": 2e-5}
    config = settings(tmp_path, tune__storage=database, tune__trials="10")
    queue = StudyQueue(config, "shared", setup={"a": 1}, on_lost=lambda trial: None)
    assert [trial.state.name for trial in queue.trials()][8:] == ["WAITING"] * 2
    queue.close()


def test_a_server_out_of_reach_is_named_without_its_password(tmp_path: Path) -> None:
    url = "postgresql://kmed:secret@127.0.0.1:1/none"
    config = settings(tmp_path, tune__storage=url)
    check_storage(url, f"sqlite:///{tmp_path}/mlflow.db")
    assert sqlite_file(url) is None
    with pytest.raises(KmedError, match="can't be used") as error:
        open_storage(config.tune)
    assert "secret" not in str(error.value)
    with pytest.raises(KmedError, match="can't be used") as error:
        StudyQueue(config, "q", setup={}, on_lost=lambda trial: None)
    assert "secret" not in str(error.value)

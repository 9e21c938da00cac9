"""A process that is killed or interrupted at any moment leaves no run that stays RUNNING."""

import contextlib
import shutil
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from sqlalchemy import Connection, event
from sqlalchemy.engine import Engine

from kmed_bench.config import load_config
from kmed_bench.tracking import processes, trials
from kmed_bench.tracking.runs import standalone_run
from kmed_bench.tracking.seal import Seal
from kmed_bench.tracking.store import open_store, search_runs


@contextlib.contextmanager
def every_state(store: Path) -> Iterator[list[sqlite3.Connection]]:
    """Yield copies of a store after each transaction that changed it: as a kill before the next one leaves it.

    SQLite writes a transaction whole or not at all, so these are all the states in which a kill leaves it.
    """
    states: list[sqlite3.Connection] = []
    changes: dict[int, int] = {}

    def copy(connection: Connection) -> None:
        database = connection.connection.dbapi_connection
        assert isinstance(database, sqlite3.Connection)
        if database.total_changes > changes.get(id(database), 0):
            changes[id(database)] = database.total_changes
            states.append(sqlite3.connect(":memory:"))
            with contextlib.closing(sqlite3.connect(store)) as written:
                written.backup(states[-1])

    event.listen(Engine, "commit", copy)  # called after the listener that commits
    try:
        yield states
    finally:
        event.remove(Engine, "commit", copy)
        for state in states:
            state.close()


def work(uri: str) -> None:
    """Begin, end, continue and end a training with a child and an opening, and begin, join and end a study."""
    config = load_config("demo", {"tracking.uri": uri})
    run_id = None
    for _ in range(2):
        with standalone_run(config, kind="train", name="t", code_version="1", run_id=run_id) as run:
            run_id = run.run_id
            with run.child("split", "s", params={"a": 1}) as child:
                child.log_metrics({"a": 1.0})
            Seal(uri, command="train", split_sha256="0" * 64, settings={"a": "b"}).record_opening("base")
    study_id = None
    for complete in (False, True):
        study, _ = trials.open_study_run(config, uri, name="study", run_id=study_id, tags={})
        study_id = study.run_id
        with trials.study_process(study), study.child("trial", "trial-000"):
            pass
        trials.end_study(study, complete=complete)


def test_the_next_run_ends_all_runs_whatever_the_moment_of_a_kill(
    empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    store = Path(shutil.copy(empty_database, tmp_path))
    uri = open_store(load_config("demo", {"tracking.uri": f"sqlite:///{store}"}).tracking)
    client, left = MlflowClient(tracking_uri=uri), Counter[str]()
    with every_state(store) as states:
        work(uri)
        monkeypatch.setattr(processes, "is_gone", lambda tag: tag == processes.this_process())
        for state in tuple(states):
            with contextlib.closing(sqlite3.connect(store)) as now:
                state.backup(now)
            left.update(run.data.tags["kmed.kind"] for run in search_runs(client, "attributes.status = 'RUNNING'"))
            processes.end_abandoned(client)
            assert Counter(run.info.status for run in search_runs(client, "")).keys() <= {"FINISHED", "KILLED"}
    assert left.keys() == {"train", "split", "opening", "study", "trial"}
    assert min(left.values()) >= 2


@contextlib.contextmanager
def sending(send: Callable[..., None]) -> Iterator[None]:
    """Call a function before each statement of the block."""
    event.listen(Engine, "before_cursor_execute", send)
    try:
        yield
    finally:
        event.remove(Engine, "before_cursor_execute", send)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C interrupts, also where the suite is a shell's background job, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("at", ["SELECT", "INSERT INTO metrics"])
def test_an_interrupt_within_a_transaction_waits_for_its_end(at: str, empty_database: Path, tmp_path: Path) -> None:
    """Raised within SQLAlchemy it can leave the transaction open, and this process waits for its own lock."""
    uri = f"sqlite:///{shutil.copy(empty_database, tmp_path)}"
    config, sent = load_config("demo", {"tracking.uri": uri}), list[str]()

    def send(_connection: Connection, _cursor: object, statement: str, *_more: object) -> None:
        if not sent and statement.startswith(at):
            sent.append(statement)
            signal.raise_signal(signal.SIGINT)

    with (
        pytest.raises(KeyboardInterrupt),
        standalone_run(config, kind="train", name="t", code_version="1") as run,
        sending(send),
    ):
        run.log_epoch(1, {"valid/cer": 0.5})
    assert len(sent) == 1
    ended = MlflowClient(tracking_uri=uri).get_run(run.run_id)
    assert ended.info.status == "KILLED"
    assert ended.data.metrics == {"valid/cer": 0.5}

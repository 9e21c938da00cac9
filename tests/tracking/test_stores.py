"""Stores that are locked, away, copied or damaged, and what stale variables of MLflow do: real files and processes."""

import contextlib
import os
import shlex
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_table import fault
from mlflow.entities import Metric, Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from kmed_bench.cli import main
from kmed_bench.config import Config, load_config
from kmed_bench.core import callers_folder
from kmed_bench.core.errors import KmedError
from kmed_bench.tracking import endings, outbox, own_run, processes, runs, store, trials, waiting
from kmed_bench.tracking.run import start_run

# Holds a lock of the asked kind until its standard input is closed.
HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN " + sys.argv[2])
rows = connection.execute("SELECT * FROM alembic_version UNION ALL SELECT name FROM experiments")
rows.fetchone()
print(flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("folder", ["/data/환자 자료 (2)", "/data/a'b", "/data/$HOME;x"])
def test_the_command_that_opens_the_ui_can_be_pasted(folder: str) -> None:
    uri = f"sqlite:///{folder}/mlflow.db"
    words = shlex.split(store.ui_command(uri))
    assert (words[0], Path(words[1]).name, words[2]) == ("MLFLOW_DISABLE_TELEMETRY=true", "mlflow", "ui")
    assert words[-2:] == ["--backend-store-uri", uri]


@pytest.fixture
def folder(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder with a store, in which the test works."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KMED_CACHE", str(tmp_path / "cache"))
    place = tmp_path / "project"
    place.mkdir()
    shutil.copy(empty_database, place)
    monkeypatch.chdir(place)
    return place


@pytest.fixture
def config(folder: Path) -> Config:
    return load_config("demo")


def client_in(folder: Path) -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")


@contextlib.contextmanager
def lock_held(folder: Path, kind: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLDER, str(folder / "mlflow.db"), kind]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        yield holder


@fault("the store is locked for a while", sees="one message: the store, who has it locked, the limit", survives="all")
@pytest.mark.parametrize("kind", ["DEFERRED", "IMMEDIATE", "EXCLUSIVE"])
def test_a_locked_store_is_waited_for(
    kind: str, config: Config, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def pause(_seconds: float, left: list[int] = [20]) -> None:  # noqa: B006  (counts the calls)
        left[0] -= 1
        if left[0] == 0:
            holder.communicate()

    monkeypatch.setattr(waiting, "_SAY_AFTER_S", 0.0)
    with runs.bench_run(config, code_version="x") as bench:
        caplog.clear()
        with lock_held(folder, kind) as holder, monkeypatch.context() as patched:
            patched.setattr(waiting.time, "sleep", pause)
            bench.log_metrics({"test/cer": 0.25})
        said = [message for message in caplog.messages if "Waiting" in message]
    assert said == [
        f"Waiting for the store {folder}/mlflow.db, which process {holder.pid} (python) has locked, for up to 120 s."
    ]
    run = client_in(folder).get_run(bench.run_id)
    assert (run.info.status, run.data.metrics["test/cer"]) == ("FINISHED", 0.25)


@fault("the store stays locked", sees="error, status 2: the store, who has it locked", survives="what was logged")
def test_a_store_that_stays_locked_is_one_line(
    config: Config, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(waiting, "WAIT_S", 0.3)
    with lock_held(folder, "EXCLUSIVE") as holder:
        assert main(["openings", str(folder), "--tracking.uri", f"sqlite:///{folder}/mlflow.db"]) == 2
        said = capfd.readouterr().err
        assert "does not exist" in said  # the split is looked for first
        assert main(["report", str(folder / "out")]) == 2
        said = capfd.readouterr().err
        assert f"kmed-bench: The store {folder}/mlflow.db stayed locked for 0 s by process {holder.pid} (" in said
        assert len(said.splitlines()) == 1
        holder.communicate()
    assert not waiting._given_up or store.open_store(config.tracking)
    assert not waiting._given_up


@fault(
    "the store is locked when a run ends",
    sees="error: the run, its status, that a later run ends it",
    survives="the run's status and end, in the cache folder",
)
@pytest.mark.parametrize(
    ("error", "status"), [(None, "FINISHED"), (ValueError("x"), "FAILED"), (KeyboardInterrupt(), "KILLED")]
)
def test_the_next_run_ends_what_the_store_could_not_take(
    error: BaseException | None,
    status: str,
    config: Config,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(waiting, "WAIT_S", 0.2)
    monkeypatch.setattr(waiting, "_AGAIN_WAIT_S", 0.1)
    with contextlib.ExitStack() as stack:
        stack.enter_context(pytest.raises((MlflowException, KeyboardInterrupt)))
        holder = stack.enter_context(contextlib.ExitStack())
        run = stack.enter_context(runs.standalone_run(config, kind="train", name="t", code_version="x"))
        holder.enter_context(lock_held(folder, "IMMEDIATE"))
        if error is not None:
            raise error
    client = client_in(folder)
    assert client.get_run(run.run_id).info.status == "RUNNING"
    assert f"Run {run.run_id} ended {status} and is RUNNING in its store" in caplog.text
    kept = endings.read_end(run.run_id)
    assert kept is not None
    monkeypatch.setattr(processes, "is_gone", lambda tag: tag == processes.this_process())
    assert processes.end_abandoned(client) == [run.run_id]
    ended = client.get_run(run.run_id)
    assert (ended.info.status, ended.info.end_time) == kept
    assert ended.info.status == status
    assert ended.data.tags["kmed.ended"] == "the store could not be told when it ended"
    assert endings.read_end(run.run_id) is None


@fault("the store's file is no database", sees="error, status 2: the store and the cause", survives="the file")
def test_a_store_that_is_no_database_is_one_line(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "mlflow.db").write_text("not a database, but long enough for a header of one" * 9)
    assert main(["report", str(folder / "out")]) == 2
    said = capfd.readouterr().err
    assert f"kmed-bench: The store {folder}/mlflow.db can't be used (file is not a database)" in said
    assert len(said.splitlines()) == 1
    assert main(["report", str(folder / "out"), "--tracking.uri", f"sqlite:///{folder}"]) == 2
    said = capfd.readouterr().err
    assert f"kmed-bench: The store {folder} can't be used (unable to open database file)" in said
    assert len(said.splitlines()) == 1


@fault("the store's database is damaged", sees="error, status 2: the store and the cause", survives="the file")
def test_a_damaged_store_is_one_line(config: Config, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = folder / "mlflow.db"
    size = path.stat().st_size
    with path.open("r+b") as stream:
        stream.seek(4096)
        stream.write(b"\xff" * (size - 4096))
    assert main(["report", str(folder / "out")]) == 2
    said = capfd.readouterr().err
    assert f"The store {path} can't be used (" in said
    assert len(said.splitlines()) == 1
    assert path.stat().st_size == size


def log_note(config: Config, text: str) -> Run:
    Path("note.txt").write_text(text, encoding="utf-8")
    with runs.standalone_run(config, kind="train", name=text, code_version="x") as run:
        run.log_file(Path("note.txt"), "report")
    return run.client.get_run(run.run_id)


@fault(
    "a project folder is copied with its store",
    sees="warning: the store was copied or moved, and from where",
    survives="both: each writes into itself",
)
@pytest.mark.parametrize("name", ["copy", "사본 2%"])
def test_a_copied_project_writes_into_itself(
    name: str, config: Config, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = log_note(config, "first")
    copy = folder.parent / name
    shutil.copytree(folder, copy)
    before = sorted(path for path in (folder / "mlruns").rglob("*"))
    monkeypatch.chdir(copy)
    second = log_note(config, "second")
    assert store.artifact_folder(second) == copy / "mlruns" / "kmed-bench" / second.info.run_id / "artifacts"
    assert sorted(path for path in (folder / "mlruns").rglob("*")) == before
    assert f"The store {copy}/mlflow.db was copied or moved: its artifacts are in {copy}/mlruns now" in caplog.text
    shutil.rmtree(folder)
    found = client_in(copy).get_run(first.info.run_id)
    kept = store.artifact_folder(found)
    assert kept is not None
    assert (kept / "report" / "note.txt").read_text(encoding="utf-8") == "first"
    caplog.clear()
    log_note(config, "third")
    assert "copied" not in caplog.text
    assert not folder.exists()


@fault("a SQLite store's path has ? or %41", sees="error, status 2: the path and why", survives="all")
@pytest.mark.parametrize("name", ["a?b", "a%41"])
def test_a_path_that_an_address_would_change_is_refused(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / name).mkdir()
    monkeypatch.chdir(folder / name)
    assert main(["report", "out"]) == 2
    assert f"The path {folder / name}/mlflow.db can't name a SQLite store" in capfd.readouterr().err
    assert sorted(path.name for path in folder.rglob("*")) == [name, "mlflow.db"]


def test_artifacts_that_are_elsewhere_on_purpose_stay_there(config: Config, folder: Path, tmp_path: Path) -> None:
    elsewhere = (tmp_path / "disk" / "mlruns" / "kmed-bench").as_uri()
    client_in(folder).create_experiment("kmed-bench", artifact_location=elsewhere)
    (folder / "mlruns" / "other").mkdir(parents=True)
    run = log_note(config, "first")
    assert run.info.artifact_uri.startswith(elsewhere)


def test_a_link_to_a_project_is_no_copy(config: Config, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = log_note(config, "first")
    (folder.parent / "link").symlink_to(folder)
    store.open_store(load_config("demo", {"tracking.uri": f"sqlite:///{folder.parent}/link/mlflow.db"}).tracking)
    assert client_in(folder).get_run(first.info.run_id).info.artifact_uri == first.info.artifact_uri


def stale(kind: str, client: MlflowClient) -> str:
    """Return the id of a run that is not one for this process."""
    if kind == "unknown":
        return "0" * 32
    tags = {} if kind == "another program's" else {"mlflow.project.entryPoint": "main"}
    if kind == "another process's":
        tags[processes.PROCESS_TAG] = processes.this_process()
    if kind == "another project's":
        Path("MLproject").write_text("name: fraud\n")
        tags["mlflow.source.name"] = f"file://{Path.cwd()}#sub"
    run_id: str = client.create_run("0", run_name="theirs", tags=tags).info.run_id
    if kind == "FINISHED":
        client.set_terminated(run_id, "FINISHED")
    if kind == "deleted":
        client.delete_run(run_id)
    return run_id


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        pytest.param(kind, said, id=kind, marks=fault(f"MLFLOW_RUN_ID: {kind}", sees=f"warning: …{said}"))
        for kind, said in [
            ("unknown", "the store has no such run"),
            ("FINISHED", "that run is FINISHED, not RUNNING"),
            ("deleted", "that run was deleted"),
            ("another program's", "that run was not made by `mlflow run` for kmed-bench"),
            ("another project's", "that run was not made by `mlflow run` for kmed-bench"),
            ("another process's", "another process of kmed-bench writes that run"),
        ]
    ],
)
def test_a_stale_run_id_adopts_nothing(
    kind: str,
    said: str,
    config: Config,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store.open_store(config.tracking)
    client = client_in(folder)
    run_id = stale(kind, client)
    before = None if kind == "unknown" else client.get_run(run_id).to_dictionary()
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    with runs.bench_run(config, code_version="x") as bench:
        assert bench.run_id != run_id
        assert "MLFLOW_RUN_ID" not in os.environ
    assert f"MLFLOW_RUN_ID={run_id} is ignored: {said}." in caplog.text
    monkeypatch.setattr(callers_folder, "_project", None)  # which a leftover variable sets under a Python parent
    assert main(["report", str(folder / "none"), "--bench", "0" * 32]) == 2
    assert before is None or client.get_run(run_id).to_dictionary() == before
    assert client.get_run(bench.run_id).info.status == "FINISHED"


def test_an_empty_run_id_is_none(config: Config, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "")
    with own_run.own_run_id(client_in(folder)) as run_id:
        assert run_id is None


@fault("MLFLOW_EXPERIMENT_NAME", sees="nothing: it names the experiment unless the setting does", survives="all")
@pytest.mark.parametrize(
    ("setting", "named", "expected"),
    [(None, None, "kmed-bench"), (None, "my-ward", "my-ward"), ("own", "my-ward", "own"), (None, "", "kmed-bench")],
)
def test_the_experiment_is_the_settings_else_the_environments(
    setting: str | None, named: str | None, expected: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if named is not None:
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", named)
    run = log_note(load_config("demo", {"tracking.experiment": setting}), "first")
    found = client_in(folder).get_experiment(run.info.experiment_id)
    assert found.name == expected


@fault("MLFLOW_EXPERIMENT_NAME in a search", sees="warning: the study goes to tune.experiment", survives="all")
def test_a_study_says_that_it_goes_elsewhere(
    config: Config, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "my-ward")
    study, _ = trials.open_study_run(config, store.open_store(config.tracking), name="s", run_id=None, tags={})
    assert "MLFLOW_EXPERIMENT_NAME=my-ward is for benchmarks; the study goes to kmed-hpo" in caplog.text
    found = client_in(folder).get_experiment(client_in(folder).get_run(study.run_id).info.experiment_id)
    assert found.name == "kmed-hpo"


@fault("the clock is set while a run is alive", sees="nothing", survives="the run: it stays RUNNING")
def test_a_step_of_the_clock_ends_no_living_run(config: Config, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """psutil derives a start from the present clock and the time since boot; a step moves it by as much."""
    with runs.standalone_run(config, kind="train", name="t", code_version="x") as run:
        for step_s in (-3600.0, 3600.0, 1e9):
            with monkeypatch.context() as patched:
                patched.setattr("psutil._pslinux.boot_time", lambda step_s=step_s: 1e9 + step_s)
                assert processes.end_abandoned(run.client) == []
        tag = run.client.get_run(run.run_id).data.tags[processes.PROCESS_TAG]
    machine, pid, _ = tag.split(":")
    assert not processes.is_gone(f"{machine}:{pid}:1700000000")  # a tag of an earlier release: seconds by the clock
    assert processes.is_gone(f"{machine}:{2**22 + 1}:1700000000")


def test_a_kept_end_that_is_none_is_not_used(folder: Path) -> None:
    for text in (
        "",
        "[" * 100_000,
        "[]",
        "{}",
        '{"status": "WRONG", "ended_ms": 1}',
        '{"status": "FAILED", "ended_ms": "1"}',
    ):
        path = endings._place("a" * 32)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        assert endings.read_end("a" * 32) is None
    assert endings.read_end("../../x") is None


def test_other_faults_of_sqlite_pass_as_they_are(folder: Path) -> None:
    store.open_store(load_config("demo").tracking)
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        waiting._patiently(database := sqlite3.connect("mlflow.db"), lambda: database.execute("SELECT * FROM none"))
    database.close()
    with pytest.raises(KmedError, match=r"can't be used \(attempt to write a readonly database\)"):
        waiting._patiently(
            closed := sqlite3.connect("file:mlflow.db?mode=ro", uri=True),
            lambda: closed.execute("UPDATE experiments SET name = 'x'"),
        )
    closed.close()


@fault(
    "a file of metrics that wait for their store is damaged",
    sees="warning of the next run: the file, and how many of its lines are lost",
    survives="the metrics in its other lines, which are delivered",
)
@pytest.mark.parametrize("head_too", [False, True])
def test_damaged_lines_of_unsent_metrics_are_left_out_aloud(
    head_too: bool, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    damaged = [b'["train/lo', bytes(40), b"\xff\xfe[1]", b"[" * 100_000, b"17", b"[]", b'["x", "y", 1, 1]']
    damaged += [b'["x", 1, 2e400, 1]', b'["x", 1, 1, %d]' % 10**30, b'["x", %d, 1, 1]' % 10**400]
    client = client_in(folder)
    run = start_run(client, client.create_experiment("x"), "left", {})
    kept = outbox._File(run.run_id)
    kept.append([Metric("loss", step / 4, 1000 + step, step) for step in (1, 2, 3)])
    head, first, *others = kept.path.read_bytes().splitlines()
    lines = [head[1:] if head_too else head, first, *damaged, *others, damaged[0]]
    kept.path.write_bytes(b"".join(line + b"\n" for line in lines))
    monkeypatch.setattr(processes, "is_gone", lambda tag: tag == processes.this_process())
    assert processes.end_abandoned(client) == [run.run_id]
    found = [(point.step, point.value) for point in client.get_metric_history(run.run_id, "loss")]
    assert found == [(1, 0.25), (2, 0.5), (3, 0.75)]
    lost = len(damaged) + 1 + head_too
    text = f"{kept.path} is damaged: {lost} of its lines can't be read, and the metrics in them are lost."
    assert text in caplog.messages
    assert f"3 metrics of run {run.run_id}, which its store could not take, are delivered." in caplog.messages
    assert not kept.path.exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
@pytest.mark.parametrize("module", ["kmed_bench.commands.scores", "mlflow.store.artifact.local_artifact_repo"])
def test_only_an_error_from_mlflow_is_given_the_name_of_the_artifacts(
    module: str, config: Config, folder: Path
) -> None:
    """The system's error for a full standard output names no file either."""
    names = {"__name__": module}
    exec("def write(stream): stream.write(b'x')", names)  # in a frame of that module
    with (
        Path("/dev/full").open("wb", buffering=0) as full,
        pytest.raises(OSError, match="No space left") as said,
        runs.standalone_run(config, kind="score", name="s", code_version="x"),
    ):
        names["write"](full)  # type: ignore[operator]
    expected = f"file://{folder}/mlruns" if module.startswith("mlflow") else "None"
    assert str(said.value.filename).startswith(expected)

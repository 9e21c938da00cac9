"""The same runs with PostgreSQL as the backend store, where its server and driver are installed."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_bench import Place, check_whole

from kmed_bench.config import load_config
from kmed_bench.records import KmedError
from kmed_bench.tracking import readback, registry, runs

pytest.importorskip("psycopg", reason="psycopg is not installed")

pytestmark = pytest.mark.slow


def find_program(name: str) -> str | None:
    """Debian keeps the server's programs off PATH."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return shutil.which(name, path=os.pathsep.join([os.environ["PATH"], *map(str, places)]))


def as_server_user() -> list[str] | None:
    """What to put before a command so that it does not run as root, which PostgreSQL refuses."""
    if os.getuid() != 0:
        return []
    known = {entry.pw_name for entry in pwd.getpwall()}
    return ["runuser", "-u", "postgres", "--"] if "postgres" in known and shutil.which("runuser") else None


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """The URI of an empty database of a server of its own, with a password in it."""
    initdb, pg_ctl, prefix = find_program("initdb"), find_program("pg_ctl"), as_server_user()
    if initdb is None or pg_ctl is None or prefix is None:
        pytest.skip("PostgreSQL's server is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="kmed-postgres-"))  # pytest's own folders are closed to the server's user
    try:
        if prefix:
            shutil.chown(folder, "postgres")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        start = [pg_ctl, "-D", str(folder / "db"), "-w", "-l", str(folder / "log"), "-o", options, "start"]
        for command in ([initdb, "-D", str(folder / "db"), "-A", "trust", "-U", "kmed", "--no-sync"], start):
            subprocess.run([*prefix, *command], cwd=folder, check=True, stdout=subprocess.DEVNULL, timeout=120)
        yield f"postgresql://kmed:secret@127.0.0.1:{port}/postgres"
        subprocess.run([*prefix, pg_ctl, "-D", str(folder / "db"), "-m", "immediate", "stop"], cwd=folder, check=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_a_benchmark_in_postgresql(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    config = load_config("demo", {"tracking.uri": database})
    with runs.bench_run(config, code_version="x") as bench:
        assert capfd.readouterr().err == ""
        with bench.child("train", "t", tags={"kmed.size": "base", "kmed.seed": "1"}) as train:
            train.log_dataset(sha256="ab" * 32, counts={"train": 3}, context="training")
            for epoch, cer in ((0, 0.5), (1, 0.4), (1, 0.3)):
                train.log_epoch(epoch, {"valid/cer": cer})
            train.log_json({"overall": {"cer": 0.3}}, "scores.json")
    record = readback.read_bench(database)
    (run,) = record.trains
    assert (record.run_id, run.run_id, run.seed) == (bench.run_id, train.run_id, 1)
    assert [tuple(row) for row in run.history.itertuples(index=False)] == [("valid/cer", 0, 0.5), ("valid/cer", 1, 0.3)]
    assert record.scores == {run.run_id: {"overall": {"cer": 0.3}}}
    assert "secret" not in str(record.params)
    assert readback.read_benches(database)[0].run_id == bench.run_id
    with pytest.raises(KmedError, match="not in the registry"):
        registry.promote("kmed-whisper-base", 1)


def test_the_whole_run_in_postgresql(database: str, tmp_path: Path) -> None:
    place = Place(tmp_path, database)
    killed = place.killed("_finish:2", "SIGKILL")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    done = place.run("--resume")
    assert done.returncode == 0, done.stderr
    check_whole(place)
    assert "secret" not in done.stderr

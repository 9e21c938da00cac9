"""A PostgreSQL server of a test module's own, where its programs are installed."""

import contextlib
import dataclasses
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


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
    if find_program("initdb") is None or as_server_user() is None:
        pytest.skip("PostgreSQL's server is not installed")
    with running_postgres() as uri:
        yield uri


@dataclasses.dataclass(frozen=True)
class Postgres:
    """A server that can be stopped and started, and the URI of an empty database of it."""

    uri: str
    control: list[str]
    options: str

    def start(self) -> None:
        """Return once it takes connections."""
        self._do("-w", "-l", "log", "-o", self.options, "start")

    def stop(self) -> None:
        """End it at once: its clients lose their connections."""
        self._do("-m", "immediate", "stop")

    def _do(self, *words: str) -> None:
        folder = Path(self.control[-1]).parent
        subprocess.run([*self.control, *words], cwd=folder, check=True, stdout=subprocess.DEVNULL, timeout=120)


@contextlib.contextmanager
def running_postgres() -> Iterator[str]:
    """Yield the URI of an empty database; its server ends with the block."""
    with own_postgres() as server:
        yield server.uri


@contextlib.contextmanager
def own_postgres() -> Iterator[Postgres]:
    """Yield a server that runs, and that is stopped at the end if it is not by then."""
    initdb, pg_ctl, prefix = (str(find_program("initdb")), str(find_program("pg_ctl")), as_server_user() or [])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="kmed-postgres-"))  # pytest's own folders are closed to the server's user
    try:
        if prefix:
            shutil.chown(folder, "postgres")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        (folder / "password").write_text("secret")
        init = [initdb, "-D", str(folder / "db"), "-A", "scram-sha-256", "--pwfile", str(folder / "password")]
        init += ["-U", "kmed", "--no-sync"]
        subprocess.run([*prefix, *init], cwd=folder, check=True, stdout=subprocess.DEVNULL, timeout=120)
        control = [*prefix, pg_ctl, "-D", str(folder / "db")]
        server = Postgres(f"postgresql://kmed:secret@127.0.0.1:{port}/postgres", control, options)
        server.start()
        try:
            yield server
        finally:
            if (folder / "db" / "postmaster.pid").exists():
                server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)

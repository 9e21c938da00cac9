"""Where studies are kept, safely for many processes: SQLite, PostgreSQL, or a journal in a shared folder."""

import contextlib
import hashlib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalStorage
from sqlalchemy.pool import NullPool

from kmed_bench.config import TuneConfig
from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import creating
from kmed_bench.tracking.store import sqlite_file, without_password

_JOURNAL = "journal:"
# Claims take moments; a lock older than this was left by a process that died in one.
_LOCK_GRACE_S = 120
_BUSY_S = 60


class StudyLock:
    """Held while trials are claimed or counted; no two processes of any machine hold it at once."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._release: Callable[[], None] | None = None

    def acquire(self) -> None:
        """Wait for the lock and take it."""
        if self._url.startswith("postgresql"):
            self._release = _lock_database(self._url)
            return
        path = storage_file(self._url)
        assert path is not None  # open_storage refused every other kind
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = JournalFileOpenLock(f"{path}.study", grace_period=_LOCK_GRACE_S)
        lock.acquire()
        self._release = lock.release

    def release(self) -> None:
        """Give the lock back; a second call does nothing."""
        release, self._release = self._release, None
        if release is not None:
            release()

    def __enter__(self) -> "StudyLock":
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _lock_database(url: str) -> Callable[[], None]:
    """Take PostgreSQL's advisory lock, which ends with its connection, also when the process dies."""
    key = int.from_bytes(hashlib.sha256(b"kmed-bench study").digest()[:7])
    try:
        connection = sqlalchemy.create_engine(url, poolclass=NullPool).connect()
    except Exception as error:  # drivers raise their own types
        raise _unusable(url, error) from error
    connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(:key)"), {"key": key})
    return connection.close


def storage_file(url: str) -> Path | None:
    """Return the absolute path of a SQLite or journal storage; None for a server's."""
    if url.startswith(_JOURNAL):
        return Path(url.removeprefix(_JOURNAL)).absolute()
    return sqlite_file(url)


def check_storage(url: str, tracking_uri: str) -> None:
    """Raise KmedError for a kind of storage that is not supported, or one that is MLflow's own file.

    Raises
    ------
    KmedError
        As said; the two programs lock and migrate a shared SQLite file against one another.
    """
    if not (url.startswith("postgresql") or storage_file(url)):
        raise KmedError(
            f"tune.storage is {without_password(url)!r}; it must be sqlite:///PATH, postgresql://…, or journal:PATH "
            "for a folder that machines share."
        )
    if storage_file(url) is not None and storage_file(url) == sqlite_file(tracking_uri):
        raise KmedError(
            f"tune.storage and the MLflow store are the same file {storage_file(url)}; give Optuna its own, such as "
            "tune.storage=sqlite:///kmed-optuna.db."
        )


def open_storage(config: TuneConfig) -> BaseStorage:
    """Return the storage, its tables made where they are missing; call it while holding a ``StudyLock``.

    Raises
    ------
    KmedError
        When it can't be reached or belongs to another Optuna release.
    """
    url = config.storage
    try:
        if url.startswith(_JOURNAL):
            return JournalStorage(JournalFileBackend(str(storage_file(url))))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # Optuna calls heartbeats that
            return _open_database(config)
    except Exception as error:  # drivers and Optuna each raise their own types here
        raise _unusable(url, error) from error


def _unusable(url: str, error: Exception) -> KmedError:
    text = " ".join(str(error).split()).replace(url, without_password(url))[:400]
    return KmedError(
        f"The Optuna storage {without_password(url)} can't be used ({type(error).__name__}: {text}); start it, or "
        "choose another with tune.storage."
    )


def _open_database(config: TuneConfig) -> RDBStorage:
    path = sqlite_file(config.storage)
    url = config.storage if path is None else f"sqlite:///{path}"
    arguments: dict[str, Any] = {} if path is None else {"connect_args": {"timeout": _BUSY_S}}
    if path is not None and not path.exists():
        _make_database(path)
    storage = RDBStorage(
        url,
        engine_kwargs=arguments,
        heartbeat_interval=config.heartbeat_s,
        grace_period=2 * config.heartbeat_s,
    )
    if path is not None:
        _begin_immediately(storage.engine)
    return storage


def _make_database(path: Path) -> None:
    """Build the tables aside and link them into place: onlookers such as a dashboard never see half."""
    with creating(path) as fresh:
        RDBStorage(f"sqlite:///{fresh}").engine.dispose()


def _begin_immediately(engine: sqlalchemy.Engine) -> None:
    """Let each transaction lock SQLite before it reads.

    Optuna reads a trial's state and then changes it; SQLite knows no SELECT … FOR UPDATE, so two processes could
    otherwise both find a trial waiting and both run it.
    """

    @sqlalchemy.event.listens_for(engine, "connect")
    def _own_transactions(connection: Any, _record: Any) -> None:
        connection.isolation_level = None

    @sqlalchemy.event.listens_for(engine, "begin")
    def _begin(connection: sqlalchemy.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    engine.dispose()  # connections made before know nothing of this


@contextlib.contextmanager
def quiet_optuna() -> Iterator[None]:
    """Keep Optuna's own lines off the terminal; what happens to a trial is said once, by us."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)

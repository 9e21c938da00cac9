"""Where studies are kept, safely for many processes: SQLite on one machine, PostgreSQL for several."""

import contextlib
import hashlib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from filelock import FileLock
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage
from sqlalchemy.pool import NullPool

from kmed_bench.config import TuneConfig
from kmed_bench.core.addresses import without_password
from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import creating
from kmed_bench.core.locks import acquire
from kmed_bench.tracking.refusals import refused
from kmed_bench.tracking.store import check_sqlite_path, sqlite_file

_BUSY_S = 60
_LOCK_WAIT_S = 600.0  # it is held for moments, or for a migration


class StudyLock:
    """The lock that guards every claim, count and change of a study's trials; one process at a time holds it.

    It is the only guard. Optuna reads a trial's state and then changes it, which SQLite does not make atomic, so two
    processes could both run one trial; and the number of slots, the study's MLflow run and the trials of dead
    processes are read and changed in several transactions, which no database makes atomic by itself. The operating
    system or the server frees the lock when its process dies.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._release: Callable[[], None] | None = None

    def acquire(self) -> None:
        """Wait for the lock and take it."""
        path = sqlite_file(self._url)
        if path is None:
            self._release = _lock_database(self._url)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{path}.lock")
        acquire(lock, Path(lock.lock_file), f"the study in {path}", _LOCK_WAIT_S)
        self._release = lock.release

    def release(self) -> None:
        """Release the lock; a second call does nothing."""
        release, self._release = self._release, None
        if release is not None:
            release()

    def __enter__(self) -> "StudyLock":
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _lock_database(url: str) -> Callable[[], None]:
    """Take PostgreSQL's advisory lock and return its release; it ends with the connection, even if the process dies."""
    key = int.from_bytes(hashlib.sha256(b"kmed-bench study").digest()[:7])
    try:
        connection = sqlalchemy.create_engine(url, poolclass=NullPool).connect()
    except Exception as error:  # drivers raise their own types
        raise refused(error, url) or _unusable(url, error) from error
    connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(:key)"), {"key": key})
    return connection.close


def check_storage(url: str, tracking_uri: str) -> None:
    """Raise KmedError for an unsupported kind of storage, or for MLflow's own file.

    Raises
    ------
    KmedError
        As above: on one SQLite file, the two programs' locks and migrations would collide.
    """
    path = sqlite_file(url)
    check_sqlite_path(url)
    if path is None and not url.startswith("postgresql"):
        raise KmedError(f"tune.storage is {without_password(url)!r}; it must be sqlite:///PATH or postgresql://…")
    if path is not None and path == sqlite_file(tracking_uri):
        raise KmedError(
            f"tune.storage and the MLflow store are the same file {path}; give Optuna its own, such as "
            "tune.storage=sqlite:///kmed-optuna.db."
        )


def open_storage(config: TuneConfig) -> RDBStorage:
    """Return the storage, with its tables created if missing; call it while holding a `StudyLock`.

    Raises
    ------
    KmedError
        When it can't be reached or belongs to another Optuna release.
    """
    path = sqlite_file(config.storage)
    url = config.storage if path is None else f"sqlite:///{path}"
    arguments: dict[str, Any] = {} if path is None else {"connect_args": {"timeout": _BUSY_S}}
    try:
        if path is not None and not path.exists():
            _make_database(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # Optuna says so of heartbeats
            return RDBStorage(
                url,
                engine_kwargs=arguments,
                heartbeat_interval=config.heartbeat_s,
                grace_period=2 * config.heartbeat_s,
            )
    except Exception as error:  # drivers and Optuna each raise their own types here
        raise refused(error, config.storage) or _unusable(config.storage, error) from error


def _unusable(url: str, error: Exception) -> KmedError:
    text = without_password(" ".join(str(error).replace(url, without_password(url)).split()))[:400]
    return KmedError(
        f"The Optuna storage {without_password(url)} can't be used ({type(error).__name__}: {text}); start it, or "
        "choose another with tune.storage."
    )


def _make_database(path: Path) -> None:
    """Create the tables in a temporary file and link it into place: readers such as a dashboard never see half."""
    with creating(path) as fresh:
        RDBStorage(f"sqlite:///{fresh}").engine.dispose()


@contextlib.contextmanager
def quiet_optuna() -> Iterator[None]:
    """Silence Optuna's own log lines while the block runs; kmed-bench reports each trial itself."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)

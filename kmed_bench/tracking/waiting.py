"""SQLite stores that another process has locked, or that fail: one message while waiting, one line on failure.

MLflow waits 20 s for a lock without a word, then logs the whole chain of exceptions. Here each statement and commit is
tried again until ``WAIT_S`` have passed. SQLite refuses a statement before it changes anything, so it can be repeated.

An interrupt waits for the end of MLflow's session, but not for a lock. Raised in the middle of SQLAlchemy's code it can
leave the connection with its transaction open, and then this process waits for its own lock to end its run.
"""

import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from kmed_bench.core.errors import KmedError
from kmed_bench.core.locks import name_holder
from kmed_bench.core.surroundings import interrupts_wait, let_interrupts_through

WAIT_S = 120.0
"""Longest wait for a locked SQLite store."""
_AGAIN_WAIT_S = 5.0
"""Longest wait for a store that was given up before, so that the runs that end then do not each wait `WAIT_S`."""
_SAY_AFTER_S = 2.0
_PAUSE_S = 0.1
_BUSY_PRAGMA = "PRAGMA busy_timeout"
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_FAILED = (
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_NOTADB,
)
_given_up: set[Path] = set()
_said: set[Path] = set()
log = logging.getLogger(__name__)


class StoreError(KmedError):
    """A SQLite store stayed locked, or can't be read or written."""


def wait_for_sqlite() -> None:
    """Make all SQLite engines of this process wait as this module describes; a second call changes nothing."""
    if event.contains(Engine, "do_execute", _execute):
        return
    event.listen(Engine, "do_execute", _execute)
    event.listen(Engine, "do_executemany", _execute_many)
    event.listen(Engine, "do_execute_no_params", _execute_bare)
    event.listen(Engine, "commit", _commit)
    _hold_interrupts(Session)
    # It logs each exception with its traceback before it raises it.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def _hold_interrupts(kind: type[Session]) -> None:
    """Let interrupts wait from the beginning to the end of each ``with`` block of a session on SQLite."""
    enter, leave = kind.__enter__, kind.__exit__

    def begin(session: Session) -> Session:
        held = session.info["kmed.held"] = contextlib.ExitStack()
        if session.bind is not None and session.bind.dialect.name == "sqlite":
            held.enter_context(interrupts_wait())
        return enter(session)

    def end(session: Session, *error: Any) -> None:
        with session.info.pop("kmed.held"):
            leave(session, *error)

    kind.__enter__, kind.__exit__ = begin, end  # type: ignore[method-assign, assignment]


def check_sqlite(path: Path) -> None:
    """Raise `StoreError` if a database can't be opened or read; MLflow would try for a minute and a half."""
    try:
        opened = sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=_PAUSE_S)
    except sqlite3.OperationalError as error:  # a folder, or no permission
        raise StoreError(_explain(path, error)) from error
    with contextlib.closing(opened) as database:
        _patiently(database, lambda: database.execute("PRAGMA schema_version").fetchone(), path)


def store_error(error: BaseException) -> StoreError | None:
    """Return the `StoreError` that a library's exception was raised from; None if there is none."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, StoreError):
        cause = cause.__cause__
    return cause


def _execute(cursor: Any, statement: str, parameters: Any, _context: Any) -> bool:
    if not isinstance(cursor, sqlite3.Cursor):
        return False
    if statement.startswith(_BUSY_PRAGMA):
        cursor.execute(f"{_BUSY_PRAGMA} = {int(_PAUSE_S * 1000)}")
    else:
        _patiently(cursor.connection, lambda: cursor.execute(statement, parameters))
    return True


def _execute_many(cursor: Any, statement: str, parameters: Any, _context: Any) -> bool:
    if not isinstance(cursor, sqlite3.Cursor):
        return False
    _patiently(cursor.connection, lambda: cursor.executemany(statement, parameters))
    return True


def _execute_bare(cursor: Any, statement: str, context: Any) -> bool:
    return _execute(cursor, statement, (), context)


def _commit(connection: Connection) -> None:
    database = connection.connection.dbapi_connection
    if isinstance(database, sqlite3.Connection):
        _patiently(database, database.commit)


def _patiently(database: sqlite3.Connection, act: Callable[[], object], path: Path | None = None) -> None:
    """Call a function until SQLite is not busy.

    Raises
    ------
    StoreError
        When it is busy for too long, or can't read or write its file.
    """
    begun_s = time.monotonic()
    while True:
        try:
            act()
            break
        except sqlite3.DatabaseError as error:
            kind = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if kind not in (*_BUSY, *_FAILED):
                raise
            path = path or _file(database)
            if kind in _FAILED:
                raise StoreError(_explain(path, error)) from error
            limit_s = min(WAIT_S, _AGAIN_WAIT_S) if path in _given_up else WAIT_S
            _wait(path, time.monotonic() - begun_s, limit_s)
    if _said or _given_up:
        path = path or _file(database)
        _given_up.discard(path)
        _said.discard(path)


def _wait(path: Path, waited_s: float, limit_s: float) -> None:
    """Pause before the next try; say once, after a moment, what is waited for."""
    if waited_s >= limit_s:
        _given_up.add(path)
        raise StoreError(
            f"The store {path} stayed locked for {waited_s:.0f} s by {name_holder(path)}; wait for that process or "
            "stop it, and start again. Several machines need a server: tracking.uri=http://… or postgresql://…"
        )
    if waited_s >= _SAY_AFTER_S and path not in _said:
        _said.add(path)
        log.warning(
            "Waiting for the store %s, which %s has locked, for up to %.0f s.", path, name_holder(path), limit_s
        )
    let_interrupts_through()
    time.sleep(_PAUSE_S)


def _file(database: sqlite3.Connection) -> Path:
    """Return the file of a connection; its name is read without a lock."""
    with contextlib.suppress(sqlite3.Error):
        for _, name, file in sqlite3.Connection.execute(database, "PRAGMA database_list"):
            if name == "main" and file:
                return Path(file)
    return Path(":memory:")


def _explain(path: Path, error: sqlite3.DatabaseError) -> str:
    return (
        f"The store {path} can't be used ({error}): check its permissions, the room on its disk and, with `sqlite3 "
        f"{path.name} 'PRAGMA integrity_check'`, its content; restore a copy, or choose another with tracking.uri."
    )

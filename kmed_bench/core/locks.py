"""Locks between processes: waited for with one message that names the holder, and not without end."""

import contextlib
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from kmed_bench.core.errors import KmedError

_SYSTEM_LOCKS = Path("/proc/locks")
_SAY_AFTER_S = 2.0
log = logging.getLogger(__name__)


def name_holder(path: Path) -> str:
    """Return which process holds a lock on a file, such as ``process 41 (python)``; "another process" if unknown.

    Linux lists locks in ``/proc/locks`` (proc_locks(5)): kind, mode, process id and ``major:minor:inode`` of the file,
    the device's numbers in hexadecimal.
    """
    with contextlib.suppress(OSError, ValueError, psutil.Error):
        about = path.stat()
        place = f"{os.major(about.st_dev):02x}:{os.minor(about.st_dev):02x}:{about.st_ino}"
        for line in _SYSTEM_LOCKS.read_text(encoding="ascii").splitlines():
            words = line.split()
            if "->" not in words and place in words and int(words[4]) not in (0, os.getpid()):
                return f"process {words[4]} ({psutil.Process(int(words[4])).name()})"
    return "another process"


@contextlib.contextmanager
def locked(path: Path, what: str, *, wait_s: float | None = None) -> Iterator[None]:
    """Hold a file's lock while the block runs; one message says who is waited for.

    The system frees the lock when its holder ends, however it ends: a lock file that is left over locks nothing.

    Parameters
    ----------
    what : str
        What is waited for, as the end of "Waiting for …".
    wait_s : float, optional
        Longest wait in seconds, 0 for none; None: as long as the holder works.

    Raises
    ------
    KmedError
        When the lock is not free by then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        acquire(lock, path, what, wait_s)
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def try_locked(path: Path) -> Iterator[bool]:
    """Hold a file's lock while the block runs, if no other process does; yield whether this one does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        with contextlib.suppress(Timeout):
            lock.acquire(timeout=0)
        yield lock.is_locked
    finally:
        lock.release()


def acquire(lock: FileLock, path: Path, what: str, wait_s: float | None) -> None:
    """Acquire a lock as `locked` does, for a caller that releases it."""
    begun_s = time.monotonic()
    first_s = _SAY_AFTER_S if wait_s is None else min(_SAY_AFTER_S, wait_s)
    with contextlib.suppress(Timeout):
        lock.acquire(timeout=first_s)
        return
    limit = "" if wait_s is None else f", for up to {wait_s:.0f} s"
    if wait_s != 0:
        log.info("Waiting for %s, which %s holds (%s)%s.", what, name_holder(path), path, limit)
    try:
        lock.acquire(timeout=-1 if wait_s is None else max(0.0, wait_s - (time.monotonic() - begun_s)))
    except Timeout:
        waited = f" after {wait_s:.0f} s" if wait_s else ""
        raise KmedError(
            f"{what[0].upper()}{what[1:]} is not free{waited}: {name_holder(path)} holds {path}. Wait for it or stop "
            "it, and start again."
        ) from None

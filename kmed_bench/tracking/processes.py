"""Runs whose process is gone: a killed process can't end its runs, so the next one does.

Each run carries the machine (hashed), the process and the moment that process started; together they say whether
whoever wrote the run is still there.
"""

import contextlib
import functools
import hashlib
import os
import platform
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import psutil
from mlflow.entities import RunStatus
from mlflow.tracking import MlflowClient

PROCESS_TAG = "kmed.process"
_NAMESPACE = Path("/proc/self/ns/pid")
_SAME_START_S = 2.0


@functools.cache
def machine() -> str:
    """Return 12 hexadecimal digits for this machine and its process numbers; containers have numbers of their own."""
    space = _NAMESPACE.stat().st_ino if _NAMESPACE.exists() else 0
    return hashlib.sha256(f"{platform.node()}/{space}".encode()).hexdigest()[:12]


def this_process() -> str:
    """Return the tag's value for runs that this process starts."""
    return f"{machine()}:{os.getpid()}:{psutil.Process().create_time():.0f}"


def is_gone(process: str) -> bool:
    """Tell whether a tag's process has certainly ended; of other machines nothing is certain."""
    where, _, rest = process.partition(":")
    pid, _, started_s = rest.partition(":")
    if where != machine() or not pid.isdigit() or not started_s.isdigit():
        return False
    try:
        found = psutil.Process(int(pid))
        if found.status() == psutil.STATUS_ZOMBIE:  # killed, and its parent has not taken notice
            return True
        return bool(abs(found.create_time() - float(started_s)) > _SAME_START_S)
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False


def end_abandoned(client: MlflowClient, experiment_id: str) -> list[str]:
    """Return the ids of runs that were RUNNING without a process and are KILLED now."""
    found = client.search_runs([experiment_id], "attributes.status = 'RUNNING'", max_results=1_000)
    gone = [run.info.run_id for run in found if is_gone(run.data.tags.get(PROCESS_TAG, ""))]
    for run_id in gone:
        client.set_tag(run_id, "kmed.ended", "its process was gone; a later run noticed")
        client.set_terminated(run_id, RunStatus.to_string(RunStatus.KILLED))
    return gone


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM end the runs as an interrupt does; by default it would leave them RUNNING for ever."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)

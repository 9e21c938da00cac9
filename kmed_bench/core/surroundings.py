"""What surrounds the process: its machine, its user and the signals that end it."""

import contextlib
import functools
import getpass
import hashlib
import os
import platform
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

_NAMESPACE = Path("/proc/self/ns/pid")


@functools.cache
def machine() -> str:
    """Return 12 hexadecimal digits for this machine and its PID namespace, which containers have for themselves."""
    namespace = _NAMESPACE.stat().st_ino if _NAMESPACE.exists() else 0
    return hashlib.sha256(f"{platform.node()}/{namespace}".encode()).hexdigest()[:12]


def prepare_user() -> None:
    """Set HOME and USERNAME where nothing tells them, as for a container's user id without an account.

    MLflow can't be imported without a home folder, and tags runs with the user's name. The home folder is then the
    root folder, as container runtimes set it.
    """
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = os.sep
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):
        os.environ["USERNAME"] = f"uid{os.getuid()}"


@contextlib.contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM, which by default would end the process and leave its runs RUNNING.

    ``training.state.deferred_interrupts`` replaces this handler while a model trains and restores it afterwards:
    during training the first SIGTERM waits for the end of the optimizer step, and the state is saved before the
    interrupt is raised. At all other times this handler acts, at once. Either way the interrupt then passes through
    ``tracking.endings.ending``, which ends the runs. Python runs signal handlers in the main thread only; in other
    threads nothing is changed.
    """
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


@contextlib.contextmanager
def interrupts_wait() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM act only when a short call has returned.

    For a call that C code runs with callbacks into Python, as soundfile does on files in memory: cffi prints and drops
    the KeyboardInterrupt that is raised in a callback, and the call fails as if the file were damaged.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    previous = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, lambda number, _frame: received.append(number))
        yield
    finally:
        for watched, handler in previous.items():
            signal.signal(watched, handler)
        for sent in received:
            signal.raise_signal(sent)

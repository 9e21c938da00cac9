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
from typing import Any

_NAMESPACE = Path("/proc/self/ns/pid")
_blocks: list[tuple[list[int], dict[int, Any]]] = []
"""Of each block of `interrupts_wait` in the main thread, from the outside in: signals received, handlers before."""


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
def interrupts_wait(*, all_of_them: bool = True) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM act only when the block, a short one, has ended.

    For a call that C code runs with callbacks into Python, as soundfile does on files in memory: cffi prints and drops
    the KeyboardInterrupt that is raised in a callback, and the call fails as if the file were damaged. And for what
    must not be left half done, as a transaction.

    Parameters
    ----------
    all_of_them : bool
        False: a second signal acts at once, for a block that may wait for another machine.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    previous: dict[int, Any] = {}
    holding = True

    def hold(number: int, _frame: FrameType | None) -> None:
        if holding and (all_of_them or not received):
            received.append(number)
        else:
            signal.signal(number, previous[number])
            signal.raise_signal(number)

    block = received, previous
    try:
        _blocks.append(block)
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, hold)
        yield
    finally:
        if _blocks and _blocks[-1] is block:
            _blocks.pop()
        holding = False  # from here on `hold` passes signals on, wherever one may cut this short
        for watched, handler in previous.items():
            signal.signal(watched, handler)
        for sent in received:
            signal.raise_signal(sent)


def let_interrupts_through() -> None:
    """Let the signals act that wait in `interrupts_wait`: for a moment within its block at which one does no harm."""
    if threading.current_thread() is not threading.main_thread():
        return
    for received, previous in reversed(_blocks):  # an inner block hands them to the outer one
        while received and callable(previous[received[0]]):
            number = received.pop(0)
            previous[number](number, None)

"""Slots of one machine: how many there are, what each may use, and how tasks pass through them."""

import contextlib
import dataclasses
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import kmed_bench
from kmed_bench.core.callers_folder import OWN_RUN
from kmed_bench.core.errors import KmedError
from kmed_bench.core.relay import SLOT_VARIABLE
from kmed_bench.core.surroundings import interrupts_wait

MAX_SLOTS = 128
_SAID_BY_A_COMMAND = "kmed-bench: "
"""Prefix of a failing command's error message."""
_LOOK_AGAIN_S = 1.0
_ROOT = Path(kmed_bench.__file__).parents[1]
# Appended: the package may be found through the working folder alone, which another process need not share.
_FINDS_PACKAGE = f"import sys; sys.path.append({str(_ROOT)!r})"
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclasses.dataclass(frozen=True)
class Slot:
    """A place for one process.

    Attributes
    ----------
    number : int
        From 1.
    gpu : str or None
        The GPU as ``CUDA_VISIBLE_DEVICES`` names it; None without one.
    n_threads : int
        Threads of its process.
    """

    number: int
    gpu: str | None
    n_threads: int

    def environment(self) -> dict[str, str]:
        """Return the environment of its process."""
        # The run that `mlflow run` made belongs to the parent.
        own = {name: value for name, value in os.environ.items() if name != OWN_RUN} | {SLOT_VARIABLE: "1"}
        own |= dict.fromkeys(THREAD_VARIABLES, str(self.n_threads))
        return own if self.gpu is None else own | {"CUDA_VISIBLE_DEVICES": self.gpu}


def make_slots(wanted: str, threads: int | None, gpus: Sequence[str], n_cores: int) -> list[Slot]:
    """Return the slots of this machine; GPUs are dealt out in turn.

    Parameters
    ----------
    wanted : str
        ``auto`` for one per GPU, or their number.
    threads : int, optional
        Threads of each process; None: the cores shared equally.
    gpus : sequence of str
        As ``CUDA_VISIBLE_DEVICES`` names them.

    Raises
    ------
    KmedError
        For anything else, and for more than `MAX_SLOTS`.
    """
    if wanted == "auto":
        n = max(1, len(gpus))
    elif wanted.isdecimal() and 1 <= int(wanted) <= MAX_SLOTS:
        n = int(wanted)
    else:
        raise KmedError(f"--slots is {wanted!r}; give auto, for one per GPU, or a number from 1 to {MAX_SLOTS}.")
    n_threads = threads or max(1, n_cores // n)
    return [Slot(i + 1, gpus[i % len(gpus)] if gpus else None, n_threads) for i in range(n)]


def visible_gpus(n_found: int) -> list[str]:
    """Return the names of the GPUs that this process may use.

    Parameters
    ----------
    n_found : int
        How many CUDA has found.
    """
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return (named or [str(i) for i in range(n_found)])[:n_found]


@dataclasses.dataclass(frozen=True)
class Task:
    """What a process of a slot runs.

    Attributes
    ----------
    program : str
        A line of Python that calls a function of the package and exits with what it returns.
    arguments : tuple of str
        Its command line.
    told : dict
        What it reads as the first line of standard input, if it reads one.
    """

    program: str
    arguments: tuple[str, ...] = ()
    told: dict[str, Any] = dataclasses.field(default_factory=dict)

    def command(self) -> list[str]:
        """Return the command that runs it."""
        return [sys.executable, "-P", "-c", f"{_FINDS_PACKAGE}; {self.program}", *self.arguments]


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a task's process ended.

    Attributes
    ----------
    status : int
        Its exit status; negative: the signal that killed it.
    said : str
        The error that it named; empty for none.
    stopped : bool
        Whether the parent stopped it along with the others.
    """

    status: int
    said: str
    stopped: bool = False

    def reason(self) -> str:
        """Return why it did not finish."""
        if self.said:
            return self.said
        if self.status >= 0:
            return f"its process ended with status {self.status}"
        known = {number.value: number.name for number in signal.Signals}
        name = known.get(-self.status, f"signal {-self.status}")
        remedy = "; the system kills a process when memory runs out: use fewer slots" if name == "SIGKILL" else ""
        return f"its process was killed ({name}){remedy}"


class Listener:
    """What a caller does with what the processes say; this one does nothing."""

    def begun(self, slot: Slot, name: str) -> None:
        """Take note of a task that has begun in a slot."""

    def message(self, slot: Slot, said: Mapping[str, Any]) -> None:
        """Take note of what its process has said."""

    def ended(self, slot: Slot, name: str, how: Ended) -> None:
        """Take note that its process has ended and the slot is free."""


@dataclasses.dataclass(eq=False)
class _Working:
    slot: Slot
    name: str
    process: subprocess.Popen[str]
    said: str = ""
    listens: threading.Thread = dataclasses.field(init=False)


_Event = tuple[_Working, Mapping[str, Any] | None]


def run_in_slots(tasks: Mapping[str, Task], slots: Sequence[Slot], listener: Listener) -> None:
    """Run each task in a process of its own, as many at a time as there are slots.

    A process is told its task on standard input, which stays open while this process lives: when it closes, the
    children stop by themselves. What ends one of them ends no other.

    Parameters
    ----------
    tasks : mapping
        Name to task, in the order in which they begin.

    Raises
    ------
    KeyboardInterrupt
        When interrupted or terminated, after every process has saved its state and ended. A second interrupt kills
        them.
    """
    events: queue.Queue[_Event] = queue.Queue()
    free, waiting, working = list(slots)[::-1], list(tasks.items())[::-1], list[_Working]()
    with _stopping(working, events, listener):
        while waiting or working:
            while waiting and free:
                name, task = waiting.pop()
                with interrupts_wait():  # or a process could be started that nobody waits for
                    one = _start(free.pop(), name, task, events)
                    working.append(one)
                listener.begun(one.slot, name)
            free += _handle(events.get(), working, listener)


def _start(slot: Slot, name: str, task: Task, events: "queue.Queue[_Event]") -> _Working:
    # In a session of its own, so that Ctrl-C reaches the parent alone, which stops its children one by one.
    process = subprocess.Popen(
        task.command(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=slot.environment(),
        encoding="utf-8",
        errors="backslashreplace",
        start_new_session=True,
    )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it has died already, which its status says
        process.stdin.write(json.dumps(task.told) + "\n")
        process.stdin.flush()
    one = _Working(slot, name, process)
    one.listens = threading.Thread(target=_listen, args=(one, events), name=f"slot-{slot.number}", daemon=True)
    one.listens.start()
    return one


def _listen(one: _Working, events: "queue.Queue[_Event]") -> None:
    """Put a process's messages into the queue; other lines, which libraries print, are passed on as ``printed``."""
    assert one.process.stdout is not None
    with one.process.stdout as lines:
        for line in lines:
            try:
                said = json.loads(line)
            except ValueError:
                said = None
            events.put((one, said if isinstance(said, dict) else {"printed": line.rstrip()}))
    one.process.wait()
    events.put((one, None))


def _handle(event: _Event, working: list[_Working], listener: Listener, *, stopped: bool = False) -> list[Slot]:
    """Handle an event; return the slot that it leaves free, if it is the end of a process."""
    one, said = event
    if said is None:
        return _end(one, working, listener, stopped=stopped)
    printed = str(said.get("printed", ""))
    if printed.startswith(_SAID_BY_A_COMMAND):
        one.said = printed.removeprefix(_SAID_BY_A_COMMAND)
    one.said = str(said.get("failed", one.said))
    listener.message(one.slot, said)
    return []


def _end(one: _Working, working: list[_Working], listener: Listener, *, stopped: bool) -> list[Slot]:
    if one not in working:  # an interrupt came between its end and this
        return []
    working.remove(one)
    assert one.process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        one.process.stdin.close()
    listener.ended(one.slot, one.name, Ended(one.process.returncode, one.said, stopped))
    return [one.slot]


@contextlib.contextmanager
def _stopping(working: list[_Working], events: "queue.Queue[_Event]", listener: Listener) -> Iterator[None]:
    """Stop all processes when the block ends early, and wait for them."""
    try:
        yield
    except BaseException:
        try:
            for one in working:
                one.process.terminate()
            _drain(working, events, listener)
        except KeyboardInterrupt:
            for one in working:
                one.process.kill()
            _drain(working, events, listener)
        raise


def _drain(working: list[_Working], events: "queue.Queue[_Event]", listener: Listener) -> None:
    """Wait for all processes, also for one whose last event was taken when the interrupt came."""
    while working:
        try:
            _handle(events.get(timeout=_LOOK_AGAIN_S), working, listener, stopped=True)
        except queue.Empty:
            for one in [one for one in working if not one.listens.is_alive()]:
                one.process.wait()
                _end(one, working, listener, stopped=True)

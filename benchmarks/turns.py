"""Competitors that take turns, each a process of its own: one computes a block of steps, and the others wait.

Processes, since what is compared includes how each holds memory: training keeps what is freed
(training/cpu_bf16/malloc.py).
"""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

import torch


class Enough(Exception):  # noqa: N818 (no error: it ends a competitor's loop)
    """All of a competitor's blocks are measured."""


class Pace:
    """A competitor's side: called after each of its steps, it waits where the others have their turn.

    Attributes
    ----------
    measuring : bool
        Whether the competitor is past its warm-up.
    notes : dict
        What the competitor wants to have told at the end.
    """

    def __init__(self, line: Connection, *, warm_up: int, block: int) -> None:
        self.measuring, self.notes = False, dict[str, Any]()
        self._line, self._left, self._block = line, warm_up, block
        self._started = time.perf_counter()

    def __call__(self) -> None:
        """Count a step; at a block's end tell its seconds and wait."""
        self._left -= 1
        if self._left:
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # its work is queued, not done
        self._line.send(("turn", time.perf_counter() - self._started))
        self.wait()
        self._left, self._started, self.measuring = self._block, time.perf_counter(), True

    def wait(self) -> None:
        """Wait for a turn."""
        if self._line.recv() != "go":
            raise Enough


Work = Callable[[str, Pace], None]


class Turns:
    """Lets competitors take turns and measures their blocks.

    Parameters
    ----------
    warm_up, block : int
        Steps of a competitor's first turn, with its set-up, which is not measured; and of each later turn.
    blocks : int
        Turns that are measured.

    Attributes
    ----------
    seconds : dict
        Competitor to the seconds of each measured block.
    notes : dict
        Competitor to what it noted.
    """

    def __init__(self, names: Sequence[str], *, warm_up: int, block: int, blocks: int) -> None:
        self.warm_up, self.block, self.blocks = warm_up, block, blocks
        self.seconds: dict[str, list[float]] = {name: [] for name in names}
        self.notes: dict[str, dict[str, Any]] = {}

    def run(self, work: Work) -> None:
        """Run the competitors to their last block; each is ``work(name, pace)``, and calls pace after each step.

        Parameters
        ----------
        work : callable
            A function of a module, or a ``functools.partial`` of one: it is sent to new processes.

        Raises
        ------
        RuntimeError
            When a competitor fails or ends before its last block; the others are stopped.
        """
        context = multiprocessing.get_context("spawn")  # a forked process can't use threads or a GPU that this one used
        lines: dict[str, Connection] = {}
        workers = []
        for name in self.seconds:
            lines[name], theirs = context.Pipe()
            workers.append(
                context.Process(target=_compete, args=(work, name, theirs, self.warm_up, self.block), daemon=True)
            )
            workers[-1].start()
            theirs.close()
        try:
            for turn in range(1 + self.blocks):
                for name, line in lines.items():
                    line.send("go")
                    seconds = _told(name, line, "turn")
                    if turn:
                        self.seconds[name].append(seconds)
            for name, line in lines.items():
                line.send("enough")
                self.notes[name] = _told(name, line, "notes")
        finally:
            for worker in workers:
                worker.terminate()
                worker.join()


def _told(name: str, line: Connection, expected: str) -> Any:
    try:
        kind, value = line.recv()
    except EOFError:
        raise RuntimeError(f"Competitor {name} died.") from None
    if kind != expected:
        raise RuntimeError(f"Competitor {name} stopped: {value}")
    return value


def _compete(work: Work, name: str, line: Connection, warm_up: int, block: int) -> None:
    pace = Pace(line, warm_up=warm_up, block=block)
    try:
        pace.wait()
        work(name, pace)
        line.send(("failed", "it ended before its last block"))
    except Enough:
        line.send(("notes", pace.notes))
    except Exception as error:  # the parent raises it
        line.send(("failed", repr(error)))

"""What slots are doing, on the console of the process that started them."""

import contextlib
import logging
from collections import deque
from collections.abc import Mapping
from typing import Any

from kmed_bench.core.console import show
from kmed_bench.core.progress import Tick, track
from kmed_bench.pipeline.launch.slots import Ended, Listener, Slot

log = logging.getLogger(__name__)
_LINES_KEPT = 20
_INTERRUPTED = 130


class Watch(Listener):
    """Shows what each slot is doing, and keeps the errors of the tasks that failed.

    Parameters
    ----------
    done : tuple of int
        Exit statuses of a task that did what it could.
    """

    def __init__(self, what: str, n_tasks: int, *, done: tuple[int, ...] = (0,)) -> None:
        self.failed: dict[str, str] = {}
        self._done = done
        self._what, self._n_tasks, self._n_ended = what, n_tasks, 0
        self._printed: dict[int, deque[str]] = {}
        self._open: dict[int, tuple[str, contextlib.ExitStack, Tick]] = {}
        self._outer = contextlib.ExitStack()

    def __enter__(self) -> "Watch":
        self._all = self._outer.enter_context(track(self._what))
        self._all(0, self._n_tasks)
        return self

    def __exit__(self, *_: object) -> None:
        for number in list(self._open):
            self._close(number)
        self._outer.close()

    def begun(self, slot: Slot, name: str) -> None:
        """Say which task begins in which slot."""
        self._printed[slot.number] = deque(maxlen=_LINES_KEPT)
        log.info(f"{name} begins in slot {slot.number}.")

    def message(self, slot: Slot, said: Mapping[str, Any]) -> None:
        """Show a message, or how far the slot's work is."""
        if "progress" in said:
            label, done, total, unit = said["progress"]
            if total == 0:
                self._close(slot.number)
                return
            self._tick(slot.number, f"slot {slot.number}: {label}", unit)(done, total)
        elif "log" in said:
            show(said["log"], f"[{slot.number}] {said['text']}")
        elif "printed" in said:
            self._printed[slot.number].append(str(said["printed"]))

    def ended(self, slot: Slot, name: str, how: Ended) -> None:
        """Count the task, and keep what ended it early."""
        self._close(slot.number)
        self._n_ended += 1
        self._all(self._n_ended, self._n_tasks)
        if how.stopped:
            log.info(f"{name} stopped.")
        elif how.status not in self._done:
            self.failed[name] = how.reason()
            if how.status != _INTERRUPTED:
                for line in self._printed[slot.number]:  # a traceback, or what a library said before it ended
                    show("error", f"[{slot.number}] {line}")
            log.error("%s failed: %s", name, self.failed[name])

    def _tick(self, number: int, label: str, unit: str) -> Tick:
        shown, _, tick = self._open.get(number, ("", None, None))
        if shown == label and tick is not None:
            return tick
        self._close(number)
        stack = contextlib.ExitStack()
        opened = stack.enter_context(track(label, unit=unit))
        self._open[number] = (label, stack, opened)
        return opened

    def _close(self, number: int) -> None:
        if number in self._open:
            self._open.pop(number)[1].close()

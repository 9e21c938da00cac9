"""Progress of long work: a rich bar on a terminal, plain lines now and then in a log."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Tick = Callable[[int, int], None]

# In a log a line every so often says that work goes on without burying what matters.
_LOG_INTERVAL_S = 15.0


class Narrator:
    """Says what happens, on standard error; standard output belongs to results.

    Parameters
    ----------
    live : bool, optional
        Whether bars may move; None: where standard error is a terminal.
    quiet : bool
        Says nothing: for all but one of several processes that do the same.
    """

    def __init__(self, live: bool | None = None, *, quiet: bool = False) -> None:
        self._live = (sys.stderr.isatty() if live is None else live) and not quiet
        self._quiet = quiet
        self._console = Console(file=sys.stderr, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Print one line, with the time of day in a log."""
        if self._quiet:
            return
        if self._live:
            self._console.print(text, markup=False)
        else:
            print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)

    @contextmanager
    def track(self, label: str) -> Iterator[Tick]:
        """Give a function to call with (done, total)."""
        if not self._live:
            yield self._plain(label)
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self._console, transient=True) as bar:
            task = bar.add_task(label, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)

    def _plain(self, label: str) -> Tick:
        last = time.monotonic()

        def tick(done: int, total: int) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= _LOG_INTERVAL_S:
                last = now
                self.say(f"{label}: {done} of {total}")

        return tick

"""Progress of long work on standard error: bars on a terminal, elsewhere lines among the messages."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Tick = Callable[[int, int], None]
"""Called with (done, total)."""

# In a log, a line this often shows that work goes on without burying what matters.
_LOG_INTERVAL_S = 30.0
# A step that nothing is counted in has a line after this long, looked at every `_BEAT_S`: less than a minute together.
_LONGEST_SILENCE_S = 45.0
_BEAT_S = 5.0

_package = logging.getLogger("kmed_bench")
_bars: list[Progress] = []
_relays: list[Callable[[str, int, int, str], None]] = []


def relay_progress(send: Callable[[str, int, int, str], None]) -> None:
    """Let this process's blocks call a function with label, done, total and unit, and show nothing themselves.

    At a block's end the function is called with 0 of 0.
    """
    _relays.append(send)


def restart_progress() -> None:
    """Count the silence after which a line is due from now on."""
    _lines.restart()


@contextlib.contextmanager
def track(label: str, *, unit: str = "", beats: bool = True) -> Iterator[Tick]:
    """Yield a function that shows progress: a bar on a terminal, elsewhere a line at most every 30 s.

    Both estimate the time that remains. With a unit, such as "s of audio", they show the rate too. Blocks may be
    nested. Without a terminal, the innermost block has a line after 45 s without one: what was counted so far, or how
    long it has been running; so no step is silent for a minute.

    Parameters
    ----------
    beats : bool
        False for a block that forks processes, which the thread behind those lines would endanger.
    """
    if _relays:
        try:
            yield lambda done, total: _relays[-1](label, done, total, unit)
        finally:
            _relays[-1](label, 0, 0, unit)
        return
    screens = [handler for handler in _package.handlers if isinstance(handler, RichHandler)]
    if not screens or screens[0].level > logging.INFO:
        with _lines.block(_Line(label, unit), beats) as tick:
            yield tick
        return
    with _bar(label, unit, screens[0].console) as tick:
        yield tick


@contextlib.contextmanager
def _bar(label: str, unit: str, console: Console) -> Iterator[Tick]:
    pace = _Pace()
    with contextlib.ExitStack() as stack:
        if not _bars:  # a terminal has one display at a time: inner blocks add their bar to it
            shown = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
            )
            display = Progress(*shown, TimeRemainingColumn(), console=console, transient=True)
            _bars.append(stack.enter_context(display))
            stack.callback(_bars.clear)
        bars = _bars[0]
        task = bars.add_task(label, total=None, rate=unit)
        stack.callback(bars.remove_task, task)

        def tick(done: int, total: int) -> None:
            rate = pace.measure(done)
            shown_rate = f"{unit}, {rate:.1f} a second" if unit and rate else unit
            bars.update(task, completed=done, total=total, rate=shown_rate)

        yield tick


class _Pace:
    """Work done a second since the first call: what came before that may be resumed."""

    def __init__(self) -> None:
        self._first: tuple[float, int] | None = None

    def measure(self, done: int) -> float:
        """Return the pace; 0 while nothing was done, or only what a first batch finished at once."""
        now_s = time.monotonic()
        first_s, first = self._first = self._first or (now_s, done)
        return (done - first) / (now_s - first_s) if done > first and now_s > first_s + 1 else 0.0


class _Line:
    """What an open block says of itself in a log."""

    def __init__(self, label: str, unit: str) -> None:
        self._label, self._unit, self._pace, self._started_s = label, unit, _Pace(), time.monotonic()
        self._at: tuple[int, int] | None = None

    def count(self, done: int, total: int) -> None:
        """Take note of what is done."""
        self._pace.measure(done)
        self._at = done, total

    def text(self) -> str:
        """Return the line, whose estimate counts the time since the last count: what is at work may take long."""
        if self._at is None:
            return f"{self._label}: {rough_duration(time.monotonic() - self._started_s)} so far"
        (done, total), unit = self._at, self._unit
        rate = self._pace.measure(done)
        said = f"{self._label}: {done} of {total}{unit and f' {unit}'}"
        said += f", {rate:.1f} a second" if unit and rate else ""
        return said + (f", about {rough_duration((total - done) / rate)} left" if rate else "")


class _Lines:
    """The lines of all open blocks, which share their intervals."""

    def __init__(self) -> None:
        self._open, self._lock = list[_Line](), threading.Lock()
        self.restart()

    def restart(self) -> None:
        """Count silence from now on."""
        self._last_s = time.monotonic()

    @contextlib.contextmanager
    def block(self, line: _Line, beats: bool) -> Iterator[Tick]:
        """Yield the function that counts for a line; while the outermost block is open, a thread calls `beat`."""
        closed = threading.Event()
        if beats and not self._open:
            threading.Thread(target=self._watch, args=(closed,), name="progress", daemon=True).start()
        self._open.append(line)

        def tick(done: int, total: int) -> None:
            line.count(done, total)
            if done < total:
                self._show(line, _LOG_INTERVAL_S)

        try:
            yield tick
        finally:
            closed.set()
            self._open.remove(line)

    def _watch(self, closed: threading.Event) -> None:
        while not closed.wait(_BEAT_S):
            self.beat()

    def beat(self) -> None:
        """Show the innermost block after a long silence."""
        for line in self._open[-1:]:
            self._show(line, _LONGEST_SILENCE_S)

    def _show(self, line: _Line, interval_s: float) -> None:
        with self._lock:
            now_s = time.monotonic()
            if now_s - self._last_s < interval_s:
                return
            self._last_s = now_s
        _package.info(line.text())


_lines = _Lines()


def rough_duration(duration_s: float) -> str:
    """Return a duration as an estimate is written: whole seconds up to 90, whole minutes up to 90, then hours."""
    if duration_s < 90:
        return f"{duration_s:.0f} s"
    return f"{duration_s / 60:.0f} min" if duration_s < 90 * 60 else f"{duration_s / 3600:.1f} h"

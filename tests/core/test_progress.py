"""Progress: a terminal's bars, and elsewhere lines with an estimate, at most every 30 s and at least every minute."""

import io
import logging
import sys
import threading

import pytest

from kmed_bench.core import progress
from kmed_bench.core.console import configure_logging
from kmed_bench.core.progress import track

pytestmark = pytest.mark.usefixtures("package_log")
log = logging.getLogger("kmed_bench.tests")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    configure_logging()
    return now


def shown(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line.split(" ", 1)[1] for line in capsys.readouterr().err.splitlines()]


def test_a_log_gets_a_line_every_30_s_with_the_time_that_remains(capsys, clock):
    with track("Work") as tick:
        # 40 were done before: the pace is that of the calls, 1 in 2 s.
        for done in range(40, 71):
            tick(done, 1000)
            clock[0] += 2
    assert shown(capsys) == ["Work: 55 of 1000, about 32 min left", "Work: 70 of 1000, about 31 min left"]


@pytest.mark.parametrize(("rest_s", "text"), [(89, "89 s"), (90, "2 min"), (5399, "90 min"), (5400, "1.5 h")])
def test_the_estimate_is_rounded(rest_s, text, capsys, clock):
    with track("Work") as tick:
        tick(0, 2)
        clock[0] = rest_s
        tick(1, 2)
    assert shown(capsys) == [f"Work: 1 of 2, about {text} left"]


def test_a_batch_that_is_counted_at_once_shows_no_pace(capsys, clock):
    with track("Decoding") as tick:
        clock[0] = 40
        for done in range(1, 9):
            tick(done, 16)
            clock[0] += 0.01
        clock[0] = 80
        tick(9, 16)
    assert shown(capsys) == ["Decoding: 1 of 16", "Decoding: 9 of 16, about 35 s left"]


def test_an_estimate_counts_the_time_since_the_last_count(capsys, clock):
    with track("Decoding") as tick:
        tick(0, 10)
        clock[0] += 10
        tick(5, 10)
        for _ in range(18):
            clock[0] += 5
            progress._lines.beat()
    assert shown(capsys) == ["Decoding: 5 of 10, about 45 s left", "Decoding: 5 of 10, about 2 min left"]


def test_blocks_share_the_interval_and_the_silence(capsys, clock):
    """Four blocks of 4 s within one of 80 s: together they have a line after 36 s, and one after 40 more."""
    with track("Training") as outer:
        for epoch in range(4):
            outer(epoch, 4)
            clock[0] += 16
            with track("Decoding") as inner:
                inner(1, 2)
                clock[0] += 4
                inner(2, 2)
    assert shown(capsys) == ["Decoding: 1 of 2", "Decoding: 1 of 2"]


def test_a_step_in_which_nothing_is_counted_is_not_silent(capsys, clock):
    with track("Training") as tick:
        tick(3, 9)
        with track("Registering"):
            for _ in range(24):  # two minutes, looked at every 5 s, as the thread does
                clock[0] += 5
                progress._lines.beat()
        clock[0] += 44
        progress._lines.beat()
        clock[0] += 1
        progress._lines.beat()
    clock[0] += 100
    progress._lines.beat()  # nothing is open
    assert shown(capsys) == ["Registering: 45 s so far", "Registering: 2 min so far", "Training: 3 of 9"]


def test_a_thread_looks_after_the_silence(monkeypatch):
    looked = threading.Event()
    monkeypatch.setattr(progress, "_BEAT_S", 0.0)
    monkeypatch.setattr(progress._Lines, "beat", lambda _self: looked.set())
    with track("Work"):
        assert looked.wait(60)


def test_a_block_that_forks_has_no_thread():
    before = threading.active_count()
    with track("Forking", beats=False):
        assert threading.active_count() == before


def test_a_hidden_level_shows_no_progress(capsys, clock):
    configure_logging("warning")
    with track("Work") as tick:
        clock[0] = 100
        tick(1, 2)
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_bars_and_plain_messages(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    configure_logging()
    with track("Work") as tick:
        tick(3, 7)
        with track("Within", unit="clips") as inner:
            inner(2, 5)
            progress._bars[0].refresh()
            log.info("[bold]as it is[/bold] 1.5")
        assert len(progress._bars[0].tasks) == 1
    text = terminal.getvalue()
    for expected in ("Work", "3/7", "Within", "2/5"):
        assert expected in text
    assert "[bold]as it is[/bold] 1.5" in text.replace("\n", "")
    assert progress._bars == []


def test_a_process_of_a_slot_tells_its_parent_and_shows_nothing(capsys, clock, monkeypatch):
    monkeypatch.setattr(progress, "_relays", [])
    sent: list[tuple[str, int, int, str]] = []
    progress.relay_progress(lambda *said: sent.append(said))
    with track("Training", unit="steps") as tick:
        tick(1, 4)
        with track("Decoding") as inner:
            inner(2, 2)
        clock[0] = 100
        tick(4, 4)
    assert sent == [
        ("Training", 1, 4, "steps"),
        ("Decoding", 2, 2, ""),
        ("Decoding", 0, 0, ""),
        ("Training", 4, 4, "steps"),
        ("Training", 0, 0, "steps"),
    ]
    assert shown(capsys) == []

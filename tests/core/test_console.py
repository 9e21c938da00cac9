"""Messages and progress: levels, the terminal's bar, the log's lines with an estimate, the file beside results."""

import io
import logging
import re
import sys
from pathlib import Path

import pytest

from kmed_bench.core import console
from kmed_bench.core.console import LOG_NAME, configure_logging, log_file, track

log = logging.getLogger("kmed_bench.tests")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _as_before():
    package = logging.getLogger("kmed_bench")
    handlers, level = list(package.handlers), package.level
    yield
    package.handlers[:] = handlers
    package.setLevel(level)


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(("level", "shown"), [("debug", "dIw"), ("info", "Iw"), ("warning", "w"), ("error", "")])
def test_a_level_hides_what_is_below_it(level, shown, capsys):
    configure_logging("debug")
    configure_logging(level)  # the last call counts, and lines are not doubled
    for name, text in ((logging.DEBUG, "d"), (logging.INFO, "I"), (logging.WARNING, "w")):
        log.log(name, text)
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split(" ", 1)[1] for line in err.splitlines()] == list(shown)
    assert all(re.fullmatch(r"\d\d:\d\d:\d\d .", line) for line in err.splitlines())


def test_a_log_gets_a_line_every_15_s_with_the_time_that_remains(capsys, clock):
    configure_logging()
    with track("Work") as tick:
        # 40 were done before: the pace is that of the calls, 1 in 2 s.
        for done in range(40, 61):
            tick(done, 1000)
            clock[0] += 2
    lines = [line.split(" ", 1)[1] for line in capsys.readouterr().err.splitlines()]
    assert lines == ["Work: 48 of 1000, about 32 min left", "Work: 56 of 1000, about 31 min left"]


@pytest.mark.parametrize(("rest_s", "text"), [(89, "89 s"), (90, "2 min"), (5399, "90 min"), (5400, "1.5 h")])
def test_the_estimate_is_rounded(rest_s, text, capsys, clock):
    configure_logging()
    with track("Work") as tick:
        tick(0, 2)
        clock[0] = rest_s
        tick(1, 2)
    assert capsys.readouterr().err.rstrip().endswith(f"Work: 1 of 2, about {text} left")


def test_a_hidden_level_shows_no_progress(capsys, clock):
    configure_logging("warning")
    with track("Work") as tick:
        clock[0] = 100
        tick(1, 2)
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar_and_plain_messages(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    configure_logging()
    with track("Work") as tick:
        tick(3, 7)
        log.info("[bold]as it is[/bold] 1.5")
    text = terminal.getvalue()
    assert "Work" in text
    assert "3/7" in text
    assert "[bold]as it is[/bold] 1.5" in text.replace("\n", "")


def test_the_file_has_every_level_and_no_names(tmp_path, capsys):
    configure_logging("warning")
    error = ValueError("환자가 말한 문장")
    with log_file(tmp_path / "results"):
        log.debug("Reading %s", Path("/clinic/hong-gildong/208"))
        log.error("train failed: %s", error)
    log.info("after")
    text = (tmp_path / "results" / LOG_NAME).read_text(encoding="utf-8")
    assert [line.split("kmed_bench.tests: ")[1] for line in text.splitlines()] == [
        "Reading 208",
        "train failed: ValueError",
    ]
    assert "환자가" in capsys.readouterr().err  # on the screen of the person at work
    assert not log.isEnabledFor(logging.INFO)


def test_the_file_tells_where_an_exception_came_from_and_not_what_it_says(tmp_path, capsys):
    configure_logging("debug")

    name = "hong-gildong"

    def fault() -> None:
        raise ValueError(f"/clinic/{name}.wav")

    with pytest.raises(ValueError, match="hong"), log_file(tmp_path):
        fault()
    text = (tmp_path / LOG_NAME).read_text(encoding="utf-8")
    assert "in fault" in text
    assert text.endswith("ValueError\n")
    assert name not in text
    assert name in capsys.readouterr().err

"""Messages: levels, and the file beside results."""

import logging
import re
from pathlib import Path

import pytest

from kmed_bench.core.console import LOG_NAME, configure_logging, log_file

pytestmark = pytest.mark.usefixtures("package_log")
log = logging.getLogger("kmed_bench.tests")


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

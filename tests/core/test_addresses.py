"""Passwords and tokens never leave: addresses, their parameters, and the values of MLflow's variables."""

import logging
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmed_bench.core.addresses import without_password
from kmed_bench.core.console import configure_logging, log_file

ADDRESS = "http://user:hidden@host"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://kmed:secret@db:5432/mlflow", "postgresql://***@db:5432/mlflow"),
        ("postgresql+psycopg://kmed:p@ss/w:rd@db/mlflow", "postgresql+psycopg://***@db/mlflow"),
        ("postgresql://kmed:with a space@db/mlflow", "postgresql://***@db/mlflow"),
        ("https://kim:a,b;c'd\"e@host/#/runs", "https://***@host/#/runs"),
        ("The stores http://u:p,w@a and https://v:q@b/y", "The stores http://***@a and https://***@b/y"),
        ("('http://u:p@a:1', 'models:/base@champion')", "('http://***@a:1', 'models:/base@champion')"),
        ("http://u:p@a:1 wants %40 for @, so write it", "http://***@a:1 wants %40 for @, so write it"),
        ("postgresql://h/db?user=u&password=secret&x=y", "postgresql://h/db?user=u&password=***&x=y"),
        ("postgresql://h/db?sslpassword=secret", "postgresql://h/db?sslpassword=***"),
        ("https://h/x?access_token=abc at y", "https://h/x?access_token=*** at y"),
        ("models:/kmed-whisper-base@champion, sqlite:///a/b.db", "models:/kmed-whisper-base@champion, sqlite:///a/b.db"),
        ("write to a@example.org", "write to a@example.org"),
    ],
)  # fmt: skip
def test_what_opens_a_server_is_masked(text: str, shown: str) -> None:
    assert without_password(text) == shown
    assert without_password(shown) == shown


@given(user=st.text(min_size=1), password=st.text(min_size=1), scheme=st.sampled_from(["http", "https", "postgresql"]))
def test_any_password_is_masked(user: str, password: str, scheme: str) -> None:
    address = f"{scheme}://{quote(user, safe='')}:{quote(password, safe='')}@db.example:1/x"
    assert without_password(address) == f"{scheme}://***@db.example:1/x"
    assert without_password(f"at ({address}), now") == f"at ({scheme}://***@db.example:1/x), now"


@pytest.mark.parametrize("name", ["MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"])
def test_values_of_variables_are_masked_unless_they_may_be_words(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "ward-5-secret\n")
    assert without_password("header value: 'Bearer ward-5-secret\\n'") == "header value: 'Bearer ***\\n'"
    monkeypatch.setenv(name, "base")
    assert without_password("kmed-whisper-base") == "kmed-whisper-base"


@pytest.mark.usefixtures("package_log")
def test_messages_and_tracebacks_of_a_log_are_masked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging()
    with log_file(tmp_path):
        logging.getLogger("kmed_bench.tests").warning("%s is away", ADDRESS, exc_info=OSError(ADDRESS))
    err = capsys.readouterr().err
    assert "http://***@host is away" in err
    assert "OSError: http://***@host" in err
    assert "hidden" not in err + (tmp_path / "kmed-bench.log").read_text(encoding="utf-8")


def test_a_traceback_that_nothing_catches_is_masked() -> None:
    program = (
        "from kmed_bench.core.console import hide_passwords_in_tracebacks as hide; import sys; hide()\n"
        "try:\n    raise OSError(sys.argv[1])\nexcept OSError as error:\n    raise ValueError(sys.argv[1]) from error"
    )
    command = [sys.executable, "-c", program, ADDRESS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("http://***@host") == 2
    assert "hidden" not in done.stderr

"""Marks of tests that cause a fault, and the table of them in docs/faults.md.

    python tests/fault_table.py > docs/faults.md

collects the tests that carry such marks (none runs) and prints the page.
"""

import contextlib
import io
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAD = """# What goes wrong, what you see, what survives

Each row is a test that causes the fault with real files and holds what is said here. The page is written from the
tests' marks by `make docs-faults`; [CONTRIBUTING.md](../CONTRIBUTING.md) says how to add a row.

| fault | what you see | what survives | test |
|---|---|---|---|
"""
REST = "every other file"


def fault(what: str, *, sees: str, survives: str = REST) -> pytest.MarkDecorator:
    """Return the mark of a test, or of a case, that causes a fault."""
    return pytest.mark.fault(what, sees=sees, survives=survives)


class _Collector:
    """Keeps the table's rows, in the order of files and of tests in them."""

    def __init__(self) -> None:
        self.rows: list[str] = []

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            for mark in item.iter_markers("fault"):
                test = f"`{item.nodeid.removeprefix('tests/')}`"
                cells = (*mark.args, mark.kwargs["sees"], mark.kwargs["survives"], test)
                self.rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")


def page() -> str:
    """Return docs/faults.md as the tests' marks have it."""
    files = sorted(str(path) for path in (ROOT / "tests").glob("*/test_*.py") if "fault(" in path.read_text("utf-8"))
    collector, said = _Collector(), io.StringIO()
    with contextlib.redirect_stdout(said):
        status = pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", *files], plugins=[collector])
    if status != pytest.ExitCode.OK:
        raise SystemExit(said.getvalue())
    return HEAD + "\n".join(collector.rows) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())

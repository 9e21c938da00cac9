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
    """Keeps the table's rows, in the order of files and of tests in them; cases that say the same share a row."""

    def __init__(self) -> None:
        self.tests: dict[tuple[str, ...], list[str]] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            test = item.nodeid.removeprefix("tests/")
            for mark in item.iter_markers("fault"):
                cells = (*mark.args, mark.kwargs["sees"], mark.kwargs["survives"], test.partition("[")[0])
                self.tests.setdefault(cells, []).append(test)

    def rows(self) -> list[str]:
        """Return the table's rows."""
        named = (
            (*cells[:-1], f"`{tests[0] if len(tests) == 1 else cells[-1]}`") for cells, tests in self.tests.items()
        )
        return ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in named]


def page() -> str:
    """Return docs/faults.md as the tests' marks have it."""
    files = sorted(str(path) for path in (ROOT / "tests").glob("*/test_*.py") if "fault(" in path.read_text("utf-8"))
    collector, said = _Collector(), io.StringIO()
    with contextlib.redirect_stdout(said):
        status = pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", *files], plugins=[collector])
    if status != pytest.ExitCode.OK:
        raise SystemExit(said.getvalue())
    return HEAD + "\n".join(collector.rows()) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())

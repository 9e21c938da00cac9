"""The commands that README.md and docs/*.md show, and what `mlflow run` makes of one."""

import dataclasses
import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted(path for path in (ROOT / "docs").glob("*.md") if path.name != "LOG.md")]
_BLOCK = re.compile(r"^```(\S*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Typed:
    """A command of a block, as a reader types it.

    Attributes
    ----------
    text, comment : str
        The command, and what the page says beside it.
    """

    page: str
    line: int
    text: str
    comment: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: Path) -> Iterator[tuple[str, int, str]]:
    """Yield language, line of the beginning and content of a page's blocks."""
    text = page.read_text(encoding="utf-8")
    for found in _BLOCK.finditer(text):
        yield found[1], text.count("\n", 0, found.start()) + 2, found[2]


def typed_commands(page: Path) -> list[Typed]:
    """Return the commands of a page's blocks of shell; a line that ends with a backslash goes on."""
    made = []
    for language, first, content in blocks(page):
        if language != "sh":
            assert not re.search(r"^(kmed-bench|mlflow|make|pip) ", content, re.MULTILINE), f"{page.name}:{first}: sh?"
            continue
        joined = content.replace("\\\n", " \0")
        line = first
        for row in joined.splitlines():
            text, _, comment = row.replace("\0", "").partition(" #")
            if text.strip():
                made.append(Typed(page.name, line, " ".join(text.split()), comment.strip()))
            line += 1 + row.count("\0")
    return made


def quoted_commands(page: Path) -> list[list[str]]:
    """Return the words of the commands of ours that a page's sentences quote."""
    prose = _BLOCK.sub("", page.read_text(encoding="utf-8"))
    return [shlex.split(found[1].replace("\n", " ")) for found in re.finditer(r"`kmed-bench ([^`]+)`", prose)]


def project_words(words: list[str]) -> list[str]:
    """Return the words of our command line that `mlflow run` starts, undeclared parameters behind declared ones."""
    entry, given = "main", {}
    for before, word in pairwise(words):
        if before == "-e":
            entry = word
        if before == "-P":
            key, _, given_value = word.partition("=")
            given[key] = given_value
    spec = yaml.safe_load((ROOT / "MLproject").read_text(encoding="utf-8"))["entry_points"][entry]
    declared = spec["parameters"]
    values = {key: given.get(key, of.get("default")) for key, of in declared.items()}
    assert None not in values.values(), f"{entry} needs {values}"
    command = shlex.split(spec["command"].format(**{key: shlex.quote(str(value)) for key, value in values.items()}))
    assert command[:3] == ["python", "-m", "kmed_bench"]
    more = [word for key, value in given.items() if key not in declared for word in (f"--{key}", value)]
    return command[3:] + more

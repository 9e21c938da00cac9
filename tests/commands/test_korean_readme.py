"""README.ko.md and SECURITY.ko.md say what the English pages say: sections with the same commands, names and links."""

import re
from collections import Counter
from pathlib import Path

import pytest
from documented import ROOT, blocks, typed_commands

from kmed_bench.scoring.measures import MEASURES

ENGLISH, KOREAN, GLOSSARY = ROOT / "README.md", ROOT / "README.ko.md", ROOT / "docs" / "glossary.md"
UNUSED = [
    word.strip()
    for row in GLOSSARY.read_text(encoding="utf-8").partition("## Words that are not used")[2].splitlines()[4:]
    for word in row.strip("| ").partition("|")[0].split(",")
]
"""The glossary's words that another word stands for."""


def sections(page: Path) -> list[tuple[int, str]]:
    """Return the level of each heading, and the text of its section without blocks of code."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    parts = re.split(r"^(#+) .+\n", text, flags=re.MULTILINE)[1:]
    return [(len(level), prose) for level, prose in zip(parts[::2], parts[1::2], strict=True)]


def names(prose: str) -> Counter[str]:
    """Return the quoted code and the links of a section: Korean pages count as the English ones, READMEs not."""
    found = re.findall(r"`([^`]+)`|\]\(([^)]+)\)", prose)
    return Counter(
        " ".join((code or link.replace(".ko.md", ".md")).split())
        for code, link in found
        if link not in ("README.md", "README.ko.md")
    )


def length(prose: str, letters: str) -> int:
    """Return how many letters a section has beside code and links."""
    return len(re.findall(letters, re.sub(r"`[^`]+`|\[[\w-]+\]\([^)]+\)", "", prose)))


def test_the_commands_are_the_same() -> None:
    assert [typed.text for typed in typed_commands(KOREAN)] == [typed.text for typed in typed_commands(ENGLISH)]


def test_code_and_map_are_the_same() -> None:
    korean, english = ([block for block in blocks(page) if block[0] != "sh"] for page in (KOREAN, ENGLISH))
    assert [language for language, _, _ in korean] == [language for language, _, _ in english] == ["python", ""]
    assert korean[0][2] == english[0][2]
    rooms = [re.findall(r"^ *(\S+/|\w+\.py|MLproject)", text, re.MULTILINE) for _, _, text in (korean[1], english[1])]
    assert rooms[0] == rooms[1]
    assert "scoring/" in rooms[0]


@pytest.mark.parametrize("number", range(len(sections(ENGLISH))))
def test_a_section_names_the_same_things(number: int) -> None:
    assert len(sections(KOREAN)) == len(sections(ENGLISH))
    (korean_level, korean), (level, english) = sections(KOREAN)[number], sections(ENGLISH)[number]
    assert korean_level == level
    assert names(korean) == names(english)
    assert korean.count("\n|") == english.count("\n|")
    assert 0.3 < length(korean, "[가-힣]") / length(english, "[A-Za-z]") < 0.7


def test_the_page_on_security_names_the_same_things() -> None:
    korean, english = sections(ROOT / "SECURITY.ko.md"), sections(ROOT / "SECURITY.md")
    assert [level for level, _ in korean] == [level for level, _ in english]
    for (_, ours), (_, theirs) in zip(korean, english, strict=True):
        assert names(ours) == names(theirs.replace("#what-leaves-and-when", ""))
        for mark in ("\n|", "\n- "):
            assert ours.count(mark) == theirs.count(mark)


def test_each_readme_links_to_the_other() -> None:
    assert "](README.ko.md)" in ENGLISH.read_text(encoding="utf-8")
    assert "](README.md)" in KOREAN.read_text(encoding="utf-8")


def test_the_glossary_has_every_rate_and_korean_texts_follow_it() -> None:
    text = GLOSSARY.read_text(encoding="utf-8")
    assert {name for name in MEASURES if f"(`{name}`)" not in text} == set()
    assert "미세조정" in UNUSED
    catalogue = ROOT / "kmed_bench/locale/ko/LC_MESSAGES/kmed_bench.po"
    for page in (KOREAN, ROOT / "SECURITY.ko.md", ROOT / "docs" / "data-protection.ko.md", catalogue):
        prose = page.read_text(encoding="utf-8")
        assert {word for word in UNUSED if word in prose} == set(), page.name

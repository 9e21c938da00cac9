"""The pages of docs/metrics: one for every rate, and every stated figure is the package's."""

import dataclasses
import doctest
import re
from pathlib import Path

import pandas as pd
import pytest
from misheard import predictions

from kmed_bench.scoring.groups import score_predictions
from kmed_bench.scoring.measures import MEASURES, count_utterances

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "metrics"
PAGES = sorted(path for path in FOLDER.glob("*.md") if path.name != "README.md")
INDEX = (FOLDER / "README.md").read_text(encoding="utf-8")
_ROW = re.compile(r"^\| (.+) \|$", re.MULTILINE)


def example(path: Path) -> list[dict[str, str]]:
    """The rows of a page's example by column; empty where the page has none."""
    rows = [[cell.strip() for cell in row.split("|")] for row in _ROW.findall(path.read_text(encoding="utf-8"))]
    head = [name.strip("`") for name in rows[0]] if rows else []
    return [dict(zip(head, row, strict=True)) for row in rows[1:]]


def count(rows: list[dict[str, str]]) -> pd.DataFrame:
    """The counts of an example's clips, each of its own speaker and 5 s long."""
    texts = [[row[side].replace("(empty)", "") for side in ("reference", "hypothesis")] for row in rows]
    made = predictions([(f"s{n}", *pair) for n, pair in enumerate(texts)])
    return count_utterances([dataclasses.replace(p, duration_s=5.0) for p in made], "pronunciation")


def test_every_rate_is_in_the_index_and_has_a_page_that_names_its_columns() -> None:
    pages = dict(re.findall(r"^\| `(\w+)` \| \[.+\]\((\w+\.md)\) \|$", INDEX, re.MULTILINE))
    assert list(MEASURES) == [name for name in pages if name in MEASURES]
    for name, measure in MEASURES.items():
        text = (FOLDER / pages[name]).read_text(encoding="utf-8")
        assert f"`{name}`: column `{measure.top}` over `{measure.bottom}`" in text
        assert f"better: {measure.better};" in " ".join(text.split())
        assert (f"`{name}_low` and `{name}_high`" in " ".join(text.split())) == measure.interval
        assert name in example(FOLDER / pages[name])[0]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_each_page_has_its_parts_and_the_index_links_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## Example",
        "## Columns",
        "## Source",
        "## What it is not",
    ]
    assert f"({path.name})" in INDEX
    assert text.count("```text") == 1
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert all((FOLDER / link).exists() for link in links), links


@pytest.mark.parametrize("path", [path for path in PAGES if example(path)], ids=lambda path: path.stem)
def test_each_example_holds(path: Path) -> None:
    rows = example(path)
    measures = [MEASURES[name] for name in rows[0] if name in MEASURES]
    assert measures
    clips = [row for row in rows if row["reference"] not in ("all clips", "---")]
    table = count(clips)
    for measure in measures:
        counted = [f"{top}/{bottom}" for top, bottom in zip(table[measure.top], table[measure.bottom], strict=True)]
        assert [row[measure.name] for row in clips] == counted
        top, bottom = table[measure.top].sum(), table[measure.bottom].sum()
        for row in rows:
            if row["reference"] == "all clips":
                assert row[measure.name] == f"{top}/{bottom} = {top / bottom:.4f}"


def test_the_examples_of_intervals_hold() -> None:
    failed, tried = doctest.testfile(str(FOLDER / "intervals.md"), module_relative=False, encoding="utf-8")
    assert (failed, tried) == (0, 9)


def test_the_example_of_the_gap_holds() -> None:
    rows = [row for row in example(FOLDER / "groups.md") if row["reference"] != "---"]
    made = predictions([(f"s{n}", row["reference"], row["hypothesis"]) for n, row in enumerate(rows)])
    gap = score_predictions([dataclasses.replace(p, age=row["age"]) for p, row in zip(made, rows, strict=True)])
    assert gap["elderly_gap"]["cer_gap"] == 1 / 11 - 2 / 9
    assert gap["elderly_gap"]["n_unknown_age"] == 1
    (same,) = [row for row in gap["gaps"] if row["field"] == "age"]
    assert (same["cer_gap"], same["p_value"], same["below_minimum"]) == (1 / 11 - 2 / 9, None, True)
    assert gap["speakers"]["cer_quantiles"]["50"] == 0
    assert gap["speakers"]["cer_quantiles"]["100"] == 0.5
    assert f"1/11 - 2/9 = {1 / 11 - 2 / 9:.4f}" in (FOLDER / "groups.md").read_text(encoding="utf-8")

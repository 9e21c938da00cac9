"""CSV that is opened in a spreadsheet: no cell of text is a formula, and numbers stay numbers."""

import csv
import io

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmed_bench.core.spreadsheets import csv_text

CASES = [
    ("=cmd|'/C calc'!A0", "'=cmd|'/C calc'!A0"),
    ("@SUM(1)", "'@SUM(1)"),
    ("+82-2-123", "'+82-2-123"),
    ("-- 배가 아파요", "'-- 배가 아파요"),
    ("\t=1", "'\t=1"),
    ("\r=1", "'\n=1"),
    ("배\r=1", "배\n=1"),
    ("배\r\n=1", "배\n=1"),
    ("＝1+1", "'＝1+1"),
    ("-0.5", "-0.5"),
    ("+1e3", "+1e3"),
    ("\t1", "'\t1"),
    ("배 = 아픔", "배 = 아픔"),
    ("", ""),
]


@pytest.mark.parametrize(("cell", "shown"), CASES)
def test_text_that_would_be_run_is_text(cell: str, shown: str) -> None:
    table = pd.DataFrame({"a": [cell], "b": pd.Categorical([cell]), "c": [-1.5]})
    written = list(csv.DictReader(io.StringIO(csv_text(table), newline="")))
    assert written == [{"a": shown, "b": shown, "c": "-1.5"}]
    assert table["a"][0] == cell


@given(st.lists(st.tuples(st.text(), st.floats(allow_nan=False)), min_size=1))
def test_no_cell_of_text_begins_like_a_formula(rows: list[tuple[str, float]]) -> None:
    table = pd.DataFrame(rows, columns=["=text", "number"])
    lines = list(csv.reader(io.StringIO(csv_text(table), newline="")))
    assert lines[0] == ["'=text", "number"]
    for (text, number), (shown, figure) in zip(rows, lines[1:], strict=True):
        lines_of_text = text.replace("\r\n", "\n").replace("\r", "\n")
        assert shown in (lines_of_text, f"'{lines_of_text}")
        assert shown[:1] not in ("=", "@", "\t", "\n")
        if shown[:1] in ("+", "-"):
            float(shown)
        assert float(figure) == number


def test_lists_and_missing_values_are_written_as_pandas_writes_them() -> None:
    table = pd.DataFrame({"a": [None, [1], "x"], "b": pd.array([1, None, 3], dtype="Int64"), "c": [True, False, True]})
    assert csv_text(table) == table.to_csv(index=False, lineterminator="\n")

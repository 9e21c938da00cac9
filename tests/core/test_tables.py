"""Tables of other programs: every encoding and kind gives the same rows, and a damaged one says where."""

import json
from pathlib import Path

import openpyxl
import pytest

from kmed_bench.core.errors import KmedError
from kmed_bench.core.tables import find_column, read_table, read_text

HEADER, ROWS = ["파일", "전사"], [["a.wav", "열이 나요, 어제부터"], ["b.wav", '그는 "괜찮다"고 했어요']]


def as_csv(delimiter: str) -> str:
    def cell(text: str) -> str:
        return '"' + text.replace('"', '""') + '"' if delimiter in text or '"' in text else text

    return "".join(delimiter.join(map(cell, row)) + "\r\n" for row in (HEADER, *ROWS))


def cells(path: Path) -> list[list[str]]:
    table = read_table(path)
    assert list(table.columns) == HEADER
    return [[row.cells[name] for name in HEADER] for row in table.rows]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp949", "utf-16", "utf-16-le-mark"])
@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
def test_every_encoding_and_delimiter_gives_the_same_rows(tmp_path, encoding, delimiter):
    content = (
        b"\xff\xfe" + as_csv(delimiter).encode("utf-16-le")
        if encoding.endswith("mark")
        else as_csv(delimiter).encode(encoding)
    )
    (tmp_path / "list.txt").write_bytes(content)
    assert cells(tmp_path / "list.txt") == ROWS


@pytest.mark.parametrize("encoding", ["utf-8", "cp949", "utf-16"])
def test_json_lines(tmp_path, encoding):
    lines = "\n".join(json.dumps(dict(zip(HEADER, row, strict=True)), ensure_ascii=False) for row in ROWS)
    (tmp_path / "list").write_bytes(lines.encode(encoding))
    assert cells(tmp_path / "list") == ROWS


def test_excel_numbers_read_as_they_look(tmp_path):
    book = openpyxl.Workbook()
    for row in ([*HEADER, "나이"], [*ROWS[0], 34.0], [None, None, None], [*ROWS[1], 7.5]):
        book.active.append(row)
    book.save(tmp_path / "list.xlsx")
    table = read_table(tmp_path / "list.xlsx")
    assert [row.cells["나이"] for row in table.rows] == ["34", "7.5"]
    assert [row.place.rpartition(", ")[2] for row in table.rows] == ["row 2", "row 4"]


def test_excel_ids_keep_the_zeros_that_their_format_shows(tmp_path):
    book = openpyxl.Workbook()
    for row in (HEADER, [7, "열이 나요"], ["008", "기침"], [1234, "네"]):
        book.active.append(row)
    for cell in ("A2", "A4"):
        book.active[cell].number_format = "000"
    book.save(tmp_path / "list.xlsx")
    assert [row.cells[HEADER[0]] for row in read_table(tmp_path / "list.xlsx").rows] == ["007", "008", "1234"]


def test_a_lone_quotation_mark_joins_no_rows(tmp_path):
    (tmp_path / "t.tsv").write_text('id\ttext\nu1\t"열이 나요\nu2\t기침\n', encoding="utf-8")
    assert [row.cells["text"] for row in read_table(tmp_path / "t.tsv").rows] == ['"열이 나요', "기침"]
    (tmp_path / "t.csv").write_text('id,text\nu1,"열이 나요\nu2,기침\n', encoding="utf-8")
    with pytest.raises(KmedError, match=r"t\.csv, line \d can't be read as CSV"):
        read_table(tmp_path / "t.csv")


def test_more_cells_than_columns_are_a_fault_of_the_row(tmp_path):
    (tmp_path / "t.csv").write_text("id,text\nu1,열이 나요, 어제부터\nu2,기침,\n", encoding="utf-8")
    first, second = read_table(tmp_path / "t.csv").rows
    assert "3 cells and the header 2: put quotes" in first.fault
    assert second.fault == ""


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a,a\n1,2\n", "has the column 'a' twice"),
        (b"a,b\n", "has no rows below"),
        (b"", "has no rows below"),
        (b"a,b\n\xff\xff\xfe\n", "is not text in UTF-8, cp949"),
        (b"a\0,b\0\n", "is not text in UTF-8, cp949"),
        (b"PK\x03\x04 no zip", "can't be read as an Excel file"),
        (b'{"a": 1}\n{"a"\n', "line 2 is not JSON"),
    ],
)
def test_damaged_tables_say_what_is_wrong(tmp_path, content, words):
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(KmedError, match=words):
        read_table(tmp_path / "t")


def test_missing_files(tmp_path):
    for read in (read_table, read_text):
        with pytest.raises(KmedError, match="does not exist"):
            read(tmp_path / "nothing")


def test_columns_are_found_whatever_their_case_and_spaces():
    columns = ["Audio File", "전사 문"]
    assert find_column(columns, ["wav", "audio_file"]) == "Audio File"
    assert find_column(columns, ["전사문"]) == "전사 문"
    assert find_column(columns, ["text"]) is None

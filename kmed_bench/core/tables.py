"""Tables that people and other programs write: CSV, TSV, JSON lines and Excel, in the encodings of Korean Windows."""

import codecs
import csv
import dataclasses
import io
import itertools
import json
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import parse_json_line

MAX_TEXT_BYTES = 1 << 28
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_ZIP = b"PK\x03\x04"
_DELIMITERS = ("\t", ",", ";")
JSON_LINES = (".jsonl", ".ndjson")


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One row of a table: where it is ("FILE, line N") and its cells by column, as text and without outer spaces.

    Attributes
    ----------
    fault : str
        Why the cells can't be assigned to columns; empty if they can.
    """

    place: str
    cells: Mapping[str, str]
    fault: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Table:
    """A table's column names, as written, and its rows."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def read_text(path: Path) -> str:
    """Return a text file's content: UTF-16 and UTF-8 by their byte order mark, else UTF-8, else cp949.

    cp949 is what Korean Windows writes as ANSI. Text without a mark that is valid UTF-8 is practically never cp949.

    Raises
    ------
    KmedError
        When the file is missing, larger than 256 MiB, or in none of these encodings.
    """
    try:
        if (n_bytes := path.stat().st_size) > MAX_TEXT_BYTES:
            raise KmedError(f"{path} has {n_bytes:,} bytes; text of up to {MAX_TEXT_BYTES:,} is read. Check the path.")
        content = path.read_bytes()
    except FileNotFoundError:
        raise KmedError(f"{path} does not exist; check the path.") from None
    for encoding in ("utf-16",) if content.startswith(_UTF16) else ("utf-8-sig", "cp949"):
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text
    raise KmedError(f"{path} is not text in UTF-8, cp949, or UTF-16 with a byte order mark; save it as UTF-8.")


def read_table(path: Path) -> Table:
    """Return a table from a CSV, TSV, JSON lines or Excel file; what it is follows from its content.

    The first row that is not empty names the columns. Of an Excel file the first sheet is read.

    Raises
    ------
    KmedError
        When the file is missing or unreadable, has no rows, or names a column twice.
    """
    if not path.is_file():
        raise KmedError(f"{path} does not exist or is no file; give a CSV, TSV, JSON lines or Excel (.xlsx) file.")
    with path.open("rb") as stream:
        head = stream.read(len(_ZIP))
    if head == _ZIP:
        table = _from_lines(path, _read_excel(path), "row")
    elif path.suffix.lower() in JSON_LINES or read_text(path).lstrip().startswith("{"):
        table = _read_json_lines(path)
    else:
        table = _from_lines(path, _split_lines(path, read_text(path)), "line")
    if not table.rows:
        raise KmedError(f"{path} has no rows below its column names; check the file.")
    return table


def find_column(columns: Sequence[str], names: Iterable[str]) -> str | None:
    """Return the first column that has one of the names, in the order of the names; None if there is none.

    Case, spaces, underscores and hyphens do not count: ``Audio File`` is ``audio_file``.
    """
    found: dict[str, str] = {}
    for column in columns:
        found.setdefault(fold_name(column), column)
    return next((found[key] for name in names if (key := fold_name(name)) in found), None)


def fold_name(name: str) -> str:
    """Return a column's name as it is compared: composed, lower case, without spaces, underscores and hyphens."""
    composed = unicodedata.normalize("NFC", name).casefold()
    return "".join(character for character in composed if character not in " _-\ufeff")


def _split_lines(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and cells of each line of a delimited text; the delimiter is the first line's commonest."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(_DELIMITERS, key=first.count)
    # Files with tabs rarely quote, and one quotation mark in a transcript must not join the rows after it.
    tabs = delimiter == "\t"
    quoted = not tabs or all(line.count('"') % 2 == 0 for line in text.splitlines())
    lines = io.StringIO(text, newline="")
    if quoted:
        reader = csv.reader(lines, delimiter=delimiter, strict=not tabs)
    else:
        reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    try:
        yield from ((reader.line_num, cells) for cells in reader)
    except csv.Error as error:
        raise KmedError(f"{path}, line {reader.line_num} can't be read as CSV ({error}); correct it.") from None


def _read_excel(path: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        import openpyxl
    except ImportError:
        raise KmedError(
            f"{path} is an Excel file, which openpyxl reads: pip install 'kmed-bench[recordings]', or save it as CSV."
        ) from None
    with path.open("rb") as file:  # openpyxl leaves what it can't read open
        try:
            book = openpyxl.load_workbook(file, read_only=True, data_only=True)
            for number, cells in enumerate(book.worksheets[0].iter_rows(), start=1):
                yield number, [_padded(_as_text(cell.value), cell.number_format) for cell in cells]
        except Exception as error:  # openpyxl raises whatever the zip and XML libraries raise
            reason = " ".join(str(error).split())[:200]
            raise KmedError(f"{path} can't be read as an Excel file ({reason}); save it as CSV (UTF-8).") from None


def _padded(text: str, shown: str | None) -> str:
    """Return a whole number with the leading zeros of its format in Excel: 7 in a cell of the format 000 is 007."""
    return text.zfill(len(shown)) if shown and text.isdecimal() and not shown.strip("0") else text


def _as_text(value: Any) -> str:
    """Return a cell as the text that people see: a whole number without a decimal point, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else str(value)


def _from_lines(path: Path, lines: Iterator[tuple[int, list[str]]], unit: str) -> Table:
    filled = ((number, [cell.strip() for cell in cells]) for number, cells in lines if any(map(str.strip, cells)))
    _, header = next(filled, (0, []))
    while header and not header[-1]:
        header.pop()
    twice = {name for name, group in itertools.groupby(sorted(filter(None, header))) if len([*group]) > 1}
    if twice:
        raise KmedError(f"{path} has the column {min(twice)!r} twice; rename one of them.")
    rows = []
    for number, cells in filled:
        extra = [cell for cell in cells[len(header) :] if cell]
        fault = f"it has {len(cells)} cells and the header {len(header)}: put quotes around text with commas"
        named = dict(zip(header, cells[: len(header)], strict=False))
        rows.append(Row(f"{path}, {unit} {number}", named, fault if extra else ""))
    return Table(tuple(filter(None, header)), tuple(rows))


def read_objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each line's place and JSON object, as `files.read_json_lines` does, of a file that `read_text` reads."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            place = f"{path}, line {number}"
            yield place, parse_json_line(line, place)


def _read_json_lines(path: Path) -> Table:
    lines = read_objects(path)
    rows = tuple(Row(place, {name: _as_text(value) for name, value in values.items()}) for place, values in lines)
    return Table(tuple(dict.fromkeys(name for row in rows for name in row.cells)), rows)

"""Data sets that Hugging Face's ``datasets`` saved, as Arrow or parquet files with audio in a column.

An audio cell is a struct of ``bytes`` (a whole file) and ``path``; classes are numbers whose names are in the schema's
metadata under ``huggingface``.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kmed_bench.core.errors import KmedError
from kmed_bench.core.tables import find_column
from kmed_bench.corpus.imports.audio import read_arrow
from kmed_bench.corpus.imports.lists import COLUMNS
from kmed_bench.corpus.imports.records import Audio, Record, clean_value, read_age, read_dialect, read_gender
from kmed_bench.corpus.ingest.aihub import NOT_STATED

_TEXT_FIRST = ("raw_transcription", *COLUMNS["text"], "normalized_text")
_READ = ("id", "speaker", "gender", "age", "dialect")


def is_hub_dataset(folder: Path) -> bool:
    """Return whether a folder holds Arrow or parquet files of a data set."""
    return bool(_files(folder))


def _files(folder: Path) -> list[Path]:
    """Return the data files; ``cache-….arrow`` are what ``datasets`` computed from them."""
    found = [path for path in folder.rglob("*") if path.suffix in (".arrow", ".parquet")]
    return sorted(path for path in found if not path.name.startswith(("cache-", ".")))


def read_hub_dataset(folder: Path) -> Iterator[Record]:
    """Yield every row of every file.

    Raises
    ------
    KmedError
        When a file can't be read, or has no column of audio or of text.
    """
    for file in _files(folder):
        try:
            yield from _read_parquet(file) if file.suffix == ".parquet" else _read_arrow_file(file)
        # Metadata and texts are others' bytes.
        except (pa.ArrowException, OSError, RecursionError, ValueError) as error:
            fault = " ".join(str(error).split())[:200]
            raise KmedError(f"{file} can't be read as {file.suffix[1:]} ({fault}); download it again.") from None


def _read_parquet(file: Path) -> Iterator[Record]:
    with pq.ParquetFile(file) as table:
        columns = _columns(table.schema_arrow, file)
        for group in range(table.num_row_groups):
            rows = table.read_row_group(group, columns=[*columns.values()]).to_pylist()
            for at, row in enumerate(rows):
                yield _record(file, table.schema_arrow, columns, row, Audio(file.absolute(), "parquet", group, at))


def _read_arrow_file(file: Path) -> Iterator[Record]:
    table = read_arrow(file)
    columns = _columns(table.schema, file)
    for at, row in enumerate(table.select([*columns.values()]).to_pylist()):
        yield _record(file, table.schema, columns, row, Audio(file.absolute(), "arrow", 0, at))


def _audio_column(schema: pa.Schema) -> str | None:
    """Return the column of audio: a struct of bytes and path, or bytes of the usual name."""
    structs = [
        field.name for field in schema if pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0
    ]
    plain = [field.name for field in schema if pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type)]
    return find_column(structs, COLUMNS["audio"]) or next(iter(structs), None) or find_column(plain, COLUMNS["audio"])


def _columns(schema: pa.Schema, file: Path) -> dict[str, str]:
    """Return meaning to column of all that is read but the audio."""
    texts = [field.name for field in schema if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)]
    text = find_column(texts, _TEXT_FIRST)
    if text is None or _audio_column(schema) is None:
        raise KmedError(
            f"{file} has columns {', '.join(schema.names)[:300]}; one of audio with bytes and one of text are needed."
        )
    others = [name for name in schema.names if name not in (text, _audio_column(schema))]
    found = {meaning: find_column(others, COLUMNS[meaning]) for meaning in _READ}
    return {"text": text, **{meaning: column for meaning, column in found.items() if column is not None}}


def _record(file: Path, schema: pa.Schema, columns: Mapping[str, str], row: Mapping[str, Any], audio: Audio) -> Record:
    cells = {meaning: _cell(schema, column, row[column]) for meaning, column in columns.items()}
    number = audio.row if audio.kind == "arrow" else f"{audio.group}-{audio.row}"
    name = "_".join(part for part in (file.stem, cells.get("id", ""), str(number)) if part)
    column = _audio_column(schema)
    assert column is not None  # `_columns` has checked it
    return Record(
        utterance_id=name,
        place=f"{file}, row {number}",
        text=cells["text"],
        audio=Audio(audio.path, audio.kind, audio.group, audio.row, column),
        speaker_id=clean_value(cells.get("speaker", "")) or NOT_STATED,
        gender=read_gender(cells.get("gender", "")),
        age=read_age(cells.get("age", "")),
        dialect=read_dialect(cells.get("dialect", "")),
    )


def _cell(schema: pa.Schema, column: str, value: Any) -> str:
    """Return a cell as text, a class by its name."""
    if value is None:
        return ""
    names: Any = json.loads((schema.metadata or {}).get(b"huggingface") or b"{}")
    for key in ("info", "features", column, "names"):
        names = names.get(key) if isinstance(names, dict) else None
    if isinstance(names, list) and isinstance(value, int) and 0 <= value < len(names):
        return str(names[value])
    return str(value).strip()

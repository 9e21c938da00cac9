"""A table of files: a row for each label or audio file, with the place of its bytes."""

import unicodedata

import pyarrow as pa

from kmed_bench.corpus.archives.reader import refuse_name
from kmed_bench.corpus.archives.zips import Member
from kmed_bench.corpus.ingest.aihub import is_utf8

NOT_UTF8 = "its path is not UTF-8; rename it (convmv -r -f cp949 -t utf-8)"

ENTRY_SCHEMA = pa.schema(
    [
        ("container", pa.int32()),
        ("name", pa.string()),
        ("stem", pa.string()),
        ("start", pa.int64()),  # in an archive the local header; in a folder the time of change in ns
        ("packed", pa.int64()),
        ("size", pa.int64()),
        ("method", pa.int16()),
        ("crc", pa.int64()),
        ("encrypted", pa.bool_()),
        ("refused", pa.string()),
    ]
)


class EntryList:
    """Grows a table of ``ENTRY_SCHEMA`` row by row, in column chunks: some 150 bytes a file."""

    _CHUNK = 1 << 13

    def __init__(self) -> None:
        self._rows: list[tuple[object, ...]] = []
        self._batches: list[pa.RecordBatch] = []

    def append(self, container: int, member: Member) -> None:
        """Add one file."""
        name, refused = member.name, refuse_name(member.name)
        if not is_utf8(name):  # a folder's name in cp949, say: neither parquet nor CSV can hold it
            refused = NOT_UTF8
            name = name.encode(errors="backslashreplace").decode()
        self._rows.append(
            (
                container,
                name,
                unicodedata.normalize("NFC", name.rpartition("/")[2].rpartition(".")[0]),
                *(member.start, member.packed, member.size, member.method, member.crc, member.encrypted),
                refused,
            )
        )
        if len(self._rows) == self._CHUNK:
            self._flush()

    def _flush(self) -> None:
        columns = list(zip(*self._rows, strict=True)) if self._rows else [()] * len(ENTRY_SCHEMA)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, ENTRY_SCHEMA, strict=True)]
        self._batches.append(pa.record_batch(arrays, schema=ENTRY_SCHEMA))
        self._rows = []

    def table(self) -> pa.Table:
        """Return every row so far."""
        self._flush()
        return pa.Table.from_batches(self._batches, schema=ENTRY_SCHEMA)

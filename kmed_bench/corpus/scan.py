"""Labels and audio headers read in chunks: the part of `ingest` that takes time.

Each chunk's outcome depends on its files alone, so chunks run in any process and in any order.
"""

import dataclasses
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import soundfile

from kmed_bench.corpus.aihub import Label, parse_label
from kmed_bench.corpus.archives import Container
from kmed_bench.corpus.spans import ArchiveError, ByteSource
from kmed_bench.corpus.wav import HEADER_BYTES, HEADER_LIMIT, HeaderTooShort, WavError, WavHeader, read_header
from kmed_bench.corpus.zips import Member, check_member, read_member

MAX_LABEL_BYTES = 1 << 20
MAX_AUDIO_BYTES = 1 << 30

_NAN = float("nan")
LABEL_SCHEMA = pa.schema(
    [(f.name, pa.string() if f.type is str else pa.float64()) for f in dataclasses.fields(Label)]
    + [("is_label", pa.bool_())]
)
AUDIO_SCHEMA = pa.schema(
    [
        ("duration_s", pa.float64()),
        ("missing_s", pa.float64()),
        ("rate_hz", pa.int32()),
        ("channels", pa.int16()),
        ("bits", pa.int16()),
        ("loudest", pa.float64()),  # largest absolute sample, 1 is full scale; NaN unless decoded
        ("clipped", pa.float64()),  # share of samples at full scale; NaN unless decoded
        ("fault", pa.string()),  # why the audio can't be read; empty: it can
    ]
)


@dataclasses.dataclass(frozen=True, slots=True)
class Chunk:
    """Some files of one container, to be read by one process; `kind` is label, audio or decode."""

    kind: str
    container: Container
    entries: bytes  # Arrow IPC stream of ENTRY_SCHEMA rows


def read_chunk(chunk: Chunk) -> pa.Table:
    """Return one row per file, in the chunk's order, of ``LABEL_SCHEMA`` or ``AUDIO_SCHEMA``."""
    entries = pa.ipc.open_stream(chunk.entries).read_all().to_pylist()
    read_one: Callable[[_Reader, dict[str, Any]], tuple[Any, ...]]
    schema, read_one = (LABEL_SCHEMA, _read_label) if chunk.kind == "label" else (AUDIO_SCHEMA, _read_audio)
    with _Reader(chunk.container, decode=chunk.kind == "decode", sparse=chunk.kind == "audio") as reader:
        rows = [read_one(reader, entry) for entry in entries]
    columns = zip(*rows, strict=True)
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema)


class _Reader:
    """Bytes of a container's files, the first ones or all."""

    def __init__(self, container: Container, *, decode: bool, sparse: bool) -> None:
        self.decode = decode
        self._folder = container.location if container.kind == "folder" else None
        self._tar = container.kind == "tar"
        self._source = None if self._folder is not None else ByteSource(container.spans, sparse_reads=sparse)

    def __enter__(self) -> "_Reader":
        return self

    def __exit__(self, *_: object) -> None:
        if self._source is not None:
            self._source.close()

    def read(self, entry: dict[str, Any], limit: int | None) -> bytes:
        """Return a file's first `limit` bytes, or all; OSError or ArchiveError when they can't be had."""
        if self._source is None:
            with open(f"{self._folder}/{entry['name']}", "rb", buffering=0) as stream:  # noqa: PTH123
                return stream.read() if limit is None else stream.read(limit)
        if self._tar:
            size = entry["packed"] if limit is None else min(limit, entry["packed"])
            return self._source.read_at(entry["start"], size)
        return read_member(self._source, _member(entry), limit)

    def check(self, entry: dict[str, Any]) -> None:
        """Refuse impossible members before any byte is unpacked."""
        if self._source is not None and not self._tar:
            check_member(self._source, _member(entry))


def _member(entry: dict[str, Any]) -> Member:
    return Member(*(entry[key] for key in ("name", "start", "packed", "size", "method", "crc", "encrypted")))


def _why(error: Exception) -> str:
    return (error.strerror or "can't be read") if isinstance(error, OSError) else str(error)


_LABEL_FIELDS = tuple(field.name for field in dataclasses.fields(Label))


def _read_label(reader: _Reader, entry: dict[str, Any]) -> tuple[Any, ...]:
    fault = entry["refused"]
    label: Label | None = None
    try:
        if fault is None and entry["size"] > MAX_LABEL_BYTES:
            fault = f"it claims {entry['size']:,} bytes; the limit for a label is {MAX_LABEL_BYTES:,}"
        if fault is None:
            label = parse_label(entry["stem"], reader.read(entry, None))
    except (OSError, ArchiveError) as error:
        fault = _why(error)
    if fault is not None:
        label = Label(reason="label_unreadable", detail=fault)
    is_label = label is not None
    label = label or Label()
    return (*(getattr(label, name) for name in _LABEL_FIELDS), is_label)


def _read_audio(reader: _Reader, entry: dict[str, Any]) -> tuple[Any, ...]:
    fault = entry["refused"]
    if fault is None and entry["size"] > MAX_AUDIO_BYTES:
        fault = f"it claims {entry['size']:,} bytes; the limit is {MAX_AUDIO_BYTES:,}"
    if fault is None:
        try:
            reader.check(entry)
            header = _read_header(reader, entry)
            loudest, clipped = _decode(reader.read(entry, None)) if reader.decode else (_NAN, _NAN)
            form = (header.duration_s, header.missing_s, header.rate_hz, header.channels, header.bits)
            return (*form, loudest, clipped, "")
        except (OSError, ArchiveError, WavError) as error:
            fault = _why(error)
    return (_NAN, _NAN, 0, 0, 0, _NAN, _NAN, fault)


def _read_header(reader: _Reader, entry: dict[str, Any]) -> WavHeader:
    try:
        return read_header(reader.read(entry, HEADER_BYTES), entry["packed"] if reader._tar else entry["size"])
    except HeaderTooShort:
        return read_header(reader.read(entry, HEADER_LIMIT), entry["packed"] if reader._tar else entry["size"])


def _decode(data: bytes) -> tuple[float, float]:
    """Return the largest absolute sample and the share of samples at full scale."""
    try:
        samples, _ = soundfile.read(io.BytesIO(data), dtype="float32")
    except soundfile.LibsndfileError as error:
        raise WavError(f"it can't be decoded ({error.error_string})") from None
    if samples.size == 0:
        return 0.0, 0.0
    level = np.abs(samples)
    return float(level.max()), float(np.mean(level >= 1 - 2**-14))

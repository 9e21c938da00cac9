"""Labels and audio headers read in chunks: the part of `ingest` that takes time.

Each chunk's outcome depends only on its files, so chunks run in any process and in any order.
"""

import dataclasses
import operator
import os
import zlib
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import pyarrow as pa

from kmed_bench.corpus.archives.reader import MAX_AUDIO_BYTES, Container
from kmed_bench.corpus.archives.spans import ArchiveError, ByteSource, open_plain
from kmed_bench.corpus.archives.wav import (
    CANCELLED,
    HEADER_BYTES,
    HEADER_LIMIT,
    MAX_LEVEL,
    HeaderTooShort,
    WavError,
    WavHeader,
    read_header,
    read_samples,
)
from kmed_bench.corpus.archives.zips import Member, check_member, read_member
from kmed_bench.corpus.ingest.aihub import Label, parse_label

READING_VERSION = "3"
"""Changes whenever reading a file may give something else; results cached by other versions are not used."""
MAX_LABEL_BYTES = 1 << 20
_SPARSE_BYTES = 1 << 16
_AFTER_NAME = 24  # the longest head of a data chunk, in Wave64
_COMPARED_BYTES = 256

_label_values = operator.attrgetter(*(field.name for field in dataclasses.fields(Label)))
LABEL_SCHEMA = pa.schema(
    [(field.name, pa.float64() if field.type is float else pa.string()) for field in dataclasses.fields(Label)]
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
        ("cancelled", pa.float64()),  # 1 where channels cancel each other in their mean; NaN unless decoded
        ("first", pa.int64()),  # CRC-32 of the first samples; 0 if the audio can't be read
        ("fault", pa.string()),  # why the audio can't be read; empty: it can
    ]
)
_NAN = float("nan")


@dataclasses.dataclass(frozen=True, slots=True)
class Chunk:
    """Some files of one container, to be read by one process.

    Attributes
    ----------
    kind : {"label", "audio", "decode"}
        Labels; audio headers; whole audio, decoded.
    entries : bytes
        Arrow IPC stream of ``ENTRY_SCHEMA`` rows.
    """

    kind: str
    container: Container
    entries: bytes


def read_chunk(chunk: Chunk) -> pa.Table:
    """Return one row per file, in the chunk's order, of ``LABEL_SCHEMA`` or ``AUDIO_SCHEMA``."""
    table = pa.ipc.open_stream(chunk.entries).read_all()
    columns = (table[name].to_pylist() for name in ("name", "start", "packed", "size", "method", "crc", "encrypted"))
    members = [Member(*row) for row in zip(*columns, strict=True)]
    rest = zip(table["stem"].to_pylist(), table["refused"].to_pylist(), members, strict=True)
    read_one: Callable[[_Reader, str, str | None, Member], tuple[Any, ...]]
    schema, read_one = (LABEL_SCHEMA, _read_label) if chunk.kind == "label" else (AUDIO_SCHEMA, _read_audio)
    # Only the heads of large members: reading ahead would read the whole archive. Small ones are close together.
    sparse = chunk.kind == "audio" and sum(member.packed for member in members) > _SPARSE_BYTES * len(members)
    with _Reader(chunk.container, decode=chunk.kind == "decode", sparse=sparse) as reader:
        rows = [read_one(reader, stem, refused, member) for stem, refused, member in rest]
    read = zip(*rows, strict=True) if rows else [()] * len(schema)
    return pa.table([pa.array(column, field.type) for column, field in zip(read, schema, strict=True)], schema)


class _Reader:
    """Bytes of a container's files, the first ones or all."""

    def __init__(self, container: Container, *, decode: bool, sparse: bool) -> None:
        self.decode = decode
        self._folder = container.location
        self._source = ByteSource(container.spans, sparse_reads=sparse) if container.spans else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._source is not None:
            self._source.close()

    def read(self, member: Member, limit: int | None) -> bytes:
        """Return a file's first `limit` bytes, or all; OSError or ArchiveError when they can't be had."""
        if self._source is None:
            return _read_file(f"{self._folder}/{member.name}", member.size if limit is None else limit)
        return read_member(self._source, member, limit)

    def check(self, member: Member) -> None:
        """Refuse impossible members before any byte is unpacked."""
        if self._source is not None:
            check_member(self._source, member)


def _read_file(path: str, n_bytes: int) -> bytes:
    """Return a file's first bytes; a file object costs more than the reading of a label."""
    handle = open_plain(path)
    try:
        data = os.read(handle, n_bytes)
        while 0 < len(data) < n_bytes and (more := os.read(handle, n_bytes - len(data))):
            data += more
        return data
    finally:
        os.close(handle)


def _why(error: Exception) -> str:
    """Return the reason for a reject; no single file, whatever it holds, stops the job."""
    if isinstance(error, OSError):
        return error.strerror or "can't be read"
    if isinstance(error, (ArchiveError, WavError)):
        return str(error)
    words = str(error)[:200].encode(errors="backslashreplace").decode()
    return f"reading it failed ({type(error).__name__}: {words})"


def _refuse_size(member: Member, limit: int) -> str | None:
    return f"it claims {member.size:,} bytes; the limit is {limit:,}" if member.size > limit else None


def _read_label(reader: _Reader, stem: str, refused: str | None, member: Member) -> tuple[Any, ...]:
    label: Label | None = None
    fault = refused or _refuse_size(member, MAX_LABEL_BYTES)
    if fault is None:
        try:
            label = parse_label(stem, reader.read(member, None))
        except Exception as error:
            fault = _why(error)
    if fault is not None:
        label = Label(reason="label_unreadable", detail=fault)
    return (*_label_values(label or Label()), label is not None)


def _read_audio(reader: _Reader, _stem: str, refused: str | None, member: Member) -> tuple[Any, ...]:
    fault = refused or _refuse_size(member, MAX_AUDIO_BYTES)
    if fault is None:
        try:
            reader.check(member)
            header = _read_header(reader, member)
            level = measure_level(read_samples(reader.read(member, None))[0]) if reader.decode else (_NAN, _NAN, _NAN)
            return (*header, *level, _first_samples(reader, member), "")
        except Exception as error:
            fault = _why(error)
    return (_NAN, _NAN, 0, 0, 0, _NAN, _NAN, _NAN, 0, fault)


def _read_header(reader: _Reader, member: Member) -> WavHeader:
    for limit in (HEADER_BYTES, HEADER_LIMIT):
        try:
            return read_header(reader.read(member, limit), member.size)
        except HeaderTooShort:
            continue
    return read_header(reader.read(member, None), member.size)


def _first_samples(reader: _Reader, member: Member) -> int:
    """Return the CRC-32 of the first samples, independent of the chunks before them."""
    for limit in (HEADER_BYTES, HEADER_LIMIT):
        head = reader.read(member, limit)
        start = head.find(b"data") + _AFTER_NAME
        if start >= _AFTER_NAME and len(head) >= min(start + _COMPARED_BYTES, member.size):
            return zlib.crc32(head[start : start + _COMPARED_BYTES])
    return 0


def measure_level(samples: np.ndarray) -> tuple[float, float, float]:
    """Return the largest absolute sample of the mono signal, the share at full scale, and whether channels cancel.

    Raises
    ------
    WavError
        When samples are not finite, or far over full scale.
    """
    if samples.size == 0:
        return 0.0, 0.0, 0.0
    loudest = float(np.abs(samples.mean(axis=1)).max())
    if not np.isfinite(loudest):
        raise WavError("it has samples that are not finite numbers (NaN or infinite)")
    level = float(np.abs(samples).max())
    if level > MAX_LEVEL:
        raise WavError(
            f"its samples reach {level:g}, and full scale is 1; they look like 16-bit numbers written as floats"
        )
    cancelled = samples.shape[1] > 1 and loudest < CANCELLED * level
    return (level if cancelled else loudest), float(np.mean(np.abs(samples) >= 1 - 2**-14)), float(cancelled)

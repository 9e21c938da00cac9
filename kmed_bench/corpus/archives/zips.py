"""Zip members read in place, by position.

The standard library's zipfile refuses a whole archive for one name in cp949 under the UTF-8 flag,
holds about 1 kB per member and can't read an archive that lacks a piece; AI Hub downloads need all
three. This reads the same format (PKWARE APPNOTE 6.3: central directory, zip64, stored and
deflated members), gives names as text, and never writes to disk.
"""

import dataclasses
import struct
import zlib
from collections.abc import Iterator

from kmed_bench.corpus.archives.spans import ArchiveError, ByteSource

STORED, DEFLATED = 0, 8
PLAIN = -1
"""Not a zip's method: the file's bytes begin at ``start``, unpacked, in a folder or a tar."""
MAX_DIRECTORY_BYTES = 1 << 30
_DEFLATE_LIMIT = 1032  # no deflate stream grows by more (zlib's technical notes)
_END, _END64, _LOCATOR64 = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_RECORD = struct.Struct("<4s6H3I5H2I")
_FULL = 0xFFFFFFFF
_LARGEST = (
    1 << 62
) - 1  # larger values fit neither a file nor the listing's columns; they are then refused as past the end


@dataclasses.dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive: where it starts, how long it is packed and unpacked (bytes)."""

    name: str
    start: int
    packed: int
    size: int
    method: int
    crc: int
    encrypted: bool


class NoDirectory(ArchiveError):  # noqa: N818 (an ArchiveError by name)
    """The end of the archive, where its directory belongs, is not there."""


def decode_name(raw: bytes) -> str:
    """Return a member's name from its bytes; the UTF-8 flag is no help, as some writers set it on cp949."""
    for encoding in ("utf-8", "cp949"):
        try:
            return raw.decode(encoding).replace("\\", "/")
        except UnicodeDecodeError:
            continue
    return raw.decode("cp437").replace("\\", "/")


def read_directory(source: ByteSource) -> Iterator[Member]:
    """Yield the files (not the folders) that the central directory lists, in its order.

    Raises
    ------
    ArchiveError
        When there is no directory, or it is cut off or damaged.
    """
    start, size, shift = _find_directory(source)
    if size > MAX_DIRECTORY_BYTES:
        raise ArchiveError(f"its directory claims {size:,} bytes; the limit is {MAX_DIRECTORY_BYTES:,}")
    table = source.read_at(start, size)
    position = 0
    while position < size:
        if position + _RECORD.size > len(table) or not table.startswith(b"PK\x01\x02", position):
            raise ArchiveError(f"its directory is damaged at byte {start + position:,}")
        fields = _RECORD.unpack_from(table, position)
        _, _, _, flags, method, _, _, crc, packed, unpacked, n_name, n_extra, n_comment = fields[:13]
        offset = fields[16]
        position += _RECORD.size
        raw = table[position : position + n_name]
        if _FULL in (packed, unpacked, offset):
            extra = table[position + n_name : position + n_name + n_extra]
            unpacked, packed, offset = _widen(extra, unpacked, packed, offset)
        position += n_name + n_extra + n_comment
        if position > len(table):
            raise ArchiveError(f"its directory is cut off at byte {start + len(table):,}")
        if not raw.endswith((b"/", b"\\")):
            start_at, packed, unpacked = (min(n, _LARGEST) for n in (offset + shift, packed, unpacked))
            yield Member(decode_name(raw), start_at, packed, unpacked, method, crc, bool(flags & 1))


def _find_directory(source: ByteSource) -> tuple[int, int, int]:
    """Return the central directory's start and size, and what to add to the offsets in it."""
    # A comment of at most 65,535 bytes may follow the record, but seldom does; a short look does
    # not reach into pieces that are missing.
    for reach in (100, 66_000):
        tail_start = max(source.size - reach, 0)
        tail = source.read_at(tail_start, source.size - tail_start)
        at = tail.rfind(_END)
        if 0 <= at <= len(tail) - 22:
            break
    else:
        raise NoDirectory("no zip directory at its end: the file is cut off, or no zip")
    (disk,) = struct.unpack_from("<H", tail, at + 4)
    if disk not in (0, 0xFFFF):  # its offsets count from each part's own start
        raise ArchiveError(
            f"it is the last of {disk + 1} parts of a split zip (.z01, .z02, …); join them "
            "(zip -s 0 SPLIT.zip --out JOINED.zip) or extract them"
        )
    size, start = struct.unpack_from("<2I", tail, at + 12)
    end = tail_start + at
    locator = source.read_at(end - 20, 20) if end >= 20 else b""
    if locator.startswith(_LOCATOR64):
        (record_at,) = struct.unpack_from("<Q", locator, 8)
        # Bytes put before the archive move the record but not the number; it is right before its locator.
        for candidate in (record_at, end - 76):
            record = source.read_at(candidate, 56) if 0 <= candidate < source.size else b""
            if record.startswith(_END64) and len(record) == 56:
                size, start = struct.unpack_from("<2Q", record, 40)
                end = candidate
                break
        else:
            raise ArchiveError("its zip64 record is missing")
    shift = end - size - start
    if shift < 0:
        raise ArchiveError("its directory claims to be outside the file: a piece is missing or the file is cut off")
    return start + shift, size, shift


def _widen(extra: bytes, unpacked: int, packed: int, offset: int) -> tuple[int, int, int]:
    """Return the three numbers with those that were full replaced by the zip64 field's."""
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        if kind == 1:
            field = extra[position + 4 : position + 4 + length]
            wide = iter(struct.unpack_from(f"<{len(field) // 8}Q", field))
            try:
                return tuple(next(wide) if n == _FULL else n for n in (unpacked, packed, offset))  # type: ignore[return-value]
            except RuntimeError:
                break
        position += 4 + length
    raise ArchiveError("its directory has a damaged zip64 field")


def read_member(source: ByteSource, member: Member, limit: int | None = None) -> bytes:
    """Return a member's bytes: all of them with the CRC checked, or the first `limit` of them.

    Raises
    ------
    ArchiveError
        When the member is encrypted, packed by another method than stored or deflated, damaged,
        cut off, larger than it claims, or claims what can't be.
    """
    check_member(source, member)
    wanted = member.size if limit is None else min(limit, member.size)
    if member.method == PLAIN:
        return source.read_at(member.start, wanted)
    first = source.read_at(member.start, 30 + 2 * len(member.name) + 64 + min(member.packed, 2 * wanted + 1024))
    if len(first) < 30 or not first.startswith(b"PK\x03\x04"):
        raise ArchiveError("its local header is damaged")
    n_name, n_extra = struct.unpack_from("<2H", first, 26)
    begin = 30 + n_name + n_extra
    if member.start + begin + member.packed > source.size:
        raise ArchiveError("its local header claims more than the archive holds")
    packed = first[begin : begin + member.packed]
    if limit is None and len(packed) < member.packed:
        packed += source.read_at(member.start + begin + len(packed), member.packed - len(packed))
    data = _unpack(source, member, begin, packed, wanted)
    if len(data) != wanted:
        raise ArchiveError(f"only {len(data):,} of {wanted:,} bytes can be unpacked")
    if limit is None and zlib.crc32(data) != member.crc:
        raise ArchiveError("its checksum (CRC-32) is wrong: the bytes are damaged")
    return data


def check_member(source: ByteSource, member: Member) -> None:
    """Refuse what this reader can't or shouldn't unpack, by what the directory states.

    Raises
    ------
    ArchiveError
        Saying why.
    """
    if member.method == PLAIN:
        return
    if member.encrypted:
        raise ArchiveError("it is encrypted")
    if member.method not in (STORED, DEFLATED):
        raise ArchiveError(f"it is packed by method {member.method}; stored and deflated are read: extract the archive")
    if member.start + 30 + member.packed > source.size:
        raise ArchiveError("it claims to be past the archive's end")
    if source.lacks(member.start, member.start + 30 + member.packed):
        raise ArchiveError("a part of it is in a piece that is missing")
    if member.size > (member.packed if member.method == STORED else member.packed * _DEFLATE_LIMIT):
        raise ArchiveError(f"it claims {member.size:,} bytes from {member.packed:,}: more than deflate can hold")


def _unpack(source: ByteSource, member: Member, begin: int, packed: bytes, wanted: int) -> bytes:
    if member.method == STORED:
        if len(packed) < wanted:
            packed += source.read_at(member.start + begin + len(packed), wanted - len(packed))
        return packed[:wanted]
    engine = zlib.decompressobj(-15)
    try:
        data = engine.decompress(packed, wanted) if wanted else b""
        taken = len(packed)
        while len(data) < wanted and taken < member.packed and not engine.eof:
            more = source.read_at(member.start + begin + taken, min(1 << 16, member.packed - taken))
            if not more:
                break
            taken += len(more)
            data += engine.decompress(engine.unconsumed_tail + more, wanted - len(data))
    except zlib.error as error:
        raise ArchiveError(f"it can't be unpacked ({error})") from None
    return data

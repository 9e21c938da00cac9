"""Bytes of an archive, wherever they are: in one file, a stretch of a tar, or the pieces of a download.

AI Hub's downloader leaves a tar of pieces, ``환자_1.zip.part0``, ``….part1073741824``, …, whose
suffix is the byte offset in the whole; 7-Zip cuts a zip into volumes, ``환자_1.zip.001``, ``….002``, …,
each as large as the first. Reading them through spans needs no second copy of 272 GB.
"""

import bisect
import dataclasses
import errno
import os
import re
import stat
from collections.abc import Iterable
from typing import Self

_PIECE = re.compile(r"(?P<whole>.+\.zip)\.(?:part(?P<start>[0-9]{1,18})|(?P<volume>[0-9]{3,6}))", re.IGNORECASE)
_SPLIT = re.compile(r".+\.z[0-9]{2,}", re.IGNORECASE)
_OTHER = re.compile(r".+\.part[0-9]+|.+\.(?:7z|alz|egg|gz|rar|tar|tgz|xz)\.[0-9]{3,}", re.IGNORECASE)


class ArchiveError(Exception):
    """Why an archive or a member can't be read, in words for a report; never reaches the user raw."""


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Span:
    """Bytes ``start`` to ``start + size`` of an archive, at ``offset`` of the file ``path``."""

    start: int
    size: int
    path: str
    offset: int


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """One file of a zip, or all of it.

    Attributes
    ----------
    whole : str
        Name of the zip.
    start : int or None
        Byte offset in it; None for a volume, whose place follows from the first one's size.
    volume : int
        Number of a volume from 1; 0 for other pieces.
    """

    whole: str
    start: int | None
    volume: int = 0


def parse_piece(name: str) -> Piece | None:
    """Return which piece of which zip a file is by its name, or None if it is not one."""
    found = _PIECE.fullmatch(name)
    if found is None:
        return None
    if found["volume"] is not None:
        return Piece(found["whole"], None, int(found["volume"])) if int(found["volume"]) else None
    return Piece(found["whole"], int(found["start"]))


def explain_split(name: str) -> str | None:
    """Return what to do with a file of a split archive that can't be read in place, or None for other files."""
    if _SPLIT.fullmatch(name):
        return "a part of a split zip is not read in place; join it (zip -s 0 SPLIT.zip --out JOINED.zip) or extract it"
    if _OTHER.fullmatch(name):
        return (
            "a piece of another archive than a zip, or with an impossible offset; join the pieces (cat) or extract it"
        )
    return None


@dataclasses.dataclass(frozen=True, slots=True)
class Joined:
    """Pieces in the order of their numbers, and what is wrong with them.

    Attributes
    ----------
    gaps, overlaps : tuple of (int, int)
        First byte and byte after the last, in the whole archive.
    """

    spans: tuple[Span, ...]
    gaps: tuple[tuple[int, int], ...]
    overlaps: tuple[tuple[int, int], ...]


def join_pieces(pieces: Iterable[Span]) -> Joined:
    """Return the pieces sorted by byte offset, with the gaps before and between them and the overlaps."""
    spans = tuple(sorted(pieces))
    gaps, overlaps, end = [], [], 0
    for span in spans:
        if span.start > end:
            gaps.append((end, span.start))
        elif span.start < end:
            overlaps.append((span.start, min(end, span.start + span.size)))
        end = max(end, span.start + span.size)
    return Joined(spans, tuple(gaps), tuple(overlaps))


def join_named(files: Iterable[tuple[str, int, str, int]]) -> dict[str, Joined]:
    """Return the zips that files make up, by name; where the whole zip is there too, its pieces are ignored.

    Parameters
    ----------
    files : iterable of (str, int, str, int)
        A file's name, its size, and the path and offset where its bytes are.
    """
    groups: dict[str, list[tuple[Piece, Span]]] = {}
    for name, size, path, offset in files:
        piece = parse_piece(name) or (Piece(name, 0, -1) if name.lower().endswith(".zip") else None)
        if piece is not None:
            groups.setdefault(piece.whole, []).append((piece, Span(piece.start or 0, size, path, offset)))
    joined = {}
    for whole, found in groups.items():
        whole_ones = [span for piece, span in found if piece.volume < 0]
        placed = [span for piece, span in found if piece.start is not None]
        volumes = {piece.volume: span for piece, span in found if piece.volume > 0}
        joined[whole] = join_pieces(whole_ones[-1:] or placed or _place_volumes(volumes))
    return joined


def _place_volumes(volumes: dict[int, Span]) -> list[Span]:
    """Return volumes at their offsets: all but the last are as large as the largest."""
    size = max(span.size for span in volumes.values())
    return [dataclasses.replace(span, start=(number - 1) * size) for number, span in volumes.items()]


class ByteSource:
    """Random access to the bytes behind spans; safe to use from several threads.

    Files are opened once and read by position, so threads and forked processes don't move one
    another's file pointer.
    """

    def __init__(self, spans: tuple[Span, ...], *, sparse_reads: bool = False) -> None:
        self.spans = spans
        self.size = max((span.start + span.size for span in spans), default=0)
        self.gaps = join_pieces(spans).gaps
        self._starts = [span.start for span in spans]
        self._files: dict[str, int] = {}
        try:
            for path in dict.fromkeys(span.path for span in spans):
                self._files[path] = open_plain(path)
                if sparse_reads and hasattr(os, "posix_fadvise"):  # only headers are read: no readahead
                    os.posix_fadvise(self._files[path], 0, 0, os.POSIX_FADV_RANDOM)
        except OSError:
            self.close()
            raise

    def read_at(self, start: int, n_bytes: int) -> bytes:
        """Return the bytes from `start` on, fewer before the archive's end or a missing piece.

        Raises
        ------
        ArchiveError
            When the first of them is in a missing piece.
        """
        parts: list[bytes] = []
        end = min(start + n_bytes, self.size)
        while start < end:
            span = self.spans[max(bisect.bisect_right(self._starts, start) - 1, 0)]
            inside = start - span.start
            if not 0 <= inside < span.size:
                if parts:
                    break
                raise ArchiveError(f"byte {start} of the archive is in a piece that is missing")
            wanted = min(end - start, span.size - inside)
            chunk = os.pread(self._files[span.path], wanted, span.offset + inside)
            if not chunk:
                raise ArchiveError(f"the file ends before byte {start} of the archive")
            parts.append(chunk)
            start += len(chunk)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def lacks(self, start: int, end: int) -> bool:
        """Return whether any of the bytes is in a missing piece."""
        return any(start < gap_end and gap_start < end for gap_start, gap_end in self.gaps)

    def close(self) -> None:
        """Close the files; reading afterwards is an error."""
        for handle in self._files.values():
            os.close(handle)
        self._files.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_plain(path: str) -> int:
    """Return a handle of a regular file; FIFOs, whose opening would block, and devices are refused.

    Raises
    ------
    OSError
        When it can't be opened or is not a regular file, which `strerror` says.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        raise OSError(errno.EINVAL, f"it is {describe_kind(mode)} and not a regular file", path)
    return handle


def describe_kind(mode: int) -> str:
    """Return what a mode of `os.stat` says a file is, with its article."""
    kinds = ((stat.S_ISFIFO, "a FIFO"), (stat.S_ISSOCK, "a socket"), (stat.S_ISDIR, "a folder"))
    return next((words for test, words in kinds if test(mode)), "a device")


def whole_file(path: str) -> tuple[Span, ...]:
    """Return the one span of a plain file."""
    return (Span(0, os.stat(path).st_size, path, 0),)  # noqa: PTH116 (a str path at a million files)

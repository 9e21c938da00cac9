"""Bytes of an archive, wherever they are: in one file, a stretch of a tar, or the pieces of a download.

AI Hub's downloader leaves a tar of pieces, ``환자_1.zip.part0``, ``….part1073741824``, …, whose
suffix is the byte offset in the whole. Reading them through spans needs no second copy of 272 GB.
"""

import bisect
import dataclasses
import os
import re
from collections.abc import Iterable
from typing import Self

PIECE = re.compile(r"(?P<whole>.+)\.part(?P<start>\d+)", re.IGNORECASE)


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
                self._files[path] = os.open(path, os.O_RDONLY)
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


def whole_file(path: str) -> tuple[Span, ...]:
    """Return the one span of a plain file."""
    return (Span(0, os.stat(path).st_size, path, 0),)  # noqa: PTH116 (a str path at a million files)

"""Archives of a download, opened in place, and the audio in them read by a manifest's location.

A member's location is the archive's path, ``::`` and the member's name:

- ``/data/142/audio/PA_0001/x.wav``: a plain file;
- ``/data/[T원천]환자_1.zip::1/PA_0001/x.wav``: a member of a zip;
- ``/data/download.tar::환자_1.zip::1/PA_0001/x.wav``: of a zip inside a tar, whole or in pieces
  (``환자_1.zip.part0``, …, or 7-Zip's ``환자_1.zip.001``, …; written without these endings);
- ``/data/환자_1.zip::1/PA_0001/x.wav`` where ``/data`` has only ``환자_1.zip.part0``, … or ``환자_1.zip.001``, …;
- ``/data/audio.tar::PA_0001/x.wav``: a member of a tar.
"""

import contextlib
import dataclasses
import os
import tarfile
import threading
from pathlib import Path
from typing import Literal, Self

from kmed_bench.core.errors import KmedError
from kmed_bench.corpus.archives.spans import (
    ArchiveError,
    ByteSource,
    Joined,
    Span,
    join_named,
    open_plain,
    parse_piece,
    whole_file,
)
from kmed_bench.corpus.archives.zips import PLAIN, Member, decode_name, read_directory, read_member

SEPARATOR = "::"
MAX_AUDIO_BYTES = 256 << 20
"""Thirty seconds at 192 kHz, 32 bits and eight channels are 184 MB: what claims more is refused."""


@dataclasses.dataclass(frozen=True, slots=True)
class Container:
    """A folder, zip or tar that holds labels or audio.

    Attributes
    ----------
    location : str
        What precedes a member's name in the manifest's ``audio``.
    trail : str
        Names from the source's folder down to the container: tells Training from Validation.
    spans : tuple of Span
        Where the bytes are; none for a folder.
    """

    kind: Literal["folder", "zip", "tar"]
    location: str
    trail: str
    spans: tuple[Span, ...] = ()

    def locate(self, name: str) -> str:
        """Return the location of a file in it."""
        return f"{self.location}/{name}" if self.kind == "folder" else f"{self.location}{SEPARATOR}{name}"


def refuse_name(name: str) -> str | None:
    """Return why a member's name is refused, or None: nothing may point out of its archive."""
    if SEPARATOR in name:
        return f"its name has {SEPARATOR!r} in it, which separates archive and member"
    if name.startswith("/") or name[1:2] == ":":
        return "its name is an absolute path"
    if ".." in name.split("/"):
        return "its name leads out of the archive (..)"
    return None


def sniff(path: Path) -> Literal["tar", "zip"] | None:
    """Return what a file is by its bytes; a tar that ends in a piece of a zip is a tar."""
    with os.fdopen(open_plain(str(path)), "rb") as stream:
        head = stream.read(512)
    if head[257:262] == b"ustar":
        return "tar"
    return "zip" if head.startswith((b"PK\x03\x04", b"PK\x05\x06")) else None


def list_tar(path: Path) -> tuple[list[Member], str]:
    """Return the regular files of a tar, and why the listing stops before the tar's end (empty if it doesn't).

    A file that is cut off has the size of what is there.

    Raises
    ------
    ArchiveError
        When its first header is damaged.
    """
    files, total, reached = [], path.stat().st_size, 0
    fault = ""
    try:
        with tarfile.open(path, "r:", errors="surrogateescape") as archive:
            while (info := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every header otherwise
                if info.isfile():
                    name = decode_name(info.name.encode("utf-8", "surrogateescape"))
                    size = max(min(info.size, total - info.offset_data), 0)
                    files.append(Member(name, info.offset_data, size, size, PLAIN, 0, False))
                reached = info.offset_data + info.size
            fault = _what_follows(path, archive.offset) if reached <= total else ""
    except (tarfile.TarError, ValueError, OverflowError, EOFError, RecursionError) as error:
        fault = f"a header is damaged ({str(error)[:80]})"  # mostly an impossible size or number
    if fault and not files:
        raise ArchiveError(f"not a readable tar: {fault}")
    return files, fault and f"{fault} after {len(files):,} files; the rest is not read"


def _what_follows(path: Path, at: int) -> str:
    """Return what is wrong with the block at which tarfile stopped; a block of zeros ends a tar."""
    with path.open("rb") as stream:
        stream.seek(at)
        block = stream.read(512)
    return "a header is damaged" if len(block) == 512 and block.strip(b"\0") else ""


def join_in_tar(files: list[Member], path: Path) -> dict[str, Joined]:
    """Return the zips of a tar by name, whole ones and those in pieces."""
    return join_named((file.name, file.size, str(path), file.start) for file in files)


def join_in_folder(folder: Path) -> dict[str, Joined]:
    """Return the zips that a folder holds in pieces only, by name."""
    pieces = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if parse_piece(entry.name) and entry.is_file():
                pieces.append((entry.name, entry.stat().st_size, entry.path, 0))
    joined = join_named(pieces)
    return {whole: parts for whole, parts in joined.items() if not (folder / whole).exists()}


class AudioReader:
    """Reads audio in place, by a manifest's ``audio``; archives stay open until it is closed.

    Safe to share between threads, and between processes that were forked; pickled to a new process, it opens its
    archives again. An archive's directory is read once, on the first read from it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[str, tuple[ByteSource, dict[str, Member]]] = {}

    def read(self, audio: str) -> bytes:
        """Return the whole file's bytes, a zip member's checked against its CRC.

        Raises
        ------
        KmedError
            When the file or the archive is gone, or the member is missing or damaged.
        """
        archive, separator, name = audio.rpartition(SEPARATOR)
        try:
            if not separator or Path(audio).is_file():  # a folder's name may have the separator in it
                return Path(audio).read_bytes()
            source, members = self._get(archive)
            if name not in members:
                raise ArchiveError(f"there is no {name!r} in the archive")
            if members[name].size > MAX_AUDIO_BYTES:
                raise ArchiveError(f"it claims {members[name].size:,} bytes; the limit is {MAX_AUDIO_BYTES:,}")
            return read_member(source, members[name])
        except (OSError, ArchiveError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise KmedError(
                f"Audio {audio} can't be read: {reason}. Put the download back where `ingest` found it, "
                "or ingest it again."
            ) from None

    def _get(self, archive: str) -> tuple[ByteSource, dict[str, Member]]:
        with self._lock:
            if archive not in self._open:
                source, members = open_archive(archive)
                # Of two members of one name the later one counts, here as in the listing and for unzip.
                members.sort(key=lambda member: member.start)
                self._open[archive] = (source, {member.name: member for member in members})
            return self._open[archive]

    def close(self) -> None:
        """Close every archive; a later read opens them again."""
        with self._lock:
            for source, _ in self._open.values():
                source.close()
            self._open.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, object]:
        return {}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__init__()  # type: ignore[misc]


def open_archive(location: str) -> tuple[ByteSource, list[Member]]:
    """Return an archive's bytes and its members, from a location without the member's name.

    Raises
    ------
    ArchiveError
        When it is no archive, or lacks the inner one.
    OSError
        When it is not there.
    """
    outer, _, inner = location.partition(SEPARATOR)
    path = Path(outer)
    if not path.exists():
        joined = join_in_folder(path.parent).get(path.name) if path.parent.is_dir() else None
        spans = joined.spans if joined else whole_file(outer)
    elif sniff(path) == "tar":
        files, _ = list_tar(path)
        if not inner:
            return ByteSource(whole_file(outer)), files
        joined = join_in_tar(files, path).get(inner)
        if joined is None:
            raise ArchiveError(f"there is no {inner!r} in the tar")
        spans = joined.spans
    else:
        spans = whole_file(outer)
    with contextlib.ExitStack() as damaged:
        source = damaged.enter_context(ByteSource(spans))
        members = list(read_directory(source))
        damaged.pop_all()  # it stays open for its reader
    return source, members

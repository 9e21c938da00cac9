"""What the sources hold: every label and audio file of every folder and archive, unread."""

import collections
import dataclasses
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from kmed_bench.core.errors import KmedError
from kmed_bench.core.language import N_
from kmed_bench.core.schema import WarningKind
from kmed_bench.corpus.archives.reader import (
    SEPARATOR,
    Container,
    join_in_folder,
    join_in_tar,
    list_tar,
    sniff,
)
from kmed_bench.corpus.archives.spans import (
    ArchiveError,
    ByteSource,
    Joined,
    describe_kind,
    explain_split,
    parse_piece,
    whole_file,
)
from kmed_bench.corpus.archives.zips import PLAIN, Member, NoDirectory, read_directory
from kmed_bench.corpus.ingest.aihub import is_utf8
from kmed_bench.corpus.ingest.entries import NOT_UTF8, EntryList

LABEL, AUDIO = ".json", ".wav"
_HAS_SEPARATOR = f"its path has {SEPARATOR!r} in it, which separates archive and member; rename the folder"
_OTHER_ARCHIVES = (".7z", ".alz", ".bz2", ".egg", ".gz", ".rar", ".tgz", ".xz", ".zst")


@dataclasses.dataclass(slots=True)
class Listing:
    """Labels and audio files of all sources.

    Attributes
    ----------
    labels, audio : EntryList
        One row per file; `container` is a position in `containers`.
    warnings : dict
        Kind to details, for archives with missing or overlapping pieces and unreadable ones.
    ignored : Counter
        Files of other kinds, by suffix.
    """

    containers: list[Container] = dataclasses.field(default_factory=list)
    labels: EntryList = dataclasses.field(default_factory=EntryList)
    audio: EntryList = dataclasses.field(default_factory=EntryList)
    warnings: dict[WarningKind, list[str]] = dataclasses.field(default_factory=dict)
    ignored: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    def warn(self, kind: WarningKind, detail: str) -> None:
        """Note what is wrong with a whole archive; it is left out, the rest is read."""
        self.warnings.setdefault(kind, []).append(detail)

    def add(self, container: Container, members: Iterable[Member]) -> None:
        """Add a container with what it holds."""
        self.containers.append(container)
        position = len(self.containers) - 1
        for member in members:
            base = member.name.rpartition("/")[2]
            suffix = base[base.rfind(".") :].lower() if "." in base else ""
            if base.startswith("._") or "__MACOSX" in member.name:
                self.ignored[N_("macOS metadata")] += 1
            elif suffix in (LABEL, AUDIO):
                (self.labels if suffix == LABEL else self.audio).append(position, member)
            elif suffix in _OTHER_ARCHIVES or (suffix in (".zip", ".tar") and container.kind == "zip"):
                detail = f"{base}: {suffix} files, and archives inside a zip, are not read in place; extract it"
                self.warn("archive_unreadable", detail)
            elif container.kind != "zip" and (split := explain_split(base)) and not parse_piece(base):
                self.warn("archive_unreadable", f"{_shorten(base)}: {split}")
            elif not (container.kind == "tar" and (suffix == ".zip" or parse_piece(base))):
                self.ignored[_shorten(suffix) or N_("no suffix")] += 1


def _shorten(name: str) -> str:
    return name if len(name) <= 80 else f"{name[:60]}…{name[-10:]}"


def check_sources(sources: Sequence[Path]) -> None:
    """Raise KmedError for a source that does not exist."""
    for source in sources:
        if not source.exists():
            raise KmedError(f"Source {source} does not exist; give the folder of an AI Hub 208 download.")


def list_sources(sources: Sequence[Path], skip: Path) -> Listing:
    """Return what the sources hold: folders, or archives given by name.

    Parameters
    ----------
    sources : sequence of Path
        Folders, or single zips and tars. What is reached twice is listed once.
    skip : Path
        The output folder, left out where it is inside a source.

    Raises
    ------
    KmedError
        When a source is missing or can't be listed.
    """
    check_sources(sources)
    listing = Listing()
    seen: set[tuple[int, int]] = set()
    skip = skip.resolve()
    for source in sources:
        root = source.resolve()
        if not is_utf8(str(root)):
            raise KmedError(f"Source {str(source)!a} can't be used: {NOT_UTF8}.")
        if SEPARATOR in str(root):
            raise KmedError(f"Source {root} can't be used: {_HAS_SEPARATOR}.")
        if root.is_file():
            _add_archive(listing, root, root.name, seen)
            continue
        try:
            os.scandir(root).close()
        except OSError as error:
            raise KmedError(
                f"{root} can't be listed: {error.strerror}; give a folder, or change its permissions."
            ) from None
        _add_folder(listing, root, skip, seen)
    return listing


def _add_folder(listing: Listing, root: Path, skip: Path, seen: set[tuple[int, int]]) -> None:
    archives: list[Path] = []
    pieces: dict[Path, None] = {}
    walk = _Walk(listing, root, skip, seen, archives, pieces)
    listing.add(Container("folder", str(root), root.name), walk)
    for path in sorted(archives):
        _add_archive(listing, path, f"{root.name}/{path.relative_to(root)}", seen)
    for folder in sorted(pieces):
        for name, joined in sorted(join_in_folder(folder).items()):
            trail = f"{root.name}/{folder.relative_to(root) / name}"
            _add_zip(listing, str(folder / name), trail, joined, in_pieces=True)


@dataclasses.dataclass(slots=True)
class _Walk:
    """The plain files under a folder; archives and folders of pieces go into the lists.

    A folder's entries are read one at a time, so that a million of them are never held at once.
    """

    listing: Listing
    root: Path
    skip: Path
    seen: set[tuple[int, int]]
    archives: list[Path]
    pieces: dict[Path, None]

    def __iter__(self) -> Iterator[Member]:
        waiting = [str(self.root)]
        while waiting:
            folder = waiting.pop()
            below: list[str] = []
            try:
                found = os.stat(folder)  # noqa: PTH116
                if (found.st_dev, found.st_ino) in self.seen or Path(folder) == self.skip:
                    continue
                self.seen.add((found.st_dev, found.st_ino))
                with os.scandir(folder) as entries:
                    for entry in entries:
                        yield from self._take(entry, below)
            except OSError as error:
                trail = f"{self.root.name}{folder[len(str(self.root)) :]}".encode(errors="backslashreplace").decode()
                self.listing.warn("folder_unreadable", f"{trail}: {error.strerror}")
            waiting.extend(sorted(below, reverse=True))

    def _take(self, entry: os.DirEntry[str], below: list[str]) -> Iterator[Member]:
        name = entry.name.lower()
        try:
            found = entry.stat()
            mode, size, changed = found.st_mode, found.st_size, found.st_mtime_ns
        except OSError:  # a dangling or circular link: reading it gives the reason
            mode, size, changed = 0, -1, 0
        if stat.S_ISDIR(mode):
            below.append(entry.path)
        elif name.endswith((".zip", ".tar")):
            self.archives.append(Path(entry.path))
        elif not parse_piece(entry.name):
            yield self._member(entry, size if stat.S_ISREG(mode) else -1, changed)
        elif stat.S_ISREG(mode):
            self.pieces[Path(entry.path).parent] = None
        else:
            self.listing.warn("archive_unreadable", f"{_shorten(entry.name)}: it is not a regular file")

    def _member(self, entry: os.DirEntry[str], size: int, changed: int) -> Member:
        return Member(entry.path[len(str(self.root)) + 1 :], changed, size, size, PLAIN, 0, False)


def _add_archive(listing: Listing, path: Path, trail: str, seen: set[tuple[int, int]]) -> None:
    try:
        found = path.stat()
        if (found.st_dev, found.st_ino) in seen:
            return
        seen.add((found.st_dev, found.st_ino))
        if not stat.S_ISREG(found.st_mode):
            raise ArchiveError(f"it is {describe_kind(found.st_mode)} and not a regular file")
        if sniff(path) == "tar":
            _add_tar(listing, path, trail)
        else:
            _add_zip(listing, str(path), trail, Joined(whole_file(str(path)), (), ()), in_pieces=False)
    except (OSError, ArchiveError, UnicodeEncodeError) as error:
        _note_fault(listing, path.name, error)


def _add_tar(listing: Listing, path: Path, trail: str) -> None:
    str(path).encode()
    _refuse_separator(str(path))
    files, fault = list_tar(path)
    if fault:
        listing.warn("archive_unreadable", f"{path.name}: {fault}")
    listing.add(Container("tar", str(path), trail, whole_file(str(path))), files)
    for name, joined in sorted(join_in_tar(files, path).items()):
        _add_zip(listing, f"{path}{SEPARATOR}{name}", f"{trail}/{name}", joined, in_pieces=True)


def _add_zip(listing: Listing, location: str, trail: str, joined: Joined, *, in_pieces: bool) -> None:
    name = trail.rpartition("/")[2]
    for start, end in joined.gaps:
        listing.warn("archive_piece_missing", f"{name}: bytes {start:,} to {end:,} are missing")
    try:
        location.encode()
        _refuse_separator(location.removeprefix(f"{joined.spans[0].path}{SEPARATOR}") if joined.spans else location)
        for start, end in joined.overlaps:
            raise ArchiveError(f"its pieces overlap from byte {start:,} to {end:,}; download them again")
        with ByteSource(joined.spans) as source:
            members = list(read_directory(source))
        _refuse_overlaps(members)
        listing.add(Container("zip", location, trail, joined.spans), members)
    except NoDirectory as error:
        if in_pieces:
            listing.warn("archive_piece_missing", f"{name}: its last piece is missing or cut off")
        else:
            _note_fault(listing, name, error)
    except (OSError, ArchiveError, UnicodeEncodeError) as error:
        _note_fault(listing, name, error)


def _refuse_separator(path: str) -> None:
    if SEPARATOR in path:
        raise ArchiveError(_HAS_SEPARATOR)


def _note_fault(listing: Listing, name: str, error: OSError | ArchiveError | UnicodeEncodeError) -> None:
    """Leave an archive out, by name; the manifest can't hold a path that is not UTF-8."""
    reason = NOT_UTF8 if isinstance(error, UnicodeEncodeError) else error
    listing.warn("archive_unreadable", f"{name.encode(errors='backslashreplace').decode()}: {reason}")


def _refuse_overlaps(members: list[Member]) -> None:
    """Refuse a zip whose members share bytes: no tool writes that but to make a zip bomb."""
    end = 0
    for start, packed in sorted((member.start, member.packed) for member in members):
        if start < end:
            raise ArchiveError(f"its members overlap at byte {start:,}, as in a zip bomb")
        end = start + 30 + packed

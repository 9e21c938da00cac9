"""Folders of computed arrays in a cache: whole or absent, one writer at a time, within a budget of disk.

A store is a folder ``<name>/`` that holds an ``index.json``. It is written as ``.<name>.<random>/`` and renamed once
it is whole and on disk, so a killed writer leaves nothing that is ever read. The name is made of the content's kind
and digest, so an existing folder holds exactly what would be written again. ``checksums.json`` has the size and CRC-32
of each file, which are compared whenever a store is opened; a damaged one is written again. Stores hold speech in
another form and the clips' ids, so only their owner can open them.
"""

import errno
import json
import logging
import os
import re
import shutil
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import PRIVATE_FILE, PRIVATE_FOLDER, sync, temporary_beside
from kmed_bench.core.locks import locked
from kmed_bench.core.quantities import gib

log = logging.getLogger(__name__)

INDEX = "index.json"
CHECKSUMS = "checksums.json"
_BLOCK_BYTES = 1 << 22
_RESERVED = "reserved"  # a sparse file of the size that a writer has been granted
_ASIDE = re.compile(r"\.(?P<name>[a-z]+-[0-9a-f]{16})\.\w+")
_LEFTOVER_AGE_S = 24 * 3600
_ACCOUNTS_WAIT_S = 600.0


def get_or_create(
    cache: Path,
    name: str,
    write: Callable[[Path], None],
    *,
    what: str,
    needed_bytes: int,
    budget_bytes: int | None = None,
) -> Path:
    """Return the folder of a store, written by this process or by another one where the cache has none.

    While another process writes the store, the caller waits. The lock of a killed writer is freed by the system,
    and its remains are removed.

    Parameters
    ----------
    cache : Path
        Folder of stores, on one disk. Nothing in it is removed to make room; that is up to the user.
    name : str
        Kind and digest of the content, such as ``frames-0123456789abcdef``.
    write : callable
        Called with an empty folder; fills it, ``index.json`` included.
    what : str
        Beginning of the message when there is no room, such as "The features of 12 clips".
    needed_bytes : int
        Upper limit of the store's size.
    budget_bytes : int, optional
        Limit on all stores of the cache together, including those being written; None: only the disk limits them.

    Raises
    ------
    KmedError
        When the budget or the disk has no room, or a damaged store can't be removed.
    """
    folder = cache / name
    if not _is_whole(folder):
        with locked(cache / ".locks" / f"{name}.lock", f"the cache entry {name}"):
            if not _is_whole(folder):
                _remove_damaged(folder, what)
                _write_aside(cache, name, write, what, needed_bytes, budget_bytes)
    with suppress(OSError):  # a cache that is shared read-only
        os.utime(folder / INDEX)  # the time of last use, by which a user chooses what to remove
    return folder


def _is_whole(folder: Path) -> bool:
    """Return whether a store is there and its files are as they were written.

    This reads the whole store once, at about 1.2 GiB/s, which also brings it into the page cache.
    """
    try:
        sums = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
        return INDEX in sums and all(_checksum(folder / name) == tuple(kept) for name, kept in sums.items())
    except (OSError, RecursionError, ValueError, TypeError, AttributeError):
        return False


def _checksum(path: Path) -> tuple[int, int]:
    """Return a file's size in bytes and its CRC-32."""
    size = crc = 0
    with path.open("rb", buffering=0) as stream:
        while block := stream.read(_BLOCK_BYTES):
            size, crc = size + len(block), zlib.crc32(block, crc)
    return size, crc


def _remove_damaged(folder: Path, what: str) -> None:
    if not folder.exists():
        return
    log.warning(f"{what} in {folder} are damaged (their checksums differ) and are computed again.")
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise KmedError(
            f"{what} in {folder} are damaged and can't be removed ({error.strerror}); remove that folder, or set "
            "KMED_CACHE to another one."
        ) from None


def _accounts(cache: Path) -> AbstractContextManager[None]:
    """Return the lock on what the cache holds and reserves: held for moments, unlike a store's own."""
    return locked(cache / ".locks" / "accounts.lock", "the index of the cache", wait_s=_ACCOUNTS_WAIT_S)


def _write_aside(
    cache: Path, name: str, write: Callable[[Path], None], what: str, needed: int, budget: int | None
) -> None:
    with _accounts(cache):
        _remove_leftovers(cache, name)
        _check_budget(cache, what, needed, budget)
        _check_disk(cache, what, needed)
        aside = temporary_beside(cache / name)
        aside.mkdir(PRIVATE_FOLDER)
        with (aside / _RESERVED).open("wb") as stream:
            stream.truncate(needed)
    try:
        write(aside)
        written = [path for path in sorted(aside.iterdir()) if path.name != _RESERVED]
        sums = {path.name: _checksum(path) for path in written}
        (aside / CHECKSUMS).write_text(json.dumps(sums), encoding="utf-8")
        for path in aside.iterdir():
            path.chmod(PRIVATE_FILE)
            sync(path)
        with _accounts(cache):
            (aside / _RESERVED).unlink()
            aside.rename(cache / name)
        sync(cache)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            error.filename = error.filename or str(cache)
            raise
        raise KmedError(
            f"{what} did not fit on the disk of {cache}, which something else has filled meanwhile; make room or set "
            "KMED_CACHE to a larger disk."
        ) from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _remove_leftovers(cache: Path, name: str) -> None:
    """Remove what killed writers left: of this name, whose lock is ours, and anything untouched for a day."""
    for aside, written in _asides(cache):
        if written == name or time.time() - _last_change(aside) > _LEFTOVER_AGE_S:
            shutil.rmtree(aside, ignore_errors=True)


def _asides(cache: Path) -> Iterator[tuple[Path, str]]:
    for path in sorted(cache.iterdir()):
        if match := _ASIDE.fullmatch(path.name):
            yield path, match["name"]


def _last_change(folder: Path) -> float:
    newest = 0.0
    for path in (folder, *folder.glob("*")):
        with suppress(FileNotFoundError):  # its writer has just finished
            newest = max(newest, path.stat().st_mtime)
    return newest


def _size(folder: Path) -> int:
    """Return the size of a store in bytes, or what its writer has been granted if that is more."""
    sizes = {}
    for path in folder.glob("*"):
        with suppress(FileNotFoundError):
            sizes[path.name] = path.stat().st_size
    reserved = sizes.pop(_RESERVED, 0)
    return max(reserved, sum(sizes.values()))


def _check_budget(cache: Path, what: str, needed: int, budget: int | None) -> None:
    if budget is None:
        return
    stores = [path.parent for path in cache.glob(f"*/{INDEX}") if not path.parent.name.startswith(".")]
    used = sum(map(_size, (*stores, *(aside for aside, _ in _asides(cache)))))
    if used + needed <= budget:
        return
    oldest = sorted(stores, key=lambda store: ((store / INDEX).stat().st_mtime, store.name))[:3]
    listed = ", ".join(f"{store.name} ({gib(_size(store))})" for store in oldest)
    removable = (
        f", or remove stores of {cache} that are no longer used, longest unused first: {listed}" if oldest else ""
    )
    raise KmedError(
        f"{what} need {gib(needed)} in {cache}, whose stores take {gib(used)} of a budget of {gib(budget)}; raise "
        f"features.cache_gib, set features.dtype=fp16 (half the size){removable}."
    )


def _check_disk(cache: Path, what: str, needed: int) -> None:
    free = shutil.disk_usage(cache).free
    if needed > free * 0.95:
        raise KmedError(
            f"{what} need {gib(needed)} in {cache}, which has {gib(free)} free; make room or set KMED_CACHE to a "
            "larger disk."
        )

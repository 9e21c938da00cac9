"""The removal of what runs left: what has to stay and why, and each thing removed whole or not at all."""

import contextlib
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from filelock import FileLock, Timeout

from kmed_bench.core.files import temporary_beside
from kmed_bench.core.locks import name_holder
from kmed_bench.pipeline.kept_files import KeptFile
from kmed_bench.pipeline.training_record import TRAINING_LOCK
from kmed_bench.tracking.owners import Owner, Owners

_OWNED = ("states", "checkpoints", "predictions", "scores", "chunks")
_UNLOCKED = {"chunks": "ingest", "shards": "evaluation"}
"""What writes to folders that it does not lock, or locks on another machine."""
_PAUSE_S = 3600.0
"""It writes more often than this."""


def reason_to_stay(kept: KeptFile, owners: Owners, in_use: Mapping[str, int]) -> str:
    """Return why a thing must not be removed; empty if it may.

    Parameters
    ----------
    in_use : mapping
        What `open_files.files_in_use` returned.
    """
    if kept.refused:
        return kept.refused
    inside = f"{kept.path}/"
    for path in (str(kept.path), *(path for path in in_use if path.startswith(inside))):
        if path in in_use:
            return f"process {in_use[path]} has it open"
    if (work := _UNLOCKED.get(kept.kind)) and time.time() - kept.changed_s < _PAUSE_S:
        return f"it was written within the last hour, so an {work} may be at work"
    return _reason_of_run(kept, owners) if kept.run_id and kept.kind in _OWNED else ""


def _reason_of_run(kept: KeptFile, owners: Owners) -> str:
    owner = owners.find(kept.run_id)
    if owner is None:
        return f"run {kept.run_id} is not in the store, so it may be running; name its store with --tracking.uri"
    if owner.is_alive:
        return f"{owner.name} is running"
    if kept.kind == "checkpoints" and not owners.holds_model(owner.run_id, kept.path.with_name("best.pt")):
        return f"the store holds no model of {owner.name}: it is nowhere else"
    return ""


def describe_owner(kept: KeptFile, owner: Owner | None) -> str:
    """Return a run's name and status for a table; its id where the store has no such run."""
    if owner is None:
        return f"run {kept.run_id[:8]}, not in the store" if kept.run_id else ""
    return f"{owner.name} {owner.status}{', deleted' if owner.is_deleted else ''}"


def remove(kept: KeptFile) -> str:
    """Remove a file or folder; return why it was left, or an empty text.

    A folder gets a temporary name first: what a killed removal leaves is a leftover, and never read.
    """
    try:
        with _lock(kept) as holder:
            if holder:
                return f"{holder} is at work on it"
            if not kept.path.exists():  # another removal was faster
                return ""
            if _last_change(kept.path) != kept.changed_s:
                return "it has changed since it was listed"
            if kept.path.is_dir():
                shutil.rmtree(kept.path.rename(temporary_beside(kept.path)))
            else:
                kept.path.unlink(missing_ok=True)
    except OSError as error:
        return f"it can't be removed ({error.strerror})"
    return ""


def _last_change(path: Path) -> float:
    inside = [file for file in path.rglob("*") if not file.is_dir()] if path.is_dir() else []
    return max(file.lstat().st_mtime for file in inside or [path])


@contextlib.contextmanager
def _lock(kept: KeptFile) -> Iterator[str]:
    """Hold the lock of what is removed, if its writers have one; yield who holds it otherwise."""
    path = kept.path.parent / ".locks" / f"{kept.path.name}.lock"
    if kept.kind not in ("features", "encodings"):
        path = kept.path.with_name(TRAINING_LOCK)
    if not path.exists():
        yield ""
        return
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield name_holder(path)
        return
    try:
        yield ""
    finally:
        lock.release()

"""Ends of runs that the store could not take: kept in the cache folder until a later run finds the store again."""

import contextlib
import json
import re
from pathlib import Path

from kmed_bench.core.files import cache_folder, write_json

_STATUSES = ("FINISHED", "FAILED", "KILLED")


def _place(run_id: str) -> Path:
    return cache_folder() / "ends" / f"{run_id}.json"


def keep_end(run_id: str, status: str, ended_ms: int) -> None:
    """Keep a run's final status and the time of its end, in milliseconds since the epoch."""
    with contextlib.suppress(OSError):  # the disk may be what is away
        write_json(_place(run_id), {"status": status, "ended_ms": ended_ms})


def read_end(run_id: str) -> tuple[str, int] | None:
    """Return the status and end that were kept for a run; None if there are none."""
    if not re.fullmatch(r"[0-9a-f]{32}", run_id):
        return None
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        kept = json.loads(_place(run_id).read_text(encoding="utf-8"))
        if kept["status"] in _STATUSES and type(kept["ended_ms"]) is int:
            return kept["status"], kept["ended_ms"]
    return None


def forget_end(run_id: str) -> None:
    """Remove what was kept for a run."""
    with contextlib.suppress(OSError):
        _place(run_id).unlink(missing_ok=True)

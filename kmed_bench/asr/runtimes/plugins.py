"""Systems of other packages, which these announce as entry points of the group ``kmed_bench.systems``."""

import json
import re
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from kmed_bench.asr.runtimes.backend import Backend
from kmed_bench.config import EvalConfig
from kmed_bench.core.errors import KmedError, brief
from kmed_bench.core.finished import content_sha256

GROUP = "kmed_bench.systems"
_NAMED = re.compile(r"(?!models:/|runs:/)(?P<name>[a-z][a-z0-9_-]+):(?P<argument>.*)")
_ATTRIBUTES = ("name", "version", "settings", "parameters", "model_bytes")


def find_system(model: str) -> tuple[EntryPoint, str] | None:
    """Return the entry point of a MODEL argument ``NAME:ARGUMENT``, and ARGUMENT; None if no package has that name.

    Raises
    ------
    KmedError
        When several packages have it.
    """
    match = _NAMED.fullmatch(model)
    if match is None or Path(model).exists():
        return None
    found = list(entry_points(group=GROUP, name=match["name"]))
    if len(found) > 1:
        listed = ", ".join(sorted(_package(entry) for entry in found))
        raise KmedError(f"System {match['name']!r} is announced by several packages ({listed}); uninstall all but one.")
    return (found[0], match["argument"]) if found else None


def system_names() -> list[str]:
    """Return the names of all systems that installed packages announce."""
    return sorted({entry.name for entry in entry_points(group=GROUP)})


def open_system(entry: EntryPoint, argument: str, config: EvalConfig) -> Backend:
    """Return what a package's ``open(argument, config)`` returns, checked.

    Raises
    ------
    KmedError
        When it can't be imported, raises an error, or returns something other than a whole `Backend`.
    """
    label = f"System {entry.name!r} of {_package(entry)}"
    try:
        backend = entry.load()(argument, config)
    except KmedError:
        raise
    except Exception as error:  # foreign code
        reason = f"{type(error).__name__}: {brief(error)}"
        raise KmedError(
            f"{label} can't be opened with {argument!r} ({reason}); see the package's own remedy."
        ) from error
    if not isinstance(backend, Backend):
        raise KmedError(f"{label} is a {type(backend).__name__}, not a kmed_bench.SampleBackend; ask its authors.")
    missing = [name for name in _ATTRIBUTES if not hasattr(backend, name)]
    if missing:
        raise KmedError(f"{label} lacks {', '.join(missing)}, which scores.json records; ask its authors.")
    return backend


def identify_system(entry: EntryPoint, argument: str) -> str:
    """Return what tells whether a system is still the same: its package's version, and the files that it is given."""
    path = Path(argument)
    content = content_sha256(path) if argument and path.exists() else argument
    return json.dumps([entry.name, _package(entry), content])


def _package(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.module

"""Finished outputs: the same command finds them, and no other one overwrites them."""

import hashlib
from pathlib import Path

from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import read_json, sha256_of

MADE_OF = "made_of"
"""Key of a JSON file, written last, with the digest of all that decided it."""


def is_finished(path: Path, made_of: str) -> bool:
    """Return whether the output that a JSON file completes is there already, made of the same.

    Raises
    ------
    KmedError
        When it is there, made of something else.
    """
    if not path.exists():
        return False
    found = read_json(path)
    if isinstance(found, dict) and found.get(MADE_OF) == made_of:
        return True
    raise KmedError(
        f"{path} exists already, of another model, other data, settings or rules, and is not overwritten; "
        "name another folder, or remove it first."
    )


def content_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, or one of the names and contents of all files in a folder."""
    if not path.is_dir():
        return sha256_of(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    listed = "".join(f"{file.relative_to(path).as_posix()}\t{sha256_of(file)}\n" for file in files)
    return hashlib.sha256(listed.encode()).hexdigest()

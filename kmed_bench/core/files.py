"""Files written whole or not at all, JSON, and digests of files."""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from kmed_bench.core.errors import KmedError


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _umask() -> int:
    """Return the umask; the only way to read it is to set it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def write_text_atomically(path: Path, text: str) -> None:
    """Write a whole file or none of it: temporary file in the same folder, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        # mkstemp makes the file for its owner alone; results are for whoever the umask lets in.
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write UTF-8 JSON, indented, Hangul readable, atomically."""
    write_text_atomically(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Return a JSON file's value.

    Raises
    ------
    KmedError
        When the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise KmedError(f"{path} does not exist; check the path, or run the stage that writes it.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise KmedError(f"{path} is not valid JSON ({error}); write it anew with the stage that makes it.") from None


@contextlib.contextmanager
def open_lines(path: Path) -> Iterator[TextIO]:
    """Give a file's lines, read as UTF-8.

    Raises
    ------
    KmedError
        When it is in another encoding, such as the cp949 of Korean Windows.
    """
    try:
        with path.open(encoding="utf-8-sig") as stream:
            yield stream
    except UnicodeDecodeError as error:
        raise KmedError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8.") from None

"""Files written whole or not at all, JSON, and digests of files."""

import contextlib
import errno
import functools
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kmed_bench.core.errors import KmedError, brief
from kmed_bench.core.surroundings import machine

PRIVATE_FILE, PRIVATE_FOLDER = 0o600, 0o700
"""Modes of what holds transcripts, utterance ids or audio, whatever the umask."""
_TEMPORARY = re.compile(r"\.(?P<name>.+)\.(?P<machine>[0-9a-f]{6})_(?P<pid>\d{1,10})_[0-9a-f]{4}")
_REPEATED_BYTES = 220  # of the 255 that file systems take, less what a temporary name adds
_OLD_S = 24 * 3600
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
_RUST_ERROR = re.compile(r"\(os error (\d+)\)")
_MAX_VALUES = 10_000_000
_MAX_LINE = 1 << 22
_MAX_JSON_BYTES = 1 << 28
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def sha256_of(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Make a file's content, or a folder's renames, survive a loss of power."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def temporary_beside(path: Path) -> Path:
    """Return an unused name in the same folder, hidden; what a killed writer leaves there is never read.

    The name holds the machine and the process id, by which a later writer of `path` finds what a killed one left.
    """
    return path.with_name(f".{_shortened(path.name)}.{machine()[:6]}_{os.getpid()}_{secrets.token_hex(2)}")


def _shortened(name: str) -> str:
    """Return a name as temporary names repeat it: whole, or its beginning and a hash where that gets too long."""
    encoded = os.fsencode(name)
    if len(encoded) <= _REPEATED_BYTES:
        return name
    return f"{encoded[:100].decode(errors='ignore')}-{hashlib.sha256(encoded).hexdigest()[:16]}"


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of killed writers from a folder that only this process writes to."""
    for path in folder.glob(".*"):
        if _TEMPORARY.fullmatch(path.name):
            path.unlink()


def _remove_left_beside(path: Path) -> None:
    """Remove temporary files and folders for `path` whose writers are gone, or that nobody has touched for a day."""
    for left, match in _temporaries(path.parent.absolute()).pop(_shortened(path.name), ()):
        if not _is_left(left, match):
            continue
        with contextlib.suppress(OSError):  # another process may be faster, or own it
            shutil.rmtree(left) if left.is_dir() else left.unlink()


@functools.lru_cache(maxsize=1024)
def _temporaries(folder: Path) -> dict[str, list[tuple[Path, re.Match[str]]]]:
    """Return the temporary files and folders by the name that they are for, as this process first found the folder.

    Listed at each write, a folder of many files would take time in proportion to their number squared.
    """
    found: dict[str, list[tuple[Path, re.Match[str]]]] = {}
    for path in folder.iterdir():
        if match := _TEMPORARY.fullmatch(path.name):
            found.setdefault(match["name"], []).append((path, match))
    return found


def is_leftover(path: Path) -> bool | None:
    """Return whether the writer of a temporary file or folder is gone; None for a name of another kind."""
    match = _TEMPORARY.fullmatch(path.name)
    return None if match is None else _is_left(path, match)


def _is_left(path: Path, match: re.Match[str]) -> bool:
    if match["machine"] == machine()[:6]:
        try:
            os.kill(int(match["pid"]), 0)
        except ProcessLookupError:
            return True
        except (OSError, OverflowError):  # another user's process
            return False
    with contextlib.suppress(OSError):
        return time.time() - path.stat().st_mtime > _OLD_S
    return False


def cache_folder() -> Path:
    """Return ``KMED_CACHE``, else ``$XDG_CACHE_HOME/kmed-bench``, else ``~/.cache/kmed-bench``."""
    if named := os.environ.get("KMED_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "kmed-bench"


@contextlib.contextmanager
def replacing(path: Path, *, private: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; the file written there replaces `path` when the block ends.

    A private file, as one with transcripts is, can be opened by its owner only, whatever the umask, and so can its
    folder if it has to be made.

    The file reaches the disk before the rename, so after a crash `path` has its old content or all of the new one.
    If the block raises, the temporary file is removed and `path` stays as it was. A KeyboardInterrupt is raised again
    as such: torch's writer fails once more when it closes the half-written file, and that error would hide it.
    """
    path.parent.mkdir(PRIVATE_FOLDER if private else 0o777, parents=True, exist_ok=True)
    _remove_left_beside(path)
    temporary = temporary_beside(path)
    try:
        with _naming(path, temporary):
            if private:
                temporary.touch(mode=PRIVATE_FILE)  # before the first byte is in it
            yield temporary
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
    except Exception as error:
        before: BaseException | None = error
        while before is not None:
            if isinstance(before, KeyboardInterrupt):
                raise before from None
            before = before.__cause__ or before.__context__
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _naming(path: Path, temporary: Path) -> Iterator[None]:
    """Put `path` into an OSError that names no file, as a full disk's does, or only the temporary one.

    On a full disk torch and safetensors raise errors of their own, from which the system's is taken.
    """
    try:
        yield
    except Exception as error:
        cause = error if isinstance(error, OSError) else _disk_error(error)
        if cause is None:
            raise
        if cause.filename is None or str(cause.filename).startswith(str(temporary)):
            cause.filename, cause.filename2 = str(path), None
        if cause is error:
            raise
        raise cause from None


def _disk_error(error: Exception) -> OSError | None:
    """Return the system's error about a disk that a library's error hides; None if it hides none."""
    if isinstance(error, KmedError):
        return None
    before: BaseException | None = error
    while before is not None:
        if isinstance(before, OSError) and before.errno in _DISK_ERRORS:
            return before
        before = before.__cause__ or before.__context__
    match = _RUST_ERROR.search(str(error))
    return OSError(int(match[1]), os.strerror(int(match[1]))) if match else None


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path` that is renamed to `path`, which must be absent or empty, when the block ends.

    Its files get the rights that the umask leaves, also where a library made them of private temporary ones: the folder
    is a product to hand on. If the block raises, the new folder is removed with all that was written into it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_left_beside(path)
    temporary = temporary_beside(path)
    try:
        with _naming(path, temporary):
            temporary.mkdir()
            rights = temporary.stat().st_mode & 0o777
            yield temporary
            for written in temporary.rglob("*"):
                written.chmod(rights if written.is_dir() else rights & 0o666)
                sync(written)
            temporary.replace(path)
            sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def creating(path: Path) -> Iterator[Path]:
    """Yield a path in a temporary folder; the file written there is linked to `path` unless that exists by then.

    For a file that several processes may want to create at once: the first one wins. The folder also takes what a
    database writes beside its file. The file is private, as in `replacing`; SQLite gives its journals the same rights.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_left_beside(path)
    folder = temporary_beside(path)
    folder.mkdir(PRIVATE_FOLDER)
    try:
        temporary = folder / path.name
        yield temporary
        temporary.chmod(PRIVATE_FILE)
        sync(temporary)
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_bytes_atomically(path: Path, content: bytes, *, private: bool = False) -> None:
    """Write a whole file or none of it; `private` as in `replacing`."""
    with replacing(path, private=private) as temporary:
        temporary.write_bytes(content)


def write_text_atomically(path: Path, text: str, *, private: bool = False) -> None:
    """Write a whole UTF-8 file or none of it; `private` as in `replacing`."""
    write_bytes_atomically(path, text.encode(), private=private)


def write_json(path: Path, value: Any, *, private: bool = False) -> None:
    """Write UTF-8 JSON, indented, Hangul readable, atomically; `private` as in `replacing`."""
    write_text_atomically(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n", private=private)


def read_json(path: Path) -> Any:
    """Return a JSON file's value.

    Raises
    ------
    KmedError
        When the file is missing, is not JSON, has a key twice in one object, or holds more than memory is for.
    """
    return parse_json(read_json_text(path), path)


def read_json_text(path: Path) -> str:
    """Return a JSON file's text, which may begin with a byte order mark; raises like `read_json`."""
    try:
        if (n_bytes := path.stat().st_size) > _MAX_JSON_BYTES:
            raise KmedError(f"{path} has {n_bytes:,} bytes; JSON of up to {_MAX_JSON_BYTES:,} is read. Check the path.")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise KmedError(f"{path} does not exist; check the path, or run the stage that writes it.") from None
    except UnicodeDecodeError as error:
        raise KmedError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8.") from None


def parse_json(text: str, where: object) -> Any:
    """Return a JSON text's value; raises like `read_json`."""
    # An object takes about 240 bytes of memory and any other value 60 or more: together these are less than 1 GiB.
    n_values = text.count(",") + text.count("[") + 4 * text.count("{")
    if n_values > _MAX_VALUES:
        raise KmedError(f"{where} holds more than {_MAX_VALUES:,} JSON values; that is no file of this program.")
    try:
        value = json.loads(text, object_pairs_hook=unique_keys)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeEncodeError:
        raise KmedError(f"{where} has half of a character (a lone surrogate); correct it.") from None
    except (ValueError, RecursionError) as error:
        fault = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise KmedError(
            f"{where} is not valid JSON ({brief(fault)}); write it again with the stage that makes it."
        ) from None


class EqualKeysError(ValueError):
    """A JSON object has a key twice."""


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object's content; raise EqualKeysError where ``json`` would let the last of two equal keys win."""
    found = dict(pairs)
    if len(found) < len(pairs):
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise EqualKeysError(f"one object has the key {twice!r:.80} twice")
    return found


def read_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each line's place ("FILE, line N") and JSON object, leaving out empty lines.

    Raises
    ------
    KmedError
        When the file is not UTF-8 (the cp949 of Korean Windows, say), or a line is not a JSON object or is too long.
    """
    try:
        with path.open(encoding="utf-8-sig") as stream:
            for number, line in enumerate(iter(functools.partial(stream.readline, _MAX_LINE + 1), ""), start=1):
                place = f"{path}, line {number}"
                if len(line) > _MAX_LINE:
                    raise KmedError(f"{place} has more than {_MAX_LINE:,} characters; write one object a line.")
                if line.strip():
                    yield place, parse_json_line(line, place)
    except UnicodeDecodeError as error:
        raise KmedError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8.") from None


def parse_json_line(line: str, place: str) -> dict[str, Any]:
    """Return the JSON object of a line; raises like `read_json_lines`, with the place in the message."""
    try:
        row = json.loads(line, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise KmedError(f"{place} is not JSON: {brief(error)}; write one JSON object per line.") from None
    if not isinstance(row, dict):
        raise KmedError(f"{place} is not a JSON object but {row!r:.80}; write one object per utterance.")
    if "\\u" in line:
        _refuse_half_characters(row, place)
    return row


def _refuse_half_characters(row: dict[str, Any], place: str) -> None:
    """Raise KmedError for a lone surrogate, which JSON can escape but UTF-8 can't encode."""
    for name, value in row.items():
        try:
            json.dumps([name, value], ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise KmedError(
                f"{place} has half of a character (a lone surrogate) in {name!a:.80}; correct the line."
            ) from None

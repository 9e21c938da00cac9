"""Looks for a corpus in what is about to leave: transcripts, ids, names, paths and audio, however they are written.

Contents are looked at as they are and as a reader could turn them back: with the escapes of JSON, HTML and addresses
undone, tags taken out, base64 decoded, archives and compressed pieces opened, in UTF-8, UTF-16 and CP949. What is found
is never quoted.
"""

import base64
import binascii
import contextlib
import dataclasses
import getpass
import gzip
import html
import io
import json
import re
import socket
import unicodedata
import urllib.parse
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath
from typing import Literal

import pandas as pd

Kind = Literal["transcript", "utterance_id", "speaker_id", "path", "name", "audio", "unreadable"]

QUOTED = 8
"""Letters and digits of a transcript in a row that are taken for a quotation of it."""
_MIN_ID = 5
_MAX_TOKEN = 400
_MAX_DEPTH = 4
_MAX_BYTES = 2**30
_TOKEN = re.compile(r"[0-9A-Za-z가-힣_.\-]{5,}")
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{8,}={0,2}")
_TAGS = re.compile(r"<[^<>]{0,2000}>")
_AUDIO = (b"RIFF", b"OggS", b"fLaC", b"ID3", b"\x1aE\xdf\xa3", b"#!AMR")
_COMMON = frozenset({"root", "user", "admin", "ubuntu", "localhost", "home", "docker", "runner", "default"})
"""Names of accounts and machines that say nothing about anybody, and occur in other texts."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One kind of secret in one file; `n` is in how many places."""

    kind: Kind
    where: str
    n: int


class LeakScan:
    """Knows a corpus and its surroundings, and finds them in bytes.

    Parameters
    ----------
    manifests : sequence of DataFrame
        With ``utterance_id``, ``speaker_id``, ``text`` and ``audio``.
    names : iterable of str
        Further names that must not occur, as those of persons and institutions; whole words, in any case, but a name
        that ends in Hangul also with what Korean attaches to it (이영희님께서).
    machine : bool
        Whether the account, the machine and the folders in use are names too.

    Attributes
    ----------
    not_searched : Counter
        What is too short to be told from other text: transcripts under `QUOTED` letters, ids under 5 characters or of
        digits alone.
    """

    def __init__(self, manifests: Iterable[pd.DataFrame], names: Iterable[str] = (), *, machine: bool = True) -> None:
        self.not_searched: Counter[str] = Counter()
        self._pieces: set[str] = set()
        self._ids: dict[str, Kind] = {}
        self._paths: set[str] = set()
        self._names = {unicodedata.normalize("NFC", name.strip()).casefold() for name in names if name.strip()}
        for manifest in manifests:
            self._learn(manifest)
        if machine:
            self._names |= {name for name in _account_and_machine() if len(name) > 2 and name not in _COMMON}
            self._paths |= {str(folder) for folder in (Path.home(), Path.cwd()) if len(folder.parts) > 2}
        self._lengths = sorted({len(name) for name in self._ids})

    def _learn(self, manifest: pd.DataFrame) -> None:
        for text in manifest["text"].unique():
            letters = _letters(text)
            if len(letters) < QUOTED:
                self.not_searched["transcripts"] += 1
            # Each quotation of twice the length holds one of these pieces whole; so does each whole transcript.
            starts = [*range(0, len(letters) - QUOTED + 1, QUOTED), len(letters) - QUOTED]
            self._pieces.update(letters[start : start + QUOTED] for start in starts if start >= 0)
        kinds: dict[Kind, pd.Series] = {
            "utterance_id": manifest["utterance_id"],
            "speaker_id": manifest["speaker_id"],
        }
        for kind, column in kinds.items():
            for name in map(str, column.unique()):
                if len(name) < _MIN_ID or name.isdigit():
                    self.not_searched[f"{kind}s"] += 1
                else:
                    self._ids.setdefault(unicodedata.normalize("NFC", name), kind)
        folders = {str(PurePath(str(audio).split("::")[0]).parent) for audio in manifest["audio"].unique()}
        self._paths |= {folder for folder in folders if len(PurePath(folder).parts) > 2}

    def find(self, where: str, content: bytes) -> list[Finding]:
        """Return what one file holds of the corpus: in its name, and in its content in every reading."""
        counts: Counter[Kind] = Counter()
        for kind in self._in_text(where):
            counts[kind] += 1
        for reading in _readings(content):
            if isinstance(reading, bytes):
                counts["audio" if reading.startswith(_AUDIO) else "unreadable"] += 1
            else:
                counts.update(self._in_text(reading))
        return [Finding(kind, where, n) for kind, n in sorted(counts.items())]

    def _in_text(self, text: str) -> Iterator[Kind]:
        text = unicodedata.normalize("NFC", text)
        for view in {text, _TAGS.sub("", text)}:
            letters = _letters(view)
            if any(letters[start : start + QUOTED] in self._pieces for start in range(len(letters) - QUOTED + 1)):
                yield "transcript"
        yield from {kind for token in _TOKEN.findall(text) for kind in self._ids_in(token)}
        if any(path in text for path in self._paths):
            yield "path"
        folded = text.casefold()
        if any(re.search(_as_word(name), folded) for name in self._names if name in folded):
            yield "name"

    def _ids_in(self, token: str) -> Iterator[Kind]:
        if token in self._ids:
            yield self._ids[token]
        elif len(token) <= _MAX_TOKEN:  # a longer one is base64, which is looked at decoded
            for length in self._lengths:
                for start in range(len(token) - length + 1):
                    if (kind := self._ids.get(token[start : start + length])) is not None:
                        yield kind


def _as_word(name: str) -> str:
    """Return the pattern of a name that is a word, or the beginning of one to which Korean attaches particles."""
    return rf"(?<!\w){re.escape(name)}" + ("" if "가" <= name[-1] <= "힣" else r"(?!\w)")


def _letters(text: str) -> str:
    """Return a text's letters and digits alone, composed and in lower case, as a quotation is compared."""
    return "".join(filter(str.isalnum, unicodedata.normalize("NFC", text).casefold()))


def _account_and_machine() -> set[str]:
    names = {socket.gethostname(), socket.gethostname().split(".")[0], Path.home().name}
    with contextlib.suppress(OSError, KeyError):  # an arbitrary uid has no name
        names.add(getpass.getuser())
    return {name.casefold() for name in names}


def _readings(content: bytes, depth: int = 0) -> Iterator[str | bytes]:
    """Yield every text that a content can be read as; bytes stand for audio, or for what can't be opened."""
    if depth > _MAX_DEPTH:
        return
    if content.startswith(_AUDIO):
        yield content[:8]
        return
    packed = list(_unpack(content))
    for inner in packed:
        yield from [b"unreadable"] if inner is None else _readings(inner, depth + 1)
    for text in _decode(content):
        yield text
        yield from _unescaped(text)
    for found in _BASE64.finditer(content):
        piece = found[0].replace(b"-", b"+").replace(b"_", b"/").rstrip(b"=")
        try:
            inner = base64.b64decode(piece + b"=" * (-len(piece) % 4))
        except (binascii.Error, ValueError):
            continue
        if inner.startswith((*_AUDIO, b"\x89PNG", b"PK", b"\x1f\x8b")) or _is_text(inner):
            yield from _readings(inner, depth + 1)


def _is_text(content: bytes) -> bool:
    """Tell whether bytes are text: printable in UTF-8 or UTF-16, up to one sign in twenty."""
    for encoding in ("utf-8", "utf-16-le"):
        with contextlib.suppress(UnicodeDecodeError):
            text = content.decode(encoding)
            if text and sum(map(str.isprintable, text)) >= 0.95 * len(text):
                return True
    return False


def _decode(content: bytes) -> Iterator[str]:
    yield content.decode("utf-8", "ignore")
    try:
        content.decode("utf-8")
        others = ["utf-16-le", "utf-16-be"] if b"\0" in content[:400] else []
    except UnicodeDecodeError:
        others = ["utf-16-le", "utf-16-be", "cp949"]
    for encoding in others:
        yield content.decode(encoding, "ignore")


def _unescaped(text: str) -> Iterator[str]:
    """Yield a text with the escapes of JSON, of HTML and of addresses undone, where it has any."""
    if "\\" in text:
        yield re.sub(r"(?:\\u[0-9a-fA-F]{4})+", lambda found: json.loads(f'"{found[0]}"', strict=False), text)
    if "&" in text and (plain := html.unescape(text)) != text:
        yield plain
    if "%" in text and (plain := urllib.parse.unquote(text)) != text:
        yield plain


def _unpack(content: bytes) -> Iterator[bytes | None]:
    """Yield the members of an archive and the texts of a picture; None for what can't be opened."""
    try:
        if content.startswith(b"PK"):
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                for member in archive.infolist():
                    yield member.filename.encode()
                    yield None if member.file_size > _MAX_BYTES else archive.read(member)
        elif content.startswith(b"\x1f\x8b"):
            with gzip.open(io.BytesIO(content)) as stream:
                inner = stream.read(_MAX_BYTES + 1)
            yield None if len(inner) > _MAX_BYTES else inner
        elif content.startswith(b"\x89PNG"):
            yield from _png_texts(content)
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError):
        yield None


def _png_texts(content: bytes) -> Iterator[bytes]:
    """Yield the text chunks of a PNG (its specification, section 11.3.3)."""
    position = 8
    while position + 8 <= len(content):
        length = int.from_bytes(content[position : position + 4])
        kind, data = content[position + 4 : position + 8], content[position + 8 : position + 8 + length]
        if kind == b"tEXt":
            yield data
        elif kind == b"zTXt":
            yield zlib.decompress(data.split(b"\0", 1)[1][1:])
        elif kind == b"iTXt":
            rest = data.split(b"\0", 1)[1]
            body = rest[2:].split(b"\0", 2)[2]
            yield zlib.decompress(body) if rest[:1] == b"\1" else body
        position += 12 + length

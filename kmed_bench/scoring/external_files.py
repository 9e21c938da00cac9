"""Any system's transcripts from a table, a JSON file, or a folder with one file a clip."""

import contextlib
import dataclasses
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import parse_json
from kmed_bench.core.predictions import refuse_markers
from kmed_bench.core.tables import JSON_LINES, find_column, read_objects, read_table, read_text
from kmed_bench.scoring.external_formats import (
    FORMATS,
    JSON_FORMATS,
    find_json_format,
    find_text_format,
    may_be,
    read_cues,
)

ID_NAMES = (
    *("utterance_id", "utt_id", "utterance", "utt", "id", "clip", "clip_id", "key", "name"),
    *("file", "filename", "file_name", "audio", "audio_file", "audio_path", "path", "wav"),
    *("발화", "발화번호", "아이디", "파일", "파일명", "파일이름", "음성파일", "오디오"),
)
TEXT_NAMES = (
    *("hypothesis", "hyp", "prediction", "predicted", "pred", "recognized", "recognised", "asr", "stt"),
    *("transcript", "transcription", "text", "result", "output"),
    *("인식결과", "인식", "가설", "예측", "전사결과", "결과", "전사", "텍스트"),
)
AUDIO_SUFFIXES = (
    *(".wav", ".flac", ".mp3", ".m4a", ".mp4", ".aac", ".ogg", ".opus", ".webm", ".3gp", ".amr", ".wma"),
    *(".aif", ".aiff", ".caf", ".pcm", ".raw", ".au"),
)
# In a folder with several outputs of one system, as `whisper --output_format all` leaves, the first kind is read.
_PREFERRED = (".json", ".vtt", ".srt", ".txt")
_BATCH_ENDING = re.compile(r"_transcript_[0-9a-f-]{8,}$")  # of the files that Google's batch recognition writes
_NAMED = 5


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Hypothesis:
    """A system's transcript of one utterance; ``decode_s`` is 0 where it is unknown."""

    text: str
    decode_s: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """How a system's files are read; the defaults find everything out from the content.

    Attributes
    ----------
    format : str or None
        One of ``external_formats.FORMATS``.
    id_columns, text_columns : tuple of str
        Names of a table's columns; empty: the usual English and Korean ones.
    names : Path or None
        A table of the system's own names and of the utterance ids that they stand for.
    """

    format: str | None = None
    id_columns: tuple[str, ...] = ()
    text_columns: tuple[str, ...] = ()
    names: Path | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class External:
    """A system's transcripts by the name that it gives a clip.

    Attributes
    ----------
    format : str
        What was read, a name of ``FORMATS``.
    ignored : dict
        Suffix to number of files that were not read.
    unused_names : tuple of str
        Names of the table ``Reading.names`` that the system has not.
    """

    hypotheses: dict[str, Hypothesis]
    format: str
    ignored: dict[str, int]
    unused_names: tuple[str, ...]


_Entry = tuple[str, str, str, float]
"""Name, place, text, decode_s."""
_AUTOMATIC = Reading()


def read_external(path: Path, reading: Reading = _AUTOMATIC) -> External:
    """Return a system's transcripts from a file or a folder.

    Raises
    ------
    KmedError
        When nothing is there, the format is not known, a file is damaged or says that recognition failed, an utterance
        is there twice, or a hypothesis holds Whisper's marker tokens.
    """
    if reading.format not in (None, *FORMATS):
        raise KmedError(f"Format {reading.format!r} is not known; choose from {', '.join(FORMATS)}.")
    if not path.exists():
        raise KmedError(f"Predictions {path} do not exist; give a file, or a folder with one file a clip.")
    files, ignored = _list(path, reading.format) if path.is_dir() else ([path], {})
    entries: list[_Entry] = []
    used: Counter[str] = Counter()
    for file in files:
        name = file.relative_to(path).with_suffix("").as_posix() if path.is_dir() else file.stem
        found, read = _read_file(file, name, reading, alone=file == path)
        used[found] += 1
        entries += read
    renamed, unused = _rename(entries, reading.names)
    return External(
        hypotheses=_collect(renamed), format=" and ".join(sorted(used)), ignored=ignored, unused_names=unused
    )


def _list(folder: Path, wanted: str | None) -> tuple[list[Path], dict[str, int]]:
    """Return the files of one kind in a folder, and how many there are of other kinds."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    counts = Counter(path.suffix.lower() for path in paths)
    kinds = _PREFERRED if wanted in (None, "table") else (".json",) if wanted in JSON_FORMATS else (f".{wanted}",)
    suffix = next((kind for kind in kinds if counts[kind]), None)
    if suffix is None:
        held = ", ".join(f"{n} {kind or 'without a suffix'}" for kind, n in sorted(counts.items())) or "no file"
        raise KmedError(f"Folder {folder} has {held}; one file a clip is read of the kinds {', '.join(kinds)}.")
    files = [path for path in paths if path.suffix.lower() == suffix]
    return files, {kind: n for kind, n in sorted(counts.items()) if kind != suffix}


def _read_file(path: Path, name: str, reading: Reading, *, alone: bool) -> tuple[str, list[_Entry]]:
    """Return the format of a file, and what it holds; ``alone`` is one that was given by its name, not in a folder."""
    wanted = reading.format
    with path.open("rb") as stream:
        excel = stream.read(2) == b"PK"
    if wanted == "table" or (wanted is None and (excel or path.suffix.lower() in JSON_LINES)):
        return "table", [*_read_table(path, reading)]
    text = read_text(path)
    if wanted in ("srt", "vtt", "txt") or (wanted is None and (found := find_text_format(text))):
        spoken = text if wanted == "txt" else read_cues(text)
        return wanted or found, [(name, str(path), " ".join(spoken.split()), 0.0)]
    ending = path.suffix.lower()
    if wanted is None and not text.strip() and ending in (".srt", ".vtt", ".txt"):
        return ending[1:], [(name, str(path), "", 0.0)]  # of a clip without speech
    value, whole = _json(text, path, needed=wanted is not None)
    if wanted is None and ending == ".txt" and not isinstance(value, (dict, list)) and _is_plain(text, alone=alone):
        return "txt", [(name, str(path), " ".join(text.split()), 0.0)]
    if not whole:
        return "table", [*_read_table(path, reading)]
    place = str(path) if "\n" in text.strip() else f"{path}, line 1"  # one line may be a table of JSON lines
    return _read_json(value, name, place, reading)


def _is_plain(text: str, *, alone: bool) -> bool:
    """Return whether a text file that is no JSON is one transcript, commas included, and no table or lines of JSON."""
    lines = [line for line in text.splitlines() if line.strip()]
    if lines[0].lstrip().startswith(('{"', '[{"')):
        return False
    if alone:
        return len(lines) == 1 or ("\t" not in text and "," not in lines[0])
    cells = lines[0].replace("\t", ",").split(",")
    return find_column(cells, ID_NAMES) is None or find_column(cells, TEXT_NAMES) is None


def _json(text: str, path: Path, *, needed: bool) -> tuple[Any, bool]:
    """Return a JSON text's value, and whether the whole text is one; lines of JSON are not."""
    if not needed:
        try:
            json.loads(text)
        except (ValueError, RecursionError):
            return None, False
    return parse_json(text, path), True


def _read_json(value: Any, name: str, place: str, reading: Reading) -> tuple[str, list[_Entry]]:
    found = reading.format or find_json_format(value)
    if found in ("", "whisper") and isinstance(value, dict) and find_column([*value], reading.id_columns or ID_NAMES):
        return "table", [*_read_objects([(place, value)], reading)]
    if found:
        try:
            if reading.format and not may_be(value, found):
                raise TypeError
            pairs = [*JSON_FORMATS[found][1](value, place)]
        except (AttributeError, IndexError, TypeError):
            raise KmedError(f"{place} is not what {found} writes; leave --format out, or name the right one.") from None
        return found, [(own or name, place, text, 0.0) for own, text in pairs]
    if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        numbered = ((f"{place}, entry {number}", one) for number, one in enumerate(value, start=1))
        return "table", [*_read_objects(numbered, reading)]
    if isinstance(value, dict) and value and all(isinstance(one, str) for one in value.values()):
        return "table", [(key, place, text, 0.0) for key, text in value.items()]
    if isinstance(value, dict) and value and all(map(find_json_format, value.values())):
        read = [_read_json(one, key, f"{place}, {key!r:.80}", reading) for key, one in value.items()]
        rows = zip(value, (entries for _, entries in read), strict=True)
        return read[0][0], [(key, *rest) for key, entries in rows for _, *rest in entries]
    raise KmedError(
        f"{place} is JSON of no known format ({', '.join(JSON_FORMATS)}, or utterance ids with texts); name one with "
        "--format, or write a CSV with the columns utterance_id and hypothesis."
    )


def _read_table(path: Path, reading: Reading) -> Iterator[_Entry]:
    with path.open("rb") as stream:
        lines = stream.read(2) != b"PK" and (path.suffix.lower() in JSON_LINES or read_text(path).lstrip()[:1] in "{[")
    if lines:
        yield from _read_objects(read_objects(path), reading)
        return
    table = read_table(path)
    name, text = _columns(table.columns, reading, str(path))
    for row in table.rows:
        if row.fault:
            raise KmedError(f"{row.place} can't be read: {row.fault}.")
        yield row.cells.get(name, ""), row.place, row.cells.get(text, ""), _seconds(row.cells, row.place, written=True)


def _read_objects(objects: Iterable[tuple[str, Mapping[str, Any]]], reading: Reading) -> Iterator[_Entry]:
    """Yield what JSON objects hold; ``utterance_id`` and ``hypothesis`` may have other usual names."""
    for place, row in objects:
        name, text = _columns([*row], reading, place, needed="each line needs utterance_id and hypothesis")
        for field in (name, text):
            if not isinstance(row[field], str):
                raise KmedError(f"{place} has {field} {row[field]!r:.80}; it must be text (a hypothesis may be empty).")
        yield row[name], place, row[text], _seconds(row, place)


def _columns(columns: Sequence[str], reading: Reading, place: str, needed: str = "") -> tuple[str, str]:
    """Return the columns of the utterance's name and of its transcript."""
    found = []
    for flag, given, usual in (
        ("--id-column", reading.id_columns, ID_NAMES),
        ("--text-column", reading.text_columns, TEXT_NAMES),
    ):
        column = find_column([name for name in columns if name not in found], given or usual)
        if column is None:
            has = ", ".join(map(repr, columns)) or "none"
            raise KmedError(
                f"{place} lacks the field {(given or usual)[0]!r}; {needed or 'ids and texts are needed'}. "
                f"It has {has:.300}; name the right one with {flag}."
            )
        found.append(column)
    return found[0], found[1]


def _seconds(row: Mapping[str, Any], place: str, *, written: bool = False) -> float:
    """Return ``decode_s`` of a row, a number or ``written`` as text; 0 where it is not there."""
    given = seconds = row.get("decode_s") or 0.0
    with contextlib.suppress(ValueError):
        seconds = float(given) if written else given
    if type(seconds) not in (int, float) or not 0 <= seconds <= 1e9:
        raise KmedError(f"{place} has decode_s {given!r:.80}; it must be a number of seconds, or left out.")
    return float(seconds)


def _rename(entries: list[_Entry], names: Path | None) -> tuple[list[_Entry], tuple[str, ...]]:
    """Return the entries under the utterance ids that a table gives for their names, and the names without an entry."""
    if names is None:
        return entries, ()
    table = read_table(names)
    target = find_column(table.columns, ID_NAMES)
    others = [column for column in table.columns if column != target]
    if target is None or len(others) != 1:
        raise KmedError(
            f"{names} has the columns {', '.join(table.columns)}; it needs two: utterance_id, and the system's name."
        )
    ids: dict[str, str] = {}
    for row in table.rows:
        name = row.cells.get(others[0], "")
        if ids.setdefault(name, row.cells.get(target, "")) != row.cells.get(target, ""):
            raise KmedError(f"{row.place} gives {name!r:.80} a second utterance id; keep one.")
    taken = {name: next((ids[key] for key in spellings(name) if key in ids), name) for name, *_ in entries}
    used = {key for name in taken for key in spellings(name)}
    renamed = [(taken[name], place, text, decode_s) for name, place, text, decode_s in entries]
    return renamed, tuple(sorted(ids.keys() - used))


def spellings(name: str) -> Iterator[str]:
    """Yield what a name may stand for: itself, without folders, and without the endings of audio and batch results."""
    base = PurePosixPath(name.replace("\\", "/")).name
    yield from (name, base)
    for stem in (base, _BATCH_ENDING.sub("", base)):
        suffix = PurePosixPath(stem).suffix.lower()
        yield stem[: -len(suffix)] if suffix in AUDIO_SUFFIXES else stem


def _collect(entries: list[_Entry]) -> dict[str, Hypothesis]:
    hypotheses: dict[str, Hypothesis] = {}
    twice: dict[str, str] = {}
    for name, place, text, decode_s in entries:
        if not name:
            raise KmedError(f"{place} has an empty utterance id; give each transcript the id of its utterance.")
        refuse_markers(text, place)
        if name in hypotheses:
            twice.setdefault(name, place)
        hypotheses[name] = Hypothesis(text=text, decode_s=decode_s)
    if twice:
        name, place = next(iter(twice.items()))
        raise KmedError(
            f"{place} repeats utterance {name!r:.80}; keep one. {len(twice)} are there twice: {name_some([*twice])}."
        )
    return hypotheses


def name_some(ids: Sequence[str]) -> str:
    """Return the first few ids and the number of the rest."""
    shown = ", ".join(ids[:_NAMED]) or "(none)"
    return shown if len(ids) <= _NAMED else f"{shown} and {len(ids) - _NAMED} more"

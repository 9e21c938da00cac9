"""A table of recordings and transcripts: CSV, TSV, JSON lines or Excel, with English or Korean column names."""

import dataclasses
import errno
import math
import os
import re
import shlex
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from kmed_bench.core.errors import KmedError
from kmed_bench.core.language import N_
from kmed_bench.core.tables import Row, Table, find_column, read_table
from kmed_bench.corpus.imports.records import Audio, Record, clean_value, read_age, read_dialect, read_gender, read_role
from kmed_bench.corpus.ingest.aihub import NOT_STATED

COLUMNS: dict[str, tuple[str, ...]] = {
    "audio": (
        *("audio", "audio_file", "audio_path", "audio_filepath", "file", "filename", "file_name", "path", "wav"),
        *("recording", "clip", "파일", "파일명", "파일이름", "음성", "음성파일", "오디오", "녹음", "녹음파일", "경로"),
    ),
    "text": (
        *("text", "transcript", "transcription", "sentence", "reference", "label", "raw_transcription"),
        *("전사", "전사문", "전사텍스트", "텍스트", "문장", "발화", "발화문", "내용", "정답"),
    ),
    "id": ("utterance_id", "utt_id", "id", "발화번호", "발화id", "아이디"),
    "speaker": ("speaker", "speaker_id", "spk", "client_id", "화자", "화자번호", "화자id", "발화자"),
    "gender": ("gender", "sex", "성별"),
    "age": ("age", "age_group", "나이", "연령", "연령대"),
    "dialect": ("dialect", "accent", "방언", "사투리", "지역방언", "지역"),
    "region": ("region", "거주지", "거주지역", "지역"),
    "role": ("role", "역할", "직업"),
    "start": ("start", "start_s", "begin", "from", "시작", "시작시간", "시작시각"),
    "end": ("end", "end_s", "stop", "to", "끝", "종료", "종료시간", "끝시간", "종료시각"),
}
"""What a list may state, and the usual names of its columns; ``audio`` and ``text`` are needed."""

_CLOCK = re.compile(r"(?:(?:(\d+):)?(\d{1,3}):)?(\d+(?:[.,]\d+)?)\s*(?:s|초)?")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ListOptions:
    """How a list is read.

    Attributes
    ----------
    audio_root : Path or None
        What relative paths begin at; None: the list's own folder.
    columns : mapping
        Keys of ``COLUMNS`` to the list's own names.
    """

    audio_root: Path | None = None
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)


def read_list(path: Path, options: ListOptions) -> list[Record]:
    """Return the recordings of a list, in its order.

    Raises
    ------
    KmedError
        When the list can't be read, has no column of audio or of transcripts, or a named column is not there.
    """
    table = read_table(path)
    columns = _find_columns(table, path, options.columns)
    files = AudioFiles(options.audio_root or path.parent)
    records = [_read_row(row, columns, files) for row in table.rows]
    return name_utterances(records)


def _find_columns(table: Table, path: Path, given: Mapping[str, str]) -> dict[str, str]:
    """Return what each column of a list states, the column by its meaning."""
    columns: dict[str, str] = {}
    for meaning, usual in COLUMNS.items():
        named = (given[meaning],) if meaning in given else usual
        found = find_column([name for name in table.columns if name not in columns.values()], named)
        if found is None and (meaning in given or meaning in ("audio", "text")):
            raise KmedError(
                f"{path} has no column {named[0]!r}; it has {', '.join(map(repr, table.columns)):.300}. Name that "
                f"of {meaning} with --{meaning}-column."
            )
        if found is not None:
            columns[meaning] = found
    return columns


def _read_row(row: Row, columns: Mapping[str, str], files: "AudioFiles") -> Record:
    cells = {meaning: row.cells.get(column, "").strip() for meaning, column in columns.items()}
    audio = files.find(cells["audio"])
    record = Record(
        utterance_id=_composed(cells.get("id", "") or ("" if audio else _stem(cells["audio"]))),
        place=row.place,
        text=cells["text"],
        audio=audio,
        start_s=read_seconds(cells.get("start", "")),
        end_s=read_seconds(cells.get("end", "")),
        speaker_id=clean_value(cells.get("speaker", "")) or NOT_STATED,
        gender=read_gender(cells.get("gender", "")),
        age=read_age(cells.get("age", "")),
        dialect=read_dialect(cells.get("dialect", "")),
        region=cells.get("region", "") or NOT_STATED,
        role=read_role(cells.get("role", "")),
    )
    if row.fault:
        return dataclasses.replace(record, reason="label_unreadable", detail=row.fault)
    times = (("start", record.start_s, N_("start is no time")), ("end", record.end_s, N_("end is no time")))
    for meaning, seconds, fault in times:
        if cells.get(meaning) and math.isnan(seconds):
            wrong = f"{fault}: {cells[meaning]!r:.40} is neither seconds nor mm:ss"
            return dataclasses.replace(record, reason="label_incomplete", detail=wrong)
    if record.end_s <= (0 if math.isnan(record.start_s) else record.start_s):
        return dataclasses.replace(record, reason="label_incomplete", detail=N_("the clip ends before it begins"))
    if audio is None:
        missing = files.describe_missing(cells["audio"]) if cells["audio"] else "the list names no file"
        return dataclasses.replace(record, reason="audio_missing", detail=missing)
    return record


def read_seconds(text: str) -> float:
    """Return seconds from ``12.5``, ``1:02.5`` or ``1:01:02``; NaN where the text is none of these."""
    found = _CLOCK.fullmatch(text.strip())
    if found is None:
        return float("nan")
    hours, minutes, seconds = (float((part or "0").replace(",", ".")) for part in found.groups())
    return 3600 * hours + 60 * minutes + seconds


class AudioFiles:
    """Finds the files that a list names, whatever wrote the list.

    A Mac stores Hangul of file names decomposed, lists have it composed; Windows writes paths with a drive and
    backslashes; and some lists leave the ending out.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._folders: dict[Path, dict[str, Path]] = {}
        self._hinted = False

    def find(self, named: str) -> Audio | None:
        """Return a named file; None if it is not there, or its name is longer than any file's."""
        try:
            return self._find(named) if named else None
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                return None
            raise

    def _find(self, named: str) -> Audio | None:
        for spelled in dict.fromkeys((named, named.replace("\\", "/"))):
            path = self.root / spelled
            if found := path if path.is_file() else self._look_up(path):
                return _audio_of(found)
        if _DRIVE.match(named):  # the folder of another machine
            return self.find(PurePosixPath(named.replace("\\", "/")).name)
        return None

    def _look_up(self, path: Path) -> Path | None:
        folder = path.parent
        if folder not in self._folders:
            present = [one for one in folder.iterdir() if one.is_file()] if folder.is_dir() else []
            names = {_composed(one.name): one for one in present}
            stems = Counter(_composed(one.stem) for one in present)
            alone = {_composed(one.stem): one for one in present if stems[_composed(one.stem)] == 1}
            self._folders[folder] = alone | names
        return self._folders[folder].get(_composed(path.name))

    def describe_missing(self, named: str) -> str:
        """Return that a named file is not there, of the first such file also which folder below has it."""
        hint, folder = "", self.root.absolute()
        if not self._hinted and folder.is_dir():
            below = (one for one in sorted(folder.iterdir()) if one.is_dir() and os.access(one, os.R_OK | os.X_OK))
            found = next((one for one in below if AudioFiles(one).find(named)), None)
            hint = f"; there is one in another folder, so add --audio-root {shlex.quote(str(found))}" if found else ""
        self._hinted = True
        return f"no file {named!r:.200} in {folder}{hint}"

    def folders(self) -> Iterator[Path]:
        """Yield the folders that were looked into."""
        yield from self._folders


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _stem(named: str) -> str:
    return PurePosixPath(named.replace("\\", "/")).stem


def _audio_of(path: Path) -> Audio:
    raw = path.suffix.lower() in (".pcm", ".raw")
    return Audio(path.absolute(), "pcm" if raw else "file")


def name_utterances(records: list[Record]) -> list[Record]:
    """Return the records with an id each: the audio's name, its folders where names repeat, and the clip's times."""
    unnamed = {one.audio.path for one in records if one.audio and one.audio.kind in ("file", "pcm")}
    stems = Counter(_composed(path.stem) for path in unnamed)
    return [one if one.utterance_id else dataclasses.replace(one, utterance_id=_name(one, stems)) for one in records]


def _name(record: Record, stems: Counter[str]) -> str:
    if record.audio is None:
        return PurePosixPath(record.place).name
    path = record.audio.path
    stem = _composed(path.stem)
    name = stem if stems[stem] == 1 else _composed(f"{path.parent.name}_{path.stem}")
    if math.isnan(record.start_s) and math.isnan(record.end_s):
        return name
    times = (0.0 if math.isnan(record.start_s) else record.start_s, record.end_s)
    return "_".join((name, *("end" if math.isnan(time) else f"{round(1000 * time):08d}" for time in times)))

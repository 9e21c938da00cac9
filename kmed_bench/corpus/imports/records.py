"""One recording of another corpus as its list states it, and the values of its speaker in this program's words."""

import dataclasses
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from kmed_bench.core.schema import RejectReason
from kmed_bench.corpus.ingest.aihub import NOT_STATED

LAYOUT_NAMES = ("huggingface", "common-voice", "fleurs", "zeroth", "ksponspeech", "pairs")
"""Names of ``layouts.LAYOUTS``, here for the command line, which loads no audio library to name them."""
_GENDERS = {
    "Female": ("f", "female", "woman", "여", "여성", "여자", "femalefeminine", "feminine"),
    "Male": ("m", "male", "man", "남", "남성", "남자", "malemasculine", "masculine"),
}
_DIALECTS = {
    "경기/서울": ("서울", "경기", "인천", "수도권", "표준어", "표준말", "서울/경기", "경기/서울", "서울/인천/경기"),
    "경상": ("경상", "경상도", "경북", "경남", "부산", "대구", "울산"),
    "충청": ("충청", "충청도", "충북", "충남", "대전", "세종"),
    "전라": ("전라", "전라도", "전북", "전남", "광주"),
    "강원": ("강원", "강원도"),
}
_ROLES = {
    "patient": ("patient", "환자"),
    "nurse": ("nurse", "간호사"),
    "doctor": ("doctor", "physician", "의사"),
}
_AGES = ((7, 10, "7~10"), (11, 19, "11~19"), *((low, low + 9, f"{low}~{low + 9}") for low in (20, 30, 40, 50, 60)))
_DECADES = ("teens", "twenties", "thirties", "fourties", "fifties", "sixties", "seventies", "eighties", "nineties")
_YEARS = re.compile(r"(?:만\s*)?(\d{1,3})\s*(?:세|살)?")
_DECADE = re.compile(r"(\d)0\s*(?:대|s)(?:\s*(?:이상|초반|중반|후반))?")


@dataclasses.dataclass(frozen=True, slots=True)
class Audio:
    """Where a recording's bytes are.

    Attributes
    ----------
    kind : {"file", "pcm", "parquet", "arrow"}
        An audio file; headerless 16-bit samples, mono, 16 kHz; a cell of a table of a Hugging Face data set.
    group, row : int
        Row group and row within it of a parquet file, or row of an Arrow file.
    column : str
        Of such a table.
    """

    path: Path
    kind: Literal["file", "pcm", "parquet", "arrow"] = "file"
    group: int = 0
    row: int = 0
    column: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One utterance of a list.

    Attributes
    ----------
    utterance_id : str
        Empty where the list has none; then the audio's name becomes it.
    place : str
        Where it is listed, for rejects.csv.
    audio : Audio or None
        None where the list names none, or one that is not there; ``detail`` says which.
    start_s, end_s : float
        The clip within its recording, in seconds; NaN: from its beginning, to its end.
    reason, detail : str
        Why it can't be used, where the list alone shows it.
    """

    utterance_id: str
    place: str
    text: str
    audio: Audio | None
    start_s: float = float("nan")
    end_s: float = float("nan")
    speaker_id: str = NOT_STATED
    gender: str = NOT_STATED
    age: str = NOT_STATED
    dialect: str = NOT_STATED
    region: str = NOT_STATED
    role: str = NOT_STATED
    reason: RejectReason | Literal[""] = ""
    detail: str = ""


def read_gender(value: str) -> str:
    """Return Female or Male for the usual words, ``N/A`` for none, and any other value as written."""
    return _lookup(value, _GENDERS)


def read_dialect(value: str) -> str:
    """Return the data set's name of a dialect's region, ``N/A`` for none, and any other value as written."""
    return _lookup(value, _DIALECTS)


def read_role(value: str) -> str:
    """Return patient, nurse or doctor, ``N/A`` for none, and any other value as written."""
    return _lookup(value, _ROLES)


def read_age(value: str) -> str:
    """Return the data set's age group of years or of a decade, ``N/A`` for none, and any other value as written.

    ``34``, ``만 34세`` and ``30대`` are ``30~39``; ``thirties``, as Common Voice has it, too. From 70 on it is
    ``over70``.
    """
    text = clean_value(value).casefold()
    if text in _DECADES:
        return _age_group(10 * (1 + _DECADES.index(text)) + 5)
    if found := _DECADE.fullmatch(text):
        return _age_group(int(found[1]) * 10 + 5)
    if found := _YEARS.fullmatch(text.removesuffix(".0")):
        return _age_group(int(found[1]), value)
    return clean_value(value) or NOT_STATED


def _age_group(years: int, value: str = "") -> str:
    if years >= 70:
        return "over70"
    return next((name for low, high, name in _AGES if low <= years <= high), clean_value(value) or NOT_STATED)


def _lookup(value: str, known: Mapping[str, tuple[str, ...]]) -> str:
    text = clean_value(value)
    folded = re.sub(r"[\s_-]", "", text.casefold())
    return next((name for name, words in known.items() if folded in words), text) or NOT_STATED


def clean_value(value: str) -> str:
    """Return a cell composed and without outer spaces; an empty text for the words that stand for no value."""
    text = unicodedata.normalize("NFC", value).strip()
    return "" if text.casefold() in ("", "n/a", "na", "none", "nan", "null", "-", "미상", "없음") else text

"""AI Hub data set 208: file names, labels and vocabulary.

The set is "비대면 진료를 위한 의료진 및 환자 음성", read speech of patients, nurses and doctors, downloaded
with an account at AI Hub; it may not be passed on. A label is one JSON file per recording, of the
same name.

What a label lacks
------------------
Without a transcript (no ``전사정보``, no ``LabelText``, or one that is no text) a label is
``label_incomplete``; an empty one is ``transcript_empty``. Speaker, role and prompt come from the
file name. For the speaker's fields the label's block ``화자정보`` is the authority:

- the block is there: it must state ``Gender``. A label that lost it inside a block that is
  otherwise there is damaged, and its file name is not trusted over it: ``label_incomplete``.
  ``Age`` and ``Region`` may come from the file name, ``Dialect`` is ``N/A`` where missing;
- the block is missing as a whole: the file name must state gender, age and region in codes with
  a known meaning, and is then used in its place; otherwise ``label_incomplete``.

A file that was given another name is read by its label's ``FileName``, and paired with its audio by
the name that it has now. Where neither follows the set's pattern, nobody says who speaks:
``label_incomplete``.

A field that says ``N/A`` states that it is not known and is not filled in. Values outside the known
vocabulary are kept as written. Missing or unknown rate, channels, bits or length can't be compared
and are no fault.
"""

import dataclasses
import functools
import json
import re
import unicodedata
from typing import Any, Literal

from kmed_bench.core.files import EqualKeysError, unique_keys
from kmed_bench.core.language import N_
from kmed_bench.core.schema import RejectReason
from kmed_bench.text.marks import is_masked, resolve_marks, sentence_id

Verdict = RejectReason | Literal[""]

NOT_STATED = "N/A"
ROLES = (N_("patient"), N_("nurse"), N_("doctor"))
GENDER_CODES = {"F": N_("Female"), "M": N_("Male")}
AGE_CODES = {
    "02": "7~10",
    "03": "11~19",
    "04": "20~29",
    "05": "30~39",
    "06": "40~49",
    "07": "50~59",
    "08": "60~69",
    "09": N_("over70"),
}
REGION_CODES = {
    "A": "서울/인천/경기",
    "B": "대전/세종/충청/강원",
    "C": "광주/전라/제주",
    "D": "부산/대구/울산/경상",
}
VOCABULARY = {
    "gender": frozenset(GENDER_CODES.values()),
    "age": frozenset(AGE_CODES.values()),
    "dialect": frozenset(("경기/서울", "경상", "충청", "전라", "강원", "기타(외국)")),
    "region": frozenset(REGION_CODES.values()),
    "quality": frozenset(("Good",)),
}
_BLOCKS = frozenset(("전사정보", "화자정보", "음성정보", "파일정보", "기타정보", "기본정보", "환경정보"))
_ROLE_CODES = {"01": "doctor", "02": "nurse", "03": "patient"}
_PATIENTS = frozenset(("PA", "PB", "PC", "PD", "PE", "PF"))
_NAME = re.compile(
    r"(?P<speaker>(?P<prefix>[A-Z]{2})_\d+)-(?P<prompt>\d+)-\d+-(?P<role>\d{2})-(?P<gender>[A-Z])"
    r"-(?P<age>\d{2})-(?P<region>[A-Z])"
)


@dataclasses.dataclass(frozen=True, slots=True)
class FileName:
    """The fields of ``PA_0322-2848-01-03-F-08-C``: codes as written."""

    speaker: str
    role: str
    prompt: str
    role_code: str
    gender_code: str
    age_code: str
    region_code: str


@dataclasses.dataclass(slots=True)
class Label:
    """One label as read; `reason` is a reject reason or empty, `differs` names fields that disagree.

    Attributes
    ----------
    stated_s, stated_hz, stated_channels, stated_bits : float
        What the label says of its audio; NaN where it says nothing.
    """

    speaker_id: str = ""
    role: str = ""
    text: str = ""
    sentence_id: str = ""
    gender: str = NOT_STATED
    age: str = NOT_STATED
    dialect: str = NOT_STATED
    region: str = NOT_STATED
    quality: str = NOT_STATED
    stated_s: float = float("nan")
    stated_hz: float = float("nan")
    stated_channels: float = float("nan")
    stated_bits: float = float("nan")
    differs: str = ""
    reason: Verdict = ""
    detail: str = ""


def parse_name(stem: str) -> FileName | None:
    """Return the fields of a file's name without suffix, or None when it follows another pattern.

    The role is the speaker prefix's (PA to PF patient, HA nurse, HB doctor), which the set documents;
    for other prefixes the role code's, whose meaning is inferred.
    """
    found = _NAME.fullmatch(stem)
    if found is None:
        return None
    prefix = found["prefix"]
    by_prefix = {"HA": "nurse", "HB": "doctor"}.get(prefix, "patient" if prefix in _PATIENTS else "")
    role = by_prefix or _ROLE_CODES.get(found["role"], "")
    return FileName(
        found["speaker"], role, found["prompt"], found["role"], found["gender"], found["age"], found["region"]
    )


def parse_label(stem: str, raw: bytes) -> Label | None:
    """Return the label in a JSON file, or None when the file is JSON but no label of this set.

    Parameters
    ----------
    stem : str
        The file's name without suffix.
    raw : bytes
        The file: UTF-8, with or without a byte order mark.
    """
    name = parse_name(stem)
    label = Label()
    try:
        tree = json.loads(raw.decode("utf-8-sig"), object_pairs_hook=unique_keys)
    except UnicodeDecodeError as error:
        return _reject(label, "label_unreadable", f"not UTF-8 at byte {error.start}")
    except json.JSONDecodeError as error:
        return _reject(label, "label_unreadable", f"not JSON: {error.msg} at character {error.pos}")
    except EqualKeysError as error:
        return _reject(label, "label_unreadable", f"not JSON: {error}")
    except ValueError:  # Python converts at most 4300 digits to a number
        return _reject(label, "label_unreadable", "not JSON: a number of absurd length")
    except RecursionError:
        return _reject(label, "label_unreadable", "not JSON: nested too deeply")
    if name is None and not (isinstance(tree, dict) and _BLOCKS & tree.keys()):
        return None
    if not isinstance(tree, dict):
        return _reject(label, "label_unreadable", f"not a JSON object but a {type(tree).__name__}")
    _fill(label, name or parse_name(_text(_block(tree, "파일정보").get("FileName")).rpartition(".")[0]), tree)
    return label


def _reject(label: Label, reason: RejectReason, detail: str) -> Label:
    label.reason, label.detail = reason, detail
    return label


def _fill(label: Label, name: FileName | None, tree: dict[str, Any]) -> None:
    """Read every field that is there, then set the reject reason for the first fault."""
    if name is not None:
        label.speaker_id, label.role = name.speaker, name.role
    sound, file = _block(tree, "음성정보"), _block(tree, "파일정보")
    label.quality = _text(_block(tree, "기타정보").get("QualityStatus")) or NOT_STATED
    label.stated_s = _number(file.get("FileLength"))
    label.stated_hz = _number(sound.get("SamplingRate"))
    label.stated_channels = _number(sound.get("NumberOfChannel"))
    label.stated_bits = _number(sound.get("NumberOfBit"))
    text = _block(tree, "전사정보").get("LabelText")
    if isinstance(text, (int, float)) and not isinstance(text, bool):
        text = str(text)
    if name is None or not name.role:
        fault = N_("neither its name nor FileName says who speaks, and in which role")
    else:
        fault = _fill_speaker(label, name, tree)
    if not isinstance(text, str):
        _reject(label, "label_incomplete", N_("no LabelText in 전사정보"))
        return
    sentence, reason, detail = judge_text(text)
    if reason == "label_unreadable":
        _reject(label, reason, detail)
        return
    label.text, label.sentence_id = text, sentence
    if fault:
        _reject(label, "label_incomplete", fault)
    else:
        label.reason, label.detail = reason, detail


@functools.lru_cache(maxsize=1 << 16)  # a sentence is read by many speakers
def judge_text(text: str) -> tuple[str, Verdict, str]:
    """Return the sentence id of a transcript, and a reject reason with its detail, or two empty texts."""
    if not is_utf8(text):
        return "", "label_unreadable", "LabelText holds half of a character (a lone surrogate)"
    if "<|" in text:
        return (
            "",
            "label_unreadable",
            "LabelText holds Whisper's marker tokens (<|…|>), so it is not a plain transcript",
        )
    sentence = sentence_id(text)
    if is_masked(text):
        return sentence, "transcript_masked", "a part of the speech is withheld (#@…#)"
    if not any(character.isalnum() for character in resolve_marks(text, "pronunciation")):
        return sentence, "transcript_empty", "nothing but marks" if text.strip() else "LabelText is empty"
    return sentence, "", ""


def is_utf8(value: str) -> bool:
    """Return whether a file can hold the text; JSON and paths may have lone surrogates."""
    return value.isascii() or value.encode(errors="ignore").decode() == value


def _fill_speaker(label: Label, name: FileName, tree: dict[str, Any]) -> str:
    """Set gender, age, dialect and region; return what is missing, or an empty text."""
    block = tree.get("화자정보")
    if not isinstance(block, dict) or not block:
        codes = (name.gender_code in GENDER_CODES, name.age_code in AGE_CODES, name.region_code in REGION_CODES)
        if not all(codes):
            return N_("no 화자정보, and the file name does not state gender, age and region")
        block = {"Gender": GENDER_CODES[name.gender_code]}
    label.gender = _text(block.get("Gender"))
    label.age = _text(block.get("Age")) or AGE_CODES.get(name.age_code) or NOT_STATED
    label.region = _text(block.get("Region")) or REGION_CODES.get(name.region_code) or NOT_STATED
    label.dialect = _text(block.get("Dialect")) or NOT_STATED
    if not label.gender:
        label.gender = NOT_STATED
        return N_("no Gender in 화자정보")
    label.differs = _differing(label, name)
    return ""


def _differing(label: Label, name: FileName) -> str:
    """Return the fields in which label and file name state different known values, joined by spaces."""
    pairs = (
        ("gender", label.gender, GENDER_CODES.get(name.gender_code)),
        ("age", label.age, AGE_CODES.get(name.age_code)),
        ("region", label.region, REGION_CODES.get(name.region_code)),
    )
    fields = [field for field, ours, theirs in pairs if theirs and ours in VOCABULARY[field] and ours != theirs]
    if _ROLE_CODES.get(name.role_code, name.role) != name.role:
        fields.append("role")
    return " ".join(fields)


def _block(tree: dict[str, Any], key: str) -> dict[str, Any]:
    block = tree.get(key)
    return block if isinstance(block, dict) else {}


def _text(value: Any) -> str:
    if isinstance(value, str):
        return _clean(value)
    return "" if value is None or isinstance(value, (dict, list, bool)) else _clean(str(value))


@functools.lru_cache(maxsize=1 << 10)  # a few words make up a million labels
def _clean(value: str) -> str:
    text = unicodedata.normalize("NFC", value).strip()
    return text if is_utf8(text) else ""


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return float("nan")

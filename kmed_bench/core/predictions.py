"""Decoded utterances and the file that holds them."""

import dataclasses
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import read_json_lines, replacing

# Those that only a forgotten `skip_special_tokens` leaves: no decoder ends a text with them. A model can write the
# others itself, such as a language's, and then they are errors like any word that nobody said.
_MARKER = re.compile(r"<\|(?:startoftranscript|endoftext|\d+\.\d\d)\|>")
_COPIED = ("utterance_id", "speaker_id", "sentence_id", "gender", "age", "dialect", "region", "role")
_EXPECTED: dict[Any, str] = {str: "text in quotes", float: "a number of seconds, 0 to 1e9", bool: "true or false"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction:
    """One decoded utterance, raw on both sides; normalisation belongs to scoring.

    Attributes
    ----------
    duration_s : float
        Length of the audio in seconds.
    decode_s : float
        Seconds spent on this clip; in a batch, the batch's time divided by its clips.
    ngram_blocked : bool
        Whether a repetition guard changed what the search saw; other systems' files need not say.
    """

    utterance_id: str
    speaker_id: str
    sentence_id: str
    reference: str
    hypothesis: str
    duration_s: float
    decode_s: float
    gender: str
    age: str
    dialect: str
    region: str
    role: str
    ngram_blocked: bool = False

    @classmethod
    def from_row(cls, row: Mapping[Any, Any], hypothesis: str, decode_s: float, ngram_blocked: bool = False) -> Self:
        """Return the prediction for a row of a manifest: its ids and groups, its label as the reference."""
        return cls(
            **{name: str(row[name]) for name in _COPIED},
            reference=str(row["text"]),
            hypothesis=hypothesis,
            duration_s=float(row["duration_s"]),
            decode_s=decode_s,
            ngram_blocked=ngram_blocked,
        )


_FIELDS = dataclasses.fields(Prediction)
_TYPES = tuple(field.type for field in _FIELDS)
_TIMES = tuple(field.name for field in _FIELDS if field.type is float)
_REPEATED = ("speaker_id", "gender", "age", "dialect", "region", "role")
"""Fields with few distinct values; interning keeps one copy of each for a file of a million lines."""


def write_predictions(path: Path, predictions: Iterable[Prediction]) -> None:
    """Write one JSON object a line, in the order given, atomically, into a file that only its owner can open."""
    with replacing(path, private=True) as temporary, temporary.open("wb") as stream:
        stream.writelines(map(prediction_line, predictions))


def prediction_line(prediction: Prediction) -> bytes:
    """Return a prediction as a line of ``predictions.jsonl``."""
    return (json.dumps(dataclasses.asdict(prediction), ensure_ascii=False) + "\n").encode()


def read_predictions(path: Path) -> list[Prediction]:
    """Return the predictions of a ``predictions.jsonl``, in file order.

    Raises
    ------
    KmedError
        When the file is missing, or a line is not a JSON object, lacks a field, has one of another type or repeats
        an utterance.
    """
    return list(_parse_predictions(path))


def _parse_predictions(path: Path) -> Iterator[Prediction]:
    if not path.is_file():
        raise KmedError(f"Predictions {path} do not exist; give the predictions.jsonl that `evaluate` wrote.")
    seen: set[str] = set()
    for place, row in read_json_lines(path):
        prediction = prediction_of(row, place)
        if prediction.utterance_id in seen:
            raise KmedError(f"{place} repeats utterance {prediction.utterance_id!r:.80}; keep one.")
        seen.add(prediction.utterance_id)
        yield prediction


def prediction_of(row: Mapping[str, Any], place: str) -> Prediction:
    """Return the prediction of a line's JSON object; raises like `read_predictions`, with the place in the message."""
    prediction = Prediction(**_values(row, place))
    refuse_markers(prediction.hypothesis, place)
    return prediction


def holds_references(path: Path) -> bool:
    """Return whether a file's first line of JSON has a reference and a hypothesis, as that of predictions.jsonl."""
    try:
        _, row = next(iter(read_json_lines(path)), ("", {}))
    except KmedError:
        return False
    return {"reference", "hypothesis"} <= row.keys()


def _values(row: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Return the fields of a line; only lines whose types are not exactly right are checked field by field."""
    values = {field.name: row.get(field.name, field.default) for field in _FIELDS}
    if tuple(map(type, values.values())) != _TYPES or not all(0 <= values[name] <= 1e9 for name in _TIMES):
        values = {field.name: _value(field, row, place) for field in _FIELDS}
    return values | {name: sys.intern(values[name]) for name in _REPEATED}


def refuse_markers(text: str, place: str) -> None:
    """Raise KmedError if a hypothesis holds marker tokens that Whisper's decoder takes out of every text."""
    if found := _MARKER.search(text):
        raise KmedError(
            f"{place} has the marker {found[0]} in its hypothesis; give the text alone, as decoded with "
            "`skip_special_tokens=True`."
        )


def _value(field: dataclasses.Field[Any], row: Mapping[str, Any], place: str) -> Any:
    value = row.get(field.name, field.default)
    if value is dataclasses.MISSING:
        needed = sorted(f.name for f in _FIELDS if f.default is dataclasses.MISSING)
        raise KmedError(
            f"{place} lacks the field {field.name!r}; each line needs: {', '.join(needed)}. With --split SPLIT, which "
            "has the references, utterance_id and hypothesis are enough."
        )
    if field.type is float:
        fits = type(value) in (int, float) and 0 <= value <= 1e9
    else:
        fits = type(value) is field.type
    if not fits:
        raise KmedError(
            f"{place} has {field.name} {value!r:.80}; it must be {_EXPECTED[field.type]}: correct the line, or decode "
            "again with `kmed-bench evaluate`."
        )
    return value

"""Decoded utterances and the file that holds them."""

import dataclasses
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import open_lines, write_text_atomically


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


def write_predictions(path: Path, predictions: Iterable[Prediction]) -> None:
    """Write one JSON object a line, in the order given, atomically."""
    lines = (json.dumps(dataclasses.asdict(p), ensure_ascii=False) + "\n" for p in predictions)
    write_text_atomically(path, "".join(lines))


def read_predictions(path: Path) -> list[Prediction]:
    """Return the predictions of a ``predictions.jsonl``, in file order.

    Raises
    ------
    KmedError
        When the file is missing, or a line is not JSON, lacks a field or repeats an utterance.
    """
    return list(_parse_predictions(path))


def _parse_predictions(path: Path) -> Iterator[Prediction]:
    if not path.is_file():
        raise KmedError(f"Predictions {path} do not exist; give the predictions.jsonl that `evaluate` wrote.")
    names = {field.name for field in dataclasses.fields(Prediction)} - {"ngram_blocked"}
    seen: set[str] = set()
    with open_lines(path) as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                given = {name: row[name] for name in names}
                prediction = Prediction(**given, ngram_blocked=bool(row.get("ngram_blocked", False)))
            except json.JSONDecodeError as error:
                raise KmedError(f"{path}, line {number} is not JSON: {error}.") from None
            except (KeyError, TypeError) as error:
                raise KmedError(
                    f"{path}, line {number} lacks the field {error}; each line needs: {', '.join(sorted(names))}."
                ) from None
            if prediction.utterance_id in seen:
                raise KmedError(f"{path}, line {number} repeats utterance {prediction.utterance_id!r}; keep one.")
            seen.add(prediction.utterance_id)
            yield prediction

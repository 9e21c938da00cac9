"""Predictions of any other system: ids and hypotheses, joined with a split's references and speakers."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from kmed_bench.core.contracts import JoinedReferences
from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import open_lines
from kmed_bench.core.predictions import Prediction
from kmed_bench.core.schema import GROUP_FIELDS

Missing = Literal["refuse", "empty"]
"""Whether an utterance without a hypothesis is an error, or counts as an empty transcript."""

_NAMED = 5
"""Ids that a message names; of further ones it gives the number."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Joined:
    """A system's hypotheses joined with the references of one part of a split.

    Attributes
    ----------
    predictions : list of Prediction
        One per utterance of the part, in the part's order.
    missing : tuple of str
        Utterances of the part without a hypothesis; theirs is empty here.
    unknown : tuple of str
        Utterances of the system that are not in the part; left out.
    """

    predictions: list[Prediction]
    missing: tuple[str, ...]
    unknown: tuple[str, ...]

    def describe(self) -> JoinedReferences:
        """Return what was joined, for ``joined`` of scores.json."""
        return {
            "references": "taken from the split",
            "missing_counted_as_empty": len(self.missing),
            "unknown_left_out": len(self.unknown),
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """A system's transcript of one utterance; ``decode_s`` is 0 where it is unknown."""

    text: str
    decode_s: float


_NOTHING = Hypothesis(text="", decode_s=0.0)


def read_hypotheses(path: Path) -> dict[str, Hypothesis]:
    """Return hypotheses by utterance id from a file of JSON lines.

    Each line needs ``utterance_id`` and ``hypothesis`` and may have ``decode_s`` (seconds). Everything else is
    ignored, references included.

    Raises
    ------
    KmedError
        When the file is missing, or a line is not an object with these fields or repeats an utterance.
    """
    if not path.is_file():
        raise KmedError(f"Predictions {path} do not exist; give a file of JSON lines with utterance_id and hypothesis.")
    hypotheses: dict[str, Hypothesis] = {}
    with open_lines(path) as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                utterance, hypothesis = _read_line(line, f"{path}, line {number}")
                if utterance in hypotheses:
                    raise KmedError(f"{path}, line {number} repeats utterance {utterance!r}; keep one.")
                hypotheses[utterance] = hypothesis
    return hypotheses


def _read_line(line: str, where: str) -> tuple[str, Hypothesis]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise KmedError(f"{where} is not JSON: {error}.") from None
    if not isinstance(row, dict):
        raise KmedError(f"{where} is no JSON object; write one with utterance_id and hypothesis for each utterance.")
    for field in ("utterance_id", "hypothesis"):
        if not isinstance(row.get(field), str):
            raise KmedError(f"{where} has {field} {row.get(field)!r}; it must be text (a hypothesis may be empty).")
    return row["utterance_id"], Hypothesis(text=row["hypothesis"], decode_s=row.get("decode_s") or 0.0)


def join_references(hypotheses: Mapping[str, Hypothesis], part: pd.DataFrame, *, missing: Missing) -> Joined:
    """Return one prediction per utterance of a part of a split.

    Parameters
    ----------
    part : pandas.DataFrame
        A part with the columns of ``core.schema.MANIFEST_COLUMNS``.
    missing : str
        ``refuse`` makes an utterance without a hypothesis an error; ``empty`` counts its hypothesis as empty,
        which costs one deletion per character of its reference.

    Raises
    ------
    KmedError
        When no id is in the part, or hypotheses are missing and ``missing`` is ``refuse``.
    """
    wanted = list(part["utterance_id"])
    absent = tuple(name for name in wanted if name not in hypotheses)
    unknown = tuple(sorted(hypotheses.keys() - set(wanted)))
    if len(absent) == len(wanted):
        raise KmedError(
            f"None of the {len(hypotheses)} utterances of the predictions is among the {len(wanted)} of this part; "
            f"ids there are like {wanted[0] if wanted else '(none)'}, and here like {name_some(unknown)}. "
            "Give the part and the split that were decoded."
        )
    if absent and missing == "refuse":
        raise KmedError(
            f"{len(absent)} of the part's {len(wanted)} utterances have no hypothesis: {name_some(absent)}. Decode "
            "them, or give --missing empty to count each as an empty transcript (stated in scores.json)."
        )
    rows = part.to_dict("records")
    predictions = [_predict(row, hypotheses.get(row["utterance_id"], _NOTHING)) for row in rows]
    return Joined(predictions=predictions, missing=absent, unknown=unknown)


def read_references(part: pd.DataFrame) -> list[Prediction]:
    """Return the references of a part of a split, as predictions whose hypothesis is empty."""
    return [_predict(row, _NOTHING) for row in part.to_dict("records")]


def _predict(row: Mapping[Any, Any], hypothesis: Hypothesis) -> Prediction:
    shared: dict[str, Any] = {
        name: str(row[name]) for name in ("utterance_id", "speaker_id", "sentence_id", *GROUP_FIELDS, "region")
    }
    return Prediction(
        **shared,
        reference=row["text"],
        hypothesis=hypothesis.text,
        duration_s=float(row["duration_s"]),
        decode_s=hypothesis.decode_s,
    )


def name_some(ids: tuple[str, ...]) -> str:
    """Return the first few ids and the number of the rest."""
    shown = ", ".join(ids[:_NAMED]) or "(none)"
    return shown if len(ids) <= _NAMED else f"{shown} and {len(ids) - _NAMED} more"

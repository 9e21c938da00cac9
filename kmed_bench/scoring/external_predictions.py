"""Predictions of any other system: ids and hypotheses, joined with a split's references and speakers."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import pandas as pd

from kmed_bench.core.contracts import JoinedReferences
from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import read_json_lines
from kmed_bench.core.predictions import Prediction, refuse_markers

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
        When the file is missing, or a line is not an object with these fields, repeats an utterance or holds Whisper's
        marker tokens.
    """
    if not path.is_file():
        raise KmedError(f"Predictions {path} do not exist; give a file of JSON lines with utterance_id and hypothesis.")
    hypotheses: dict[str, Hypothesis] = {}
    for where, row in read_json_lines(path):
        for field in ("utterance_id", "hypothesis"):
            if field not in row:
                raise KmedError(f"{where} lacks the field {field!r}; each line needs utterance_id and hypothesis.")
            if not isinstance(row[field], str):
                raise KmedError(f"{where} has {field} {row[field]!r:.80}; it must be text (a hypothesis may be empty).")
        refuse_markers(row["hypothesis"], where)
        decode_s = row.get("decode_s") or 0.0
        if type(decode_s) not in (int, float) or not 0 <= decode_s <= 1e9:
            raise KmedError(f"{where} has decode_s {decode_s!r:.80}; it must be a number of seconds, or left out.")
        if row["utterance_id"] in hypotheses:
            raise KmedError(f"{where} repeats utterance {row['utterance_id']!r:.80}; keep one.")
        hypotheses[row["utterance_id"]] = Hypothesis(text=row["hypothesis"], decode_s=decode_s)
    return hypotheses


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
    chosen = [hypotheses.get(row["utterance_id"], _NOTHING) for row in rows]
    made = [Prediction.from_row(row, one.text, one.decode_s) for row, one in zip(rows, chosen, strict=True)]
    return Joined(predictions=made, missing=absent, unknown=unknown)


def read_references(part: pd.DataFrame) -> list[Prediction]:
    """Return the references of a part of a split, as predictions whose hypothesis is empty."""
    return [Prediction.from_row(row, "", 0.0) for row in part.to_dict("records")]


def name_some(ids: tuple[str, ...]) -> str:
    """Return the first few ids and the number of the rest."""
    shown = ", ".join(ids[:_NAMED]) or "(none)"
    return shown if len(ids) <= _NAMED else f"{shown} and {len(ids) - _NAMED} more"

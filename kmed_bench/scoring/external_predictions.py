"""Predictions of any other system: ids and hypotheses, joined with a split's references and speakers."""

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Literal

import pandas as pd

from kmed_bench.core.contracts import JoinedReferences
from kmed_bench.core.errors import KmedError
from kmed_bench.core.predictions import Prediction
from kmed_bench.scoring.external_files import Hypothesis, Reading, name_some, read_external, spellings

Missing = Literal["refuse", "empty"]
"""Whether an utterance without a hypothesis is an error, or counts as an empty transcript."""


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


_NOTHING = Hypothesis(text="", decode_s=0.0)


def read_hypotheses(path: Path, reading: Reading | None = None) -> dict[str, Hypothesis]:
    """Return hypotheses by utterance id from any system's files, as `external_files.read_external` reads them."""
    return read_external(path, reading or Reading()).hypotheses


def match_names(hypotheses: Mapping[str, Hypothesis], wanted: Collection[str]) -> dict[str, Hypothesis]:
    """Return the hypotheses by utterance id, where systems name clips by a path or a file.

    A name that is no wanted id stands for the one that it is without folders, audio suffix and the like; a name that
    stands for none is kept.

    Raises
    ------
    KmedError
        When several names stand for one utterance.
    """
    ids = frozenset(wanted)
    found: dict[str, list[str]] = {}
    for name in hypotheses:
        found.setdefault(next((one for one in spellings(name) if one in ids), name), []).append(name)
    if twice := [(one, names) for one, names in found.items() if len(names) > 1]:
        one, names = twice[0]
        raise KmedError(
            f"{len(twice)} utterances have several hypotheses, as {one!r:.80} has {name_some(names)}. Keep one of each."
        )
    return {one: hypotheses[name] for one, (name,) in found.items()}


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
        When no id is in the part, several names stand for one, or hypotheses are missing and ``missing`` is ``refuse``.
    """
    wanted = list(part["utterance_id"])
    hypotheses = match_names(hypotheses, wanted)
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

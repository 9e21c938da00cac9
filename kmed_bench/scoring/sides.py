"""Both sides of the dual notation scored side by side, and whether digits explain a difference.

A system that writes 3 where the reference has 삼 is wrong on the pronunciation side and right on the spelling side.
That is a convention of writing; ``cer_number`` compares numbers in one form and shows how much of a CER it is.
"""

import re
from collections.abc import Sequence
from typing import cast, get_args

from kmed_bench.core.contracts import SIDES, ScoreCell, SideScores
from kmed_bench.core.predictions import Prediction
from kmed_bench.core.quantities import percent
from kmed_bench.scoring.groups import score_cell
from kmed_bench.scoring.measures import MEASURES, count_utterances
from kmed_bench.scoring.options import ScoringOptions
from kmed_bench.text.marks import Policy

RATES = ("cer", "cer_low", "cer_high", "wer", "cer_number", "number_exact")
SIDES_FILE = "sides.json"
_DIGIT = re.compile(r"[0-9]")
_EXPLAINED = 0.1
"""Least share of a CER that the writing of numbers makes up before a hint is worth a line."""


def score_sides(predictions: Sequence[Prediction], options: ScoringOptions) -> SideScores:
    """Return the main rates on each side, how many hypotheses hold digits, and a hint where digits explain much."""
    cells: dict[str, ScoreCell] = {}
    for side in get_args(Policy):
        counts = count_utterances(predictions, side)
        rated = counts[counts["excluded"].isin([measure.clips for measure in MEASURES.values()])]
        cells[side] = score_cell(rated, options)
    with_digits = sum(bool(_DIGIT.search(prediction.hypothesis)) for prediction in predictions)
    sides = {side: {name: cell.get(name) for name in RATES} for side, cell in cells.items()}
    return cast(
        SideScores, {**SIDES.head, **sides, "n_with_digits": with_digits, "hint": _hint(sides, with_digits, options)}
    )


def _hint(sides: dict[str, dict[str, object]], with_digits: int, options: ScoringOptions) -> str:
    """Return in a sentence that numbers are written in another way than the reference's; empty if they are not."""
    own = sides[options.transcript_side]
    other_side = next(side for side in sides if side != options.transcript_side)
    cer, number, other = own["cer"], own["cer_number"], sides[other_side]["cer"]
    if not with_digits or not isinstance(cer, float) or not isinstance(number, float) or not isinstance(other, float):
        return ""
    best = min(number, other)
    if cer - best < _EXPLAINED * cer or cer == 0:
        return ""
    return (
        f"{with_digits} transcripts hold digits. On the {options.transcript_side} side CER is {percent(cer)}, on the "
        f"{other_side} side {percent(other)}, and with numbers in one form (cer_number) {percent(number)}: much of "
        "that is how numbers are written, not what was heard. Compare systems by cer_number, or on the side they write."
    )

"""Every quantity of a prediction, counted once; every rate is a sum of one column over a sum of another.

The columns hold counts and no text, so the same table is what a benchmark package publishes.
"""

import math
import unicodedata
from collections.abc import Sequence
from numbers import Real

import numpy as np
import pandas as pd

from kmed_bench.records import GROUP_FIELDS, KmedError, Prediction
from kmed_bench.scoring.errors import (
    Counts,
    EditCounts,
    align_characters,
    count_edits,
    count_errors,
    count_word_errors,
    impose_spacing,
)
from kmed_bench.scoring.hallucinations import find_signs
from kmed_bench.scoring.numbers import count_numbers, in_one_form, respace
from kmed_bench.text.marks import MARKS_VERSION, Policy, is_masked, resolve_marks
from kmed_bench.text.normalise import NORMALISER_VERSION, normalise
from kmed_bench.text.numbers import NUMBERS_VERSION
from kmed_bench.text.terms import CATEGORIES, TERMS_VERSION, match_terms

RATES: dict[str, tuple[str, str]] = {
    "cer": ("cer_errors", "cer_length"),
    "cer_spaced": ("cer_spaced_errors", "cer_spaced_length"),
    "cer_raw": ("cer_raw_errors", "cer_raw_length"),
    "wer": ("wer_errors", "wer_length"),
    "wer_respaced": ("wer_respaced_errors", "wer_length"),
    "jer": ("jer_errors", "jer_length"),
    "cer_number": ("cer_number_errors", "cer_number_length"),
    "number_exact": ("numbers_found", "numbers"),
    "term_recall": ("terms_found", "terms"),
    "insertion_share": ("cer_insertions", "cer_errors"),
    "deletion_share": ("cer_deletions", "cer_errors"),
    "empty_rate": ("empty", "clips"),
    "hallucination_rate": ("hallucinated", "clips"),
}
"""Metric to (numerator, denominator) columns of ``count_utterances``'s table."""

EXCLUSIONS = ("reference_empty", "reference_masked")
"""Why a prediction has no part in any rate: nothing was said, or a part of what was said is withheld."""

ID_COLUMNS = ("utterance_id", "speaker_id", *GROUP_FIELDS)
TIME_COLUMNS = ("duration_s", "decode_s")
TERM_COLUMNS = {name: (f"terms_found_{name}", f"terms_{name}") for name in CATEGORIES}
"""Category of medical terms to (found, said) columns; their sums over the categories are those of all terms."""
COUNT_COLUMNS = (
    *dict.fromkeys(column for pair in (*RATES.values(), *TERM_COLUMNS.values()) for column in pair),
    "numbers_ambiguous",
)
"""Every column of counts; of ``numbers``, ``numbers_ambiguous`` can be read in more than one way."""


def versions() -> dict[str, str]:
    """Return the versions of the rules that decide what is counted; figures of different ones don't compare."""
    return {
        "normaliser_version": NORMALISER_VERSION,
        "marks_version": MARKS_VERSION,
        "numbers_version": NUMBERS_VERSION,
        "terms_version": TERMS_VERSION,
    }


def count_utterances(predictions: Sequence[Prediction], policy: Policy) -> pd.DataFrame:
    """Return one row per prediction: ids, group fields, times and counts; no text.

    Marks are resolved in references alone: they are the transcribers' notation, and a hypothesis that holds
    a parenthesis or a slash really holds it. Rows that cannot be scored name a reason of ``EXCLUSIONS`` in the
    column ``excluded`` (empty otherwise), and have 0 in ``clips`` and in every count: they drop out of every sum.

    Parameters
    ----------
    policy : str
        Side of the dual notation that is the reference.

    Raises
    ------
    KmedError
        When an utterance appears twice, or a field holds no text or no time of zero or more.
    """
    _check_fields(predictions)
    table = pd.DataFrame({name: [getattr(p, name) for p in predictions] for name in (*ID_COLUMNS, *TIME_COLUMNS)})
    resolved = [resolve_marks(p.reference, policy) for p in predictions]
    table["excluded"] = [_exclusion(text) for text in resolved]
    scored = (table["excluded"] == "").to_numpy()
    kept = [(text, p) for text, p, usable in zip(resolved, predictions, scored, strict=True) if usable]
    counts = _count([t for t, _ in kept], [p for _, p in kept])
    for name in COUNT_COLUMNS:
        column = np.zeros(len(table), dtype=np.int64)
        column[scored] = counts[name]
        table[name] = column
    return table


def _check_fields(predictions: Sequence[Prediction]) -> None:
    """Other systems' files are read without a schema: name what is no text, no time or no single utterance."""
    seen: set[str] = set()
    for prediction in predictions:
        name = prediction.utterance_id
        for field in (*ID_COLUMNS, "reference", "hypothesis"):
            value = getattr(prediction, field)
            if not isinstance(value, str):
                raise KmedError(f"Prediction {name!r} has {field} {value!r}; it must be text, empty where unknown.")
        for field in TIME_COLUMNS:
            value = getattr(prediction, field)
            if not (isinstance(value, Real) and math.isfinite(value) and float(value) >= 0):
                raise KmedError(f"Prediction {name!r} has {field} {value!r}; give seconds, 0 where they are unknown.")
        if name in seen:
            raise KmedError(f"Two predictions are of utterance {name!r}; keep one prediction of each.")
        seen.add(name)


def _exclusion(reference: str) -> str:
    if is_masked(reference):
        return "reference_masked"
    return "" if normalise(reference) else "reference_empty"


def _count(references: list[str], kept: list[Prediction]) -> dict[str, Counts]:
    """Return the columns of ``COUNT_COLUMNS`` for references with marks resolved, none of them empty."""
    hypotheses = [p.hypothesis for p in kept]
    spaced = [normalise(t, keep_spaces=True) for t in references], [normalise(t, keep_spaces=True) for t in hypotheses]
    sides = [_normalise_side(side, references, spaced[0], kept) for side in ("spelling", "pronunciation")]
    plain = [t.replace(" ", "") for t in spaced[0]], [t.replace(" ", "") for t in spaced[1]]
    raw = [_nfc(t) for t in references], [_nfc(t) for t in hypotheses]
    jamo = [_nfd(t) for t in plain[0]], [_nfd(t) for t in plain[1]]
    aligned = align_characters(*plain)
    characters = count_edits(aligned, [len(text) for text in plain[0]])
    respaced = [impose_spacing(*row) for row in zip(*spaced, aligned, strict=True)]
    numbered = in_one_form(spaced[0]), in_one_form(respace(*spaced, aligned))
    spoken, found, ambiguous = count_numbers(sides[0], sides[1], spaced[1])
    signs = [find_signs(*row) for row in zip(*plain, [p.duration_s for p in kept], strict=True)]
    columns: dict[str, Counts] = {
        "cer_insertions": characters.insertions,
        "cer_deletions": characters.deletions,
        "wer_respaced_errors": count_word_errors(spaced[0], respaced).errors,
        "numbers": spoken,
        "numbers_found": found,
        "numbers_ambiguous": ambiguous,
        **_count_terms(references, hypotheses),
        "clips": np.ones(len(references), dtype=np.int64),
        "empty": np.array([not text for text in plain[1]], dtype=np.int64),
        "hallucinated": np.array([bool(shown) for shown in signs], np.int64),
    }
    edits: dict[str, EditCounts] = {
        "cer": characters,
        "cer_spaced": count_errors(*spaced),
        "cer_raw": count_errors(*raw),
        "wer": count_word_errors(*spaced),
        "jer": count_errors(*jamo),
        "cer_number": count_errors(*numbered),
    }
    for name, edit in edits.items():
        columns[f"{name}_errors"] = edit.errors
        columns[f"{name}_length"] = edit.length
    return columns


def _normalise_side(side: Policy, resolved: list[str], normalised: list[str], kept: list[Prediction]) -> list[str]:
    """Return that side of the references' dual notation, normalised; most references have one side alone."""
    texts = [resolve_marks(p.reference, side) for p in kept]
    rows = zip(texts, resolved, normalised, strict=True)
    return [done if text == known else normalise(text, keep_spaces=True) for text, known, done in rows]


def _count_terms(references: list[str], hypotheses: list[str]) -> dict[str, Counts]:
    """Return how many medical terms each reference has and its hypothesis too, in all and by category."""
    said, found = np.zeros((2, len(CATEGORIES), len(references)), dtype=np.int64)
    for place, row in enumerate(zip(references, hypotheses, strict=True)):
        for term, n_said, n_found in match_terms(*row):
            category = CATEGORIES.index(term.category)
            said[category, place] += n_said
            found[category, place] += n_found
    columns = {"terms": said.sum(axis=0), "terms_found": found.sum(axis=0)}
    for category, (top, bottom) in enumerate(TERM_COLUMNS.values()):
        columns |= {top: found[category], bottom: said[category]}
    return columns


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip()


def _nfd(text: str) -> str:
    return unicodedata.normalize("NFD", text)


def rates(table: pd.DataFrame) -> dict[str, float | None]:
    """Return every rate of ``RATES`` over the table's rows; None where its denominator is zero."""
    sums = table[list(COUNT_COLUMNS)].sum()
    return {name: _divide(int(sums[top]), int(sums[bottom])) for name, (top, bottom) in RATES.items()}


def _divide(top: int, bottom: int) -> float | None:
    return top / bottom if bottom else None

"""Every rate of this program, and the counts per utterance that it is a ratio of.

The counts contain no text, so a benchmark package publishes the same table.
"""

import dataclasses
import functools
import math
import unicodedata
from collections.abc import Sequence
from numbers import Real
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from kmed_bench.core.contracts import RuleVersions
from kmed_bench.core.errors import KmedError
from kmed_bench.core.predictions import Prediction
from kmed_bench.core.schema import GROUP_FIELDS
from kmed_bench.scoring.edits import (
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
from kmed_bench.text.marks import MARKS_VERSION, Policy, is_masked, resolve_marks, sentence_id
from kmed_bench.text.normalise import NORMALISER_VERSION, normalise
from kmed_bench.text.numbers import NUMBERS_VERSION
from kmed_bench.text.terms import CATEGORIES, TERMS_VERSION, match_terms


@dataclasses.dataclass(frozen=True)
class Measure:
    """One rate: a sum of one column of ``count_utterances`` over a sum of another.

    Attributes
    ----------
    name : str
        Its key in scores.json; ``test/<name>`` in MLflow.
    top, bottom : str
        Columns of numerator and denominator.
    label : str
        Its name in the report.
    description : str
        What is divided by what, in a sentence.
    better : str
        The direction of an improvement: ``lower``, ``higher``, or ``neither``.
    paired : bool
        Whether the denominator depends on the reference only, so that two systems share it and can be compared.
    interval : bool
        Whether each cell of scores.json also has ``<name>_low`` and ``<name>_high``.
    """

    name: str
    top: str
    bottom: str
    label: str
    description: str
    better: Literal["lower", "higher", "neither"] = "lower"
    paired: bool = True
    interval: bool = False


def _edits(name: str, label: str, description: str, *, interval: bool = False) -> Measure:
    """Return an error rate: edits over the length of the reference."""
    return Measure(name, f"{name}_errors", f"{name}_length", label, description, interval=interval)


_CER = "Character edits over reference characters, both normalised without spaces."
_RESPACED = "WER of the hypothesis with the reference's word boundaries, so spacing is no error."
_SIGNS = "Clips with a sign of hallucination (loop, impossible rate, subtitle credit), over all clips."
_shares = functools.partial(Measure, better="neither", paired=False)
_recalls = functools.partial(Measure, better="higher")
_ALL = (
    _edits("cer", "CER: no spaces, no punctuation", _CER, interval=True),
    _edits("cer_spaced", "CER with spaces", "The same with spaces counted as characters."),
    _edits("cer_raw", "CER of the raw text", "Character edits over reference characters of the texts as written."),
    _edits(
        "cer_number",
        "CER, numbers in one form",
        "CER after spelled and written numbers are brought to one form.",
        interval=True,
    ),
    _edits("wer", "WER (eojeol)", "Word edits over reference words; words are what spaces separate.", interval=True),
    Measure("wer_respaced", "wer_respaced_errors", "wer_length", "WER with the reference's spacing", _RESPACED),
    _edits("jer", "jamo error rate", "Edits of decomposed Hangul letters (jamo) over reference letters."),
    _recalls(
        "number_exact",
        "numbers_found",
        "numbers",
        "numbers reproduced",
        "Share of numbers found, by value.",
        interval=True,
    ),
    _recalls(
        "term_recall", "terms_found", "terms", "medical terms found", "Share of medical terms found.", interval=True
    ),
    _shares(
        "insertion_share", "cer_insertions", "cer_errors", "insertions among errors", "Insertions over CER's edits."
    ),
    _shares("deletion_share", "cer_deletions", "cer_errors", "deletions among errors", "Deletions over CER's edits."),
    Measure("empty_rate", "empty", "clips", "empty transcripts", "Clips whose hypothesis is empty, over all clips."),
    Measure("hallucination_rate", "hallucinated", "clips", "hallucinated transcripts", _SIGNS, interval=True),
)
MEASURES = {measure.name: measure for measure in _ALL}
"""Every rate by name, in the order of the report; scores, groups, comparisons, report and MLflow names follow it."""

EXCLUSIONS = ("reference_empty", "reference_masked")
"""Why a prediction is left out of every rate: its reference is empty, or a part of it is masked."""

ID_COLUMNS = ("utterance_id", "speaker_id", *GROUP_FIELDS)
SENTENCE = "sentence"
"""Column that numbers the sentences; -1: unknown. Equal numbers are readings of one sentence."""
TIME_COLUMNS = ("duration_s", "decode_s")
TERM_COLUMNS = {name: (f"terms_found_{name}", f"terms_{name}") for name in CATEGORIES}
"""Category of medical terms to (found, said) columns; summed over the categories they give ``term_recall``."""
_PAIRS = (*((measure.top, measure.bottom) for measure in _ALL), *TERM_COLUMNS.values())
COUNT_COLUMNS = (*dict.fromkeys(column for pair in _PAIRS for column in pair), "numbers_ambiguous")
"""Every column of counts; of ``numbers``, ``numbers_ambiguous`` can be read in more than one way."""


def versions() -> RuleVersions:
    """Return the versions of the rules that decide what is counted; only figures of equal versions compare."""
    return {
        "normaliser_version": NORMALISER_VERSION,
        "marks_version": MARKS_VERSION,
        "numbers_version": NUMBERS_VERSION,
        "terms_version": TERMS_VERSION,
    }


def count_utterances(predictions: Sequence[Prediction], policy: Policy) -> pd.DataFrame:
    """Return one row per prediction: ids, group fields, times and counts; no text.

    Marks are resolved in references only: they are the transcribers' notation, while a parenthesis or a slash in a
    hypothesis is the model's own. Rows that cannot be scored have a reason of ``EXCLUSIONS`` in the column
    ``excluded`` (empty otherwise), and 0 in ``clips`` and every other count, so they drop out of every sum.

    Parameters
    ----------
    policy : str
        Side of the dual notation that is the reference.

    Raises
    ------
    KmedError
        When an utterance appears twice, a field is not text, or a time is not a number of at least zero.
    """
    _check_fields(predictions)
    table = pd.DataFrame({name: [getattr(p, name) for p in predictions] for name in (*ID_COLUMNS, *TIME_COLUMNS)})
    resolved = [resolve_marks(p.reference, policy) for p in predictions]
    table[SENTENCE] = number_sentences(predictions)
    table["excluded"] = [_exclusion(text) for text in resolved]
    scored = (table["excluded"] == "").to_numpy()
    kept = [(text, p) for text, p, usable in zip(resolved, predictions, scored, strict=True) if usable]
    counts = _count([t for t, _ in kept], [p for _, p in kept])
    for name in COUNT_COLUMNS:
        column = np.zeros(len(table), dtype=np.int64)
        column[scored] = counts[name]
        table[name] = column
    return table


def number_sentences(predictions: Sequence[Prediction]) -> npt.NDArray[np.int64]:
    """Return (n_predictions,) numbers of the sentences read, in the order of the utterances' ids.

    Predictions of other systems need not name their sentence; their references tell.
    """
    order = sorted(range(len(predictions)), key=lambda row: predictions[row].utterance_id)
    names = [predictions[row].sentence_id or sentence_id(predictions[row].reference) for row in order]
    numbers = np.empty(len(order), dtype=np.int64)
    numbers[order] = pd.factorize(np.asarray(names, dtype=object))[0]
    return numbers


def _check_fields(predictions: Sequence[Prediction]) -> None:
    """Raise for a field of the wrong type and for a repeated utterance; other systems' files have no schema."""
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
    """Return the medical terms of each reference, and those its hypothesis has too, in total and by category."""
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
    """Return every rate of ``MEASURES`` over the table's rows; None where its denominator is zero."""
    sums = table[list(COUNT_COLUMNS)].sum()
    return {name: _divide(int(sums[m.top]), int(sums[m.bottom])) for name, m in MEASURES.items()}


def _divide(top: int, bottom: int) -> float | None:
    return top / bottom if bottom else None

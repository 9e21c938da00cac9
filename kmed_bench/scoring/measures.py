"""Every rate of this program, and the counts per utterance that it is a ratio of.

The counts contain no text, so a benchmark package publishes the same table.
"""

import dataclasses
import functools
import math
import operator
from collections.abc import Sequence
from numbers import Real
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from kmed_bench.core.contracts import RuleVersions
from kmed_bench.core.errors import KmedError
from kmed_bench.core.language import N_
from kmed_bench.core.predictions import Prediction
from kmed_bench.core.schema import GROUP_FIELDS
from kmed_bench.scoring.counting import TERM_COLUMNS, Exclusion, count_rows
from kmed_bench.scoring.spread import Clips, clips_of
from kmed_bench.text.marks import MARKS_VERSION, Policy
from kmed_bench.text.normalise import NORMALISER_VERSION
from kmed_bench.text.numbers import NUMBERS_VERSION
from kmed_bench.text.terms import TERMS_VERSION
from kmed_bench.text.variants import VARIANTS_VERSION


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
    clips : str
        Which clips it counts, by their value of ``excluded``: the scored ones, or those without speech.
    """

    name: str
    top: str
    bottom: str
    label: str
    description: str
    better: Literal["lower", "higher", "neither"] = "lower"
    paired: bool = True
    interval: bool = False
    clips: Exclusion = ""


def _edits(name: str, label: str, description: str, *, interval: bool = False) -> Measure:
    """Return an error rate: edits over the length of the reference."""
    return Measure(name, f"{name}_errors", f"{name}_length", label, description, interval=interval)


_NUMBER = N_("CER after spelled and written numbers are in one form, over the reference's characters in that form.")
_EXACT = N_("Share of numbers found, by value, unit and order.")
_TERMS = N_("Share of medical terms found.")
_CER = N_("Character edits over reference characters, both normalised without spaces.")
_RESPACED = N_("WER of the hypothesis with the reference's word boundaries, so spacing is no error.")
_RESOLVED = N_(
    "CER after numbers are in one form and accepted spellings (CT, 씨티) are the reference's, over the reference's "
    "characters with numbers in that form, as for cer_number: so N differs from that of CER."
)
_AMBIGUOUS = N_("Numbers of the references that can be read in several ways (any is accepted), over all numbers.")
_FLUENT = N_("CER of the clips whose hypothesis has no repetition loop that the reference lacks.")
_WORST = N_("Errors of CER in the 1 % of all clips with the most errors, over all errors.")
_PERFECT = N_("Clips without an error of CER, over all clips.")
_SIGNS = N_("Clips with a sign of hallucination (loop, impossible rate, credit, other script), over all clips.")
_SILENCE = N_("Clips without speech (empty reference) whose hypothesis is not empty, over all clips without speech.")
_shares = functools.partial(Measure, better="neither", paired=False)
_recalls = functools.partial(Measure, better="higher")
_ALL = (
    _edits("cer", N_("CER: no spaces, no punctuation"), _CER, interval=True),
    _edits("cer_spaced", N_("CER with spaces"), N_("The same with spaces counted as characters.")),
    _edits(
        "cer_raw", N_("CER of the raw text"), N_("Character edits over reference characters of the texts as written.")
    ),
    _edits("cer_number", N_("CER, numbers in one form"), _NUMBER, interval=True),
    _edits("cer_resolved", N_("CER, accepted spellings"), _RESOLVED),
    dataclasses.replace(_edits("cer_without_loops", N_("CER without looping clips"), _FLUENT), paired=False),
    _edits(
        "wer", N_("WER (eojeol)"), N_("Word edits over reference words; words are what spaces separate."), interval=True
    ),
    Measure("wer_respaced", "wer_respaced_errors", "wer_length", N_("WER with the reference's spacing"), _RESPACED),
    _edits("jer", N_("jamo error rate"), N_("Edits of decomposed Hangul letters (jamo) over reference letters.")),
    _recalls("number_exact", "numbers_found", "numbers", N_("numbers reproduced"), _EXACT, interval=True),
    _shares("number_ambiguity", "numbers_ambiguous", "numbers", N_("numbers with several readings"), _AMBIGUOUS),
    _recalls("term_recall", "terms_found", "terms", N_("medical terms found"), _TERMS, interval=True),
    _shares(
        "insertion_share",
        "cer_insertions",
        "cer_errors",
        N_("insertions among errors"),
        N_("Insertions over CER's edits."),
    ),
    _shares(
        "deletion_share", "cer_deletions", "cer_errors", N_("deletions among errors"), N_("Deletions over CER's edits.")
    ),
    _shares(
        "worst_percent_share", "worst_percent_errors", "cer_errors", N_("errors in the worst 1 % of clips"), _WORST
    ),
    _recalls("perfect_rate", "perfect", "clips", N_("clips without an error"), _PERFECT, interval=True),
    Measure(
        "empty_rate", "empty", "clips", N_("empty transcripts"), N_("Clips whose hypothesis is empty, over all clips.")
    ),
    Measure("hallucination_rate", "hallucinated", "clips", N_("hallucinated transcripts"), _SIGNS, interval=True),
    Measure(
        "silence_hallucination_rate",
        "silent_hallucinated",
        "clips_silent",
        N_("speech invented in silence"),
        _SILENCE,
        clips="reference_empty",
    ),
)
MEASURES = {measure.name: measure for measure in _ALL}
"""Every rate by name, in the order of the report; scores, groups, comparisons, report and MLflow names follow it."""

EXCLUSIONS = ("reference_empty", "reference_masked")
"""Why a prediction is left out of the rates: its reference is empty (it has a rate of its own), or partly masked."""

ID_COLUMNS = ("utterance_id", "speaker_id", *GROUP_FIELDS)
SENTENCE = "sentence"
"""Column that numbers the sentences; -1: unknown. Equal numbers are readings of one sentence."""
TIME_COLUMNS = ("duration_s", "decode_s")
_TEXT_FIELDS = (*ID_COLUMNS, "reference", "hypothesis")
_TEXTS, _TIMES = operator.attrgetter(*_TEXT_FIELDS), operator.attrgetter(*TIME_COLUMNS)
_PAIRS = (*((measure.top, measure.bottom) for measure in _ALL), *TERM_COLUMNS.values())
COUNT_COLUMNS = (*dict.fromkeys(column for pair in _PAIRS for column in pair), "numbers_unread")
"""Every column of counts."""


def versions() -> RuleVersions:
    """Return the versions of the rules that decide what is counted; only figures of equal versions compare."""
    return {
        "normaliser_version": NORMALISER_VERSION,
        "marks_version": MARKS_VERSION,
        "numbers_version": NUMBERS_VERSION,
        "terms_version": TERMS_VERSION,
        "variants_version": VARIANTS_VERSION,
    }


def count_utterances(predictions: Sequence[Prediction], policy: Policy) -> pd.DataFrame:
    """Return one row per prediction: ids, group fields, times and counts; no text.

    ``code_switching`` is how the reference writes foreign words, ``reference`` a number that only equal references
    share. It stays out of packages: whoever guesses a short sentence could confirm it.

    Marks are resolved in references only: they are the transcribers' notation, while a parenthesis or a slash in a
    hypothesis is the model's own. Rows that cannot be scored have a reason of ``EXCLUSIONS`` in the column
    ``excluded`` (empty otherwise), and 0 in ``clips`` and every other count, so they drop out of every sum; only the
    columns of ``silence_hallucination_rate`` count those without speech.

    Parameters
    ----------
    policy : str
        Side of the dual notation that is the reference.

    Raises
    ------
    KmedError
        When an utterance appears twice, a field is not text, or a time is not a number of at least zero.
    """
    counts = count_texts(predictions, policy)
    counts[SENTENCE] = _number_sentences(counts["utterance_id"], counts.pop("sentence_id"))
    counts["perfect"] = count_perfect(counts)
    counts["worst_percent_errors"] = errors_of_worst(counts["utterance_id"], counts)
    columns = (*ID_COLUMNS, *TIME_COLUMNS, SENTENCE, "excluded", "code_switching", "reference", *COUNT_COLUMNS)
    return counts[list(columns)]


def count_texts(predictions: Sequence[Prediction], policy: Policy) -> pd.DataFrame:
    """Return what `count_utterances` finds in each prediction by itself, and its ``sentence_id``.

    Raises
    ------
    KmedError
        As `count_utterances`.
    """
    _check_fields(predictions)
    table = pd.DataFrame({name: [getattr(p, name) for p in predictions] for name in (*ID_COLUMNS, *TIME_COLUMNS)})
    counts = count_rows([(p.reference, p.hypothesis, p.duration_s, p.sentence_id) for p in predictions], policy)
    return pd.concat([table, counts], axis=1)


def cer_clips(scored: pd.DataFrame) -> Clips:
    """Return scored rows as the clips of ``cer``; where they do not say the sentence, each clip is its own."""
    cer = MEASURES["cer"]
    return clips_of(scored["speaker_id"], scored[cer.top], scored[cer.bottom], scored.get(SENTENCE))


def count_perfect(counts: pd.DataFrame) -> "pd.Series[int]":
    """Return 1 for each scored clip without an error of ``cer``, and 0 elsewhere."""
    return ((counts["clips"] > 0) & (counts["cer_errors"] == 0)).astype(np.int64)


def errors_of_worst(utterance_ids: pd.Series, counts: pd.DataFrame) -> pd.Series:
    """Return the errors of the worst 1 % of the scored clips, rounded up, and 0 elsewhere; ids break ties."""
    n_worst = -(-int((counts["excluded"] == "").sum()) // 100)
    order = np.lexsort((utterance_ids.to_numpy(), -counts["cer_errors"].to_numpy()))
    worst = np.zeros(len(counts), dtype=np.int64)
    worst[order[:n_worst]] = 1
    return counts["cer_errors"] * worst


def _number_sentences(utterance_ids: pd.Series, sentence_ids: pd.Series) -> npt.NDArray[np.int64]:
    """Return (n_predictions,) numbers of the sentences read, in the order of the utterances' ids."""
    order = np.argsort(utterance_ids.to_numpy(dtype=object), kind="stable")
    numbers = np.empty(len(order), dtype=np.int64)
    numbers[order] = pd.factorize(sentence_ids.to_numpy(dtype=object)[order])[0]
    return numbers


def _check_fields(predictions: Sequence[Prediction]) -> None:
    """Raise for a field of the wrong type and for a repeated utterance; other systems' files have no schema."""
    seen: set[str] = set()
    for prediction in predictions:
        name = prediction.utterance_id
        if name not in seen and {*map(type, _TEXTS(prediction))} == {str} and _are_seconds(_TIMES(prediction)):
            seen.add(name)
            continue
        for field in _TEXT_FIELDS:
            value = getattr(prediction, field)
            if not isinstance(value, str):
                raise KmedError(f"Prediction {name!r} has {field} {value!r}; it must be text, empty where unknown.")
        for field in TIME_COLUMNS:
            value = getattr(prediction, field)
            if not _are_seconds((value,)):
                raise KmedError(f"Prediction {name!r} has {field} {value!r}; give seconds, 0 where they are unknown.")
        if name in seen:
            raise KmedError(f"Two predictions are of utterance {name!r}; keep one prediction of each.")
        seen.add(name)


def _are_seconds(values: Sequence[Any]) -> bool:
    return all(isinstance(value, (float, int, Real)) and 0 <= float(value) < math.inf for value in values)


def rates(table: pd.DataFrame) -> dict[str, float | None]:
    """Return every rate of ``MEASURES`` over the table's rows; None where its denominator is zero."""
    sums = table[list(COUNT_COLUMNS)].sum()
    return {name: _divide(int(sums[m.top]), int(sums[m.bottom])) for name, m in MEASURES.items()}


def _divide(top: int, bottom: int) -> float | None:
    return top / bottom if bottom else None

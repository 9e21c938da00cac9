"""Whether a challenger may become the champion: the evidence it needs, the checks, their figures.

The paired comparison needs both systems' errors on the same speech, but transcripts stay out of the store, and so
do utterances: what is kept is each speaker's sums on each sentence. Both are numbered in an order that depends on the
split's hash, so two runs on one split number them the same way, and a number identifies nobody.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from kmed_bench.core.contracts import Comparison, Scores
from kmed_bench.core.errors import KmedError
from kmed_bench.core.quantities import percent
from kmed_bench.core.run_contracts import SPEAKER_ERRORS, SpeakerErrors
from kmed_bench.core.schema import GROUP_FIELDS
from kmed_bench.scoring.compare import compare_counts, holm
from kmed_bench.scoring.measures import SENTENCE
from kmed_bench.scoring.options import ScoringOptions

EVIDENCE_NAME = "speaker_errors.json"
SIGNIFICANT = 0.05
MAX_ELDERLY_GAP = 0.05
"""How much higher the CER of speakers aged 60 and over may be than that of the rest, as a fraction."""
MAX_DECODE_S = 5.0
"""Largest 95th percentile of seconds per clip, as measured by the run that made the model."""
_OPTIONS = ScoringOptions()
_RULES = ("transcript_policy", "normaliser_version", "marks_version")
_SUMS = ("cer_errors", "cer_length", "clips")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evidence:
    """What is known of one version: tags of the version, metrics and artifacts of the run that made it.

    Attributes
    ----------
    split_sha256 : str
        Empty where it is unknown.
    scores, speakers : dict or None
        Content of scores.json and speaker_errors.json; None where the run has none.
    """

    version: str
    split_sha256: str
    metrics: Mapping[str, float]
    scores: Scores | None
    speakers: SpeakerErrors | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    """One condition of the gate; ``passed`` None: it could not be judged and does not prevent a promotion."""

    name: str
    passed: bool | None
    text: str
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)


def summarise_speakers(counts: pd.DataFrame, *, split_sha256: str, scores: Scores) -> SpeakerErrors:
    """Return the content of ``speaker_errors.json``: errors summed by speaker and sentence, no ids, no texts.

    Parameters
    ----------
    counts : pandas.DataFrame
        As ``scoring.measures.count_utterances`` returns it.
    scores : dict
        The scores of these counts, which state the rules they were counted by.
    """
    scored = counts[counts["excluded"] == ""]

    def numbers(column: "pd.Series[Any]") -> "pd.Series[int]":
        def order(value: object) -> str:
            return hashlib.sha256(f"{split_sha256}/{value}".encode()).hexdigest()

        return column.map({value: n for n, value in enumerate(sorted(column.unique(), key=order))})

    table = scored.assign(speaker=numbers(scored["speaker_id"]), sentence=numbers(scored[SENTENCE]))
    sums = table.groupby(["speaker", SENTENCE, *GROUP_FIELDS], as_index=False)[list(_SUMS)].sum()
    return {
        **SPEAKER_ERRORS.head,
        "split_sha256": split_sha256,
        "transcript_policy": scores["transcript_policy"],
        "normaliser_version": scores["normaliser_version"],
        "marks_version": scores["marks_version"],
        "speakers": {str(name): column for name, column in sums.to_dict("list").items()},
    }


def judge(challenger: Evidence, champion: Evidence | None) -> list[Check]:
    """Return every check of the gate in the order of their weight; the gate holds when none is False."""
    limited = [_elderly_gap(challenger), _latency(challenger)]
    if champion is None:
        return [Check(name="accuracy", passed=True, text="there is no champion yet: first of its kind"), *limited]
    if champion.version == challenger.version:
        return [Check(name="accuracy", passed=True, text="it is the champion already"), *limited]
    same = _same_test(challenger, champion)
    if not same.passed:
        return [same, *limited]
    return [same, *_compare(challenger, champion), *limited]


def _same_test(challenger: Evidence, champion: Evidence) -> Check:
    """Check that both were tested on the same speech and scored by the same rules."""
    ours, theirs = challenger.split_sha256, champion.split_sha256
    if not ours or ours != theirs:
        text = f"measured on split {ours[:12] or 'unknown'}, the champion on {theirs[:12] or 'unknown'}"
        return Check(
            name="test", passed=False, text=f"{text}: their errors can't be compared; measure both on one split"
        )
    new_rules, old_rules = _rules(challenger), _rules(champion)
    for rule in (name for name in _RULES if name in new_rules and name in old_rules):
        if new_rules[rule] != old_rules[rule]:
            text = f"scored with {rule} {new_rules[rule]}, the champion with {old_rules[rule]}"
            return Check(name="test", passed=False, text=f"{text}: score both with one release")
    return Check(name="test", passed=True, text=f"both were measured on split {ours[:12]} by the same rules")


def _rules(evidence: Evidence) -> dict[str, object]:
    return {key: value for key, value in (evidence.speakers or {}).items() if key in _RULES}


def _compare(challenger: Evidence, champion: Evidence) -> list[Check]:
    try:
        new, old = _counts(challenger), _counts(champion)
        whole = compare_counts(old, new, _OPTIONS)
    except KmedError as error:
        return [Check(name="accuracy", passed=False, text=f"the two can't be compared: {error}")]
    keys = ("a", "b", "delta", "delta_low", "delta_high", "p_value", "p_value_floor", "n_speakers")
    figures = {key: value for key, value in whole.items() if key in keys}
    text = f"test CER {percent(whole['b'])} against the champion's {percent(whole['a'])}, difference {_delta(whole)}"
    # The two can differ: 5 speakers may all improve, but that happens by chance too often for p < 0.05.
    better = whole["delta_high"] is not None and whole["delta_high"] < 0 and whole["p_value"] < SIGNIFICANT
    text = f"{text}, p {whole['p_value']:.3f}; its interval must be below zero and p below {SIGNIFICANT:g}"
    if whole["p_value_floor"] >= SIGNIFICANT:
        text = f"{text}, which {whole['n_speakers']} speakers can't show: test on at least 6 that differ"
    accuracy = Check(name="accuracy", passed=better, text=text, figures=figures)
    return [accuracy, _subgroups(old, new)]


def _subgroups(old: pd.DataFrame, new: pd.DataFrame) -> Check:
    """Compare every group that is large enough; p-values are corrected for the number of groups."""
    compared: dict[str, Comparison] = {}
    for field in GROUP_FIELDS:
        groups = old.groupby(field)
        for value, rows in groups if len(groups) > 1 else ():  # the only group is the whole part
            large = rows["clips"].sum() >= _OPTIONS.min_group_clips
            if large and rows["speaker_id"].nunique() >= _OPTIONS.min_group_speakers:
                compared[f"{field} {value}"] = compare_counts(rows, new[new[field] == value], _OPTIONS)
    if not compared:
        minimum = f"{_OPTIONS.min_group_clips} clips of {_OPTIONS.min_group_speakers} speakers"
        return Check(name="subgroups", passed=None, text=f"no subgroup has {minimum}: not judged")
    corrected = dict(zip(compared, holm([each["p_value"] for each in compared.values()]), strict=True))
    deltas = {name: each["delta"] or 0.0 for name, each in compared.items()}
    worse = [name for name, delta in deltas.items() if delta > 0]
    surely = [name for name in worse if corrected[name] < SIGNIFICANT]
    figures = {
        name: {"delta": deltas[name], "p_value": corrected[name], "n_speakers": each["n_speakers"]}
        for name, each in compared.items()
    }
    named = ", ".join(f"{name} by {100 * deltas[name]:.2f} points" for name in surely or worse)
    share = f"{len(surely)} of {len(compared)} significantly worse, {len(worse)} worse at all"
    return Check(name="subgroups", passed=not surely, text=f"{share}: {named}" if named else share, figures=figures)


def _elderly_gap(challenger: Evidence) -> Check:
    gap = challenger.scores["elderly_gap"] if challenger.scores else None
    if gap is None or gap["cer_gap"] is None or gap["below_minimum"]:
        return Check(name="elderly gap", passed=None, text="too few speakers aged 60 and over, or under: not judged")
    higher, limit = gap["cer_gap"], MAX_ELDERLY_GAP
    text = f"the CER of speakers aged 60 and over is {percent(higher)} above the rest's, limit {percent(limit)}"
    figures = {"cer_gap": higher, "limit": limit}
    return Check(name="elderly gap", passed=higher <= limit, text=text, figures=figures)


def _latency(challenger: Evidence) -> Check:
    measured = challenger.metrics.get("speed/test_decode_s_p95")
    if measured is None:
        return Check(name="latency", passed=None, text="the time per clip was not measured: not judged")
    text = f"95 % of clips take at most {measured:.2f} s, limit {MAX_DECODE_S:g} s"
    figures = {"decode_s_p95": measured, "limit": MAX_DECODE_S}
    return Check(name="latency", passed=measured <= MAX_DECODE_S, text=text, figures=figures)


def _counts(evidence: Evidence) -> pd.DataFrame:
    """Return the speakers' sums as `compare_counts` takes them, one row per speaker and group."""
    if not evidence.speakers:
        raise KmedError(f"the run of version {evidence.version} has no {EVIDENCE_NAME}; train it with this release.")
    table = pd.DataFrame(evidence.speakers["speakers"])
    if SENTENCE not in table:
        raise KmedError(
            f"{EVIDENCE_NAME} of version {evidence.version} is from a release that did not record which speakers read "
            f"one sentence, and without it chance cannot be told; {SPEAKER_ERRORS.remedy}."
        )
    keys = ["speaker", SENTENCE, *GROUP_FIELDS]
    return table.assign(
        utterance_id=table[keys].astype(str).agg("/".join, axis=1), speaker_id=table["speaker"].astype(str), excluded=""
    )


def _delta(comparison: Comparison) -> str:
    delta, low, high = (comparison[key] for key in ("delta", "delta_low", "delta_high"))
    if delta is None or low is None or high is None:
        return f"{100 * (delta or 0):+.2f} points, no interval: {comparison['no_interval']}"
    return f"{100 * delta:+.2f} points ({100 * low:+.2f} to {100 * high:+.2f})"


def describe(checks: Iterable[Check]) -> list[str]:
    """Return one line per check for people."""
    words = {True: "holds", False: "fails", None: "open"}
    return [f"{check.name} {words[check.passed]}: {check.text}" for check in checks]

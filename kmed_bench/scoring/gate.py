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

from kmed_bench.config import GateConfig
from kmed_bench.core.contracts import Scores
from kmed_bench.core.errors import KmedError
from kmed_bench.core.quantities import percent
from kmed_bench.core.run_contracts import SPEAKER_ERRORS, SpeakerErrors
from kmed_bench.core.schema import GROUP_FIELDS
from kmed_bench.scoring.compare import compare_counts
from kmed_bench.scoring.measures import SENTENCE
from kmed_bench.scoring.options import ScoringOptions
from kmed_bench.scoring.verdict import KEPT, compare_groups, is_shown, least_speakers, say_difference

EVIDENCE_NAME = "speaker_errors.json"
UNTOUCHED_NAME = "speaker_errors_untouched.json"
DISJOINT = "disjoint"
"""Label of a split whose parts share nothing; see `corpus.splitting.leakage.name_leaks`."""
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
    split_label : str
        ``disjoint``, or ``leaking`` and what the split's parts share; empty where it is unknown.
    synthetic : bool or None
        Whether the speech is the generated demo corpus; None where it is unknown.
    verdict : str
        Outcome of the training; empty for versions of releases without verdicts.
    scores : dict or None
        Content of scores.json; None where the run has none.
    speakers, untouched : dict or None
        Errors by speaker of the version and of the model before training, on the same test part.
    """

    version: str
    split_sha256: str = ""
    split_label: str = ""
    synthetic: bool | None = None
    verdict: str = ""
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    scores: Scores | None = None
    speakers: SpeakerErrors | None = None
    untouched: SpeakerErrors | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    """One condition of the gate; ``passed`` None: it could not be judged and does not prevent a promotion.

    ``final``: if it fails, not even force makes the version a champion.
    """

    name: str
    passed: bool | None
    text: str
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)
    final: bool = False


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


def judge(challenger: Evidence, champion: Evidence | None, limits: GateConfig | None = None) -> list[Check]:
    """Return every check of the gate in the order of their weight; the gate holds when none is False.

    A version must be better than the model before training and than the champion. Both comparisons are made at
    ``gate.significance`` and both must hold, so the chance that a version no better than one of them passes does not
    exceed that level.
    """
    limits = limits or GateConfig()
    first, limited = [_data(challenger)], [_elderly_gap(challenger, limits), _latency(challenger, limits)]
    if champion is not None and champion.version == challenger.version:
        return [*first, Check(name="accuracy", passed=True, text="it is the champion already"), *limited]
    first.append(_beats_untouched(challenger, limits))
    if champion is None:
        text = "there is no champion yet; the untouched model is the one to beat"
        return [*first, Check(name="accuracy", passed=None, text=text), *limited]
    same = _same_test(challenger, champion)
    if not same.passed:
        return [*first, same, *limited]
    return [*first, same, *_compare(challenger, champion, limits), *limited]


def _data(challenger: Evidence) -> Check:
    """Check that the figures are of real speech, and of a test part that training shares nothing with."""
    label = challenger.split_label
    faults = ["the speech is the generated demo corpus"] if challenger.synthetic else []
    if label not in ("", DISJOINT):
        faults.append(f"the split's parts share what they must not ({label})")
    if faults:
        text = f"{' and '.join(faults)}, which says nothing about new patients; not even --force promotes it"
        return Check(name="data", passed=False, text=text, final=True)
    unknown = ["whether the speech is synthetic"] if challenger.synthetic is None else []
    unknown += [] if label else ["whether the split leaks"]
    if unknown:
        text = f"the run does not record {' and '.join(unknown)}; train the version again with this release"
        return Check(name="data", passed=False, text=text)
    return Check(name="data", passed=True, text="real speech, and no speaker, sentence or recording in two parts")


def _beats_untouched(challenger: Evidence, limits: GateConfig) -> Check:
    ours, before = (challenger.metrics.get(name) for name in ("test/cer", "untouched/test_cer"))
    if ours is not None and before is not None and ours >= before:
        text = f"test CER {percent(ours)} against the untouched model's {percent(before)}: training did not lower it"
        return Check(name="untouched", passed=False, text=text, figures={"a": before, "b": ours})
    if challenger.verdict == KEPT:  # a model is chosen on the valid part; the test part must not choose it after all
        text = "training did not lower the valid CER, so its benchmark kept the untouched model"
        return Check(name="untouched", passed=False, text=text)
    try:
        new = _counts(challenger.speakers, challenger.version, EVIDENCE_NAME)
        old = _counts(challenger.untouched, challenger.version, UNTOUCHED_NAME)
        return _better("untouched", old, new, "the untouched model's", limits)
    except KmedError as error:
        return Check(name="untouched", passed=False, text=f"the two can't be compared: {error}")


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


def _compare(challenger: Evidence, champion: Evidence, limits: GateConfig) -> list[Check]:
    try:
        new, old = (_counts(each.speakers, each.version, EVIDENCE_NAME) for each in (challenger, champion))
        accuracy = _better("accuracy", old, new, "the champion's", limits)
    except KmedError as error:
        return [Check(name="accuracy", passed=False, text=f"the two can't be compared: {error}")]
    return [accuracy, _subgroups(old, new, limits)]


def _better(name: str, old: pd.DataFrame, new: pd.DataFrame, whose: str, limits: GateConfig) -> Check:
    """Check that the new system's CER is lower by more than chance on the same clips."""
    whole, level = compare_counts(old, new, _OPTIONS), limits.significance
    keys = ("a", "b", "delta", "delta_low", "delta_high", "p_value", "p_value_floor", "n_speakers")
    figures = {key: value for key, value in whole.items() if key in keys} | {"limit": level}
    text = f"test CER {percent(whole['b'])} against {whose} {percent(whole['a'])}, difference {say_difference(whole)}"
    text = f"{text}, p {whole['p_value']:.3f}; its interval must be below zero and p below {level:g}"
    if whole["p_value_floor"] >= level:
        needed = least_speakers(level)
        text = f"{text}, which {whole['n_speakers']} speakers can't show: test on at least {needed} that differ"
    return Check(name=name, passed=is_shown(whole, level), text=text, figures=figures)


def _subgroups(old: pd.DataFrame, new: pd.DataFrame, limits: GateConfig) -> Check:
    """Compare every group that is large enough; p-values are corrected for the number of groups."""
    compared, corrected = compare_groups(old, new, _OPTIONS)
    if not compared:
        minimum = f"{_OPTIONS.min_group_clips} clips of {_OPTIONS.min_group_speakers} speakers"
        return Check(name="subgroups", passed=None, text=f"no subgroup has {minimum}: not judged")
    deltas = {name: each["delta"] or 0.0 for name, each in compared.items()}
    worse = [name for name, delta in deltas.items() if delta > 0]
    surely = [name for name in worse if corrected[name] < limits.significance]
    figures = {
        name: {"delta": deltas[name], "p_value": corrected[name], "n_speakers": each["n_speakers"]}
        for name, each in compared.items()
    }
    named = ", ".join(f"{name} by {100 * deltas[name]:.2f} points" for name in surely or worse)
    share = f"{len(surely)} of {len(compared)} significantly worse, {len(worse)} worse at all"
    return Check(name="subgroups", passed=not surely, text=f"{share}: {named}" if named else share, figures=figures)


def _elderly_gap(challenger: Evidence, limits: GateConfig) -> Check:
    gap = challenger.scores["elderly_gap"] if challenger.scores else None
    if gap is None or gap["cer_gap"] is None or gap["below_minimum"]:
        return Check(name="elderly gap", passed=None, text="too few speakers aged 60 and over, or under: not judged")
    higher, limit = gap["cer_gap"], limits.max_elderly_gap
    text = f"the CER of speakers aged 60 and over is {percent(higher)} above the rest's, limit {percent(limit)}"
    figures = {"cer_gap": higher, "limit": limit}
    return Check(name="elderly gap", passed=higher <= limit, text=text, figures=figures)


def _latency(challenger: Evidence, limits: GateConfig) -> Check:
    """Judge the time per clip only where the machine had little else to do while it was measured."""
    measured, load = (challenger.metrics.get(f"latency/{name}") for name in ("clip_s_p95", "others_load"))
    limit = limits.max_latency_s
    if limit is None or measured is None:
        why = "gate.max_latency_s is none" if limit is None else "the run did not measure it"
        return Check(name="latency", passed=None, text=f"{why}: not judged")
    text = f"95 % of clips take at most {measured:.2f} s one at a time, limit {limit:g} s"
    figures: dict[str, Any] = {"clip_s_p95": measured, "others_load": load, "limit": limit}
    if load is None or load > limits.max_load:
        state = "is unknown" if load is None else f"was {percent(load)}, over {percent(limits.max_load)}"
        text = f"{text}; the load of other processes meanwhile {state}: not judged"
        return Check(name="latency", passed=None, text=text, figures=figures)
    text = f"{text}, load of other processes {percent(load)}"
    return Check(name="latency", passed=measured <= limit, text=text, figures=figures)


def _counts(speakers: SpeakerErrors | None, version: str, name: str) -> pd.DataFrame:
    """Return the speakers' sums as `compare_counts` takes them, one row per speaker and group."""
    if not speakers:
        raise KmedError(f"the run of version {version} has no {name}; train it with this release.")
    table = pd.DataFrame(speakers["speakers"])
    if SENTENCE not in table:
        raise KmedError(
            f"{name} of version {version} is from a release that did not record which speakers read "
            f"one sentence, and without it chance cannot be told; {SPEAKER_ERRORS.remedy}."
        )
    keys = ["speaker", SENTENCE, *GROUP_FIELDS]
    return table.assign(
        utterance_id=table[keys].astype(str).agg("/".join, axis=1), speaker_id=table["speaker"].astype(str), excluded=""
    )


def describe(checks: Iterable[Check]) -> list[str]:
    """Return one line per check for people."""
    words = {True: "holds", False: "fails", None: "open"}
    return [f"{check.name} {words[check.passed]}: {check.text}" for check in checks]

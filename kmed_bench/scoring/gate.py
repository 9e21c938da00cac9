"""Whether a challenger may become the champion: the evidence it needs, the checks, their figures.

The paired comparison needs both systems' errors on the same speech, but transcripts stay out of the store, and so
do utterances: what is kept is each speaker's sums. Speakers are numbered in an order that depends on the split's
hash, so that two runs on one split number them alike and the numbers alone name nobody.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from kmed_bench.config import EvalConfig
from kmed_bench.core.errors import KmedError
from kmed_bench.core.schema import GROUP_FIELDS
from kmed_bench.scoring.compare import compare_counts, holm

EVIDENCE_NAME = "speaker_errors.json"
SIGNIFICANT = 0.05
_RULES = ("transcript_policy", "normaliser_version", "marks_version")
_SUMS = ("cer_errors", "cer_length", "clips")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GateLimits:
    """What a champion may cost at most.

    Attributes
    ----------
    max_elderly_gap : float
        How much higher the CER of speakers aged 60 and over may be than that of the rest, as a fraction.
    max_decode_s : float
        The 95th percentile of seconds per clip, as measured by the run that made the model.
    """

    max_elderly_gap: float = 0.05
    max_decode_s: float = 5.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evidence:
    """What is known of one version: tags of the version, metrics and artifacts of the run that made it."""

    version: str
    split_sha256: str
    metrics: Mapping[str, float]
    scores: Mapping[str, Any]
    speakers: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    """One condition of the gate; ``passed`` None: it could not be judged and does not stand in the way."""

    name: str
    passed: bool | None
    text: str
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)


def summarise_speakers(counts: pd.DataFrame, *, split_sha256: str, scoring: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of ``speaker_errors.json``: errors summed by speaker, no ids, no texts.

    Parameters
    ----------
    counts : pandas.DataFrame
        As ``scoring.measures.count_utterances`` returns it.
    scoring : mapping
        ``scores.json`` or any mapping with transcript_policy, normaliser_version and marks_version.
    """
    scored = counts[counts["excluded"] == ""]

    def place(speaker: str) -> str:
        return hashlib.sha256(f"{split_sha256}/{speaker}".encode()).hexdigest()

    numbers = {speaker: n for n, speaker in enumerate(sorted(scored["speaker_id"].unique(), key=place))}
    table = scored.assign(speaker=scored["speaker_id"].map(numbers))
    sums = table.groupby(["speaker", *GROUP_FIELDS], as_index=False)[list(_SUMS)].sum()
    return {"split_sha256": split_sha256, **{rule: scoring[rule] for rule in _RULES}, "speakers": sums.to_dict("list")}


def judge(challenger: Evidence, champion: Evidence | None, limits: GateLimits) -> list[Check]:
    """Return every check of the gate in the order of their weight; it holds when none is False."""
    limited = [_elderly_gap(challenger, limits), _latency(challenger, limits)]
    if champion is None:
        return [Check(name="accuracy", passed=True, text="there is no champion yet: first of its kind"), *limited]
    if champion.version == challenger.version:
        return [Check(name="accuracy", passed=True, text="it is the champion already"), *limited]
    same = _same_test(challenger, champion)
    if not same.passed:
        return [same, *limited]
    return [same, *_compare(challenger, champion), *limited]


def _same_test(challenger: Evidence, champion: Evidence) -> Check:
    """Errors are comparable on equal speech that was scored by equal rules."""
    ours, theirs = challenger.split_sha256, champion.split_sha256
    if not ours or ours != theirs:
        text = f"measured on split {ours[:12] or 'unknown'}, the champion on {theirs[:12] or 'unknown'}"
        return Check(
            name="test", passed=False, text=f"{text}: their errors can't be compared; measure both on one split"
        )
    for rule in _RULES:
        new, old = challenger.speakers.get(rule), champion.speakers.get(rule)
        if challenger.speakers and champion.speakers and new != old:
            text = f"scored with {rule} {new}, the champion with {old}: score both with one release"
            return Check(name="test", passed=False, text=text)
    return Check(name="test", passed=True, text=f"both were measured on split {ours[:12]} by the same rules")


def _compare(challenger: Evidence, champion: Evidence) -> list[Check]:
    try:
        new, old = _counts(challenger), _counts(champion)
        whole = compare_counts(old, new, EvalConfig())
    except KmedError as error:
        return [Check(name="accuracy", passed=False, text=f"the two can't be compared: {error}")]
    figures = {key: whole[key] for key in ("a", "b", "delta", "delta_low", "delta_high", "p_value", "n_speakers")}
    text = f"test CER {_percent(whole['b'])} against the champion's {_percent(whole['a'])}, difference {_delta(whole)}"
    better = whole["delta_high"] is not None and whole["delta_high"] < 0
    accuracy = Check(name="accuracy", passed=better, text=f"{text}; its interval must lie below zero", figures=figures)
    return [accuracy, _subgroups(old, new)]


def _subgroups(old: pd.DataFrame, new: pd.DataFrame) -> Check:
    """Compare every group that is large enough; p-values are corrected for the number of groups."""
    config = EvalConfig()
    compared: dict[str, dict[str, Any]] = {}
    for field in GROUP_FIELDS:
        groups = old.groupby(field)
        for value, rows in groups if len(groups) > 1 else ():  # a lone group is the whole
            large = rows["clips"].sum() >= config.min_group_clips
            if large and rows["speaker_id"].nunique() >= config.min_group_speakers:
                compared[f"{field} {value}"] = compare_counts(rows, new[new[field] == value], config)
    if not compared:
        text = f"no subgroup has {config.min_group_clips} clips of {config.min_group_speakers} speakers: not judged"
        return Check(name="subgroups", passed=None, text=text)
    corrected = dict(zip(compared, holm([found["p_value"] for found in compared.values()]), strict=True))
    worse = [name for name, found in compared.items() if found["delta"] > 0]
    surely = [name for name in worse if corrected[name] < SIGNIFICANT]
    figures = {
        name: {"delta": found["delta"], "p_value": corrected[name], "n_speakers": found["n_speakers"]}
        for name, found in compared.items()
    }
    named = ", ".join(f"{name} by {100 * compared[name]['delta']:.2f} points" for name in surely or worse)
    share = f"{len(surely)} of {len(compared)} significantly worse, {len(worse)} worse at all"
    text = f"{share}: {named}" if named else share
    return Check(name="subgroups", passed=not surely, text=text, figures=figures)


def _elderly_gap(challenger: Evidence, limits: GateLimits) -> Check:
    found = challenger.scores.get("elderly_gap") or {}
    gap = found.get("cer_gap")
    if gap is None or found.get("below_minimum"):
        return Check(name="elderly gap", passed=None, text="too few speakers aged 60 and over, or under: not judged")
    limit = _percent(limits.max_elderly_gap)
    text = f"the CER of speakers aged 60 and over is {_percent(gap)} above the rest's, limit {limit}"
    figures = {"cer_gap": gap, "limit": limits.max_elderly_gap}
    return Check(name="elderly gap", passed=gap <= limits.max_elderly_gap, text=text, figures=figures)


def _latency(challenger: Evidence, limits: GateLimits) -> Check:
    measured = challenger.metrics.get("speed/test_decode_s_p95")
    if measured is None:
        return Check(name="latency", passed=None, text="the time per clip was not measured: not judged")
    text = f"95 % of clips take at most {measured:.2f} s, limit {limits.max_decode_s:g} s"
    figures = {"decode_s_p95": measured, "limit": limits.max_decode_s}
    return Check(name="latency", passed=measured <= limits.max_decode_s, text=text, figures=figures)


def _counts(evidence: Evidence) -> pd.DataFrame:
    """Return the speakers' sums as `compare_counts` takes them, one row per speaker and group."""
    if not evidence.speakers:
        raise KmedError(f"the run of version {evidence.version} holds no {EVIDENCE_NAME}; train it with this release.")
    table = pd.DataFrame(evidence.speakers["speakers"])
    keys = ["speaker", *GROUP_FIELDS]
    return table.assign(
        utterance_id=table[keys].astype(str).agg("/".join, axis=1), speaker_id=table["speaker"].astype(str), excluded=""
    )


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _delta(found: Mapping[str, Any]) -> str:
    if found["delta_low"] is None:
        return f"{100 * found['delta']:+.2f} points, no interval"
    low, high = 100 * found["delta_low"], 100 * found["delta_high"]
    return f"{100 * found['delta']:+.2f} points ({low:+.2f} to {high:+.2f})"


def describe(checks: Iterable[Check]) -> list[str]:
    """Return one line per check for people."""
    words = {True: "holds", False: "fails", None: "open"}
    return [f"{check.name} {words[check.passed]}: {check.text}" for check in checks]

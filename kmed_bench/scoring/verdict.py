"""What fine-tuning changed, decided once: better, no evidence, kept untouched, or worse.

The report, the terminal, the notes of runs and the registered versions all repeat this decision. Like the gate, it asks
for an interval below zero and a small p, on the same clips.
"""

import math
from collections.abc import Mapping
from typing import cast

import pandas as pd

from kmed_bench.core.contracts import Comparison
from kmed_bench.core.language import N_, gettext, translate_stored
from kmed_bench.core.quantities import explain_rates, percent, points
from kmed_bench.core.run_contracts import VERDICT, Outcome, SpeakerCers, Verdict, WorsePart
from kmed_bench.core.schema import GROUP_FIELDS
from kmed_bench.scoring.compare import compare_counts, holm
from kmed_bench.scoring.measures import MEASURES
from kmed_bench.scoring.options import ScoringOptions

VERDICT_FILE = "verdict.json"
VERDICT_TAG, VERDICT_TEXT_TAG, RECOMMENDED_TAG = "kmed.verdict", "kmed.verdict_text", "kmed.recommended"
BETTER: Outcome = "better"
KEPT: Outcome = "kept untouched"
_HEARD = ("number_exact", "term_recall")
"""Measures beside CER that may get worse while it falls."""
_SAID: dict[Outcome, str] = {
    "better": N_("fine-tuning made it better"),
    "no evidence": N_("no evidence that fine-tuning helps"),
    KEPT: N_("keep the untouched model, training did not lower the valid CER"),
    "worse": N_("fine-tuning made it worse"),
}


def is_shown(comparison: Comparison, level: float, *, raised: bool = False) -> bool:
    """Return whether a paired difference is shown to be below zero, or with ``raised`` above it.

    Its 95 % interval must be on that side of zero and p below the level. The two can differ: 5 speakers may all
    improve, but that happens by chance too often for p < 0.05.
    """
    bound = comparison["delta_low"] if raised else comparison["delta_high"]
    if bound is None or not comparison["p_value"] < level:
        return False
    return bound > 0 if raised else bound < 0


def least_speakers(level: float) -> int:
    """Return how many speakers must differ before p can be below a level: n allow 2 / 2**n and more."""
    return math.floor(1 - math.log2(level)) + 1


def decide(valid_before: float, valid_after: float, cer: Comparison, level: float) -> Outcome:
    """Return the outcome of a training, from its valid CERs and the comparison of CER on the test part.

    A difference shown on the test part to be for the worse comes first; then the valid part, on which the
    checkpoint was selected; then whether the test part shows a gain.
    """
    if is_shown(cer, level, raised=True):
        return "worse"
    if not valid_after < valid_before:
        return KEPT
    return BETTER if is_shown(cer, level) else "no evidence"


def judge_training(
    before: pd.DataFrame, after: pd.DataFrame, *, valid: tuple[float, float], options: ScoringOptions, level: float
) -> Verdict:
    """Return the content of ``verdict.json``: the outcome, the comparisons it rests on, and what got worse.

    The fine-tuned model is recommended if its CER is better and no group, and neither numbers nor medical terms, are
    shown to be worse.

    Parameters
    ----------
    before, after : pandas.DataFrame
        The test part by the untouched and the fine-tuned model, as ``measures.count_utterances`` returns it.
    valid : tuple of float
        CER of the valid part by the untouched and the fine-tuned model.
    level : float
        Level of each test (``gate.significance``). What got worse is shown by p alone, which also exists where all
        speakers lose alike; groups are corrected for their number by Holm's method.
    """
    cer = compare_counts(before, after, options)
    worse = [*_worse_measures(before, after, options, level), *_worse_groups(before, after, options, level)]
    return _verdict(valid, cer, level, worse, _cers_by_speaker(before, after))


def judge_comparison(cer: Comparison, *, valid: tuple[float, float], level: float = 0.05) -> Verdict:
    """Return the verdict of a training whose run has only the comparison of CER, as earlier releases kept it."""
    return _verdict(valid, cer, level, [], {"untouched": [], "tuned": [], "n_clips": []})


def _verdict(
    valid: tuple[float, float], cer: Comparison, level: float, worse: list[WorsePart], speakers: SpeakerCers
) -> Verdict:
    outcome = decide(*valid, cer, level)
    return {
        **VERDICT.head,
        "outcome": outcome,
        "recommended": outcome == BETTER and not any(part["shown"] for part in worse),
        "level": level,
        "valid_untouched": valid[0],
        "valid_tuned": valid[1],
        "cer": cer,
        "worse": worse,
        "speakers": speakers,
    }


def _worse_measures(
    before: pd.DataFrame, after: pd.DataFrame, options: ScoringOptions, level: float
) -> list[WorsePart]:
    parts: list[WorsePart] = []
    for name in _HEARD:
        compared = compare_counts(before, after, options, metric=name)
        if compared["delta"] is not None and compared["delta"] < 0:
            parts.append(_part(MEASURES[name].label, compared, compared["p_value"], shown=compared["p_value"] < level))
    return parts


def _worse_groups(before: pd.DataFrame, after: pd.DataFrame, options: ScoringOptions, level: float) -> list[WorsePart]:
    compared, corrected = compare_groups(before, after, options)
    return [
        _part(name, each, corrected[name], shown=corrected[name] < level)
        for name, each in compared.items()
        if (each["delta"] or 0) > 0
    ]


def _part(what: str, compared: Comparison, p_value: float, *, shown: bool) -> WorsePart:
    return {
        "what": what,
        "delta": compared["delta"] or 0.0,
        "p_value": p_value,
        "n_speakers": compared["n_speakers"],
        "shown": shown,
    }


def compare_groups(
    old: pd.DataFrame, new: pd.DataFrame, options: ScoringOptions
) -> tuple[dict[str, Comparison], dict[str, float]]:
    """Return the comparison of each large enough group, such as ``gender Female``, and its p-value after Holm.

    Parameters
    ----------
    old, new : pandas.DataFrame
        Rows with ``clips``, ``speaker_id``, the group fields and the columns of ``cer``.
    """
    compared: dict[str, Comparison] = {}
    for field in GROUP_FIELDS:
        groups = old.groupby(field)
        for value, rows in groups if len(groups) > 1 else ():  # the only group is the whole part
            large = rows["clips"].sum() >= options.min_group_clips
            if large and rows["speaker_id"].nunique() >= options.min_group_speakers:
                compared[f"{field} {value}"] = compare_counts(rows, new[new[field] == value], options)
    corrected = holm([each["p_value"] for each in compared.values()]) if compared else []
    return compared, dict(zip(compared, corrected, strict=True))


def _cers_by_speaker(before: pd.DataFrame, after: pd.DataFrame) -> SpeakerCers:
    """Return the speakers' CERs in the order of the untouched model's, which names nobody."""
    sides = [
        counts[counts["excluded"] == ""].groupby("speaker_id")[["cer_errors", "cer_length", "clips"]].sum()
        for counts in (before, after)
    ]
    rates = [side["cer_errors"] / side["cer_length"] for side in sides]
    sizes = {"n_clips": sides[0]["clips"], "n_characters": sides[0]["cer_length"]}
    table = pd.DataFrame({"untouched": rates[0], "tuned": rates[1], **sizes})
    return cast(SpeakerCers, table.sort_values(["untouched", "tuned", "n_clips"]).to_dict("list"))


def say_difference(comparison: Comparison) -> str:
    """Return a difference in percentage points with its interval, or with the reason why there is none."""
    delta, low, high = (comparison[key] for key in ("delta", "delta_low", "delta_high"))
    if delta is None or low is None or high is None:
        reason = translate_stored(comparison["no_interval"])
        return gettext("{difference}, no interval: {reason}", difference=points(delta or 0), reason=reason)
    return gettext(
        "{difference} ({low} to {high})",
        difference=points(delta),
        low=points(low, unit=""),
        high=points(high, unit=""),
    )


def say_verdict(verdict: Verdict, name: str) -> str:
    """Return a verdict in sentences: the outcome, the figures it rests on, and what got worse.

    Parameters
    ----------
    name : str
        The training, such as ``base, seed 0``.
    """
    cer, level = verdict["cer"], verdict["level"]
    outcome = gettext(_SAID[verdict["outcome"]])
    valid = gettext(
        "valid CER {untouched} untouched, {tuned} fine-tuned",
        untouched=percent(verdict["valid_untouched"]),
        tuned=percent(verdict["valid_tuned"]),
    )
    if cer["a"] is None or cer["b"] is None:
        return gettext(
            "{name}: {outcome} ({valid}); no clip of the test part can be scored.",
            name=name,
            outcome=outcome,
            valid=valid,
        )
    text = gettext(
        "{name}: {outcome}. Test CER {tuned} against {untouched} untouched, {difference}, p {p:.3f}, {clips} clips of "
        "{speakers} speakers; {valid}.",
        name=name,
        outcome=outcome,
        tuned=percent(cer["b"]),
        untouched=percent(cer["a"]),
        difference=say_difference(cer),
        p=cer["p_value"],
        clips=cer["n_clips"],
        speakers=cer["n_speakers"],
        valid=valid,
    )
    evidence = _say_evidence(level, few=cer["p_value_floor"] >= level) if verdict["outcome"] == "no evidence" else ""
    return " ".join(filter(None, (text, evidence, say_worse(verdict), explain_rates(cer["a"], cer["b"]))))


def _say_evidence(level: float, *, few: bool) -> str:
    if not few:
        return gettext("Evidence is an interval below zero and p below {level:g}.", level=level)
    return gettext(
        "Evidence is an interval below zero and p below {level:g}, which takes at least {n} speakers that differ.",
        level=level,
        n=least_speakers(level),
    )


def say_worse(verdict: Verdict) -> str:
    """Return which groups, and whether numbers and terms, got worse; empty where none did."""
    shown = [part for part in verdict["worse"] if part["shown"]]
    others = [part for part in verdict["worse"] if not part["shown"]]
    sentences = []
    if shown:
        sentences.append(gettext("Shown to be worse: {parts}.", parts=_list_parts(shown)))
    if others:
        sentences.append(gettext("Worse by figures that may be chance: {parts}.", parts=_list_parts(others)))
    return " ".join(sentences)


def _list_parts(parts: list[WorsePart]) -> str:
    return ", ".join(f"{_name_part(part)} ({points(part['delta'])}, p {part['p_value']:.3f})" for part in parts)


def _name_part(part: WorsePart) -> str:
    field, _, value = part["what"].partition(" ")
    if field in GROUP_FIELDS:
        return f"{gettext(field)} {gettext(value)}"
    return gettext(part["what"])


def verdict_tags(verdict: Verdict, name: str) -> Mapping[str, str]:
    """Return the tags of a run and of a registered version that repeat a verdict."""
    return {
        VERDICT_TAG: verdict["outcome"],
        RECOMMENDED_TAG: str(verdict["recommended"]).lower(),
        VERDICT_TEXT_TAG: say_verdict(verdict, name),
    }

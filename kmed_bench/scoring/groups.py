"""Scores of a predictions file: overall, by group, by pair of groups, and the elderly gap."""

import itertools
import math
import re
from collections.abc import Sequence
from typing import cast

import numpy as np
import pandas as pd

from kmed_bench.core.contracts import (
    SCORES,
    CerCell,
    DecodingTimes,
    ElderlyGap,
    NumberCounts,
    ScoreCell,
    Scores,
    SpeakerSpread,
    TermRecall,
)
from kmed_bench.core.errors import KmedError
from kmed_bench.core.predictions import Prediction
from kmed_bench.core.schema import GROUP_FIELDS, SCORE_FIELDS, UNKNOWN
from kmed_bench.scoring.counting import TERM_COLUMNS
from kmed_bench.scoring.gaps import ELDERLY_AGES, KNOWN_AGES, group_gaps
from kmed_bench.scoring.intervals import LEVEL, METHOD, Interval, gap_interval, rate_interval
from kmed_bench.scoring.measures import EXCLUSIONS, MEASURES, SENTENCE, cer_clips, count_utterances, rates, versions
from kmed_bench.scoring.options import ScoringOptions
from kmed_bench.scoring.spread import clips_of, count_speakers, unknown_speakers

SPEAKER_QUANTILES = (0, 10, 25, 50, 75, 90, 100)
"""Percentages of the speakers, from the lowest CER to the highest."""
_DEFAULT = ScoringOptions()


def score_predictions(
    predictions: Sequence[Prediction], options: ScoringOptions = _DEFAULT, *, split_sha256: str | None = None
) -> Scores:
    """Return the content of ``scores.json``; it holds no transcript and no NaN.

    ``overall`` and each cell of ``groups`` have every rate of ``measures.MEASURES`` (None where its denominator is
    zero), ``<name>_low`` and ``<name>_high`` (95 %) of those with an interval, ``no_interval`` (name to the reason
    where both are None), ``n_clips``, ``n_speakers`` and ``below_minimum``. Group fields are ``dialect``, ``gender``,
    ``age``, ``role`` and their pairs such as ``dialect_gender``, whose values are joined by ``join_values``, and
    ``code_switching``, how the reference writes foreign words: ``none``, ``hangul`` or ``latin``. ``terms`` has what
    ``recall_by_category`` returns, ``numbers`` the references' numbers, ``gaps`` what ``gaps.group_gaps`` returns, and
    ``speakers`` how much speakers differ.

    Parameters
    ----------
    split_sha256 : str, optional
        Identity of the split that the utterances are a part of.

    Raises
    ------
    KmedError
        When there are no predictions, an utterance appears twice, or a field has the wrong type.
    """
    if not predictions:
        raise KmedError("There are no predictions to score; give a predictions.jsonl with at least one line.")
    return score_counts(count_utterances(predictions, options.transcript_side), options, split_sha256=split_sha256)


def score_counts(
    counts: pd.DataFrame, options: ScoringOptions = _DEFAULT, *, split_sha256: str | None = None
) -> Scores:
    """Return the same as ``score_predictions`` from the table of ``count_utterances`` or ``count_sorted``.

    The table was counted on ``options.transcript_side``, which is only recorded here.
    """
    counts = _encode(counts)
    scored = counts[counts["excluded"] == ""]
    rated = counts[counts["excluded"].isin([measure.clips for measure in MEASURES.values()])]
    groups: dict[str, dict[str, ScoreCell]] = {}
    for fields in (*((field,) for field in SCORE_FIELDS), *itertools.combinations(GROUP_FIELDS, 2)):
        cells = rated.groupby(list(fields), sort=True, observed=True)
        groups["_".join(fields)] = {
            join_values([*map(str, values)]): score_cell(cell, options) for values, cell in cells if cell["clips"].any()
        }
    return {
        **SCORES.head,
        "overall": score_cell(rated, options),
        "groups": groups,
        "elderly_gap": elderly_gap(scored, options),
        "gaps": group_gaps(scored, options),
        "speakers": spread_of_speakers(scored),
        "terms": recall_by_category(scored),
        "numbers": _count_numbers(scored),
        "decode": _time(counts),
        "n_predictions": len(counts),
        "n_excluded": {reason: int((counts["excluded"] == reason).sum()) for reason in EXCLUSIONS},
        "transcript_policy": options.transcript_side,
        **versions(),
        "split_sha256": split_sha256,
        "interval": {
            "method": METHOD,
            "level": LEVEL,
        },
        "minimum": {"clips": options.min_group_clips, "speakers": options.min_group_speakers},
    }


def _encode(counts: pd.DataFrame) -> pd.DataFrame:
    """Return the table with codes for speakers and categories for group values, which group faster than texts."""
    known = counts["speaker_id"].where(~counts["speaker_id"].isin(UNKNOWN), None)
    speakers = pd.factorize(known.to_numpy(dtype=object), sort=True)[0]  # -1: not known
    fields = {field: counts[field].astype("category") for field in SCORE_FIELDS}
    return counts.drop(columns="utterance_id", errors="ignore").assign(speaker_id=speakers, **fields)


def join_values(values: Sequence[str]) -> str:
    """Return the key of a group: its values joined by ``_``, which ``split_values`` undoes.

    In a pair, a ``_`` or a backslash within a value has a backslash before it, so that two pairs never share a key.
    """
    return values[0] if len(values) == 1 else "_".join(re.sub(r"([\\_])", r"\\\1", value) for value in values)


def split_values(key: str) -> list[str]:
    """Return the values of a pair of groups from its key."""
    parts = re.findall(r"(?:^|_)((?:[^\\_]|\\.)*)", key, re.DOTALL)
    return [re.sub(r"\\(.)", r"\1", part, flags=re.DOTALL) for part in parts]


def score_cell(rows: pd.DataFrame, options: ScoringOptions) -> ScoreCell:
    """Return the rates of clips, their intervals, and whether the scored clips are too few to be ranked.

    Clips without speech only count for their own rate.
    """
    bounds: dict[str, float | None] = {}
    reasons: dict[str, str] = {}
    for name, measure in MEASURES.items():
        if measure.interval:
            interval = _interval(rows, measure.top, measure.bottom, of_misses=measure.better == "higher")
            bounds |= {f"{name}_low": interval.low, f"{name}_high": interval.high}
            reasons |= {name: interval.reason} if interval.reason else {}
    n_clips = int(rows["clips"].sum())
    n_speakers = count_speakers(rows["speaker_id"][rows["clips"] > 0])
    too_few = n_clips < options.min_group_clips or n_speakers < options.min_group_speakers
    counts = {"n_clips": n_clips, "n_speakers": n_speakers, "below_minimum": too_few}
    return cast(ScoreCell, {**rates(rows), **bounds, **counts, "no_interval": reasons})


def _interval(rows: pd.DataFrame, top: str, bottom: str, *, of_misses: bool) -> Interval:
    """Return the 95 % interval of a ratio of sums.

    With ``of_misses`` it is one minus that of ``bottom - top``: a recall near 1 is a rate of misses near 0, and rates
    near 0 are what ``rate_interval`` is made for.
    """
    tops = rows[bottom] - rows[top] if of_misses else rows[top]
    interval = rate_interval(clips_of(rows["speaker_id"], tops, rows[bottom], rows.get(SENTENCE)))
    return interval.flipped() if of_misses else interval


def elderly_gap(scored: pd.DataFrame, options: ScoringOptions) -> ElderlyGap:
    """Return how much higher the ``cer`` of speakers aged 60 and over is than that of the rest.

    Clips whose age is unknown belong to neither side; ``n_unknown_age`` counts them.
    """
    old = scored["age"].isin(ELDERLY_AGES)
    known = scored["age"].isin(KNOWN_AGES)
    sides = scored[old], scored[known & ~old]
    elderly, rest = (score_cell(rows, options) for rows in sides)
    interval = gap_interval(*map(cer_clips, sides))
    return {
        "cer_gap": elderly["cer"] - rest["cer"] if elderly["cer"] is not None and rest["cer"] is not None else None,
        "cer_gap_low": interval.low,
        "cer_gap_high": interval.high,
        "no_interval": interval.reason,
        "below_minimum": elderly["below_minimum"] or rest["below_minimum"],
        "n_unknown_age": int((~known).sum()),
        "elderly": _cer_of(elderly),
        "rest": _cer_of(rest),
    }


def spread_of_speakers(scored: pd.DataFrame) -> SpeakerSpread:
    """Return quantiles of the speakers' ``cer``: each speaker counts once, whatever the number of clips.

    Quantiles are interpolated linearly between two speakers (numpy's default). They name no speaker.
    """
    known = scored[~unknown_speakers(scored["speaker_id"])]
    sums = known.groupby("speaker_id")[["cer_errors", "cer_length"]].sum()
    sums = sums[sums["cer_length"] > 0]
    cers = (sums["cer_errors"] / sums["cer_length"]).to_numpy(dtype=float)
    quantiles = np.quantile(cers, [percent / 100 for percent in SPEAKER_QUANTILES]) if len(cers) else []
    named = {str(percent): float(value) for percent, value in zip(SPEAKER_QUANTILES, quantiles, strict=False)}
    return {"n_speakers": len(cers), "cer_quantiles": named}


def _cer_of(cell: ScoreCell) -> CerCell:
    return cast(CerCell, {key: value for key, value in cell.items() if key in CerCell.__required_keys__})


def recall_by_category(scored: pd.DataFrame) -> dict[str, TermRecall]:
    """Return for each category of medical terms how many were said, found and missed, and the share found.

    ``recall_low`` and ``recall_high`` are one minus the 95 % interval of the share missed; None where no interval
    is possible.
    """
    recalls: dict[str, TermRecall] = {}
    for category, (top, bottom) in TERM_COLUMNS.items():
        n_terms, n_found = int(scored[bottom].sum()), int(scored[top].sum())
        interval = _interval(scored, top, bottom, of_misses=True)
        recalls[category] = {
            "n_terms": n_terms,
            "n_found": n_found,
            "n_missed": n_terms - n_found,
            "recall": 1 - (n_terms - n_found) / n_terms if n_terms else None,
            "recall_low": interval.low,
            "recall_high": interval.high,
            "no_interval": interval.reason,
        }
    return recalls


def _count_numbers(scored: pd.DataFrame) -> NumberCounts:
    """Return how many numbers the references have, and how many are found, ambiguous, and unread."""
    columns = {"n_numbers": "numbers", "n_found": "numbers_found", "n_ambiguous": "numbers_ambiguous"}
    if "numbers_unread" in scored:  # older packages do not count them
        columns["n_unread"] = "numbers_unread"
    return cast(NumberCounts, {name: int(scored[column].sum()) for name, column in columns.items()})


def _time(counts: pd.DataFrame) -> DecodingTimes:
    """Return decoding figures of all predictions, unscored ones included: they were decoded too."""
    timed = counts[counts["decode_s"] > 0]  # 0 means unknown
    audio_s, decode_s = math.fsum(counts["duration_s"]), math.fsum(timed["decode_s"])  # in any order of lines
    if not len(timed):
        return {"audio_s": audio_s, "decode_s": None, "rtfx": None, "decode_s_p50": None, "decode_s_p95": None}
    p50, p95 = np.quantile(timed["decode_s"].to_numpy(dtype=float), [0.5, 0.95])
    return {
        "audio_s": audio_s,
        "decode_s": decode_s,
        "rtfx": math.fsum(timed["duration_s"]) / decode_s,
        "decode_s_p50": float(p50),
        "decode_s_p95": float(p95),
    }

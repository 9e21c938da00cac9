"""Scores of a predictions file: overall, by group, by pair of groups, and the elderly gap."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from kmed_bench.config import EvalConfig
from kmed_bench.core.errors import KmedError
from kmed_bench.core.predictions import Prediction
from kmed_bench.core.schema import GROUP_FIELDS
from kmed_bench.scoring.bootstrap import LEVEL, METHOD, SpeakerSums, gap_interval, rate_interval, sum_by_speaker
from kmed_bench.scoring.measures import EXCLUSIONS, TERM_COLUMNS, count_utterances, rates, versions

ELDERLY_AGES = ("60~69", "over70")
KNOWN_AGES = ("7~10", "11~19", "20~29", "30~39", "40~49", "50~59", *ELDERLY_AGES)

Scores = dict[str, Any]


def score_predictions(
    predictions: Sequence[Prediction], config: EvalConfig, *, split_sha256: str | None = None
) -> Scores:
    """Return the content of ``scores.json``; it holds no transcript and no NaN.

    ``overall`` and each cell of ``groups`` have every rate of ``measures.RATES`` (None where its denominator is
    zero), ``cer_low`` and ``cer_high`` (95 %, speaker-blocked; None where no interval can be had), ``n_clips``,
    ``n_speakers`` and ``below_minimum``. Group fields are ``dialect``, ``gender``, ``age``, ``role`` and their
    pairs such as ``dialect_gender``, whose values are joined likewise. ``terms`` has what ``recall_by_category``
    returns.

    Parameters
    ----------
    split_sha256 : str, optional
        Identity of the split that the utterances are a part of.

    Raises
    ------
    KmedError
        When there are no predictions, an utterance appears twice, or a field is not what it should be.
    """
    if not predictions:
        raise KmedError("There are no predictions to score; give a predictions.jsonl with at least one line.")
    return score_counts(count_utterances(predictions, config.policy), config, split_sha256=split_sha256)


def score_counts(counts: pd.DataFrame, config: EvalConfig, *, split_sha256: str | None = None) -> Scores:
    """Return the same as ``score_predictions`` from the table of ``count_utterances``."""
    scored = counts[counts["excluded"] == ""]
    groups: dict[str, dict[str, Scores]] = {}
    for fields in (*((field,) for field in GROUP_FIELDS), *itertools.combinations(GROUP_FIELDS, 2)):
        cells = scored.groupby(list(fields), sort=True)
        groups["_".join(fields)] = {
            "_".join(map(str, values)): _score_cell(cell, config) for values, cell in cells if len(cell)
        }
    return {
        "overall": _score_cell(scored, config),
        "groups": groups,
        "elderly_gap": elderly_gap(scored, config),
        "terms": recall_by_category(scored, config),
        "decode": _time(counts),
        "n_predictions": len(counts),
        "n_excluded": {reason: int((counts["excluded"] == reason).sum()) for reason in EXCLUSIONS},
        "transcript_policy": config.policy,
        **versions(),
        "split_sha256": split_sha256,
        "interval": {
            "method": METHOD,
            "level": LEVEL,
            "draws": config.bootstrap_draws,
            "seed": config.bootstrap_seed,
        },
        "minimum": {"clips": config.min_group_clips, "speakers": config.min_group_speakers},
    }


def _score_cell(rows: pd.DataFrame, config: EvalConfig) -> Scores:
    sums = cer_sums(rows)
    interval = rate_interval(sums, draws=config.bootstrap_draws, seed=config.bootstrap_seed)
    n_clips, n_speakers = len(rows), len(sums.top)
    return {
        **rates(rows),
        "cer_low": interval and interval[0],
        "cer_high": interval and interval[1],
        "n_clips": n_clips,
        "n_speakers": n_speakers,
        "below_minimum": n_clips < config.min_group_clips or n_speakers < config.min_group_speakers,
    }


def cer_sums(rows: pd.DataFrame) -> SpeakerSums:
    """Return the errors and reference characters of ``cer`` by speaker."""
    return sum_by_speaker(rows["speaker_id"], rows["cer_errors"], rows["cer_length"])


def elderly_gap(scored: pd.DataFrame, config: EvalConfig) -> Scores:
    """Return how much higher the ``cer`` of speakers aged 60 and over is than that of the rest.

    Clips whose age is unknown belong to neither side; ``n_unknown_age`` counts them.
    """
    old = scored["age"].isin(ELDERLY_AGES)
    known = scored["age"].isin(KNOWN_AGES)
    sides = {"elderly": scored[old], "rest": scored[known & ~old]}
    cells = {name: _score_cell(rows, config) for name, rows in sides.items()}
    both = all(cell["cer"] is not None for cell in cells.values())
    interval = gap_interval(
        *(cer_sums(rows) for rows in sides.values()), draws=config.bootstrap_draws, seed=config.bootstrap_seed
    )
    return {
        "cer_gap": cells["elderly"]["cer"] - cells["rest"]["cer"] if both else None,
        "cer_gap_low": interval and interval[0],
        "cer_gap_high": interval and interval[1],
        "below_minimum": any(cell["below_minimum"] for cell in cells.values()),
        "n_unknown_age": int((~known).sum()),
        **{name: {key: cell[key] for key in _SIDE_KEYS} for name, cell in cells.items()},
    }


def recall_by_category(scored: pd.DataFrame, config: EvalConfig) -> Scores:
    """Return for each category of medical terms how many were said, found and missed, and the share found.

    ``recall_low`` and ``recall_high`` are the 95 % interval of the share missed, taken from 1; None where no
    interval can be had.
    """
    found = {}
    for category, (top, bottom) in TERM_COLUMNS.items():
        said, missed = scored[bottom], scored[bottom] - scored[top]
        n_said, n_missed = int(said.sum()), int(missed.sum())
        interval = None
        if n_said:
            sums = sum_by_speaker(scored["speaker_id"], missed, said)
            interval = rate_interval(sums, draws=config.bootstrap_draws, seed=config.bootstrap_seed)
        found[category] = {
            "n_terms": n_said,
            "n_found": n_said - n_missed,
            "n_missed": n_missed,
            "recall": 1 - n_missed / n_said if n_said else None,
            "recall_low": interval and max(0.0, 1 - interval[1]),
            "recall_high": interval and 1 - interval[0],
        }
    return found


_SIDE_KEYS = ("cer", "cer_low", "cer_high", "n_clips", "n_speakers")


def _time(counts: pd.DataFrame) -> Scores:
    """Return decoding figures of all predictions, unscored ones included: they were decoded too."""
    timed = counts[counts["decode_s"] > 0]  # 0 stands for unknown
    audio_s, decode_s = math.fsum(counts["duration_s"]), math.fsum(timed["decode_s"])  # in any order of lines
    if not len(timed):
        return {"audio_s": audio_s, **dict.fromkeys(("decode_s", "rtfx", "decode_s_p50", "decode_s_p95"))}
    p50, p95 = np.quantile(timed["decode_s"].to_numpy(dtype=float), [0.5, 0.95])
    return {
        "audio_s": audio_s,
        "decode_s": decode_s,
        "rtfx": math.fsum(timed["duration_s"]) / decode_s,
        "decode_s_p50": float(p50),
        "decode_s_p95": float(p95),
    }

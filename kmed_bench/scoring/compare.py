"""Two systems on the same clips: paired difference, interval, p-value; correction for many comparisons."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from kmed_bench.core.contracts import Comparison, MarginVerdict
from kmed_bench.core.errors import KmedError
from kmed_bench.core.predictions import Prediction
from kmed_bench.scoring.intervals import (
    LEVEL,
    METHOD,
    difference_interval,
    difference_p_value,
)
from kmed_bench.scoring.measures import MEASURES, SENTENCE, Measure, count_utterances, versions
from kmed_bench.scoring.options import ScoringOptions
from kmed_bench.scoring.sign_flips import sign_flip_p_value
from kmed_bench.scoring.spread import Clips, clips_of
from kmed_bench.text.marks import Policy

TEST = "the larger p-value of two-sided sign flips of speakers and the interval's own test"
ONE_SIDED = 0.025
"""Level of each one-sided test of a margin: half of that of the 95 % interval."""
_DEFAULT = ScoringOptions()


def compare_predictions(
    a: Sequence[Prediction],
    b: Sequence[Prediction],
    options: ScoringOptions = _DEFAULT,
    *,
    metric: str = "cer",
    margin: float | None = None,
) -> Comparison:
    """Return the paired difference ``b - a`` of a measure, its interval and its p-value.

    Keys: ``metric`` and which direction of it is ``better``, ``a`` and ``b`` (the measure of each), ``delta`` with
    ``delta_low`` and ``delta_high`` (95 %; None where ``no_interval`` has the reason), ``p_value`` and its
    ``p_value_floor`` (the least that so few speakers allow: over 0.05 for 5 and fewer), ``test``, ``n_clips``,
    ``n_speakers``, ``n_excluded``, transcript policy and versions. With a margin there is also ``margin``, what
    `judge_margin` returns.

    Parameters
    ----------
    metric : str
        A name of ``measures.MEASURES`` whose denominator depends on the reference only.
    margin : float, optional
        The largest difference that does not matter, as a fraction, chosen before the data are seen.

    Raises
    ------
    KmedError
        When the utterances or their references differ, the metric can't be compared, or the margin is not above 0.
    """
    _paired_measure(metric)  # counting takes a while; refuse before it
    _check_margin(margin)
    left, right = (count_utterances(side, options.transcript_side) for side in (a, b))
    return compare_counts(left, right, options, metric=metric, margin=margin)


def compare_counts(
    a: pd.DataFrame,
    b: pd.DataFrame,
    options: ScoringOptions = _DEFAULT,
    *,
    metric: str = "cer",
    margin: float | None = None,
) -> Comparison:
    """Return the same as ``compare_predictions`` from two tables of ``count_utterances``."""
    measure = _paired_measure(metric)
    top, bottom = measure.top, measure.bottom
    left, right = pair_counts(a, b, bottom)
    scored = (left["excluded"] == measure.clips).to_numpy()
    left, right = left[scored], right[scored]
    clips = paired_clips(left, right, measure)
    total = int(left[bottom].sum())
    interval = difference_interval(clips)
    verdict = {} if margin is None else {"margin": judge_margin(clips, margin, options, better=measure.better)}
    compared = {
        "metric": metric,
        "better": measure.better,
        "a": int(left[top].sum()) / total if total else None,
        "b": int(right[top].sum()) / total if total else None,
        "delta": float(clips.top.sum()) / total if total else None,
        "delta_low": interval.low,
        "delta_high": interval.high,
        "no_interval": interval.reason,
        "p_value": paired_p_value(clips, options),
        "p_value_floor": min(1.0, 2.0 ** (1 - int(np.count_nonzero(clips.speaker_tops)))),
        "test": TEST,
        "interval": {"method": METHOD, "level": LEVEL},
        "draws": options.bootstrap_draws,
        "n_clips": int(scored.sum()),
        "n_speakers": clips.n_known_speakers,
        "n_excluded": int((~scored).sum()),
        "transcript_policy": options.transcript_side,
        **versions(),
        **verdict,
    }
    return cast(Comparison, compared)


def scored_pair(a: Sequence[Prediction], b: Sequence[Prediction], policy: Policy, *, metric: str = "cer") -> Clips:
    """Return the paired differences ``b - a`` of the clips that are scored; raises as `compare_predictions`."""
    measure = _paired_measure(metric)
    left, right = pair_counts(count_utterances(a, policy), count_utterances(b, policy), measure.bottom)
    scored = (left["excluded"] == "").to_numpy()
    return paired_clips(left[scored], right[scored], measure)


def paired_clips(left: pd.DataFrame, right: pd.DataFrame, measure: Measure) -> Clips:
    """Return the paired differences ``right - left`` clip by clip, of two tables in one order.

    A package of an earlier release does not number its sentences; then the other side's numbers hold for both.
    """
    sides = [side[SENTENCE] for side in (left, right) if SENTENCE in side and (side[SENTENCE] >= 0).all()]
    tops = right[measure.top] - left[measure.top]
    return clips_of(left["speaker_id"], tops, left[measure.bottom], sides[0] if sides else None)


def paired_p_value(clips: Clips, options: ScoringOptions = _DEFAULT) -> float:
    """Return the p-value of no difference: the larger of two, as each keeps its level where the other may not.

    Flipping the signs of whole speakers is exact for few and for unlike speakers, but sentences that several speakers
    read make it reject too often (up to 9 % at 10 speakers and 8 readings), and so do loops of one system. The test
    that belongs to the interval counts both, but it rejects too often with few speakers of skewed differences.
    """
    flipped = sign_flip_p_value(clips.speaker_tops, draws=options.bootstrap_draws, seed=options.bootstrap_seed)
    return max(flipped, difference_p_value(clips)) if clips.spread.variance else flipped


def judge_margin(
    clips: Clips, margin: float, options: ScoringOptions = _DEFAULT, *, better: str = "lower"
) -> MarginVerdict:
    """Return whether ``b`` is equivalent to ``a``, and whether it is not worse, within a margin.

    ``p_non_inferiority`` is of the hypothesis that ``b`` is worse by the margin or more, ``p_equivalence`` of the one
    that it is worse or better by the margin or more: the larger p-value of two one-sided tests. Each one-sided test is
    half of `paired_p_value` of the differences shifted by the margin, at the level 0.025, so that a verdict agrees with
    the 95 % interval. A difference that is not significant does not show equivalence; this test does, with at least 6
    speakers, since n speakers allow 1 / 2**n and more.

    Parameters
    ----------
    clips : Clips
        Paired differences, as `paired_clips` returns them.
    better : str
        Which values of the measure are better: ``lower`` or ``higher``.

    Source: D. Schuirmann, A comparison of the two one-sided tests procedure and the power approach, J. Pharmacokinet.
    Biopharm. 15 (1987) 657-680; ICH E9, Statistical Principles for Clinical Trials (1998), 3.3.2 and 5.5, for 0.025.
    """
    _check_margin(margin)
    below, above = (_one_sided(clips, margin, options, sign) for sign in (1.0, -1.0))
    not_worse, both = (below if better == "lower" else above), max(below, above)
    shown = "equivalent" if both < ONE_SIDED else "not worse" if not_worse < ONE_SIDED else ""
    needed = next(n for n in itertools.count(1) if 2.0**-n < ONE_SIDED)
    few = clips.n_speakers < needed
    words = {
        "equivalent": f"equivalent: the difference is shown to be below {margin:g} in both directions",
        "not worse": f"not worse: the second is shown to be worse by less than {margin:g}, if it is worse at all",
        "": f"not shown: {clips.n_speakers} speakers can't show it whatever they differ by, it takes at least {needed}"
        if few
        else f"not shown: the second may be worse by {margin:g} or more",
    }
    return {
        "margin": margin,
        "verdict": words[shown],
        "equivalent": shown == "equivalent",
        "non_inferior": bool(shown),
        "p_equivalence": both,
        "p_non_inferiority": not_worse,
        "level": ONE_SIDED,
    }


def _one_sided(clips: Clips, margin: float, options: ScoringOptions, sign: float) -> float:
    """Return the p-value of the hypothesis that ``sign`` times the difference is the margin or more."""
    shifted = dataclasses.replace(clips, top=sign * clips.top - margin * clips.bottom)
    half = paired_p_value(shifted, options) / 2
    return half if shifted.ratio < 0 else 1 - half


def _check_margin(margin: float | None) -> None:
    if margin is not None and not 0 < margin < 1:
        raise KmedError(f"A margin of {margin:g} can't be tested; it is a fraction above 0 and below 1, such as 0.01.")


def _paired_measure(metric: str) -> Measure:
    paired = {name: measure for name, measure in MEASURES.items() if measure.paired}
    if metric not in paired:
        raise KmedError(f"{metric!r} cannot be compared pairwise; choose from {', '.join(paired)}.")
    return paired[metric]


def pair_counts(a: pd.DataFrame, b: pd.DataFrame, bottom: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return both tables in one order, checked to have the same utterances and references.

    Raises
    ------
    KmedError
        When they don't.
    """
    left, right = a.set_index("utterance_id").sort_index(), b.set_index("utterance_id").sort_index()
    only_a, only_b = left.index.difference(right.index), right.index.difference(left.index)
    if len(only_a) or len(only_b):
        raise KmedError(
            f"{len(only_a)} of the first system's {len(left)} utterances are missing in the second and {len(only_b)} "
            f"of the second's {len(right)} in the first, such as {[*only_a, *only_b][0]!r}; decode the same part of "
            "the same split with both."
        )
    columns = ("speaker_id", "excluded", "reference", "cer_length", bottom)
    for column in [name for name in columns if name in left and name in right]:  # packages publish no "reference"
        differing = (left[column] != right[column]).to_numpy()
        if differing.any():
            raise KmedError(
                f"{int(differing.sum())} utterances have another {column} in the two predictions, such as "
                f"{left.index[differing][0]!r}; both must have been decoded from the same split, with the same labels."
            )
    return left, right


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number, in the order given (Holm's step-down method).

    Source: S. Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6 (1979) 65-70.
    """
    given = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(given, kind="stable")
    scaled = given[order] * np.arange(len(given), 0, -1)
    corrected: npt.NDArray[np.float64] = np.empty(len(given))
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return [float(value) for value in corrected]

"""Two systems on the same clips: paired difference, interval, p-value; many comparisons; seeds."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from kmed_bench.config import EvalConfig
from kmed_bench.core.errors import KmedError
from kmed_bench.core.predictions import Prediction
from kmed_bench.scoring.bootstrap import LEVEL, METHOD, difference_interval, sign_flip_p_value, sum_by_speaker
from kmed_bench.scoring.measures import RATES, count_utterances, versions

TEST = "two-sided sign-flip permutation of speakers"


def compare_predictions(
    a: Sequence[Prediction],
    b: Sequence[Prediction],
    config: EvalConfig,
    *,
    metric: str = "cer",
    common_only: bool = False,
) -> dict[str, Any]:
    """Return the paired difference ``b - a`` of a metric, its interval and its p-value.

    Keys: ``a`` and ``b`` (the metric of each), ``delta`` with ``delta_low`` and ``delta_high`` (95 %,
    speaker-blocked; None where no interval can be had), ``p_value`` and its ``p_value_floor`` (the least that
    so few speakers allow: over 0.05 for 5 and fewer), ``test``, ``n_clips``, ``n_speakers``,
    ``only_a`` and ``only_b`` (utterances left out of the comparison), policy and versions.
    An error rate's negative delta means that b is better.

    Parameters
    ----------
    metric : str
        A key of ``measures.RATES`` that is divided by something of the reference.
    common_only : bool
        True compares the utterances that both have and counts the others; False makes others an error.

    Raises
    ------
    KmedError
        When the utterances differ (unless ``common_only``), none is common, a reference differs, or the metric
        is unknown.
    """
    _paired_columns(metric)  # counting takes a while; refuse before it
    left, right = (count_utterances(side, config.policy) for side in (a, b))
    return compare_counts(left, right, config, metric=metric, common_only=common_only)


def compare_counts(
    a: pd.DataFrame, b: pd.DataFrame, config: EvalConfig, *, metric: str = "cer", common_only: bool = False
) -> dict[str, Any]:
    """Return the same as ``compare_predictions`` from two tables of ``count_utterances``."""
    top, bottom = _paired_columns(metric)
    left, right, only_a, only_b = _pair(a, b, bottom, common_only=common_only)
    scored = (left["excluded"] == "").to_numpy()
    left, right = left[scored], right[scored]
    sums = sum_by_speaker(left["speaker_id"], right[top] - left[top], left[bottom])
    total = int(left[bottom].sum())
    interval = difference_interval(sums, draws=config.bootstrap_draws, seed=config.bootstrap_seed)
    return {
        "metric": metric,
        "a": int(left[top].sum()) / total if total else None,
        "b": int(right[top].sum()) / total if total else None,
        "delta": float(sums.top.sum()) / total if total else None,
        "delta_low": interval and interval[0],
        "delta_high": interval and interval[1],
        "p_value": sign_flip_p_value(sums.top, draws=config.bootstrap_draws, seed=config.bootstrap_seed),
        "p_value_floor": min(1.0, 2.0 ** (1 - np.count_nonzero(sums.top))),
        "test": TEST,
        "interval": {"method": METHOD, "level": LEVEL},
        "draws": config.bootstrap_draws,
        "n_clips": int(scored.sum()),
        "n_speakers": len(sums.top),
        "n_excluded": int((~scored).sum()),
        "only_a": only_a,
        "only_b": only_b,
        "transcript_policy": config.policy,
        **versions(),
    }


def _paired_columns(metric: str) -> tuple[str, str]:
    paired = {name: pair for name, pair in RATES.items() if pair[1] != "cer_errors"}
    if metric not in paired:
        raise KmedError(f"{metric!r} cannot be compared pairwise; choose from {', '.join(paired)}.")
    return paired[metric]


def _pair(
    a: pd.DataFrame, b: pd.DataFrame, bottom: str, *, common_only: bool
) -> tuple[pd.DataFrame, pd.DataFrame, int, int]:
    """Return both tables in one order, checked to have the same references, and how many each has alone."""
    left, right = a.set_index("utterance_id"), b.set_index("utterance_id")
    common = left.index.intersection(right.index).sort_values()
    only_a, only_b = len(left) - len(common), len(right) - len(common)
    if not len(common):
        raise KmedError(
            f"The two systems share no utterance ({len(left)} and {len(right)}); compare predictions of one split."
        )
    if (only_a or only_b) and not common_only:
        stray = left.index.symmetric_difference(right.index)[0]
        raise KmedError(
            f"{only_a} utterances are in the first predictions alone and {only_b} in the second alone, such as "
            f"{stray!r}; decode the same part with both, or ask for the common ones only."
        )
    left, right = left.loc[common], right.loc[common]
    for column in ("speaker_id", "excluded", "cer_length", bottom):
        differing = (left[column] != right[column]).to_numpy()
        if differing.any():
            raise KmedError(
                f"{int(differing.sum())} utterances have another {column} in the two predictions, such as "
                f"{common[differing][0]!r}; both must have been decoded from the same split."
            )
    return left, right, only_a, only_b


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeedSpread:
    """How far training seeds spread a metric, apart from which speakers were tested.

    Attributes
    ----------
    sd : float or None
        Sample standard deviation (divisor n - 1); None for one seed.
    """

    n: int
    mean: float
    sd: float | None
    low: float
    high: float


def seed_spread(values: Sequence[float]) -> SeedSpread:
    """Return mean, standard deviation and range of one metric over the seeds of one setting.

    Raises
    ------
    KmedError
        When there is no value.
    """
    if not values:
        raise KmedError("No seed has a value; a spread needs the scores of at least one seed.")
    given = np.asarray(values, dtype=np.float64)
    return SeedSpread(
        n=len(given),
        mean=float(given.mean()),
        sd=float(given.std(ddof=1)) if len(given) > 1 else None,
        low=float(given.min()),
        high=float(given.max()),
    )

"""Confidence intervals of ratios of sums over clips, with speakers and sentences as random factors.

Clips of one speaker are not independent, and neither are clips of one sentence that several speakers read. The
variance is V_speaker + V_sentence - V_cell, each part cluster-robust with a leverage correction, and the quantile is
Student's with Satterthwaite's degrees of freedom. A rate has its interval on the logarithmic scale. Where few events
are observed, it is Clopper and Pearson's with an effective number of clips. ``benchmarks/coverage.py`` measures how
often these intervals cover; where they do not cover, there is a reason in words in place of bounds.

Sources: A. C. Cameron, J. Gelbach and D. Miller, Robust inference with multiway clustering, J. Bus. Econ. Stat. 29
(2011) 238-249, for the sum of variances; R. Bell and D. McCaffrey, Bias reduction in standard errors for linear
regression with multi-stage samples, Surv. Methodol. 28 (2002) 169-181, for the leverage correction (CR2) and the
degrees of freedom; W. Cochran, Sampling Techniques (1977), chapter 6, for the linearised ratio; E. Korn and B.
Graubard, Confidence intervals for proportions with small expected number of positive counts estimated from survey
data, Surv. Methodol. 24 (1998) 193-201, for the effective number.
"""

import dataclasses
import functools
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import betaincinv, stdtr, stdtrit

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]

LEVEL = 0.95
METHOD = (
    "Student's t with the variance between speakers and between sentences, rates on the log scale; Clopper-Pearson "
    "with an effective number for 10 events and fewer"
)

FEW_EVENTS = 10
"""Up to this many events, or this many units without one, a rate has the exact interval."""
MAX_RATE_SHARE = 0.25
MAX_DIFFERENCE_SHARE = 0.10
"""Largest share of all errors, or of all differences, of one looping clip; above, these intervals cover too little."""
MAX_FACTOR = 10.0
"""A rate's interval that reaches further than this factor from the rate is not given."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clips:
    """The numerator and denominator of one ratio, clip by clip.

    Attributes
    ----------
    top, bottom : numpy.ndarray
        (n_clips,) float; bottom is positive.
    speaker, sentence : numpy.ndarray
        (n_clips,) int64 codes from 0 on; equal codes are one speaker or one sentence.
    """

    top: Floats
    bottom: Floats
    speaker: Codes
    sentence: Codes

    @functools.cached_property
    def ratio(self) -> float:
        """Sum of tops over sum of bottoms; 0 without clips."""
        total = self.bottom.sum()
        return float(self.top.sum() / total) if total else 0.0

    @functools.cached_property
    def speaker_tops(self) -> Floats:
        """(n_speakers,) numerators summed by speaker."""
        return np.bincount(self.speaker, weights=self.top).astype(np.float64)

    @functools.cached_property
    def n_speakers(self) -> int:
        """Number of speakers."""
        return int(self.speaker.max()) + 1 if len(self.speaker) else 0

    @functools.cached_property
    def spread(self) -> "Spread":
        """Variance of the ratio with its degrees of freedom."""
        return _spread(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spread:
    """Variance of a ratio of sums and the degrees of freedom of that variance."""

    variance: float
    df: float

    @property
    def reach(self) -> float:
        """Half the width of the symmetric interval."""
        return float(stdtrit(self.df, (1 + LEVEL) / 2)) * math.sqrt(self.variance)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interval:
    """A 95 % confidence interval, or the reason why there is none.

    Attributes
    ----------
    low, high : float or None
        Both None where there is a reason.
    reason : str
        Empty where there are bounds.
    """

    low: float | None = None
    high: float | None = None
    reason: str = ""

    def flipped(self) -> "Interval":
        """Return the interval of one minus the quantity, not below 0."""
        if self.low is None or self.high is None:
            return self
        return Interval(low=max(0.0, 1 - self.high), high=1 - self.low)


def clips_of(
    speakers: npt.ArrayLike, top: npt.ArrayLike, bottom: npt.ArrayLike, sentences: npt.ArrayLike | None = None
) -> Clips:
    """Return the clips of a ratio, without those whose denominator is zero.

    Parameters
    ----------
    speakers, sentences : array_like
        (n_clips,) ids. Without sentences, or where a sentence is negative, each clip is its own sentence.
    top, bottom : array_like
        (n_clips,) numerators and denominators.
    """
    tops, bottoms = np.asarray(top, dtype=np.float64), np.asarray(bottom, dtype=np.float64)
    used = bottoms > 0
    # Sorted, so the order of the clips changes neither the sums by speaker nor the p-values drawn from them.
    ids = np.asarray(speakers)
    ids = ids if ids.dtype == np.int64 else np.asarray(speakers, dtype=object)
    speaker = _rank(ids[used])
    alone = np.arange(used.sum(), dtype=np.int64)
    if sentences is None:
        sentence = alone
    else:
        known = np.asarray(sentences, dtype=np.int64)[used]
        sentence = _rank(np.where(known < 0, -1 - alone, known))
    return Clips(top=tops[used], bottom=bottoms[used], speaker=speaker, sentence=sentence)


def _rank(ids: npt.NDArray[Any]) -> Codes:
    """Return codes from 0 on in the order of the ids; small whole numbers need no sorting."""
    if ids.dtype == np.int64 and len(ids) and ids.min() >= 0 and ids.max() < 8 * len(ids):
        present = np.zeros(ids.max() + 1, dtype=np.int64)
        present[ids] = 1
        codes: Codes = (np.cumsum(present) - 1)[ids]
        return codes
    return pd.factorize(ids, sort=True)[0].astype(np.int64)


def rate_interval(clips: Clips) -> Interval:
    """Return the 95 % interval of a rate that is zero or more.

    A rate of which no clip's part exceeds 1 stays at or below 1.
    """
    if reason := _too_few_speakers(clips):
        return Interval(reason=reason)
    bounded = bool((clips.top <= clips.bottom).all())
    events, units = clips.top.sum(), clips.bottom.sum()
    if bounded and events <= FEW_EVENTS:
        return _exact_interval(clips)
    if bounded and units - events <= FEW_EVENTS:
        return _exact_interval(dataclasses.replace(clips, top=clips.bottom - clips.top)).flipped()
    if reason := _heavy_tail(clips, MAX_RATE_SHARE, "errors"):
        return Interval(reason=reason)
    if not clips.spread.variance:
        return Interval(reason=_EQUAL)
    reach = clips.spread.reach / clips.ratio
    if not reach <= math.log(MAX_FACTOR):
        return Interval(reason=f"{clips.n_speakers} speakers are too few for how much they differ")
    factor = math.exp(reach)
    high = clips.ratio * factor
    return Interval(low=clips.ratio / factor, high=min(high, 1.0) if bounded else high)


def difference_interval(clips: Clips) -> Interval:
    """Return the 95 % interval of a paired difference, whose numerators may have either sign."""
    if reason := _too_few_speakers(clips) or _heavy_tail(clips, MAX_DIFFERENCE_SHARE, "differences"):
        return Interval(reason=reason)
    if not clips.top.any():
        return Interval(reason="no clip differs")
    return _symmetric(clips.ratio, clips.spread, clips.n_speakers)


def gap_interval(group: Clips, rest: Clips) -> Interval:
    """Return the 95 % interval of ``group.ratio - rest.ratio``, two sets of different speakers.

    Source: B. Welch, The generalization of Student's problem when several different population variances are
    involved, Biometrika 34 (1947) 28-35, for the degrees of freedom.
    """
    for side in (group, rest):
        if reason := _too_few_speakers(side) or _heavy_tail(side, MAX_RATE_SHARE, "errors"):
            return Interval(reason=reason)
    n_speakers = min(group.n_speakers, rest.n_speakers)
    return _symmetric(group.ratio - rest.ratio, gap_spread(group, rest), n_speakers)


def gap_spread(group: Clips, rest: Clips) -> Spread:
    """Return the variance of the difference between two independent ratios."""
    return _add(group.spread, rest.spread)


def t_p_value(estimate: float, spread: Spread) -> float:
    """Return the two-sided p-value of Student's test that belongs to the symmetric interval; 1 without variance."""
    if not spread.variance:
        return 1.0
    return float(2 * stdtr(spread.df, -abs(estimate) / math.sqrt(spread.variance)))


def loops_decide(clips: Clips) -> bool:
    """Return whether one looping clip makes so much of all differences that no test holds its level."""
    return bool(_heavy_tail(clips, MAX_DIFFERENCE_SHARE, "differences"))


_EQUAL = "all speakers have the same rate, so the clips do not show how much speakers differ"


def _too_few_speakers(clips: Clips) -> str:
    if not clips.n_speakers:
        return "no clip counts"
    return "" if clips.n_speakers > 1 else "one speaker does not show how much speakers differ"


def _heavy_tail(clips: Clips, limit: float, what: str) -> str:
    """Return why there is no interval where a clip with more errors than reference makes much of the sum."""
    sizes = np.abs(clips.top)
    if not sizes.any():
        return ""
    largest = int(sizes.argmax())
    share = sizes[largest] / sizes.sum()
    if sizes[largest] <= clips.bottom[largest] or share <= limit:
        return ""
    return f"one looping clip has {100 * share:.0f} % of all {what} (at most {100 * limit:.0f} %)"


def _symmetric(estimate: float, spread: Spread, n_speakers: int) -> Interval:
    if not spread.variance:
        return Interval(reason=_EQUAL)
    reach = spread.reach
    if not reach <= 1:
        return Interval(reason=f"{n_speakers} speakers are too few for how much they differ")
    return Interval(low=estimate - reach, high=estimate + reach)


def _exact_interval(clips: Clips) -> Interval:
    """Return Clopper and Pearson's interval with the effective number of units in place of their number.

    Without an event nothing shows how events cluster: a clip then counts as one unit, as if it failed as a whole.
    """
    rate, units = clips.ratio, float(clips.bottom.sum())
    upper = (1 + LEVEL) / 2
    if not rate:
        return Interval(low=0.0, high=float(betaincinv(1, len(clips.top), upper)))
    effect = max(1.0, clips.spread.variance * units / (rate * (1 - rate))) if rate < 1 else 1.0
    # Few speakers estimate the effect poorly; the ratio of the two quantiles takes that into account.
    uncertain = stdtrit(max(units - 1, 1), upper) / stdtrit(clips.spread.df, upper)
    number = units / effect * min(1.0, float(uncertain)) ** 2
    events = rate * number
    low = betaincinv(events, number - events + 1, 1 - upper)
    high = betaincinv(events + 1, number - events, upper) if rate < 1 else 1.0
    return Interval(low=float(low), high=float(high))


def _spread(clips: Clips) -> Spread:
    """Return the two-way cluster-robust variance; with every sentence read once it is that between speakers."""
    if clips.n_speakers < 2:
        return Spread(variance=0.0, df=1.0)
    speakers = _cluster(clips.speaker, clips)
    # Rounding noise is no variation between speakers.
    if math.sqrt(speakers.variance) <= 1e-12 * float(np.abs(clips.top).sum() / clips.bottom.sum()):
        speakers = Spread(variance=0.0, df=speakers.df)
    n_sentences = int(clips.sentence.max()) + 1
    if n_sentences in (1, len(clips.sentence)):
        return speakers
    sentences = _cluster(clips.sentence, clips)
    _, cell = np.unique(clips.speaker * n_sentences + clips.sentence, return_inverse=True)
    beyond = sentences.variance - _cluster(cell, clips).variance
    return _add(speakers, Spread(variance=max(beyond, 0.0), df=sentences.df))


def _cluster(codes: Codes, clips: Clips) -> Spread:
    """Return the variance of a ratio between clusters.

    A cluster's residual has the expected square b (1 - b / total) of its size b, which the leverage correction
    undoes. The degrees of freedom are those of a sum of squares with the weights b squared, as for clusters that
    differ in their rates.
    """
    sizes = np.bincount(codes, weights=clips.bottom)
    total = sizes.sum()
    # Sums of whole numbers first: they are exact, so the order of the clips changes no digit.
    residual = np.bincount(codes, weights=clips.top) - clips.ratio * sizes
    leverage = np.minimum(sizes / total, 1 - 1e-9)
    variance = np.sum(residual**2 / (1 - leverage)) / total**2
    weights = leverage**2
    return Spread(variance=float(variance), df=max(float(weights.sum() ** 2 / np.sum(weights**2)) - 1, 0.1))


def _add(one: Spread, other: Spread) -> Spread:
    """Return the variance of a sum of independent parts, with Satterthwaite's degrees of freedom."""
    variance = one.variance + other.variance
    if not variance:
        return one
    parts = sum(part.variance**2 / part.df for part in (one, other))
    return Spread(variance=variance, df=variance**2 / parts)

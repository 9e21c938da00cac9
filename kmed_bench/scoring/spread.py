"""Clips of a ratio of sums, and its variance with speakers and sentences as random factors.

Clips of one speaker are not independent, and neither are clips of one sentence that several speakers read. The
variance is V_speaker + V_sentence - V_cell, each part cluster-robust with a leverage correction; its degrees of freedom
are Satterthwaite's.

Sources: A. C. Cameron, J. Gelbach and D. Miller, Robust inference with multiway clustering, J. Bus. Econ. Stat. 29
(2011) 238-249, for the sum of variances; R. Bell and D. McCaffrey, Bias reduction in standard errors for linear
regression with multi-stage samples, Surv. Methodol. 28 (2002) 169-181, for the leverage correction (CR2) and the
degrees of freedom; W. Cochran, Sampling Techniques (1977), chapter 6, for the linearised ratio.
"""

import dataclasses
import functools
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import stdtrit

from kmed_bench.core.schema import UNKNOWN

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clips:
    """The numerator and denominator of one ratio, clip by clip.

    Attributes
    ----------
    top, bottom : numpy.ndarray
        (n_clips,) float; bottom is positive.
    speaker, sentence : numpy.ndarray
        (n_clips,) int64 codes from 0 on; equal codes are one speaker or one sentence.
    n_unknown : int
        Clips whose speaker is not known. With any of them nothing can be said about how much speakers differ: all clips
        then have one code, which gives neither a variance nor a small p-value.
    n_known : int
        Speakers that are known.
    """

    top: Floats
    bottom: Floats
    speaker: Codes
    sentence: Codes
    n_unknown: int = 0
    n_known: int = -1

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
        """Number of speakers' codes."""
        return int(self.speaker.max()) + 1 if len(self.speaker) else 0

    @functools.cached_property
    def n_known_speakers(self) -> int:
        """Number of speakers that are known: what is reported."""
        return self.n_known if self.n_unknown else self.n_speakers

    @functools.cached_property
    def spread(self) -> "Spread":
        """Variance of the ratio with its degrees of freedom."""
        return _spread(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spread:
    """Variance of a ratio of sums and the degrees of freedom of that variance."""

    variance: float
    df: float

    def reach(self, alpha: float) -> tuple[float, float]:
        """Return half the width of the symmetric interval, below and above; alpha is one minus its level."""
        half = float(stdtrit(self.df, 1 - alpha / 2)) * math.sqrt(self.variance)
        return half, half


def clips_of(
    speakers: npt.ArrayLike, top: npt.ArrayLike, bottom: npt.ArrayLike, sentences: npt.ArrayLike | None = None
) -> Clips:
    """Return the clips of a ratio, without those whose denominator is zero.

    Parameters
    ----------
    speakers, sentences : array_like
        (n_clips,) ids. Without sentences, or where a sentence is negative, each clip is its own sentence. A speaker
        that is a negative number or in ``core.schema.UNKNOWN`` is not known.
    top, bottom : array_like
        (n_clips,) numerators and denominators.
    """
    tops, bottoms = np.asarray(top, dtype=np.float64), np.asarray(bottom, dtype=np.float64)
    used = bottoms > 0
    # Sorted, so the order of the clips changes neither the sums by speaker nor the p-values drawn from them.
    ids = np.asarray(speakers)
    ids = ids if ids.dtype == np.int64 else np.asarray(speakers, dtype=object)
    ids = ids[used]
    speaker, unknown = rank_ids(ids), unknown_speakers(ids)
    n_unknown, n_known = int(unknown.sum()), count_speakers(ids)
    if n_unknown:
        speaker = np.zeros_like(speaker)
    alone = np.arange(used.sum(), dtype=np.int64)
    if sentences is None:
        sentence = alone
    else:
        known = np.asarray(sentences, dtype=np.int64)[used]
        sentence = rank_ids(np.where(known < 0, -1 - alone, known))
    return Clips(
        top=tops[used], bottom=bottoms[used], speaker=speaker, sentence=sentence, n_unknown=n_unknown, n_known=n_known
    )


def unknown_speakers(ids: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Return which ids are no speaker's: negative numbers, and the words for an unknown value."""
    given = np.asarray(ids)
    unknown = given < 0 if given.dtype == np.int64 else pd.Series(given, dtype=object).isin(UNKNOWN).to_numpy()
    return np.asarray(unknown, dtype=np.bool_)


def count_speakers(ids: npt.ArrayLike) -> int:
    """Return how many different speakers are known among the ids."""
    given = np.asarray(ids)
    return int(pd.Series(given[~unknown_speakers(given)]).nunique())


def rank_ids(ids: npt.NDArray[Any]) -> Codes:
    """Return codes from 0 on in the order of the ids; small whole numbers need no sorting."""
    if ids.dtype == np.int64 and len(ids) and ids.min() >= 0 and ids.max() < 8 * len(ids):
        present = np.zeros(ids.max() + 1, dtype=np.int64)
        present[ids] = 1
        codes: Codes = (np.cumsum(present) - 1)[ids]
        return codes
    return pd.factorize(ids, sort=True)[0].astype(np.int64)


def gap_spread(group: Clips, rest: Clips) -> Spread:
    """Return the variance of the difference between two independent ratios."""
    return add_spreads(group.spread, rest.spread)


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
    return add_spreads(speakers, Spread(variance=max(beyond, 0.0), df=sentences.df))


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


def add_spreads(one: Spread, other: Spread) -> Spread:
    """Return the variance of a sum of independent parts, with Satterthwaite's degrees of freedom."""
    variance = one.variance + other.variance
    if not variance:
        return one
    parts = sum(part.variance**2 / part.df for part in (one, other))
    return Spread(variance=variance, df=variance**2 / parts)

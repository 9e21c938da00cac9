"""The smallest difference between two systems that a test part can show, and the speakers that a difference needs.

The variance of a paired difference is that of ``scoring.spread``: from a pilot, the predictions of two systems, or
from assumed standard deviations of what speakers, sentences and clips add to the difference.

Source: J. Cohen, Statistical Power Analysis for the Behavioral Sciences (1988), chapter 2, for the sum of quantiles.
"""

import dataclasses
import math

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from kmed_bench.core.errors import KmedError
from kmed_bench.scoring.intervals import LEVEL
from kmed_bench.scoring.spread import Clips, Codes, Floats, Spread

POWER = 0.80
MIN_SPEAKERS = 6
"""Fewer speakers cannot reach p < 0.05 by sign flips, however large the difference is."""
MAX_SPEAKERS = 100_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Deviations:
    """Standard deviations of a paired difference in CER; fractions.

    The defaults are those of two systems with a CER of 10 % in ``benchmarks/coverage.py``, whose effects of speakers
    and sentences vary by 20 % and 30 % in each system. A pilot is better than any default.
    """

    speaker: float = 0.03
    sentence: float = 0.04
    clip: float = 0.10


def assumed_spread(speaker: Codes, sentence: Codes, length: Floats, deviations: Deviations) -> Spread:
    """Return the variance of a difference on these clips, if its parts vary as assumed.

    Parameters
    ----------
    speaker, sentence, length : numpy.ndarray
        (n_clips,) codes from 0 on, and characters of the reference.
    """
    speakers = _part(speaker, length, deviations.speaker)
    sentences = _part(sentence, length, deviations.sentence)
    clips = _part(np.arange(len(length)), length, deviations.clip)
    # Clips are drawn with their speaker, and so are sentences that are read once.
    clips = dataclasses.replace(clips, df=speakers.df)
    if sentence.max() + 1 == len(sentence):
        sentences = dataclasses.replace(sentences, df=speakers.df)
    parts = [part for part in (speakers, sentences, clips) if part.variance]
    variance = sum(part.variance for part in parts)
    # Parts of one source vary together, so they share its degrees of freedom.
    of_speakers = sum(part.variance for part in parts if part.df == speakers.df)
    rest = sum(part.variance**2 / part.df for part in parts if part.df != speakers.df)
    return Spread(variance=variance, df=variance**2 / (of_speakers**2 / speakers.df + rest))


def _part(codes: npt.NDArray[np.int64], length: Floats, deviation: float) -> Spread:
    weights = (np.bincount(codes, weights=length) / length.sum()) ** 2
    df = max(float(weights.sum() ** 2 / np.sum(weights**2)) - 1, 0.1)
    return Spread(variance=deviation**2 * float(weights.sum()), df=df)


def detectable(spread: Spread, power: float = POWER) -> float:
    """Return the smallest true difference that the paired test finds with this power at its level of 0.05."""
    quantiles = float(stdtrit(spread.df, (1 + LEVEL) / 2) + stdtrit(spread.df, power))
    return quantiles * math.sqrt(spread.variance)


def speakers_needed(spread: Spread, n_speakers: int, difference: float, power: float = POWER) -> int:
    """Return how many speakers like these show a difference, each with as many clips, sentences growing alike.

    Raises
    ------
    KmedError
        When the difference is not above zero, or needs over 100,000 speakers.
    """
    if not difference > 0:
        raise KmedError(f"A difference of {difference:g} in CER cannot be planned for; it must be above 0, as 0.01.")
    for count in range(MIN_SPEAKERS, MAX_SPEAKERS + 1):
        grown = Spread(variance=spread.variance * n_speakers / count, df=spread.df * (count - 1) / (n_speakers - 1))
        if detectable(grown, power) <= difference:
            return count
    raise KmedError(
        f"A difference of {difference:g} in CER needs over {MAX_SPEAKERS} speakers; choose a larger one, or a pilot "
        "whose systems differ less from speaker to speaker."
    )


def describe_power(spread: Spread, n_speakers: int, n_clips: int, source: str) -> str:
    """Return the smallest difference in words."""
    if n_speakers < MIN_SPEAKERS:
        return f"{n_speakers} speakers cannot show any difference: at least {MIN_SPEAKERS} must differ for p < 0.05."
    return (
        f"{n_clips} clips of {n_speakers} speakers show a difference in CER of {detectable(spread):.4f} or more with a "
        f"power of {POWER:.0%} at p < {1 - LEVEL:.2f} ({source})."
    )


def pilot_spread(clips: Clips) -> Spread:
    """Return the variance that a pilot measured.

    Raises
    ------
    KmedError
        When the pilot has fewer than two speakers, or its systems differ nowhere or everywhere alike.
    """
    if not clips.spread.variance:
        raise KmedError(
            f"The two systems of the pilot differ nowhere or everywhere alike ({clips.n_speakers} speakers), which "
            "gives no variance; take other systems, or assumed deviations without --predictions."
        )
    return clips.spread

"""Uncertainty of ratios of sums, with the speaker as the unit: clips of one speaker are not independent.

Intervals are studentised (bootstrap-t): each draw's distance from the estimate is divided by that draw's own
standard error, and the quantiles of these ratios take the place of Student's t. In simulations with skewed speakers
the percentile bootstrap of nominally 0.95 covered 0.76 with 5 speakers and 0.87 with 20; this one 0.90 and 0.92.
Rates are studentised on the square-root scale, which stabilises the variance of counts and keeps the interval at or
above zero. With 2 to 4 speakers there are too few distinct draws (10 for 3 speakers) for any bootstrap, so the
interval is Student's t on the log scale; with one speaker there is none.

Sources: B. Efron and R. Tibshirani, An Introduction to the Bootstrap (1993), chapter 12;
W. Cochran, Sampling Techniques (1977), chapter 6, for the standard error of a ratio.
"""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import stdtrit

Floats = npt.NDArray[np.float64]
Interval = tuple[float, float]

LEVEL = 0.95
METHOD = "speaker-blocked bootstrap-t; Student's t with 2 to 4 speakers; none with 1"
MIN_BOOTSTRAP_SPEAKERS = 5

_BLOCK_CELLS = 1 << 16
"""Draws times speakers computed at once: half a megabyte, which fits in the processor's cache."""
_EXACT_SPEAKERS = 12
"""Up to this many speakers all 2**n sign patterns are computed; above, random ones."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpeakerSums:
    """One ratio's numerator and denominator, summed per speaker.

    Attributes
    ----------
    top, bottom : numpy.ndarray
        (n_speakers,) sums; bottom is positive.
    """

    top: Floats
    bottom: Floats

    @property
    def ratio(self) -> float:
        """Sum of tops over sum of bottoms."""
        return float(self.top.sum() / self.bottom.sum())


def sum_by_speaker(speakers: npt.ArrayLike, top: npt.ArrayLike, bottom: npt.ArrayLike) -> SpeakerSums:
    """Return the sums of each speaker, without speakers whose denominator is zero.

    Parameters
    ----------
    speakers, top, bottom : array_like
        (n_clips,) speaker ids, numerators and denominators.
    """
    # Sorted, so the order of the clips does not change the draws.
    codes, _ = pd.factorize(np.asarray(speakers, dtype=object), sort=True)
    tops = np.bincount(codes, weights=np.asarray(top)).astype(np.float64)
    bottoms = np.bincount(codes, weights=np.asarray(bottom)).astype(np.float64)
    return SpeakerSums(top=tops[bottoms > 0], bottom=bottoms[bottoms > 0])


def rate_interval(sums: SpeakerSums, *, draws: int, seed: int) -> Interval | None:
    """Return the 95 % interval of a rate that is zero or more.

    None with fewer than two speakers, and when all speakers have the same rate (no error at all, for instance):
    resampling gives no information about either.
    """
    estimate, error = _estimate(sums)
    if len(sums.top) < 2 or estimate <= 0 or not error > 0:
        return None
    if len(sums.top) < MIN_BOOTSTRAP_SPEAKERS:
        factor = math.exp(_student(len(sums.top)) * error / estimate)
        return estimate / factor, estimate * factor
    drawn, errors = _draw(sums, draws=draws, seed=seed)
    usable = (drawn > 0) & (errors > 0)
    root = np.sqrt(drawn[usable])
    centre = math.sqrt(estimate)
    low, high = _studentise(root - centre, errors[usable] / (2 * root), error / (2 * centre))
    return max(centre + low, 0.0) ** 2, max(centre + high, 0.0) ** 2


def difference_interval(sums: SpeakerSums, *, draws: int, seed: int) -> Interval | None:
    """Return the 95 % interval of a paired difference, whose numerators may have either sign.

    None as in `rate_interval`.
    """
    estimate, error = _estimate(sums)
    if len(sums.top) < 2 or not error > 0:
        return None
    if len(sums.top) < MIN_BOOTSTRAP_SPEAKERS:
        reach = _student(len(sums.top)) * error
        return estimate - reach, estimate + reach
    drawn, errors = _draw(sums, draws=draws, seed=seed)
    usable = errors > 0
    low, high = _studentise(drawn[usable] - estimate, errors[usable], error)
    return estimate + low, estimate + high


def gap_interval(group: SpeakerSums, rest: SpeakerSums, *, draws: int, seed: int) -> Interval | None:
    """Return the 95 % interval of ``group.ratio - rest.ratio``, two sets of different speakers.

    Each side is resampled independently. With fewer than 5 speakers on a side, it is Student's t with the smaller
    side's degrees of freedom. None as in `rate_interval`.
    """
    smaller = min(len(group.top), len(rest.top))
    if smaller < 2:
        return None
    (of_group, group_error), (of_rest, rest_error) = _estimate(group), _estimate(rest)
    estimate, error = of_group - of_rest, math.hypot(group_error, rest_error)
    if not error > 0:
        return None
    if smaller < MIN_BOOTSTRAP_SPEAKERS:
        reach = _student(smaller) * error
        return estimate - reach, estimate + reach
    drawn_group, errors_group = _draw(group, draws=draws, seed=seed)
    drawn_rest, errors_rest = _draw(rest, draws=draws, seed=seed + 1)
    errors = np.hypot(errors_group, errors_rest)
    usable = errors > 0
    low, high = _studentise((drawn_group - drawn_rest - estimate)[usable], errors[usable], error)
    return estimate + low, estimate + high


def sign_flip_p_value(differences: npt.ArrayLike, *, draws: int, seed: int) -> float:
    """Return the two-sided p-value of no difference between two systems, by flipping the signs of whole speakers.

    If the systems were equal, exchanging them for any speaker would be as likely as the data. Up to 12 speakers all
    sign patterns are computed; above, random ones, with the observed pattern counted among them.

    Parameters
    ----------
    differences : array_like
        (n_speakers,) errors of one system minus errors of the other.

    Notes
    -----
    With n speakers the p-value is at least 2 / 2**n: 5 speakers or fewer can never reach 0.05.
    """
    nonzero = np.asarray(differences, dtype=np.float64)
    nonzero = nonzero[nonzero != 0]
    if not len(nonzero):
        return 1.0
    observed = abs(nonzero.sum())
    slack = 1e-9 * np.abs(nonzero).sum()  # rounding, where a pattern equals the observed one
    if len(nonzero) <= _EXACT_SPEAKERS:
        patterns = np.arange(2 ** len(nonzero))[:, None] >> np.arange(len(nonzero)) & 1
        return float(np.mean(np.abs((2 * patterns - 1) @ nonzero) >= observed - slack))
    generator = np.random.default_rng(seed)
    extreme = 0
    for rows in _blocks(draws, len(nonzero)):
        signs = generator.integers(0, 2, size=(rows, len(nonzero)), dtype=np.int8) * 2.0 - 1.0
        extreme += int(np.sum(np.abs(signs @ nonzero) >= observed - slack))
    return (extreme + 1) / (draws + 1)


def _estimate(sums: SpeakerSums) -> tuple[float, float]:
    """Return a ratio and its standard error between speakers."""
    count = len(sums.top)
    if not count:
        return 0.0, 0.0
    ratio = sums.ratio
    if count < 2:
        return ratio, 0.0
    residuals = sums.top - ratio * sums.bottom
    error = np.sqrt(count / (count - 1) * np.sum(residuals**2)) / sums.bottom.sum()
    # Rounding noise is no variation between speakers.
    noise = 1e-12 * np.abs(sums.top).sum() / sums.bottom.sum()
    return ratio, float(error) if error > noise else 0.0


def _draw(sums: SpeakerSums, *, draws: int, seed: int) -> tuple[Floats, Floats]:
    """Return (draws,) ratios and their standard errors, speakers drawn with replacement.

    Gathering each speaker's five sums takes a seventh of the time of multinomial weights.
    """
    count = len(sums.top)
    ratio = sums.ratio
    residual = sums.top - ratio * sums.bottom  # centred, or the squares below would cancel badly
    parts = (residual, sums.bottom, residual**2, residual * sums.bottom, sums.bottom**2)
    generator = np.random.default_rng(seed)
    drawn, errors = np.empty(draws), np.empty(draws)
    start = 0
    for rows in _blocks(draws, count):
        speakers = generator.integers(0, count, size=(rows, count))
        top, bottom, square, cross, bottom_square = (part.take(speakers).sum(axis=1) for part in parts)
        shift = top / bottom
        variance = count / (count - 1) * (square - 2 * shift * cross + shift**2 * bottom_square)
        # A draw of only one speaker has no variance; neither is the remainder of cancellation one.
        variance[variance < 1e-9 * (square + shift**2 * bottom_square)] = 0
        drawn[start : start + rows] = ratio + shift
        errors[start : start + rows] = np.sqrt(variance) / bottom
        start += rows
    return drawn, errors


def _studentise(distances: Floats, errors: Floats, error: float) -> Interval:
    """Return the bounds of the interval, relative to an estimate with this standard error."""
    tail = (1 - LEVEL) / 2
    lower, upper = np.quantile(distances / errors, [tail, 1 - tail])
    return -float(upper) * error, -float(lower) * error


def _student(count: int) -> float:
    return float(stdtrit(count - 1, (1 + LEVEL) / 2))


def _blocks(draws: int, count: int) -> Iterator[int]:
    size = max(1, _BLOCK_CELLS // count)
    for start in range(0, draws, size):
        yield min(size, draws - start)

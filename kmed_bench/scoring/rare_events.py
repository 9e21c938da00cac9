"""Bounds of sums of few events, where Student's t does not cover: shares of units, and loops of differing lengths.

Sources: E. Korn and B. Graubard, Confidence intervals for proportions with small expected number of positive counts
estimated from survey data, Surv. Methodol. 24 (1998) 193-201, for the effective number; M. Fay and E. Feuer,
Confidence intervals for directly standardized rates: a method based on the gamma distribution, Stat. Med. 16 (1997)
791-801, for sums of events with differing weights.
"""

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv, gammaincinv, stdtrit


def effective_number(rate: float, units: float, variance: float, df: float, alpha: float) -> float:
    """Return how many independent units carry as much information on a rate as these, at most ``units``.

    Parameters
    ----------
    variance, df : float
        Of the rate, with units that depend on each other; few degrees of freedom lower the number too.
    alpha : float
        One minus the level of the interval.
    """
    effect = max(1.0, variance * units / (rate * (1 - rate))) if rate < 1 else 1.0
    upper = 1 - alpha / 2
    uncertain = stdtrit(max(units - 1, 1), upper) / stdtrit(df, upper) if alpha < 1 else 1.0
    return units / effect * min(1.0, float(uncertain)) ** 2


def share_bounds(rate: float, number: float, alpha: float) -> tuple[float, float]:
    """Return Clopper and Pearson's interval of a rate of ``number`` units, which need not be a whole number."""
    events = rate * number
    low = betaincinv(events, number - events + 1, alpha / 2) if rate > 0 else 0.0
    high = betaincinv(events + 1, number - events, 1 - alpha / 2) if rate < 1 else 1.0
    return float(low), float(high)


def next_size(sizes: npt.NDArray[np.float64]) -> float:
    """Return the size of one more event, by which the upper bound of a sum of such events exceeds the sum.

    It is the third moment over the second, which gives the bound the skewness of the sum, times 1 + 1/n for n events,
    since few events do not show how large others are. Fay and Feuer take the largest one, which covers more than the
    nominal level.
    """
    if not len(sizes):
        return 0.0
    return float((sizes**3).sum() / (sizes**2).sum()) * (1 + 1 / len(sizes))


def sum_bounds(total: float, variance: float, size: float, alpha: float) -> tuple[float, float]:
    """Return the interval of the expected sum of rare events by quantiles of the gamma distribution.

    For events of size 1 it is the exact interval of a Poisson mean; without an event the upper bound is that of none.

    Parameters
    ----------
    total, variance : float
        The observed sum and its variance: the sum of squared sizes for independent events.
    size : float
        Size of one more event, as `next_size` returns it.
    """
    low = high = 0.0
    if total:
        low = float(gammaincinv(total**2 / variance, alpha / 2)) * variance / total
    if size:
        mean, spread = total + size, variance + size**2
        high = float(gammaincinv(mean**2 / spread, 1 - alpha / 2)) * spread / mean
    return low, high

"""Confidence intervals of ratios of sums over clips, with speakers and sentences as random factors.

The variance is that of ``scoring.spread``, the quantile Student's with its degrees of freedom, and a rate has its
interval on the logarithmic scale. Few events, and loops that make much of a sum, have bounds of their own
(``scoring.rare_events``), which are combined with those of the rest. ``benchmarks/intervals.py`` measures how often
these intervals cover; where they do not cover, there is a reason in words in place of bounds. No interval allows for
loops if none is among the clips.

Source: G. Zou and A. Donner, Construction of confidence limits about effect measures: a general approach, Stat. Med.
27 (2008) 1693-1702, for the combination of intervals.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import brentq
from scipy.special import stdtr

from kmed_bench.core.language import N_
from kmed_bench.scoring.rare_events import effective_number, next_size, share_bounds, sum_bounds
from kmed_bench.scoring.spread import Clips, Spread, gap_spread

Reach = Callable[[float], tuple[float, float]]
"""How far an interval reaches below and above its estimate, by one minus its level."""

LEVEL = 0.95
ALPHA = 1 - LEVEL
METHOD = N_(
    "Student's t with the variance between speakers and between sentences, rates on the log scale; Clopper-Pearson "
    "with an effective number for 10 events and fewer; gamma for loops where one has over 5 % of all "
    "errors, or 2 % of all differences"
)

FEW_EVENTS = 10
"""Up to this many events, or this many units without one, the interval is exact."""
MAX_RATE_SHARE = 0.05
MAX_DIFFERENCE_SHARE = 0.02
"""Largest share of all errors, or of all differences, of one loop; above, loops have bounds of their own."""
MAX_FACTOR = 10.0
"""A rate's interval that reaches further than this factor from the rate is not given."""
MIN_SPEAKERS = 5
"""Fewest speakers of an interval, as many as a ranked group has by default; below, decision 006 measured how seldom
intervals cover."""


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

    @classmethod
    def of(cls, bounds: tuple[float, float]) -> "Interval":
        """Return the interval between two bounds."""
        return cls(low=bounds[0], high=bounds[1])

    def flipped(self) -> "Interval":
        """Return the interval of one minus the quantity, not below 0."""
        if self.low is None or self.high is None:
            return self
        return Interval(low=max(0.0, 1 - self.high), high=1 - self.low)


def rate_interval(clips: Clips) -> Interval:
    """Return the 95 % interval of a rate that is zero or more.

    A rate of which no clip's part exceeds 1 stays at or below 1.
    """
    if reason := too_few_speakers(clips):
        return Interval(reason=reason)
    if _loops_matter(clips, MAX_RATE_SHARE):
        return _with_loops(clips)
    bounded = bool((clips.top <= clips.bottom).all())
    events, units = clips.top.sum(), clips.bottom.sum()
    if bounded and events <= FEW_EVENTS:
        return Interval.of(_exact_bounds(clips))
    if bounded and units - events <= FEW_EVENTS:
        return Interval.of(_exact_bounds(dataclasses.replace(clips, top=clips.bottom - clips.top))).flipped()
    if not clips.spread.variance:
        return Interval(reason=_EQUAL)
    reach = clips.spread.reach(ALPHA)[0] / clips.ratio
    if not reach <= math.log(MAX_FACTOR):
        return Interval(reason=_unlike(clips.n_speakers))
    factor = math.exp(reach)
    high = clips.ratio * factor
    return Interval(low=clips.ratio / factor, high=min(high, 1.0) if bounded else high)


def difference_interval(clips: Clips) -> Interval:
    """Return the 95 % interval of a paired difference, whose numerators may have either sign."""
    if reason := too_few_speakers(clips):
        return Interval(reason=reason)
    if not clips.top.any():
        return Interval(reason=N_("no clip differs"))
    return _around(clips.ratio, _difference_reach(clips), clips.n_speakers)


def difference_p_value(clips: Clips) -> float:
    """Return the two-sided p-value of no difference: one minus the level at which the interval ends at zero.

    It is that of Student's test where the interval is Student's, and 1 without variance.
    """
    if not (_few_differ(clips) or _loops_matter(clips, MAX_DIFFERENCE_SHARE)):
        return t_p_value(clips.ratio, clips.spread)
    return _p_value(clips.ratio, _difference_reach(clips))


def gap_interval(group: Clips, rest: Clips) -> Interval:
    """Return the 95 % interval of ``group.ratio - rest.ratio``, two sets of different speakers.

    The ratios are rates, or paired differences whose numerators have either sign.

    Source: B. Welch, The generalization of Student's problem when several different population variances are
    involved, Biometrika 34 (1947) 28-35, for the degrees of freedom.
    """
    for side in (group, rest):
        if reason := too_few_speakers(side):
            return Interval(reason=reason)
    return _around(group.ratio - rest.ratio, _gap_reach(group, rest), min(group.n_speakers, rest.n_speakers))


def gap_p_value(group: Clips, rest: Clips) -> float:
    """Return the two-sided p-value of equal ratios: one minus the level at which `gap_interval` ends at zero.

    It is 1 where there is no interval.
    """
    if gap_interval(group, rest).reason:
        return 1.0
    return _p_value(group.ratio - rest.ratio, _gap_reach(group, rest))


def t_p_value(estimate: float, spread: Spread) -> float:
    """Return the two-sided p-value of Student's test that belongs to the symmetric interval; 1 without variance."""
    if not spread.variance:
        return 1.0
    return float(2 * stdtr(spread.df, -abs(estimate) / math.sqrt(spread.variance)))


def _p_value(estimate: float, reach: Reach) -> float:
    """Return one minus the level at which the interval around an estimate ends at zero."""
    side = int(estimate < 0)

    def beyond_zero(log_alpha: float) -> float:
        return reach(math.exp(log_alpha))[side] - abs(estimate)

    least = -30.0
    if beyond_zero(0.0) >= 0:
        return 1.0
    return math.exp(brentq(beyond_zero, least, 0.0) if beyond_zero(least) > 0 else least)


_EQUAL = N_("all speakers have the same rate, so the clips do not show how much speakers differ")


def too_few_speakers(clips: Clips) -> str:
    """Return why the speakers of some clips allow no interval; empty where they do."""
    n = clips.n_speakers
    if not n:
        return N_("no clip counts")
    if clips.n_unknown:
        text = N_("the speakers of {n} clips are not known, so nothing shows how much speakers differ")
        return text.format(n=clips.n_unknown)
    if n == 1:
        return N_("one speaker does not show how much speakers differ")
    text = N_("{n} speakers are too few for an interval, which takes {least}")
    return text.format(n=n, least=MIN_SPEAKERS) if n < MIN_SPEAKERS else ""


def _unlike(n_speakers: int) -> str:
    return N_("{n} speakers are too few for how much they differ").format(n=n_speakers)


def _loops_matter(clips: Clips, limit: float) -> bool:
    """Return whether a clip with more errors than reference makes more than this share of the sum."""
    sizes = np.abs(clips.top)
    return bool((sizes[sizes > clips.bottom] > limit * sizes.sum()).any())


def _few_differ(clips: Clips) -> bool:
    sizes = np.abs(clips.top)
    return bool(sizes.sum() <= FEW_EVENTS and (sizes <= clips.bottom).all())


def _fluent(clips: Clips) -> Clips:
    """Return all clips, without the errors of looping ones."""
    return dataclasses.replace(clips, top=np.where(np.abs(clips.top) > clips.bottom, 0.0, clips.top))


def _looping(clips: Clips, sign: int = 1) -> Clips:
    """Return all clips, with the errors of looping ones of this sign only, as positive numbers."""
    return dataclasses.replace(clips, top=np.where(sign * clips.top > clips.bottom, np.abs(clips.top), 0.0))


def _around(estimate: float, reach: Reach, n_speakers: int) -> Interval:
    below, above = reach(ALPHA)
    if not (below or above):
        return Interval(reason=_EQUAL)
    if not max(below, above) <= 1:
        return Interval(reason=_unlike(n_speakers))
    return Interval(low=estimate - below, high=estimate + above)


def _combine(parts: Sequence[Reach]) -> Reach:
    """Return the reach of a sum of independent parts."""

    def reach(alpha: float) -> tuple[float, float]:
        below, above = zip(*(part(alpha) for part in parts), strict=True)
        return math.hypot(*below), math.hypot(*above)

    return reach


def _wider(one: Reach, other: Reach) -> Reach:
    """Return the larger reach on each side.

    Large errors of hard clips that are not loops vary with the rest; a sum of independent parts ignores that.
    """

    def reach(alpha: float) -> tuple[float, float]:
        (below, above), (other_below, other_above) = one(alpha), other(alpha)
        return max(below, other_below), max(above, other_above)

    return reach


def _minus(part: Reach) -> Reach:
    return lambda alpha: part(alpha)[::-1]


def _with_loops(clips: Clips) -> Interval:
    """Return the interval of a rate whose loops are rare events that add to the rest."""
    fluent = _fluent(clips)
    rest = rate_interval(fluent)
    if rest.low is None or rest.high is None:
        return rest
    below, above = _loop_reaches([_looping(clips)])[0](ALPHA)
    low = clips.ratio - math.hypot(fluent.ratio - rest.low, below)
    high = clips.ratio + math.hypot(rest.high - fluent.ratio, above)
    if not high <= MAX_FACTOR * clips.ratio:
        return Interval(reason=_unlike(clips.n_speakers))
    return Interval(low=max(low, 0.0), high=high)


def _loop_reaches(added: Sequence[Clips], taken: Sequence[Clips] = ()) -> list[Reach]:
    """Return the reach of loops that raise an estimate, and of those that lower it.

    A side without a loop may still have some, which are taken to be as large as the others'.
    """
    size = next_size(np.concatenate([clips.top[clips.top > 0] for clips in (*added, *taken)]))

    def reach_of(clips: Clips) -> Reach:
        total, units = float(clips.top.sum()), float(clips.bottom.sum())
        variance = max(float((clips.top**2).sum()), clips.spread.variance * units**2)

        def reach(alpha: float) -> tuple[float, float]:
            low, high = sum_bounds(total, variance, size, alpha)
            return (total - low) / units, (high - total) / units

        return reach

    return [*map(reach_of, added), *(_minus(reach_of(clips)) for clips in taken)]


def _difference_reach(clips: Clips) -> Reach:
    if _few_differ(clips):
        up, down = (dataclasses.replace(clips, top=np.maximum(sign * clips.top, 0.0)) for sign in (1, -1))
        return _combine([_exact_reach(up), _minus(_exact_reach(down))])
    if not _loops_matter(clips, MAX_DIFFERENCE_SHARE):
        return clips.spread.reach
    apart = _combine([_fluent(clips).spread.reach, *_loop_reaches([_looping(clips)], [_looping(clips, -1)])])
    return _wider(clips.spread.reach, apart)


def _gap_reach(group: Clips, rest: Clips) -> Reach:
    reach: Reach = gap_spread(group, rest).reach
    signed = bool(min(group.top.min(), rest.top.min()) < 0)
    if any(_loops_matter(side, MAX_DIFFERENCE_SHARE if signed else MAX_RATE_SHARE) for side in (group, rest)):
        fluent = gap_spread(_fluent(group), _fluent(rest))
        added, taken = [_looping(group)], [_looping(rest)]
        if signed:
            added, taken = [*added, _looping(rest, -1)], [*taken, _looping(group, -1)]
        reach = _wider(reach, _combine([fluent.reach, *_loop_reaches(added, taken)]))
    return reach


def _exact_bounds(clips: Clips, alpha: float = ALPHA) -> tuple[float, float]:
    """Return Clopper and Pearson's interval with the effective number of units in place of their number.

    Without an event nothing shows how events cluster: a clip then counts as one unit, as if it failed as a whole.
    """
    number = float(len(clips.top))
    if clips.ratio:
        spread, units = clips.spread, float(clips.bottom.sum())
        number = effective_number(clips.ratio, units, spread.variance, spread.df, alpha)
    return share_bounds(clips.ratio, number, alpha)


def _exact_reach(clips: Clips) -> Reach:
    def reach(alpha: float) -> tuple[float, float]:
        low, high = _exact_bounds(clips, alpha)
        return clips.ratio - low, high - clips.ratio

    return reach

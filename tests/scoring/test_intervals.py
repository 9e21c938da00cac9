"""Intervals against hand-computed values, other formulas of the same, and their own coverage."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from kmed_bench.scoring.intervals import (
    Interval,
    difference_interval,
    difference_p_value,
    gap_interval,
    rate_interval,
    t_p_value,
)
from kmed_bench.scoring.spread import Clips, Floats, clips_of


def bounds(interval: Interval) -> tuple[float, float]:
    assert not interval.reason
    assert interval.low is not None
    assert interval.high is not None
    return interval.low, interval.high


def one_clip_each(top: list[float] | Floats, bottom: list[float] | Floats) -> Clips:
    return clips_of(np.arange(len(top)), top, bottom)


def test_clips_without_a_denominator_drop_out() -> None:
    clips = clips_of(["b", "a", "b", "c"], [1, 2, 3, 0], [10, 20, 30, 0], [7, 7, -1, 7])
    assert (clips.n_speakers, clips.ratio) == (2, 0.1)
    assert clips.speaker_tops.tolist() == [2, 4]
    assert clips.sentence[0] == clips.sentence[1] != clips.sentence[2]


REASONS = [
    ([], [], "no clip counts"),
    ([30], [300], "one speaker does not show"),
    ([10, 20, 30, 40, 50], [100, 200, 300, 400, 500], "all speakers have the same rate"),
    ([30, 240, 1, 1, 1], [30, 30, 30, 30, 30], "5 speakers are too few for how much they differ"),
    ([1, 90], [100, 100], "2 speakers are too few for an interval, which takes 5"),
    ([10, 12, 9, 11], [100] * 4, "4 speakers are too few for an interval, which takes 5"),
]


@pytest.mark.parametrize(("top", "bottom", "reason"), REASONS)
def test_a_reason_takes_the_place_of_an_interval_that_would_not_cover(
    top: list[float], bottom: list[float], reason: str
) -> None:
    interval = rate_interval(one_clip_each(top, bottom))
    assert interval.low is interval.high is None
    assert reason in interval.reason


def test_a_difference_has_reasons_too() -> None:
    bottom = [30.0] * 12
    assert difference_interval(one_clip_each([0] * 12, bottom)).reason == "no clip differs"
    assert "all speakers have the same rate" in difference_interval(one_clip_each([3] * 12, bottom)).reason
    assert "too few" in difference_interval(one_clip_each([-20, 25], [30, 30])).reason


def test_the_interval_of_a_rate_is_students_on_the_log_scale() -> None:
    # residuals -10, 0, 0, 0, 10 of equal speakers: variance (100 + 100) / (1 - 1/5) / 500**2, 4 degrees of freedom
    clips = one_clip_each([20, 30, 30, 30, 40], [100] * 5)
    error = math.sqrt(200 / (4 / 5)) / 500
    reach = 2.776445 * error
    factor = math.exp(reach / 0.3)
    assert bounds(rate_interval(clips)) == pytest.approx((0.3 / factor, 0.3 * factor))
    moved = dataclasses.replace(clips, top=clips.top - 30)
    assert bounds(difference_interval(moved)) == pytest.approx((-reach, reach))
    # Welch: two equal variances with 4 degrees of freedom each have 8.
    wide = scipy.stats.t.ppf(0.975, 8) * error * math.sqrt(2)
    assert bounds(gap_interval(clips, clips)) == pytest.approx((-wide, wide))


def test_equal_clusters_have_the_textbook_variance() -> None:
    top = np.array([3.0, 1, 4, 1, 5, 9, 2, 6])
    clips = one_clip_each(top, np.full(8, 10.0))
    assert clips.spread.variance == pytest.approx(np.var(top / 10, ddof=1) / 8)
    assert clips.spread.df == pytest.approx(7)


def test_speakers_of_unlike_size_have_fewer_degrees_of_freedom() -> None:
    alike, unlike = (one_clip_each([3, 1, 4, 1, 5], sizes) for sizes in ([10.0] * 5, [100.0, 100.0, 1, 1, 1]))
    assert alike.spread.df == pytest.approx(4)
    assert 0.9 < unlike.spread.df < 1.1


def test_the_two_way_variance_is_the_sum_over_pairs_that_share_a_speaker_or_a_sentence() -> None:
    """Without corrections for small samples, V_speaker + V_sentence - V_cell counts each such pair of clips once."""
    generator = np.random.default_rng(3)
    speaker, sentence = np.repeat(np.arange(200), 40), np.tile(np.arange(40), 200)
    top = generator.normal(size=200)[speaker] + generator.normal(size=40)[sentence] + generator.normal(size=8000)
    clips = clips_of(speaker, top, np.ones(8000), sentence)
    residual = (top - top.mean()).reshape(200, 40)
    pairs = (residual.sum(axis=1) ** 2).sum() + (residual.sum(axis=0) ** 2).sum() - (residual**2).sum()
    assert clips.spread.variance == pytest.approx(pairs / 8000**2, rel=0.03)
    # 1/200 of the speakers' variance and 1/40 of the sentences': mostly the sentences' degrees of freedom.
    assert clips.spread.variance == pytest.approx(1 / 200 + 1 / 40, rel=0.4)
    assert 39 < clips.spread.df < 80
    assert clips.spread.variance > 3 * dataclasses.replace(clips, sentence=np.arange(8000)).spread.variance


def test_sentences_read_once_change_nothing() -> None:
    top, bottom, speakers = [30, 10, 40, 10, 50, 90], [100, 120, 90, 80, 130, 200], [0, 0, 1, 1, 2, 2]
    alone = clips_of(speakers, top, bottom)
    assert clips_of(speakers, top, bottom, range(6)).spread == alone.spread
    assert clips_of(speakers, top, bottom, [-1] * 6).spread == alone.spread


@pytest.mark.parametrize("n_clips", [50, 400])
def test_no_error_at_all_has_the_exact_upper_bound(n_clips: int) -> None:
    """Every clip counts once, whatever its length: with 400 clips at most 0.92 % of them fail."""
    low, high = bounds(rate_interval(clips_of(np.arange(n_clips) % 10, [0] * n_clips, [20] * n_clips)))
    assert (low, high) == (0, pytest.approx(1 - 0.025 ** (1 / n_clips)))
    found = rate_interval(clips_of(np.arange(n_clips) % 10, [20] * n_clips, [20] * n_clips))
    assert bounds(found) == (pytest.approx(0.025 ** (1 / n_clips)), 1)


@pytest.mark.parametrize("events", [1, 3, 10])
def test_few_events_of_many_like_speakers_have_clopper_and_pearsons_interval(events: int) -> None:
    hits = np.zeros(4000)
    hits[:events] = 1
    low, high = bounds(rate_interval(clips_of(np.arange(4000) % 1000, hits, np.ones(4000))))
    exact = scipy.stats.binomtest(events, 4000).proportion_ci(method="exact")
    assert (low, high) == pytest.approx((exact.low, exact.high), rel=0.02)


def test_events_of_one_speaker_count_as_fewer() -> None:
    spread_out, together = np.zeros(400), np.zeros(400)
    spread_out[:8], together[0:400:50] = 1, 1
    speakers = np.arange(400) % 50
    assert bounds(rate_interval(clips_of(speakers, spread_out, np.ones(400))))[1] < 0.04
    assert bounds(rate_interval(clips_of(speakers, together, np.ones(400))))[1] > 0.1


def with_loops(sizes: list[float]) -> Clips:
    """20 speakers with 60 or 100 errors in 2000 characters, and a clip of 100 characters more for each loop."""
    plain = [60.0, 100.0] * 10
    return clips_of([*range(20), *range(len(sizes))], [*plain, *sizes], [*[2000.0] * 20, *[100.0] * len(sizes)])


def with_difference(sizes: list[float], shift: float) -> Clips:
    """The same with fewer errors than loops, so that they are differences."""
    clips = with_loops(sizes)
    return dataclasses.replace(clips, top=np.where(clips.bottom == 2000, clips.top - shift, clips.top))


def test_loops_reach_as_far_as_a_poisson_count_of_them() -> None:
    clips = with_loops([500.0] * 4)
    rest = bounds(rate_interval(dataclasses.replace(clips, top=np.where(clips.bottom == 2000, clips.top, 0))))
    low, high = bounds(rate_interval(clips))
    # Gamma quantiles: 1.09 loops at least; at most those of 4 loops and one of 1.25 times their size.
    fewest = scipy.stats.gamma.ppf(0.025, 4)
    mean, variance = 4 + 1.25, 4 + 1.25**2
    most = scipy.stats.gamma.ppf(0.975, mean**2 / variance) * variance / mean
    assert 10.24 < most < 11  # 10.24 is the exact bound of a Poisson mean
    total = 20 * 2000 + 4 * 100
    centre = 1600 / total
    assert clips.ratio - low == pytest.approx(math.hypot(centre - rest[0], (4 - fewest) * 500 / total))
    assert high - clips.ratio == pytest.approx(math.hypot(rest[1] - centre, (most - 4) * 500 / total))


def test_a_loop_that_is_a_small_part_of_all_errors_changes_nothing() -> None:
    clips = with_loops([110.0] * 3)  # of 1930 errors 5.7 % would have been too many
    clips = dataclasses.replace(clips, top=np.where(clips.top == 110, 101, clips.top * 1.2))
    reach = clips.spread.reach(0.05)[0] / clips.ratio
    assert bounds(rate_interval(clips)) == pytest.approx((clips.ratio / math.exp(reach), clips.ratio * math.exp(reach)))


@pytest.mark.parametrize(("loops", "significant"), [(4, False), (5, False), (7, True)])
def test_loops_of_one_system_need_as_many_as_in_a_sign_test(loops: int, *, significant: bool) -> None:
    """Equal loops are of one system by chance with p = 2 * 2**-n: 0.06 for 5 and 0.016 for 7."""
    clips = with_difference([500.0] * loops, 80)
    low, high = bounds(difference_interval(clips))
    assert (low > 0) == significant == (difference_p_value(clips) < 0.05)
    back = dataclasses.replace(clips, top=-clips.top)
    assert bounds(difference_interval(back)) == pytest.approx((-high, -low))
    assert difference_p_value(back) == pytest.approx(difference_p_value(clips))


@pytest.mark.parametrize(("up", "down"), [(1, 0), (4, 0), (5, 4), (9, 1)])
def test_few_differing_clips_have_the_exact_bounds_of_either_direction(up: int, down: int) -> None:
    tops = np.zeros(4000)
    tops[:up], tops[up : up + down] = 1, -1
    clips = clips_of(np.arange(4000) % 1000, tops, np.ones(4000))
    of_up, of_down = (scipy.stats.binomtest(n, 4000).proportion_ci(method="exact") for n in (up, down))
    below = math.hypot(up / 4000 - of_up.low, of_down.high - down / 4000)
    above = math.hypot(of_up.high - up / 4000, down / 4000 - of_down.low)
    assert bounds(difference_interval(clips)) == pytest.approx(
        (clips.ratio - below, clips.ratio + above), rel=0.02, abs=1e-5
    )


@pytest.mark.parametrize("loops", [0, 1, 6, 12])
def test_the_p_value_is_where_the_interval_ends_at_zero(loops: int) -> None:
    clips = with_difference([500.0] * loops, 70)
    p = difference_p_value(clips)
    low, _ = bounds(difference_interval(clips))
    assert 0 < p <= 1
    assert (low > 0) == (p < 0.05)
    if not loops:
        assert p == t_p_value(clips.ratio, clips.spread)


def test_a_gap_between_groups_allows_for_loops_of_the_group_without() -> None:
    clean, looping = with_loops([]), with_loops([500.0] * 3)
    gap = looping.ratio - clean.ratio
    low, high = bounds(gap_interval(looping, clean))
    assert low < 0 < gap < high
    assert bounds(gap_interval(clean, looping)) == pytest.approx((-high, -low))


def test_a_gap_between_differences_allows_for_loops_of_either_system() -> None:
    """With loops of one system only in each set, the other's may have come by chance in neither."""
    one, two = with_difference([500.0] * 6, 80), with_difference([], 80)
    low, high = bounds(gap_interval(one, two))
    negative = [dataclasses.replace(side, top=-side.top) for side in (one, two)]
    assert bounds(gap_interval(negative[0], negative[1])) == pytest.approx((-high, -low))
    assert bounds(gap_interval(two, one)) == pytest.approx((-high, -low))
    # Loops that the second set may have weigh more with it than those that the first may have more of.
    units = 2000 * 20
    none = -math.log(0.025) * 500 * (1 + 1 / 6) / units
    assert one.ratio - two.ratio - low > none


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 60), st.integers(1, 30), st.integers(0, 6)), max_size=30),
    st.randoms(use_true_random=False),
)
def test_an_interval_holds_its_rate_and_ignores_the_order(
    rows: list[tuple[int, int, int, int]], order: "np.random.Generator"
) -> None:
    speakers, top, bottom, sentences = (list(column) for column in zip(*rows, strict=True)) if rows else ([],) * 4
    clips = clips_of(speakers, top, bottom, sentences)
    interval = rate_interval(clips)
    assert bool(interval.reason) == (interval.low is None) == (interval.high is None)
    if interval.low is not None and interval.high is not None:
        assert 0 <= interval.low <= clips.ratio * (1 + 1e-9)
        assert clips.ratio * (1 - 1e-9) <= interval.high
    shuffled = list(rows)
    order.shuffle(shuffled)
    if rows:
        columns = [list(column) for column in zip(*shuffled, strict=True)]
        assert rate_interval(clips_of(columns[0], columns[1], columns[2], columns[3])) == interval


def skewed(generator: np.random.Generator, n_speakers: int, readings: int) -> tuple[Clips, Clips]:
    """Two systems of like quality, on speakers of unlike size and sentences read several times."""
    sizes = np.clip(generator.negative_binomial(4, 0.1, size=n_speakers) + 4, 4, 160)
    speaker = np.repeat(np.arange(n_speakers), sizes)
    sentence = generator.permutation(len(speaker)) // readings
    length = generator.integers(8, 40, size=len(speaker)).astype(float)
    common = generator.lognormal(-0.08, 0.4, n_speakers)[speaker] * generator.lognormal(-0.125, 0.5, 4000)[sentence]
    sides = []
    for _ in range(2):
        own = generator.lognormal(-0.045, 0.3, 4000)[sentence] * generator.exponential(size=len(speaker))
        errors = generator.poisson(0.1 * length * common * own).astype(float)
        sides.append(Clips(top=errors, bottom=length, speaker=speaker, sentence=sentence))
    return sides[0], sides[1]


@pytest.mark.slow
@pytest.mark.parametrize(("n_speakers", "readings"), [(5, 1), (10, 1), (10, 8), (40, 4)])
def test_intervals_cover_what_they_say(n_speakers: int, readings: int) -> None:
    generator = np.random.default_rng(n_speakers)
    rounds = 1000
    covered = {"rate": 0, "difference": 0, "gap": 0}
    for _ in range(rounds):
        one, two = skewed(generator, n_speakers, readings)
        rest, _ = skewed(generator, 2 * n_speakers, readings)
        intervals = {
            "rate": (0.1, rate_interval(one)),
            "difference": (0.0, difference_interval(dataclasses.replace(one, top=two.top - one.top))),
            "gap": (0.0, gap_interval(one, rest)),
        }
        for name, (truth, interval) in intervals.items():
            low, high = interval.low, interval.high
            covered[name] += low is not None and high is not None and low <= truth <= high
    shares = {name: hits / rounds for name, hits in covered.items()}
    # The Monte Carlo error is 0.007; with 5 speakers some samples get a reason and no interval. Clips with more errors
    # than reference may be loops, so differences of few speakers cover more than the nominal level.
    assert min(shares.values()) >= (0.92 if n_speakers >= 10 else 0.9), shares
    assert max(shares.values()) <= (0.995 if n_speakers >= 10 else 1), shares

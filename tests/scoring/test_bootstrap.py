import itertools

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmed_bench.scoring.bootstrap import (
    Floats,
    SpeakerSums,
    difference_interval,
    gap_interval,
    rate_interval,
    sign_flip_p_value,
    sum_by_speaker,
)

DRAWS = 500


def sums(top: list[float] | Floats, bottom: list[float] | Floats) -> SpeakerSums:
    return SpeakerSums(top=np.asarray(top, dtype=float), bottom=np.asarray(bottom, dtype=float))


def skewed_speakers(generator: np.random.Generator, count: int, rate: float = 0.1) -> tuple[Floats, Floats]:
    """Reference characters and true error rates of speakers who differ in both, as patients do."""
    clips = generator.negative_binomial(3, 0.2, size=count) + 1
    length = np.array([generator.integers(5, 40, size=n).sum() for n in clips], dtype=float)
    return length, rate * generator.lognormal(-0.08, 0.4, size=count)


def drawn_errors(generator: np.random.Generator, length: Floats, rate: Floats) -> Floats:
    return generator.poisson(length * rate * generator.gamma(10, 0.1, size=len(length))).astype(float)


def test_sums_are_by_speaker_and_drop_empty_ones() -> None:
    found = sum_by_speaker(["b", "a", "b", "c"], [1, 2, 3, 0], [10, 20, 30, 0])
    assert found.top.tolist() == [2, 4]
    assert found.bottom.tolist() == [20, 40]
    assert found.ratio == 0.1


def test_intervals_repeat_exactly_and_depend_on_the_seed() -> None:
    given = sums([3, 1, 4, 1, 5, 9, 2], [30, 20, 30, 20, 30, 40, 20])
    first = rate_interval(given, draws=DRAWS, seed=1)
    assert first is not None
    assert first == rate_interval(given, draws=DRAWS, seed=1) != rate_interval(given, draws=DRAWS, seed=2)
    assert 0 <= first[0] < given.ratio < first[1]


@pytest.mark.parametrize(
    ("top", "bottom"),
    [
        ([], []),
        ([3], [30]),
        ([0, 0, 0, 0, 0, 0], [10, 20, 30, 40, 50, 60]),
        ([1, 2, 3, 4, 5, 6], [10, 20, 30, 40, 50, 60]),
        ([0.1, 0.1, 0.1], [0.3, 0.3, 0.3]),
    ],
)
def test_there_is_no_interval_without_variation(top: list[float], bottom: list[float]) -> None:
    given = sums(top, bottom)
    assert rate_interval(given, draws=DRAWS, seed=0) is None
    assert difference_interval(given, draws=DRAWS, seed=0) is None
    if top:
        assert gap_interval(given, given, draws=DRAWS, seed=0) is None


def test_few_speakers_get_students_interval() -> None:
    # ratio 0.2, standard error sqrt(3/2 * (1 + 1) / 900) for the residuals -1, 0, 1; t(2) = 4.302653
    given = sums([1, 2, 3], [10, 10, 10])
    error = np.sqrt(3 / 2 * 2 / 900)
    low, high = rate_interval(given, draws=1, seed=0) or (0, 0)
    assert (low, high) == pytest.approx((0.2 / np.exp(4.302653 * error / 0.2), 0.2 * np.exp(4.302653 * error / 0.2)))
    reach = 4.302653 * error
    assert difference_interval(given, draws=1, seed=0) == pytest.approx((0.2 - reach, 0.2 + reach))
    other = sums([2, 2, 2, 2, 2, 2], [10, 10, 10, 10, 10, 10])
    assert gap_interval(given, other, draws=1, seed=0) == pytest.approx((-reach, reach))


def test_two_speakers_are_enough_for_an_interval() -> None:
    pair = sums([1, 3], [10, 10])
    # ratio 0.2, standard error sqrt(2/1 * (1 + 1) / 400) for the residuals -1, 1; t(1) = 12.706205
    reach = 12.706205 * 0.1
    assert difference_interval(pair, draws=1, seed=0) == pytest.approx((0.2 - reach, 0.2 + reach))
    assert rate_interval(pair, draws=1, seed=0) == pytest.approx(
        (0.2 * np.exp(-reach / 0.2), 0.2 * np.exp(reach / 0.2))
    )
    reach = 12.706205 * np.sqrt(0.1**2 + 0.1**2)
    assert gap_interval(pair, pair, draws=1, seed=0) == pytest.approx((-reach, reach))


@pytest.mark.parametrize("count", [7, 5])
def test_bootstrap_equals_the_same_draws_one_by_one(count: int) -> None:
    """Of 5 speakers some draws hold only one, which has no standard error and does not count."""
    top, bottom = np.array([3.0, 1, 4, 1, 5, 9, 2])[-count:], np.array([30.0, 20, 30, 20, 30, 40, 20])[-count:]

    def ratio_and_error(rows: npt.NDArray[np.int64]) -> tuple[float, float]:
        ratio = top[rows].sum() / bottom[rows].sum()
        spread = ((top[rows] - ratio * bottom[rows]) ** 2).sum()
        return ratio, np.sqrt(count / (count - 1) * spread) / bottom[rows].sum()

    ratio, error = ratio_and_error(np.arange(count))
    draws = np.random.default_rng(4).integers(0, count, size=(4 * DRAWS, count))
    several = [rows for rows in draws if len(set(rows)) > 1]
    assert (len(several) < len(draws)) == (count == 5)
    rate, difference = [], []
    for drawn, its_error in map(ratio_and_error, several):
        rate.append((np.sqrt(drawn) - np.sqrt(ratio)) / (its_error / (2 * np.sqrt(drawn))))
        difference.append((drawn - ratio) / its_error)
    (low, high), (least, most) = np.quantile(rate, [0.975, 0.025]), np.quantile(difference, [0.975, 0.025])
    scale = error / (2 * np.sqrt(ratio))
    bounds = (max(np.sqrt(ratio) - side * scale, 0) ** 2 for side in (low, high))
    given = sums(top, bottom)
    assert rate_interval(given, draws=4 * DRAWS, seed=4) == pytest.approx(tuple(bounds))
    expected = ratio - least * error, ratio - most * error
    assert difference_interval(given, draws=4 * DRAWS, seed=4) == pytest.approx(expected)


def test_intervals_agree_with_archs_studentised_bootstrap() -> None:
    """Bounds by arch 8.0.0, ``IIDBootstrap(seed=default_rng(1)).conf_int(reps=20_000, method="studentized")``.

    Its scale is the standard deviation of the draws, which for n speakers is sqrt((n - 1) / n) of the standard error
    here; its rate is the square of an interval of the root.
    """
    bottom = [191, 140, 149, 183, 132, 164, 173, 76, 48, 88, 85, 179, 186, 40, 119, 171, 61, 167, 59, 114]
    moved = sums([10, 3, 2, -9, -7, -7, 4, 1, -2, 2, -2, -6, 16, 0, 2, 3, -3, 3, 13, -5], bottom)
    made = sums([24, 19, 20, 9, 8, 5, 12, 14, 2, 1, 7, 24, 11, 9, 8, 13, 2, 10, 8, 15], bottom)
    scale = np.sqrt(20 / 19)
    reach = [bound - moved.ratio for bound in difference_interval(moved, draws=20_000, seed=1) or ()]
    assert reach == pytest.approx([scale * (bound - moved.ratio) for bound in (-0.0148205, 0.0345135)], rel=0.005)
    root = np.sqrt(made.ratio)
    reach = [np.sqrt(bound) - root for bound in rate_interval(made, draws=20_000, seed=1) or ()]
    assert reach == pytest.approx([scale * (np.sqrt(bound) - root) for bound in (0.06831135, 0.10945675)], rel=0.005)


def test_an_interval_narrows_with_speakers() -> None:
    generator = np.random.default_rng(3)
    widths = []
    for count in (8, 40, 200):
        length, rate = skewed_speakers(generator, count)
        low, high = rate_interval(sums(drawn_errors(generator, length, rate), length), draws=DRAWS, seed=0) or (0, 9)
        widths.append(high - low)
    assert widths == sorted(widths, reverse=True)


@given(st.lists(st.integers(-6, 6), min_size=1, max_size=8))
def test_p_value_counts_every_exchange_of_speakers(differences: list[int]) -> None:
    moved = [value for value in differences if value]
    patterns = itertools.product((-1, 1), repeat=len(moved))
    as_far = [abs(np.dot(signs, moved)) >= abs(sum(moved)) for signs in patterns]
    assert sign_flip_p_value(differences, draws=1, seed=0) == pytest.approx(np.mean(as_far))


def test_p_value_has_its_known_limits() -> None:
    assert sign_flip_p_value([], draws=99, seed=0) == 1
    assert sign_flip_p_value([0.0] * 50, draws=99, seed=0) == 1
    assert sign_flip_p_value([3] * 5, draws=99, seed=0) == 2 / 2**5
    assert sign_flip_p_value([3] * 50, draws=99, seed=0) == 1 / 100


@settings(max_examples=20)
@given(st.lists(st.integers(-9, 9), min_size=13, max_size=20))
def test_drawn_p_values_agree_with_exact_ones(differences: list[int]) -> None:
    distribution = {0: 1.0}
    for value in differences:
        step: dict[int, float] = {}
        for total, chance in distribution.items():
            for moved in (total - value, total + value):
                step[moved] = step.get(moved, 0) + chance / 2
        distribution = step
    exact = sum(chance for total, chance in distribution.items() if abs(total) >= abs(sum(differences)))
    assert sign_flip_p_value(differences, draws=4000, seed=0) == pytest.approx(exact, abs=0.04)


@pytest.mark.slow
@pytest.mark.parametrize(("count", "least"), [(3, 0.88), (5, 0.88), (10, 0.89), (60, 0.93)])
def test_intervals_cover_what_they_say(count: int, least: float) -> None:
    generator = np.random.default_rng(count)
    rounds = 600
    covered = {"rate": 0, "difference": 0, "gap": 0}
    for _ in range(rounds):
        length, rate = skewed_speakers(generator, count)
        one, two = (drawn_errors(generator, length, rate) for _ in range(2))
        other_length, other_rate = skewed_speakers(generator, 2 * count)
        rest = sums(drawn_errors(generator, other_length, other_rate), other_length)
        intervals = {
            "rate": (0.1, rate_interval(sums(one, length), draws=DRAWS, seed=0)),
            "difference": (0.0, difference_interval(sums(two - one, length), draws=DRAWS, seed=0)),
            "gap": (0.0, gap_interval(sums(one, length), rest, draws=DRAWS, seed=0)),
        }
        for name, (truth, interval) in intervals.items():
            assert interval is not None
            covered[name] += interval[0] <= truth <= interval[1]
    shares = {name: hits / rounds for name, hits in covered.items()}
    assert min(shares.values()) >= least, shares
    # Two independent sides with few speakers share degrees of freedom: that interval may be too wide.
    assert max(shares["rate"], shares["difference"]) <= 0.97, shares


@pytest.mark.slow
@pytest.mark.parametrize("count", [8, 30])
def test_a_model_against_its_like_is_significant_one_time_in_twenty(count: int) -> None:
    generator = np.random.default_rng(count)
    rounds = 1500
    hits = 0
    for _ in range(rounds):
        length, rate = skewed_speakers(generator, count)
        one, two = (drawn_errors(generator, length, rate) for _ in range(2))
        hits += sign_flip_p_value(two - one, draws=DRAWS, seed=0) <= 0.05
    assert 0.035 <= hits / rounds <= 0.065


@pytest.mark.slow
def test_a_real_difference_is_found() -> None:
    generator = np.random.default_rng(11)
    found = 0
    for _ in range(100):
        length, rate = skewed_speakers(generator, 40)
        one, two = drawn_errors(generator, length, rate), drawn_errors(generator, length, 0.6 * rate)
        found += sign_flip_p_value(two - one, draws=DRAWS, seed=0) <= 0.05
    assert found >= 90

"""Quotas: largest remainders, thin strata, exact counts."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmed_bench.corpus.splitting.quotas import (
    Counts,
    Strata,
    build_strata,
    can_cover,
    choose_counts,
    count_members,
    largest_remainder,
    merge_thin,
    share_out,
)


@pytest.mark.parametrize(
    ("n", "weights", "shares"),
    [
        (10, [1, 1], [5, 5]),
        (10, [1, 1, 1], [4, 3, 3]),  # ties go to the earlier
        (7, [3, 2, 2], [3, 2, 2]),
        (100, [999, 1], [100, 0]),
        (1000, [4279, 3049, 1405, 1256, 11], [428, 305, 140, 126, 1]),
        (0, [5, 6], [0, 0]),
        (3, [0, 7, 0], [0, 3, 0]),
    ],
)
def test_largest_remainders(n: int, weights: list[int], shares: list[int]) -> None:
    assert largest_remainder(n, weights).tolist() == shares


@settings(deadline=None)
@given(st.integers(0, 2_000_000), st.lists(st.integers(0, 2_000_000), min_size=1, max_size=40).filter(any))
def test_largest_remainders_sum_up_and_stay_within_one(n: int, weights: list[int]) -> None:
    shares = largest_remainder(n, weights)
    assert shares.sum() == n
    exact = np.array(weights) / sum(weights) * n
    assert (np.abs(shares - exact) < 1 + 1e-6).all()


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=3), st.integers(1, 50), min_size=1, max_size=8), st.integers(0, 60))
def test_merging_keeps_every_value_and_leaves_nothing_thin(counts: dict[str, int], least: int) -> None:
    strata = merge_thin(counts, lambda values: sum(counts[v] for v in values) < least)
    assert strata.keys() == counts.keys()
    groups = {name: [v for v in counts if strata[v] == name] for name in strata.values()}
    assert all(name == "+".join(sorted(values)) for name, values in groups.items() if len(values) > 1)
    assert len(groups) == 1 or all(sum(counts[v] for v in values) >= least for values in groups.values())


def test_a_thin_value_joins_the_commonest() -> None:
    counts = {"a": 1, "b": 3, "c": 40, "d": 50}
    merged = merge_thin(counts, lambda values: sum(counts[v] for v in values) < 2)
    assert merged == {"a": "a+d", "b": "b", "c": "c", "d": "a+d"}


@pytest.mark.parametrize(
    ("loads", "needs", "covered"),
    [
        ([12, 12, 11], [10, 10, 10], True),
        ([12, 12, 11], [23, 5, 5], False),
        ([12, 12, 11], [0, 0, 35], True),
        ([1] * 30, [20, 5, 5], True),
        ([1] * 29, [20, 5, 5], False),
        ([], [0, 0, 0], True),
        ([], [1, 0, 0], False),
    ],
)
def test_covering_by_whole_speakers(loads: list[int], needs: list[int], covered: bool) -> None:
    assert can_cover(np.array(loads, dtype=np.int64), needs) is covered


def make_strata(cells: list[tuple[int, ...]], sizes: list[int], smallest: int | None = None) -> Strata:
    fields = ("age", "gender", "dialect", "role")[: len(cells[0])]
    rows = [tuple(map(str, cell)) for cell, n in zip(cells, sizes, strict=True) for _ in range(n)]
    return build_strata(pd.DataFrame(rows, columns=fields), fields, (smallest or len(rows),) * 3, ())


CELLS = list(itertools.product(range(3), range(2)))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=6, max_size=6), st.data())
def test_counts_meet_every_quota_where_there_is_plenty(sizes: list[int], data: st.DataObject) -> None:
    strata = make_strata(CELLS, sizes)
    n = data.draw(st.integers(1, sum(sizes) // 4 + 1))
    take = choose_counts(strata, strata.size, n)
    assert (take >= 0).all()
    assert (take <= strata.size).all()
    assert take.sum() == n
    assert strata.count(take).tolist() == strata.quotas(n).tolist()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 12)), min_size=6, max_size=6), st.integers(1, 40))
def test_counts_are_as_near_to_the_quotas_as_any(cells: list[tuple[int, int]], n: int) -> None:
    strata = make_strata(CELLS, [size for size, _ in cells])
    available = np.array([min(there, size) for size, there in cells], dtype=np.int64)
    take = choose_counts(strata, available, n)
    assert (take <= available).all()
    assert take.sum() == min(n, available.sum())
    assert deviation(strata, take, n) == nearest(strata, available, n)


def deviation(strata: Strata, take: Counts, n: int) -> int:
    return int(((strata.count(take) - strata.quotas(n)) ** 2).sum())


def nearest(strata: Strata, available: Counts, n: int) -> int:
    """Try all ages' totals: with two genders, the cells of one gender may then be filled freely between bounds."""
    quotas = strata.quotas(n)
    total = min(n, int(available.sum()))
    there = available.reshape(3, 2)
    best = None
    for ages in itertools.product(*(range(int(row.sum()) + 1) for row in there)):
        if sum(ages) != total:
            continue
        low = sum(max(0, age - int(row[1])) for age, row in zip(ages, there, strict=True))
        high = sum(min(age, int(row[0])) for age, row in zip(ages, there, strict=True))
        first = min(max(int(quotas[3]), low), high)
        # The other gender gets the rest; the best is at the quota, at a bound, or halfway where both miss.
        for women in {first, low, high, *range(max(low, first - 12), min(high, first + 12) + 1)}:
            counts = np.array([*ages, women, total - women])
            cost = int(((counts - quotas) ** 2).sum())
            best = cost if best is None else min(best, cost)
    assert best is not None
    return best


def cost(strata: Strata, take: Counts, n: int) -> tuple[int, ...]:
    """Return the squared deviations from the quotas of strata, of single values, and of cells."""
    levels = (strata.member, strata.value, np.arange(len(take))[:, None])
    gaps = (count_members(member, take) - share_out(member, strata.size, n) for member in levels)
    return tuple(int((gap**2).sum()) for gap in gaps)


@pytest.mark.parametrize(
    ("sizes", "shape", "smallest", "available", "n"),
    [
        ([0, 0, 0, 1, 2, 7], (3, 2), 2, [1, 2, 0], 2),
        ([0, 4, 2, 4], (2, 2), 1, [4, 2, 4], 1),
        ([2, 5, 7, 0], (2, 2), 1, [2, 5, 3], 8),
        ([2, 8, 0, 7], (2, 2), 1, [2, 1, 7], 6),
        # Nothing but the cells' own shares can still be improved.
        ([0, 8, 2, 1, 2, 3, 8, 3, 1], (3, 3), 3, [7, 2, 1, 2, 3, 7, 0, 1], 17),
    ],
)
def test_quotas_come_before_values_and_values_before_cells(
    sizes: list[int], shape: tuple[int, int], smallest: int, available: list[int], n: int
) -> None:
    strata = make_strata(list(itertools.product(*map(range, shape))), sizes, smallest)
    take = choose_counts(strata, np.array(available, dtype=np.int64), n)
    every = itertools.product(*(range(there + 1) for there in available))
    assert cost(strata, take, n) == min(cost(strata, np.array(other), n) for other in every if sum(other) == n)


@pytest.mark.parametrize(
    ("sizes", "shape", "available", "n"),
    [
        ([4, 0, 2, 4, 0, 4, 2, 0, 2, 1, 3, 1], (3, 2, 2), [4, 0, 4, 3, 2, 2, 1, 2, 0], 13),
        ([3, 1, 4, 3, 0, 1, 1, 4, 0, 2, 3, 1, 1, 1, 4, 4], (2, 2, 2, 2), [3, 1, 0, 3, 1, 1, 0, 2, 3, 0, 1, 1, 1, 0], 6),
        ([3, 0, 0, 2, 2, 1, 2, 2, 2, 2, 4, 0, 0, 4, 0, 2], (2, 2, 2, 2), [1, 2, 2, 1, 2, 2, 0, 2, 3, 1, 2], 5),
    ],
)
def test_quotas_are_met_beyond_a_local_optimum(
    sizes: list[int], shape: tuple[int, ...], available: list[int], n: int
) -> None:
    """No single move improves these on the way: only a search that may get worse for a while meets the quotas."""
    strata = make_strata(list(itertools.product(*map(range, shape))), sizes)
    take = choose_counts(strata, np.array(available, dtype=np.int64), n)
    assert (take <= available).all()
    assert strata.count(take).tolist() == strata.quotas(n).tolist()

"""The permutation test of speakers against its exact distribution."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmed_bench.scoring.sign_flips import sign_flip_p_value


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

"""Shards: which one a name belongs to, and how a command line names them."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmed_bench.core.errors import KmedError
from kmed_bench.core.sharding import (
    MAX_SHARDS,
    NameSum,
    name_shards,
    read_chosen_shards,
    read_shard_count,
    shard_of,
)

NAMES = st.lists(st.text(max_size=8), unique=True, max_size=50)


def test_a_shard_is_the_hash_of_the_name_modulo_their_number():
    name = "PA_0001-0017"
    assert shard_of(name, 7) == int(hashlib.sha256(name.encode()).hexdigest(), 16) % 7
    assert shard_of("환자.wav", 16) == 13
    assert shard_of("old\udce9.wav", 1) == 0  # a file name that is not UTF-8


@given(NAMES, st.integers(1, 9))
def test_shards_divide_the_names(names, n_shards):
    shards = [[name for name in names if shard_of(name, n_shards) == shard] for shard in range(n_shards)]
    assert sorted(name for shard in shards for name in shard) == sorted(names)


def test_shards_are_of_about_one_size():
    sizes = [0] * 50
    for number in range(100_000):
        sizes[shard_of(f"utterance-{number}", 50)] += 1
    assert 1_800 < min(sizes) <= max(sizes) < 2_200


@given(NAMES, st.randoms())
def test_the_sum_of_names_tells_sets_apart_and_not_orders(names, random):
    shuffled = random.sample(names, len(names))
    assert NameSum(shuffled).digest == NameSum(names).digest
    assert NameSum(names).n == len(names)
    if names:
        assert NameSum(names[1:]).digest != NameSum(names).digest
        assert NameSum([*names[1:], "x" * 9]).digest != NameSum(names).digest


@pytest.mark.parametrize(
    ("text", "n_names", "expected"),
    [
        ("auto", 1, 1),
        ("auto", 2_000, 1),
        ("auto", 2_001, 2),
        ("auto", 1_270_000, 635),
        ("auto", 10**9, MAX_SHARDS),
        ("1", 5, 1),
        ("4096", 5, 4096),
    ],
)
def test_the_number_of_shards(text, n_names, expected):
    assert read_shard_count(text, n_names) == expected


@pytest.mark.parametrize("text", ["0", "-1", "4097", "two", "", "1.5", "٣", "9" * 5_000])
def test_no_number_of_shards(text):
    with pytest.raises(KmedError, match=r"--shards is .*; give auto, .* or a number from 1 to 4,096"):
        read_shard_count(text, 100)


@given(st.sets(st.integers(0, 40), min_size=1))
def test_chosen_shards_are_named_as_they_are_read(chosen):
    assert read_chosen_shards(name_shards(sorted(chosen)), 41) == sorted(chosen)


def test_spans_of_shards():
    assert name_shards([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8"
    assert read_chosen_shards("8-11, 0,4,0", 12) == [0, 4, 8, 9, 10, 11]


@pytest.mark.parametrize(
    "text",
    ["", "a", "1-", "-1", "1--2", "3-2,", "5-4", "0,5-4", "12", "0,12", "0,5000-6000", "0-99999999999", "9" * 5_000],
)
def test_no_shards(text):
    with pytest.raises(KmedError, match=r"--shard is "):
        read_chosen_shards(text, 12)

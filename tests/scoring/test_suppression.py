"""Small groups: hidden, and not to be worked out from what is shown."""

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmed_bench.scoring.suppression import (
    hide_groups,
    hide_pairs,
    hide_values,
    rows_of_shown,
    without_small_counts,
    without_small_groups,
    without_small_shares,
)

NAMES = "abcdef"


@pytest.mark.parametrize(
    ("sizes", "hidden"),
    [
        ({"서울": 40, "경상": 30, "전라": 20}, set()),
        ({"서울": 40, "경상": 30, "제주": 2}, {"제주", "경상"}),  # 서울 + 경상 + 제주 is known
        ({"서울": 40, "강원": 3, "제주": 2}, {"제주", "강원"}),
        ({"서울": 40, "경상": 30, "제주": 0}, set()),  # nobody is nobody's secret
        ({"서울": 2}, {"서울"}),
        ({"서울": 40, "제주": 4}, {"서울", "제주"}),
    ],
)
def test_a_small_group_takes_the_smallest_other_one_with_it(sizes, hidden):
    assert hide_values(sizes, 5) == hidden


@given(st.dictionaries(st.sampled_from(NAMES), st.integers(0, 12)), st.integers(1, 6))
def test_one_hidden_value_never_stands_alone(sizes, minimum):
    hidden = hide_values(sizes, minimum)
    there = {value for value, n in sizes.items() if n}
    assert {value for value in there if sizes[value] < minimum} <= hidden <= there
    assert len(hidden) != 1 or there == hidden


@given(
    st.dictionaries(st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES.upper())), st.integers(0, 12)),
    st.sets(st.sampled_from(NAMES)),
    st.integers(1, 6),
)
def test_no_line_of_two_crossed_fields_gives_a_cell_away(sizes, first, minimum):
    """Each row and column with hidden cells has at least two, or nothing else; so no total minus the rest is one."""
    hidden = hide_pairs(sizes, first, set(), minimum)
    there = {pair for pair, n in sizes.items() if n}
    assert {pair for pair in there if sizes[pair] < minimum or pair[0] in first} <= hidden <= there
    lines = defaultdict(set)
    for pair in there:
        lines[0, pair[0]].add(pair)
        lines[1, pair[1]].add(pair)
    for line in lines.values():
        assert len(line & hidden) != 1 or line <= hidden


def test_pairs_of_a_hidden_value_are_hidden_under_both_orders():
    speakers = {
        "dialect": {"서울": 9, "제주": 2, "경상": 8},
        "gender": {"F": 10, "M": 9},
        "dialect_gender": {"서울_F": 5, "서울_M": 4, "제주_F": 1, "제주_M": 1, "경상_F": 4, "경상_M": 4},
    }
    hidden = hide_groups(lambda field: speakers.get(field, {}), ["gender", "dialect"], 3)
    assert hidden["dialect"] == {"제주", "경상"}
    assert hidden["gender"] == set()
    assert {"제주_F", "제주_M", "경상_F", "경상_M"} <= hidden["dialect_gender"]
    assert "gender_dialect" not in hidden


def test_a_difference_is_shown_if_both_its_groups_are():
    enough = {"n_speakers_group": 5, "n_speakers_against": 9}
    rows = [{"field": "dialect", "group": group, "against": against, **enough} for group, against in ("ab", "ac", "bc")]
    assert rows_of_shown(rows, {"dialect": {"c"}}, 5) == [rows[0]]
    assert rows_of_shown(rows, {"gender": {"a", "b", "c"}}, 5) == rows


@pytest.mark.parametrize("sides", [(0, 1), (1, 9), (9, 4), (4, 0)])
def test_a_difference_from_few_speakers_is_hidden_whatever_its_sides_are_called(sides):
    """Ages are compared as 60 and over with the rest, which may be one speaker while nobody is old."""
    row = {"field": "age", "group": "60 and over", "against": "rest"}
    n = dict(zip(("n_speakers_group", "n_speakers_against"), sides, strict=True))
    assert rows_of_shown([row | n], {"age": {"50~59"}}, 5) == []
    assert rows_of_shown([row | dict.fromkeys(n, 5)], {"age": {"50~59"}}, 5) != []


def test_a_hidden_gap_does_not_tell_how_many_clips_both_sides_have():
    """36 of 40 clips without an age would leave four, of one speaker."""
    side = {"cer": 0.075, "cer_low": None, "cer_high": None, "n_clips": 4, "n_speakers": 1}
    gap = {"cer_gap": None, "n_unknown_age": 36, "elderly": {**side, "n_clips": 0, "n_speakers": 0}, "rest": side}
    shown, _ = without_small_groups({"groups": {}, "elderly_gap": gap}, 5)
    numbers = [*shown["elderly_gap"]["rest"].values(), *shown["elderly_gap"]["elderly"].values()]
    assert {*numbers, shown["elderly_gap"]["n_unknown_age"]} == {None, 0}


def test_counts_of_a_corpus_leave_without_the_hidden_groups_and_without_bins_of_speakers() -> None:
    quality = {
        **{"labels": 9, "usable": 8, "reject_examples": {"audio_missing": ["PA_0001-1"]}},
        **{"by": {"dialect": {"강원": 1, "경상": 7}}, "hours_by": {"dialect": {"강원": 0.1, "경상": 0.7}}},
        "speakers_by": {"dialect": {"강원": 1, "경상": 4}, "region": {"N/A": 5}},
        "histograms": {"duration_s": {"edges": [0, 1], "counts": [8]}, "speaker_utterances": {"edges": [1, 2]}},
    }
    shown = without_small_counts(quality, {"dialect": {"강원"}}, 1)
    assert shown["by"] == {"dialect": {"경상": 7}}
    assert shown["hours_by"] == {"dialect": {"경상": 0.7}}
    assert shown["speakers_by"] == {"dialect": {"경상": 4}}
    assert shown["histograms"] == {"duration_s": {"edges": [0, 1], "counts": [8]}}
    assert shown["reject_examples"] == {}
    assert "speakers_by" not in without_small_counts({"by": {}}, {}, 5)


def test_releases_of_few_speakers_are_hidden_with_another_one() -> None:
    n = {"Training": 263, "Extra": 90, "Validation": 40}
    quality = {"by": {"release": n}, "speakers_by": {"release": {"Training": 21, "Extra": 9, "Validation": 4}}}
    shown = without_small_counts(quality, {}, 5)
    assert shown["by"] == {"release": {"Training": 263}}
    assert shown["speakers_by"] == {"release": {"Training": 21}}


def test_distances_of_a_field_with_a_hidden_value_are_left_out() -> None:
    """Of 303 utterances 11 are 경상 and none is in the test part: the distance of that part is 11 / 303."""
    of_part = {"test": {"max_deviation": 11 / 303}}
    split = {
        "shares": {"dialect": {"N/A": {"corpus": 292 / 303}, "경상": {"corpus": 11 / 303}}, "role": {"patient": {}}},
        "share_deviation": {"dialect": 11 / 303, "role": 0.0},
        "distance": {"dialect": of_part, "role": of_part},
        "max_share_deviation": 11 / 303,
    }
    shown = without_small_shares(split, {"dialect": {"경상", "N/A"}, "role": set()})
    assert shown["shares"] == {"dialect": {}, "role": {"patient": {}}}
    assert shown["share_deviation"] == {"role": 0.0}
    assert shown["distance"] == {"role": of_part}
    assert "max_share_deviation" not in shown
    assert without_small_shares(split, {"role": set()}) == {**split, "merged_strata": []}
    assert "distance" not in without_small_shares({"shares": {}}, {})

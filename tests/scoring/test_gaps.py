"""Gaps between groups and differences in benefit, against sums made here and known p-values."""

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_ind

from kmed_bench.core.errors import KmedError
from kmed_bench.core.predictions import Prediction
from kmed_bench.scoring import ScoringOptions, holm, score_predictions
from kmed_bench.scoring.gaps import benefit_gaps, gaps_of_sizes, group_gaps, group_sides, rates_p_value
from kmed_bench.scoring.intervals import gap_p_value
from kmed_bench.scoring.measures import count_utterances
from kmed_bench.scoring.significance import compare_benchmark
from kmed_bench.scoring.spread import Clips, clips_of

OPTIONS = ScoringOptions(bootstrap_draws=200)
AGES = ("20~29", "60~69", "over70", "N/A")
DIALECTS = ("경상", "전라", "강원")


def system(rates: dict[str, float], seed: int, *, n_speakers: int = 36, n_clips: int = 10) -> list[Prediction]:
    """Predictions in which each gender has its own share of wrong characters."""
    made, generator = [], np.random.default_rng(seed)
    for number in range(n_speakers * n_clips):
        speaker = number % n_speakers
        gender = ("Female", "Male")[speaker % 2]
        reference = "".join(np.random.default_rng(number).choice(list("가나다라마바사"), size=20))
        wrong = generator.random(20) < rates[gender]
        made.append(
            Prediction(
                utterance_id=f"u{number:03}",
                speaker_id=f"s{speaker:02}",
                sentence_id="",
                reference=reference,
                hypothesis="".join("하" if w else c for w, c in zip(wrong, reference, strict=True)),
                duration_s=2.0,
                decode_s=0.1,
                gender=gender,
                age=AGES[speaker % 4],
                dialect=DIALECTS[speaker % 3] if speaker < 33 else "N/A",
                region="",
                role="patient",
            )
        )
    return made


@pytest.fixture(scope="module")
def counts() -> pd.DataFrame:
    return count_utterances(system({"Female": 0.1, "Male": 0.2}, 1), "pronunciation")


def test_two_values_are_compared_once_and_more_against_the_rest(counts: pd.DataFrame) -> None:
    sides = [(found.field, found.group, found.against) for found in group_sides(counts)]
    dialects = [("dialect", value, "rest") for value in sorted(DIALECTS)]
    assert sides == [*dialects, ("gender", "Female", "Male"), ("age", "60 and over", "rest")]


def test_each_gap_is_that_of_its_own_clips(counts: pd.DataFrame) -> None:
    gaps = group_gaps(counts, OPTIONS)
    for row in gaps:
        if row["field"] == "age":
            inside, known = counts["age"].isin(["60~69", "over70"]), counts["age"] != "N/A"
        else:
            inside, known = counts[row["field"]] == row["group"], counts[row["field"]] != "N/A"
        sides = counts[inside], counts[known & ~inside]
        cers = [side["cer_errors"].sum() / side["cer_length"].sum() for side in sides]
        assert (row["cer_group"], row["cer_against"]) == pytest.approx(tuple(cers))
        assert row["cer_gap"] == pytest.approx(cers[0] - cers[1])
        assert row["cer_gap_low"] < row["cer_gap"] < row["cer_gap_high"]  # type: ignore[operator]
        assert (row["n_clips_group"], row["n_clips_against"]) == tuple(map(len, sides))
        assert row["n_speakers_group"] == sides[0]["speaker_id"].nunique()
    found = {row["group"]: row for row in gaps}
    assert found["Female"]["p_holm"] < 1e-6  # type: ignore[operator]
    assert found["Female"]["cer_gap"] == pytest.approx(-0.1, abs=0.02)
    assert found["경상"]["p_value"] > 0.05  # type: ignore[operator]
    assert [row["p_holm"] for row in gaps] == holm([row["p_value"] for row in gaps])  # type: ignore[misc]


def test_the_elderly_gap_is_among_the_gaps(counts: pd.DataFrame) -> None:
    scores = score_predictions(system({"Female": 0.1, "Male": 0.2}, 1), OPTIONS)
    (row,) = [row for row in scores["gaps"] if row["field"] == "age"]
    for key in ("cer_gap", "cer_gap_low", "cer_gap_high", "no_interval", "below_minimum"):
        assert row[key] == scores["elderly_gap"][key]  # type: ignore[literal-required]


def test_groups_below_the_minimum_are_marked_and_leave_the_others_alone(counts: pd.DataFrame) -> None:
    few = counts[(counts["dialect"] != "강원") | (counts["speaker_id"] < "s06")]
    gaps = group_gaps(few, OPTIONS)
    (small,) = [row for row in gaps if row["below_minimum"]]
    assert (small["group"], small["p_value"], small["p_holm"]) == ("강원", None, None)
    assert small["cer_gap"] is not None
    tested = [row for row in gaps if not row["below_minimum"]]
    assert [row["p_holm"] for row in tested] == holm([row["p_value"] for row in tested])  # type: ignore[misc]


def clips(rates: np.ndarray) -> Clips:
    """One clip a speaker, all of one length, so a ratio is a mean."""
    return clips_of(np.arange(len(rates)), rates * 50, np.full(len(rates), 50.0))


def test_the_p_value_is_welchs_of_the_rates_or_of_their_logarithms() -> None:
    generator = np.random.default_rng(3)
    group, rest = generator.uniform(0.1, 0.3, size=12), generator.uniform(0.15, 0.4, size=12)
    plain = ttest_ind(group, rest, equal_var=False).pvalue
    # A mean's own variance is that of numpy with n - 1; on the logarithm it is divided by the squared mean.
    se = np.sqrt([np.var(side, ddof=1) / len(side) / side.mean() ** 2 for side in (group, rest)])
    statistic = np.log(group.mean() / rest.mean()) / np.hypot(*se)
    assert gap_p_value(clips(group), clips(rest)) == pytest.approx(plain, rel=0.02)
    assert rates_p_value(clips(group), clips(rest)) >= plain * 0.98
    assert rates_p_value(clips(rest), clips(group)) == pytest.approx(rates_p_value(clips(group), clips(rest)))
    assert abs(statistic) > 2
    assert rates_p_value(clips(group), clips(rest)) < 0.05


def test_sides_without_variation_or_with_a_deciding_loop_test_nothing() -> None:
    varied, flat = np.linspace(0.1, 0.3, 10), np.zeros(10)
    assert rates_p_value(clips(flat), clips(varied)) == 1
    looping = clips_of(np.arange(10), [*np.full(9, 1.0), 400.0], np.full(10, 50.0))
    assert rates_p_value(looping, clips(varied)) == 1
    assert gap_p_value(looping, clips(varied)) == 1


def test_a_difference_in_benefit_is_that_of_the_groups_own_differences() -> None:
    before = count_utterances(system({"Female": 0.2, "Male": 0.2}, 1), "pronunciation")
    after = count_utterances(system({"Female": 0.05, "Male": 0.18}, 2), "pronunciation")
    rows = {row["group"]: row for row in benefit_gaps(before, after.sample(frac=1, random_state=1), OPTIONS)}
    row = rows["Female"]
    removed = (before["cer_errors"] - after["cer_errors"]).groupby(before["gender"]).sum()
    length = before["cer_length"].groupby(before["gender"]).sum()
    benefit = removed / length
    assert row["benefit_group"] == pytest.approx(benefit["Female"])
    assert row["benefit_against"] == pytest.approx(benefit["Male"])
    assert row["difference"] == pytest.approx(benefit["Female"] - benefit["Male"])
    assert row["difference"] == pytest.approx(0.13, abs=0.03)
    assert row["difference_low"] > 0  # type: ignore[operator]
    assert row["p_holm"] < 1e-4  # type: ignore[operator]
    assert rows["경상"]["p_value"] > 0.05  # type: ignore[operator]
    with pytest.raises(KmedError, match="decode the same part"):
        benefit_gaps(before.iloc[1:], after, OPTIONS)


@pytest.mark.slow
def test_one_correction_counts_all_groups_and_sizes() -> None:
    pairs = {
        "tiny": (system({"Female": 0.3, "Male": 0.3}, 1), system({"Female": 0.2, "Male": 0.25}, 2)),
        "base": (system({"Female": 0.2, "Male": 0.2}, 3), system({"Female": 0.15, "Male": 0.15}, 4)),
    }
    gaps, benefits = gaps_of_sizes(pairs, OPTIONS)
    for rows in (gaps, benefits):
        assert [row["size"] for row in rows] == ["tiny"] * 5 + ["base"] * 5
        assert [row["p_holm"] for row in rows] == holm([row["p_value"] for row in rows])  # type: ignore[misc]
    alone = score_predictions(pairs["base"][1], OPTIONS)["gaps"]
    assert [row["p_value"] for row in gaps[5:]] == [row["p_value"] for row in alone]
    seeds = {size: {0: pair[1]} for size, pair in pairs.items()}
    content = compare_benchmark(pairs, seeds, OPTIONS)
    assert (content["gaps"], content["benefits"]) == (gaps, benefits)
    assert [row["size"] for row in content["seeds"]] == ["tiny", "base"]


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**20))
def test_exchanging_the_names_of_two_groups_turns_the_gap_round(seed: int) -> None:
    made = system({"Female": 0.1, "Male": 0.15}, seed, n_speakers=12, n_clips=4)
    swapped = [dataclasses.replace(p, gender={"Female": "Male", "Male": "Female"}[p.gender]) for p in made]
    there, back = (gender_gap(side) for side in (made, swapped))
    assert there["cer_gap"] == pytest.approx(-back["cer_gap"])
    assert there["cer_gap_low"] == pytest.approx(-back["cer_gap_high"])
    assert there["p_value"] == pytest.approx(back["p_value"])


def gender_gap(predictions: list[Prediction]) -> Any:
    options = ScoringOptions(min_group_clips=5, min_group_speakers=2)
    (row,) = [
        row for row in group_gaps(count_utterances(predictions, "pronunciation"), options) if row["field"] == "gender"
    ]
    return row


def test_quantiles_of_speakers_count_each_speaker_once_and_name_none() -> None:
    made = system({"Female": 0.1, "Male": 0.2}, 1)
    spread = score_predictions(
        [*made, *(dataclasses.replace(p, utterance_id="again" + p.utterance_id) for p in made[::36])]
    )
    table = count_utterances(made, "pronunciation").groupby("speaker_id")[["cer_errors", "cer_length"]].sum()
    cers = (table["cer_errors"] / table["cer_length"]).to_numpy()
    found = spread["speakers"]
    assert found["n_speakers"] == 36
    assert list(found["cer_quantiles"]) == ["0", "10", "25", "50", "75", "90", "100"]
    for key, value in found["cer_quantiles"].items():
        assert value == pytest.approx(np.quantile(cers, int(key) / 100))


def test_the_share_of_perfect_clips_counts_clips_without_an_error_of_cer() -> None:
    made = system({"Female": 0.05, "Male": 0.05}, 1, n_speakers=10, n_clips=4)
    spaced = dataclasses.replace(made[0], hypothesis=" ".join(made[0].reference))  # spaces are no error of CER
    overall: Any = score_predictions([spaced, *made[1:]], OPTIONS)["overall"]
    perfect = 1 + sum(p.hypothesis == p.reference for p in made[1:])
    assert overall["perfect_rate"] == perfect / 40
    assert overall["perfect_rate_low"] < perfect / 40 < overall["perfect_rate_high"]

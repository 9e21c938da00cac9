"""Groups, rates, kinds of errors, costs, comparisons and published figures in the report."""

import dataclasses
import math

import pandas as pd
import pytest
from bench_records import PARAMETERS, make_bench

from kmed_bench.core.errors import KmedError
from kmed_bench.core.predictions import Prediction
from kmed_bench.report import score_plots, score_tables, tables
from kmed_bench.report.page_tables import make_frames, size_costs
from kmed_bench.scoring import ScoringOptions, score_predictions
from kmed_bench.scoring.recommendation import recommend
from kmed_bench.scoring.significance import compare_sizes, compare_systems


def test_groups_keep_counts_and_the_minimum() -> None:
    groups = score_tables.groups_table(make_bench(sizes=("base",)))
    assert groups["field"].unique().tolist() == ["dialect", "gender", "age", "dialect_age"]
    rare = groups[groups["value"] == "강원"].iloc[0]
    assert rare["below_minimum"]
    assert (rare["n_clips"], rare["n_speakers"]) == (1, 1)
    assert math.isnan(groups[groups["value"] == "over70"].iloc[0]["cer"])


def test_groups_of_sizes_stand_side_by_side_and_ages_in_order() -> None:
    bench = make_bench(sizes=("tiny", "base"))
    wide = score_tables.groups_of_sizes(score_tables.groups_table(bench), ["tiny000", "base000"])
    ages = wide[wide["field"] == "age"]
    assert ages["value"].tolist() == ["7~10", "20~29", "60~69", "over70"]
    elderly = ages[ages["value"] == "60~69"].iloc[0]
    for size in ("tiny", "base"):
        assert elderly[size] == bench.scores[f"{size}000"]["groups"]["age"]["60~69"]["cer"]
    assert elderly["n_clips"] == 390
    assert set(wide["field"]) == {"dialect", "gender", "age"}


def test_pairs_of_groups_are_parted() -> None:
    groups = score_tables.groups_table(make_bench(sizes=("base",)))
    pairs = score_tables.pairs_of_run(groups, "base000", "dialect", "age")
    assert pairs["dialect"].tolist() == ["경기/서울", "경기/서울", "경상", "경상"]
    assert pairs["age"].tolist() == ["20~29", "60~69", "60~69", "7~10"]
    assert len(score_tables.pairs_of_run(groups, "base000", "gender", "age")) == 0


def test_elderly_gap_is_the_scores_own() -> None:
    bench = make_bench(sizes=("base",))
    row = score_tables.elderly_table(bench).iloc[0]
    gap = bench.scores["base000"]["elderly_gap"]
    assert (row["cer_gap"], row["cer_gap_low"], row["cer_gap_high"]) == (
        gap["cer_gap"],
        gap["cer_gap_low"],
        gap["cer_gap_high"],
    )
    assert (row["elderly_n_clips"], row["rest_n_speakers"]) == (390, 26)


def test_errors_by_kind_add_up_to_the_cer() -> None:
    bench = make_bench(sizes=("base",))
    kinds = score_tables.errors_by_kind(score_tables.rates_table(bench), ["base000"])
    assert kinds["state"].tolist() == ["untouched", "fine-tuned"]
    total = kinds[["substitutions", "deletions", "insertions"]].sum(axis=1).tolist()
    m = bench.trains[0].metrics
    assert total == pytest.approx([m["untouched/test_cer"], m["test/cer"]])
    assert kinds["deletions"].iloc[1] == pytest.approx(0.27 * m["test/cer"])


def test_rates_of_sizes_have_a_column_per_state() -> None:
    bench = make_bench(sizes=("tiny", "base"))
    rates = score_tables.rates_of_sizes(score_tables.rates_table(bench), ["tiny000", "base000"]).set_index("measure")
    assert rates.loc["cer", "base fine-tuned"] == bench.scores["base000"]["overall"]["cer"]
    assert rates.loc["wer", "tiny untouched"] == bench.trains[0].metrics["untouched/test_wer"]
    assert math.isnan(rates.loc["term_recall", "tiny untouched"])
    assert "n_clips" not in rates.index


def test_costs_stand_beside_the_chosen_runs() -> None:
    costs = size_costs(make_frames(bench := make_bench(seeds=2), (), recommend(bench))).set_index("size")
    assert costs["parameters"].to_dict() == PARAMETERS
    assert costs.loc["base", "run_id"] == "base001"


def test_our_figures_come_before_published_ones() -> None:
    bench = make_bench(sizes=("base",), profile="demo")
    table = make_frames(bench, (), recommend(bench))["published"]
    ours = table[table["ours"]]
    m = bench.trains[0].metrics
    assert ours["cer"].tolist() == [m["untouched/test_cer"], m["test/cer"]]
    assert ours["test_set"].unique().tolist() == ["demo corpus, synthetic speech, 1,000 clips"]
    assert table.index[table["ours"]].tolist() == [0, 1]


def test_published_figures_are_fractions_with_sources() -> None:
    published = score_tables.published_table()
    assert len(published) >= 15
    assert published["cer"].between(0, 0.5).all()
    assert (published["source"].str.len() > 5).all()
    ranges = published.dropna(subset=["cer_high"])
    assert len(ranges) == 2
    assert (ranges["cer_high"] > ranges["cer"]).all()
    assert (~published["comparable"]).sum() == 2  # the original benchmark's teacher-forced figures


@pytest.mark.parametrize(
    ("costs", "cers", "more_is_better", "expected"),
    [
        ([1, 2, 3], [0.3, 0.2, 0.1], False, [True, True, True]),
        ([1, 2, 3], [0.3, 0.2, 0.2], False, [True, True, False]),
        ([1, 2, 3], [0.3, 0.2, 0.1], True, [False, False, True]),
        ([1, 1], [0.2, 0.2], False, [True, True]),
    ],
)
def test_pareto_front(costs: list[float], cers: list[float], more_is_better: bool, expected: list[bool]) -> None:
    points = pd.DataFrame({"cost": costs, "test_cer": cers})
    front = score_plots.pareto_front(points, cost="cost", more_is_better=more_is_better)
    assert list(points.index.isin(front.index)) == expected


def predict(n_errors: int) -> list[Prediction]:
    """36 clips of 12 young speakers, the last characters of each missing."""
    return speak("young", "20~29", n_errors)


def speak(prefix: str, age: str, n_errors: int) -> list[Prediction]:
    text = "가나다라마바사아자차"
    return [
        Prediction(
            utterance_id=f"{prefix}{n}",
            speaker_id=f"{prefix}-s{n % 12}",
            sentence_id=f"t{n}",
            reference=text,
            hypothesis=text[: 10 - n_errors],
            duration_s=1.0,
            decode_s=0.1,
            gender="Female",
            age=age,
            dialect="경상",
            region="",
            role="patient",
        )
        for n in range(36)
    ]


def test_systems_are_compared_in_pairs_and_corrected() -> None:
    systems = {"untouched": predict(4), "fine-tuned": predict(1), "again": predict(1)}
    first, second, same = compare_systems(systems, ScoringOptions(bootstrap_draws=200))
    assert (first["a_name"], first["b_name"]) == ("untouched", "fine-tuned")
    assert first["delta"] == pytest.approx(-0.3)
    assert first["p_value"] == pytest.approx(2 / 2**12)
    assert first["p_holm"] == pytest.approx(3 * first["p_value"])
    assert second["p_holm"] == pytest.approx(3 * second["p_value"])
    assert (same["delta"], same["p_holm"]) == (0.0, 1.0)
    shown = score_tables.comparisons_table([first, same])
    assert shown["p_holm"].tolist() == [first["p_holm"], 1.0]
    assert math.isnan(shown["delta_low"].iloc[1])  # no speaker differs, so there is no interval
    with pytest.raises(KmedError, match="No system is called small"):
        compare_systems(systems, ScoringOptions(), pairs=[("small", "again")])


def test_a_bench_compares_each_sizes_tuning_and_the_sizes() -> None:
    sizes = {"tiny": (predict(5), predict(3)), "base": (predict(4), predict(1))}
    found = compare_sizes(sizes, ScoringOptions(bootstrap_draws=100))
    assert [(row["a_name"], row["b_name"]) for row in found] == [
        ("tiny untouched", "tiny fine-tuned"),
        ("base untouched", "base fine-tuned"),
        ("tiny fine-tuned", "base fine-tuned"),
    ]
    assert [row["delta"] for row in found] == pytest.approx([-0.2, -0.3, -0.2])


def test_the_scores_that_scoring_writes_are_the_ones_read_here() -> None:
    bench = make_bench(sizes=("base",))
    scores = score_predictions(predict(1) + speak("old", "60~69", 2), ScoringOptions(bootstrap_draws=100))
    bench = dataclasses.replace(bench, scores={"base000": scores})
    groups = score_tables.groups_table(bench).set_index(["field", "value"])
    assert groups.loc[("age", "60~69"), "cer"] == scores["groups"]["age"]["60~69"]["cer"] == pytest.approx(0.2)
    assert groups.loc[("dialect", "경상"), "n_clips"] == 72
    gap = score_tables.elderly_table(bench).iloc[0]
    assert gap["cer_gap"] == pytest.approx(0.1)
    assert (gap["elderly_n_speakers"], gap["rest_n_speakers"]) == (12, 12)
    pairs = score_tables.pairs_of_run(score_tables.groups_table(bench), "base000", "dialect", "age")
    assert sorted(pairs["age"]) == ["20~29", "60~69"]
    rates = score_tables.rates_of_sizes(score_tables.rates_table(bench), ["base000"]).set_index("measure")
    assert rates.loc["cer", "base fine-tuned"] == scores["overall"]["cer"]


def test_a_model_without_errors_has_no_kinds_of_errors() -> None:
    bench = dataclasses.replace(
        make_bench(sizes=("base",)), scores={"base000": score_predictions(predict(0), ScoringOptions())}
    )
    kinds = score_tables.errors_by_kind(score_tables.rates_table(bench), ["base000"]).set_index("state")
    assert kinds.loc["fine-tuned", ["substitutions", "deletions", "insertions"]].tolist() == [0, 0, 0]


def test_size_ranks_keep_whisper_order() -> None:
    assert tables.size_rank("tiny") < tables.size_rank("small") < tables.size_rank("other")

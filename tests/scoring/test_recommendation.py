"""Which model of a benchmark is recommended."""

import dataclasses
from typing import Any

import pytest
from bench_records import DEPTH, make_bench

from kmed_bench.core.quantities import OVER_WHOLE
from kmed_bench.core.records import BenchRecord
from kmed_bench.scoring.recommendation import MAX_USEFUL_CER, UNFIT, recommend

HEAD = {"format": "kmed-verdict", "version": 1}


def verdict(outcome: str, *, recommended: bool | None = None, cer: float = 0.1, valid: float = 0.1) -> Any:
    compared = {"a": 0.2, "b": cer, "delta": cer - 0.2, "delta_low": None, "delta_high": None, "no_interval": "few"}
    compared |= {"p_value": 0.5, "p_value_floor": 0.001, "n_clips": 9, "n_speakers": 8}
    given = outcome == "better" if recommended is None else recommended
    sides = {"valid_untouched": 0.19, "valid_tuned": valid, "level": 0.05, "worse": [], "speakers": {}}
    return {**HEAD, "outcome": outcome, "recommended": given, "cer": compared, **sides}


def bench(**outcomes: str) -> BenchRecord:
    """A benchmark of these sizes whose trainings ended so."""
    record = make_bench(sizes=tuple(outcomes))
    verdicts = {run.run_id: verdict(outcomes[run.size]) for run in record.trains}
    return dataclasses.replace(record, verdicts=verdicts)


@pytest.mark.parametrize(
    ("outcomes", "size", "state"),
    [
        ({"base": "better"}, "base", "fine-tuned"),
        ({"base": "no evidence"}, "base", "untouched"),
        ({"base": "kept untouched"}, "base", "untouched"),
        ({"base": "worse"}, "base", "untouched"),
        ({"tiny": "better", "base": "worse"}, "tiny", "fine-tuned"),  # valid CER 0.14 against 0.19 untouched
        ({"tiny": "worse", "base": "better"}, "base", "fine-tuned"),
        ({"base": "worse", "small": "no evidence"}, "small", "untouched"),
        ({"base": "better", "small": "worse"}, "base", "fine-tuned"),  # 0.09 against 0.11
    ],
)
def test_a_fine_tuned_model_is_recommended_only_with_evidence(outcomes: dict[str, str], size: str, state: str) -> None:
    advice = recommend(bench(**outcomes))
    assert advice.best is not None
    assert (advice.best.size, advice.best.state) == (size, state)
    assert advice.headline.startswith(f"Use {size} {state}: test CER ")
    assert len(advice.sizes) == len(outcomes)
    record = bench(**outcomes)
    (run,) = [run for run in record.trains if run.size == size]
    key = "test/cer" if state == "fine-tuned" else "untouched/test_cer"
    assert advice.best.test_cer == run.metrics[key]
    assert advice.best.valid_cer == (run.metrics["best/valid_cer"] if state == "fine-tuned" else DEPTH[size])


def test_a_better_model_that_lost_something_is_not_recommended() -> None:
    record = make_bench(sizes=("base",))
    record = dataclasses.replace(record, verdicts={"base000": verdict("better", recommended=False)})
    advice = recommend(record)
    assert advice.headline.startswith("Use base untouched")
    assert "shown to be worse elsewhere" in advice.reason


@pytest.mark.parametrize(("cer", "fit"), [(MAX_USEFUL_CER, True), (0.301, False), (0.652, False), (1.2, False)])
def test_at_a_useless_level_no_model_is_called_fit(cer: float, fit: bool) -> None:
    record = bench(base="better")
    record.trains[0].metrics["test/cer"] = cer
    advice = recommend(record)
    assert (UNFIT in advice.reason) != fit
    assert advice.headline.startswith("Use base" if fit else "No model here is fit for use: the best, base fine-tuned")
    assert (OVER_WHOLE in advice.reason) == (cer > 1)


def test_runs_without_a_verdict_are_judged_by_the_benchmarks_comparison_or_not_at_all() -> None:
    record = make_bench(sizes=("base",))
    advice = recommend(record)
    assert advice.sizes[0].verdict is None
    assert advice.headline.startswith("Use base untouched")
    assert "train it again with this release" in advice.sizes[0].text
    row: Any = {**verdict("better")["cer"], "a_name": "base untouched", "b_name": "base fine-tuned"}
    row |= {"delta_low": -0.2, "delta_high": -0.1, "p_value": 0.001, "p_holm": 0.002}
    assert recommend(dataclasses.replace(record, comparisons=(row,))).headline.startswith("Use base fine-tuned")


def test_other_seeds_are_counted() -> None:
    record = make_bench(sizes=("base",), seeds=3)
    outcomes = ("no evidence", "worse", "better")  # the last one has the lowest valid CER
    verdicts = {run.run_id: verdict(outcome) for run, outcome in zip(record.trains, outcomes, strict=True)}
    (size,) = recommend(dataclasses.replace(record, verdicts=verdicts)).sizes
    assert size.seed == 2
    assert size.seeds == {"no evidence": 1, "worse": 1, "better": 1}
    assert size.text.endswith("Of 3 seeds: 1 no evidence, 1 worse, 1 better.")


def test_without_finished_runs_nothing_is_recommended() -> None:
    advice = recommend(dataclasses.replace(make_bench(sizes=("base",)), trains=()))
    assert (advice.sizes, advice.best) == ((), None)
    assert "no size to recommend" in advice.headline

"""One registry of measures: what is added to it reaches scores, comparisons, the report and MLflow."""

import dataclasses
import sys

import pandas as pd
import pytest
from bench_records import make_bench
from packaged import OPTIONS, SYSTEMS

from kmed_bench.config import Config, load_config
from kmed_bench.report import score_tables
from kmed_bench.report.page_tables import make_frames, make_views
from kmed_bench.scoring import ScoringOptions, compare_predictions, counting, score_predictions
from kmed_bench.scoring.intervals import rate_interval
from kmed_bench.scoring.measures import MEASURES, Measure, count_utterances
from kmed_bench.scoring.recommendation import recommend
from kmed_bench.scoring.spread import clips_of
from kmed_bench.tracking.metric_names import overall_metrics

DEMO = Measure(
    name="insertion_rate",
    top="cer_insertions",
    bottom="cer_length",
    label="inserted characters",
    description="Inserted characters over reference characters.",
    interval=True,
)


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> Measure:
    monkeypatch.setitem(MEASURES, DEMO.name, DEMO)
    return DEMO


def test_a_measure_that_is_added_to_the_registry_appears_everywhere(added: Measure) -> None:
    a, b = SYSTEMS.values()
    scores = score_predictions(a, OPTIONS)
    counts = count_utterances(a, "pronunciation")
    counts = counts[counts["excluded"] == ""]
    value = counts["cer_insertions"].sum() / counts["cer_length"].sum()
    clips = clips_of(counts["speaker_id"], counts["cer_insertions"], counts["cer_length"], counts["sentence"])
    interval = rate_interval(clips)
    bounds = interval.low, interval.high
    for cell in (
        scores["overall"],
        scores["groups"]["gender"]["Female"],
        scores["groups"]["dialect_role"]["경상_patient"],
    ):
        assert (cell[added.name], cell[f"{added.name}_low"], cell[f"{added.name}_high"]) == (value, *bounds)
    metrics = overall_metrics(scores, "test/")
    assert metrics["test/insertion_rate"] == value
    assert compare_predictions(a, b, OPTIONS, metric=added.name)["a"] == value
    bench = make_bench(sizes=("base",))
    bench.scores["base000"] = scores
    rates = make_views(make_frames(bench, (), recommend(bench)))["rates"]
    row = next(row for row in rates.records() if row["measure"] == added.name)
    assert (row["label"], row["description"], row["base fine-tuned"]) == (added.label, added.description, value)


def test_the_interval_of_a_recall_is_that_of_what_was_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    recall = MEASURES["term_recall"]
    monkeypatch.setitem(MEASURES, recall.name, Measure(**{**vars(recall), "interval": True}))
    predictions = SYSTEMS["base"]
    cell = score_predictions(predictions, OPTIONS)["overall"]
    counts = count_utterances(predictions, "pronunciation")
    counts = counts[counts["excluded"] == ""]
    missed = counts["terms"] - counts["terms_found"]
    interval = rate_interval(clips_of(counts["speaker_id"], missed, counts["terms"], counts["sentence"]))
    low, high = interval.low or 9, interval.high or 9
    assert 0 < low < high < 1
    assert (cell["term_recall_low"], cell["term_recall_high"]) == (1 - high, 1 - low)


@pytest.mark.parametrize("measure", MEASURES.values(), ids=lambda measure: measure.name)
def test_each_measure_says_what_it_is(measure: Measure) -> None:
    assert MEASURES[measure.name] is measure
    assert measure.label
    assert measure.description.endswith(".")
    assert (measure.better == "neither") == measure.name.endswith(("share", "ambiguity"))
    assert measure.paired == (measure.better != "neither" and measure.name != "cer_without_loops")


def test_the_page_shows_every_measure_of_the_scores_in_the_registrys_order() -> None:
    bench = make_bench(sizes=("base",))
    bench.scores["base000"] = score_predictions(SYSTEMS["base"], OPTIONS)
    wide = score_tables.rates_of_sizes(score_tables.rates_table(bench), ["base000"])
    defined = [name for name in MEASURES if bench.scores["base000"]["overall"][name] is not None]
    assert wide["measure"].tolist() == defined


def test_options_are_the_configurations() -> None:
    assert ScoringOptions() == ScoringOptions.from_config(Config())
    changed = {
        "data.transcript_side": "spelling",
        "eval.min_group_clips": 3,
        "eval.min_group_speakers": 2,
        "eval.bootstrap_draws": 50,
        "eval.bootstrap_seed": 7,
    }
    assert ScoringOptions.from_config(load_config("sound", changed)) == ScoringOptions(
        transcript_side="spelling", min_group_clips=3, min_group_speakers=2, bootstrap_draws=50, bootstrap_seed=7
    )


@pytest.mark.parametrize("shared", [True, False], ids=["several processes", "one process"])
def test_chunks_and_processes_change_no_count(monkeypatch: pytest.MonkeyPatch, *, shared: bool) -> None:
    systems = [*SYSTEMS["base"], *(dataclasses.replace(p, utterance_id=f"v{n}") for n, p in enumerate(SYSTEMS["base"]))]
    whole = count_utterances(systems, "pronunciation")
    monkeypatch.setattr(counting, "_CHUNK", 7)
    monkeypatch.setattr(counting, "_MIN_SHARED", 0 if shared else 1000)
    monkeypatch.setattr(counting.os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    pd.testing.assert_frame_equal(count_utterances(systems, "pronunciation"), whole)

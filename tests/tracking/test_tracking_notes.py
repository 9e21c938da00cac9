"""Run notes and model cards, as people read them."""

import dataclasses
from urllib.parse import parse_qsl

import pandas as pd
import pytest

from kmed_bench.core.records import BenchRecord, TrainRecord
from kmed_bench.tracking import run_notes as notes
from kmed_bench.tracking.registry.model_card import write_card


def train(size: str, status: str = "FINISHED", **metrics: float) -> TrainRecord:
    named = {key.replace("__", "/"): value for key, value in metrics.items()}
    return TrainRecord(
        run_id=size,
        name=f"train-{size}",
        size=size,
        seed=0,
        status=status,
        params={},
        metrics=named,
        tags={},
        history=pd.DataFrame(columns=["metric", "step", "value"]),
    )


DONE = train(
    "base",
    test__cer=0.123,
    test__cer_low=0.1,
    test__cer_high=0.15,
    untouched__test_cer=0.4,
    best__epoch=2,
    best__valid_cer=0.2,
)


def bench(*trains: TrainRecord, source: str = "none") -> BenchRecord:
    return BenchRecord(
        run_id="b",
        name="bench",
        status="RUNNING",
        params={"data.source": source},
        tags={},
        trains=trains,
        skipped={"tiny": "no weights | give them"},
        split={"sha256": "ab" * 32, "counts": {"train": 3, "test": 1}, "leakage": {"speakers": 0, "sentences": 2}},
        quality={},
        scores={},
    )


def test_a_bench_note_has_a_row_for_each_training() -> None:
    note = notes.describe_bench(bench(train("small", "FAILED"), DONE), "7")
    assert "| base | 0 | 40.0 % | **12.3 %** | 10.0 % to 15.0 % | 2 | 20.0 % | finished |" in note
    assert "| small | 0 | – | **–** |  | – | – | failed |" in note
    assert note.index("| base |") < note.index("| small |")
    assert f"]({notes.charts_link('7', 'b')})" in note
    assert "Skipped **tiny**: no weights | give them" in note
    assert "Split `abababababab`: train 3, test 1. Shared between parts: 0 speakers, 2 sentences." in note
    assert "say nothing about patients" in note
    assert "say nothing about patients" not in notes.describe_bench(bench(DONE, source="aihub"), "7")


def test_a_bench_that_got_nowhere_says_so() -> None:
    note = notes.describe_bench(bench(), "7")
    assert note.startswith("**No train run finished with a valid CER, so there is no size to recommend.**")
    assert "No training has finished" in note
    assert "index.html" not in note


def test_a_train_note_is_a_sentence() -> None:
    assert notes.describe_train(DONE).startswith(
        "Whisper **base**, seed 0: test CER **12.3 %** (10.0 % to 15.0 %) (untouched: 40.0 %), from epoch 2, "
    )
    assert notes.describe_train(train("base", "KILLED")) == (
        "Whisper base, seed 0: killed before the test part was scored.\n"
    )


def test_a_card_names_the_worst_groups_that_are_large_enough() -> None:
    def cell(cer: float | None, *, small: bool = False) -> dict[str, object]:
        return {"cer": cer, "cer_low": None, "cer_high": None, "n_clips": 30, "n_speakers": 4, "below_minimum": small}

    scores = {
        "overall": {"cer": 0.2, "cer_low": 0.1, "cer_high": 0.3, "wer": 0.5, "n_clips": 90, "n_speakers": 12},
        "groups": {
            "dialect": {"강원도": cell(0.3), "제주도": cell(0.9, small=True)},
            "age": {"over70": cell(0.4), "20~29": cell(None)},
            "dialect_age": {"강원도_over70": cell(0.8)},
        },
        "elderly_gap": {"cer_gap": 0.0321},
        "transcript_policy": "pronunciation",
        "normaliser_version": "3",
    }
    card = write_card(name="m", size="base", params={}, tags={}, metrics={}, scores=scores, counts={})
    assert "| fine-tuned | 20.0 % | 10.0 % to 30.0 % | 50.0 % |" in card
    assert card.index("| age over70 | 40.0 % |") < card.index("| dialect 강원도 | 30.0 % |")
    assert "제주도" not in card
    assert "강원도_over70" not in card
    assert "CER of speakers aged 60 and over is +3.2 points from the rest's." in card
    assert "90 clips of 12 speakers; policy pronunciation, normaliser 3." in card


@pytest.mark.parametrize(("outcome", "recommended"), [("better", "true"), ("better", "false"), ("worse", "false")])
def test_a_card_opens_with_the_verdict(outcome: str, recommended: str) -> None:
    tags = {"kmed.verdict": outcome, "kmed.recommended": recommended, "kmed.verdict_text": "base, seed 0: so it is."}
    card = write_card(name="m", size="base", params={}, tags=tags, metrics={}, scores=None, counts={})
    assert card.index("## Verdict\n\nbase, seed 0: so it is.") < card.index("## Data")
    assert ("Not recommended: use the untouched model" in card) == (recommended == "false")
    assert "models:/m@challenger" in card


def test_notes_open_with_the_verdict() -> None:
    note = notes.describe_bench(bench(DONE), "7")
    assert note.startswith("**No model here is shown to be fit for use: base untouched has a test CER of 40.0 %.**")
    tagged = dataclasses.replace(DONE, tags={"kmed.verdict_text": "base, seed 0: worse."})
    assert notes.describe_train(tagged).startswith("base, seed 0: worse.\n\nWhisper **base**")


def test_a_card_without_scores_says_that_nothing_was_measured() -> None:
    assert "Not measured." in write_card(name="m", size="base", params={}, tags={}, metrics={}, scores=None, counts={})


def test_the_charts_link_filters_and_sorts() -> None:
    place, _, query = notes.charts_link("7", "b").partition("?")
    assert place == "#/experiments/7/runs"
    assert dict(parse_qsl(query)) == {
        "workflowType": "machine_learning",
        "searchFilter": "tags.`kmed.kind` = 'train' and tags.`mlflow.parentRunId` = 'b'",
        "orderByKey": "metrics.`test/cer`",
        "orderByAsc": "true",
        "compareRunsMode": "CHART",
    }
    assert set(notes.charts_link("7", "b")).isdisjoint(" ()'`")  # Markdown would end the link there

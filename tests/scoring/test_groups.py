import itertools
import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given as each
from hypothesis import strategies as st

from kmed_bench.core.errors import KmedError
from kmed_bench.core.predictions import Prediction
from kmed_bench.core.schema import GROUP_FIELDS
from kmed_bench.scoring import ScoringOptions, score_predictions
from kmed_bench.scoring.counting import TERM_COLUMNS
from kmed_bench.scoring.edits import token_text_cer
from kmed_bench.scoring.groups import join_values, recall_by_category, split_values
from kmed_bench.scoring.intervals import rate_interval
from kmed_bench.scoring.measures import MEASURES
from kmed_bench.scoring.spread import clips_of

OPTIONS = ScoringOptions(bootstrap_draws=200)
AGES = ("20~29", "60~69", "over70", "N/A")
BOUNDS = {f"{name}_{end}" for name, measure in MEASURES.items() if measure.interval for end in ("low", "high")}
CELL_KEYS = {*MEASURES, *BOUNDS, "n_clips", "n_speakers", "below_minimum", "no_interval"}


@pytest.fixture(scope="module")
def predictions() -> list[Prediction]:
    generator = np.random.default_rng(5)
    made = []
    for number in range(400):
        speaker = number % 24
        reference = "".join(generator.choice(list("가나다라마바사 "), size=generator.integers(4, 20)))
        wrong = generator.random(len(reference)) < 0.02 * (1 + speaker % 4)
        made.append(
            Prediction(
                utterance_id=f"u{number}",
                speaker_id=f"s{speaker:02}",
                sentence_id="",
                reference=reference + "가.",
                hypothesis="".join("하" if w else c for w, c in zip(wrong, reference, strict=True)) + "가",
                duration_s=4.0,
                decode_s=0.25 + number / 1000,
                gender=("Female", "Male")[speaker % 2],
                age=AGES[speaker % 4],
                dialect=("경상", "전라", "강원")[min(speaker // 10, 2)],
                region="",
                role="patient" if speaker < 20 else "nurse",
            )
        )
    return [*made, Prediction(**{**vars(made[0]), "utterance_id": "silent", "reference": " ."})]


def test_each_cell_is_its_own_sum(predictions: list[Prediction]) -> None:
    scores = score_predictions(predictions, OPTIONS, split_sha256="ab")
    json.dumps(scores, allow_nan=False)
    table = pd.DataFrame([vars(p) for p in predictions if p.utterance_id != "silent"])
    fields = [*((f,) for f in GROUP_FIELDS), *itertools.combinations(GROUP_FIELDS, 2)]
    assert set(scores["groups"]) == {"code_switching", *("_".join(names) for names in fields)}
    assert set(scores["groups"]["code_switching"]) == {"none"}
    for names in fields:
        cells = scores["groups"]["_".join(names)]
        seen = {"_".join(values): rows for values, rows in table.groupby(list(names))}
        assert set(cells) == set(seen)
        assert sum(cell["n_clips"] for cell in cells.values()) == 400
        for value, rows in seen.items():
            cell = cells[value]
            errors, length = token_text_cer(list(rows["reference"]), list(rows["hypothesis"]))
            assert set(cell) == CELL_KEYS
            assert cell["cer"] == errors / length
            assert (cell["n_clips"], cell["n_speakers"]) == (len(rows), rows["speaker_id"].nunique())
            too_few = rows["speaker_id"].nunique() < OPTIONS.min_group_speakers
            assert cell["below_minimum"] == (too_few or len(rows) < OPTIONS.min_group_clips)
            assert (cell["cer_low"] is None) == ("cer" in cell["no_interval"])
            assert cell["cer_low"] is None or cell["cer_low"] < cell["cer"] < cell["cer_high"]


def test_the_head_of_the_file_says_how_it_was_made(predictions: list[Prediction]) -> None:
    scores = score_predictions(predictions, OPTIONS, split_sha256="ab")
    assert scores["n_predictions"] == 401
    assert scores["n_excluded"] == {"reference_empty": 1, "reference_masked": 0}
    assert (scores["overall"]["n_clips"], scores["overall"]["n_speakers"]) == (400, 24)
    assert (scores["transcript_policy"], scores["split_sha256"]) == ("pronunciation", "ab")
    assert scores["normaliser_version"]
    assert scores["marks_version"]
    decode_s = sum(p.decode_s for p in predictions)
    assert scores["decode"]["rtfx"] == pytest.approx(4.0 * 401 / decode_s)
    assert scores["decode"]["decode_s_p50"] == pytest.approx(np.quantile([p.decode_s for p in predictions], 0.5))


def test_scores_do_not_depend_on_the_order_of_lines(predictions: list[Prediction]) -> None:
    assert score_predictions(predictions[::-1], OPTIONS) == score_predictions(predictions, OPTIONS)


def test_overall_interval_is_that_of_the_speakers(predictions: list[Prediction]) -> None:
    rows = [p for p in predictions if p.utterance_id != "silent"]
    pairs = [token_text_cer([p.reference], [p.hypothesis]) for p in rows]
    sentences = {text: number for number, text in enumerate(sorted({p.reference.replace(" ", "") for p in rows}))}
    numbers = [sentences[p.reference.replace(" ", "")] for p in rows]
    clips = clips_of([p.speaker_id for p in rows], *zip(*pairs, strict=True), numbers)
    overall = score_predictions(predictions, OPTIONS)["overall"]
    interval = rate_interval(clips)
    assert (overall["cer_low"], overall["cer_high"]) == pytest.approx((interval.low, interval.high), rel=1e-12)


def test_terms_are_counted_by_category(predictions: list[Prediction]) -> None:
    spoken = ("두통이 있어요", "두통하고 설사", "아스피린 오백 밀리그램", "안녕하세요")
    heard = ("두통이 있어요", "구통하고 설사", "아스피링 500ml", "안녕하세요")
    given = [
        Prediction(**{**vars(p), "reference": spoken[i % 4], "hypothesis": heard[i % 4] if i % 3 else spoken[i % 4]})
        for i, p in enumerate(predictions[:400])
    ]
    scores = score_predictions(given, OPTIONS)
    terms = scores["terms"]
    assert (terms["symptom"]["n_terms"], terms["drug"]["n_terms"], terms["unit"]["n_terms"]) == (300, 100, 100)
    missed = [sum(i % 4 == kind and i % 3 != 0 for i in range(400)) for kind in (1, 2)]
    assert [terms[name]["n_missed"] for name in ("symptom", "drug", "unit")] == [missed[0], missed[1], missed[1]]
    assert terms["symptom"]["recall"] == 1 - missed[0] / 300
    assert 0 <= terms["drug"]["recall_low"] < terms["drug"]["recall"] < terms["drug"]["recall_high"] <= 1
    assert terms["body"] == {
        "n_terms": 0,
        "n_found": 0,
        "n_missed": 0,
        **dict.fromkeys(("recall", "recall_low", "recall_high")),
        "no_interval": "no clip counts",
    }
    said, found = (sum(row[key] for row in terms.values()) for key in ("n_terms", "n_found"))
    assert scores["overall"]["term_recall"] == found / said


def test_a_recalls_interval_stays_between_0_and_1() -> None:
    """Speakers who differ much: the interval of what they missed is the exact one, turned round."""
    found, said, speakers = [2, 2, 0, 0, 1], [2, 2, 2, 2, 2], list("abcde")
    table = pd.DataFrame({"speaker_id": speakers})
    for top, bottom in TERM_COLUMNS.values():
        table[top], table[bottom] = found, said
    row = recall_by_category(table)["drug"]
    missed = rate_interval(clips_of(speakers, [0, 0, 2, 2, 1], said))
    assert missed.low is not None
    assert missed.high is not None
    assert (row["recall"], row["recall_low"], row["recall_high"]) == (0.5, 1 - missed.high, 1 - missed.low)
    assert 0 <= row["recall_low"] < 0.15 < 0.85 < row["recall_high"] <= 1
    assert (row["n_terms"], row["n_found"], row["n_missed"]) == (10, 5, 5)


def test_elderly_gap_leaves_unknown_ages_out(predictions: list[Prediction]) -> None:
    scores = score_predictions(predictions, OPTIONS)
    gap, ages = scores["elderly_gap"], scores["groups"]["age"]
    old = [p for p in predictions if p.age in ("60~69", "over70")]
    errors, length = token_text_cer([p.reference for p in old], [p.hypothesis for p in old])
    assert gap["elderly"]["cer"] == errors / length
    assert gap["elderly"]["n_speakers"] == 12
    assert gap["rest"]["cer"] == ages["20~29"]["cer"]
    assert gap["cer_gap"] == gap["elderly"]["cer"] - gap["rest"]["cer"]
    assert gap["cer_gap_low"] < gap["cer_gap"] < gap["cer_gap_high"]
    assert gap["n_unknown_age"] == ages["N/A"]["n_clips"]


@pytest.mark.parametrize("ages", [("N/A",), ("60~69",), ("30~39",)])
def test_elderly_gap_with_an_empty_side_is_none(predictions: list[Prediction], ages: tuple[str]) -> None:
    same = [Prediction(**{**vars(p), "age": ages[0]}) for p in predictions[:40]]
    gap = score_predictions(same, OPTIONS)["elderly_gap"]
    assert (gap["cer_gap"], gap["cer_gap_low"], gap["below_minimum"]) == (None, None, True)


def changed(prediction: Prediction, **fields: Any) -> Prediction:
    return Prediction(**{**vars(prediction), **fields})


def test_nothing_scorable_gives_none_everywhere(predictions: list[Prediction]) -> None:
    scores = score_predictions([changed(predictions[0], reference="", decode_s=0.0)], OPTIONS)
    json.dumps(scores, allow_nan=False)
    silence = "silence_hallucination_rate"
    assert {scores["overall"][name] for name in {*MEASURES, "cer_low", "cer_high"} - {silence}} == {None}
    assert scores["overall"][silence] == 1
    assert scores["overall"]["n_clips"] == 0
    assert scores["groups"]["dialect"] == {}
    assert scores["decode"] == dict.fromkeys(scores["decode"]) | {"audio_s": 4.0}


def test_no_predictions_is_an_error() -> None:
    with pytest.raises(KmedError, match="no predictions"):
        score_predictions([], OPTIONS)


def test_minimum_is_the_settings(predictions: list[Prediction]) -> None:
    strict = ScoringOptions(bootstrap_draws=200, min_group_speakers=11)
    flags = {v: c["below_minimum"] for v, c in score_predictions(predictions, strict)["groups"]["dialect"].items()}
    assert flags == {"경상": True, "전라": True, "강원": True}


def test_pairs_of_values_with_underscores_stay_apart(predictions: list[Prediction]) -> None:
    pairs = [("a_b", "c"), ("a", "b_c"), ("a\\", "b"), ("a", "\\_b"), ("a\\_", "b"), ("", "_"), ("_", "")]
    given = [changed(predictions[n], dialect=d, gender=g) for n, (d, g) in enumerate(pairs)]
    cells = score_predictions(given, OPTIONS)["groups"]["dialect_gender"]
    assert [cell["n_clips"] for cell in cells.values()] == [1] * len(pairs)
    assert {tuple(split_values(key)) for key in cells} == set(pairs)


@each(st.lists(st.text(alphabet="a_\\가\n", max_size=4), min_size=2, max_size=2))
def test_values_are_split_as_they_were_joined(values: list[str]) -> None:
    assert split_values(join_values(values)) == values


def test_groups_by_code_switching_follow_the_reference(predictions: list[Prediction]) -> None:
    texts = ("CT를 찍었어요", "씨티를 찍었어요", "배가 아파요", "CT를 찍었어요")
    given = [changed(p, reference=t, hypothesis="씨티를 찍었어요") for p, t in zip(predictions, texts, strict=False)]
    scores = score_predictions(given, OPTIONS)
    cells = scores["groups"]["code_switching"]
    assert {name: cell["n_clips"] for name, cell in cells.items()} == {"latin": 2, "hangul": 1, "none": 1}
    assert (cells["latin"]["cer"], cells["latin"]["cer_resolved"]) == (2 / 7, 0)
    assert cells["none"]["cer_resolved"] == cells["none"]["cer"] > 0
    assert not any(name.startswith("code_switching_") or name.endswith("_code_switching") for name in scores["groups"])


def test_clips_without_speech_have_a_rate_of_their_own(predictions: list[Prediction]) -> None:
    heard = ("시청해 주셔서 감사합니다", "", " … ", "네")
    silent = [changed(predictions[n], reference=" .", hypothesis=text) for n, text in enumerate(heard)]
    spoken = predictions[4:400]
    scores, without = score_predictions([*silent, *spoken], OPTIONS), score_predictions(spoken, OPTIONS)
    assert scores["overall"].pop("silence_hallucination_rate") == 0.5
    assert without["overall"].pop("silence_hallucination_rate") is None
    assert scores["overall"] == without["overall"]
    assert scores["elderly_gap"] == without["elderly_gap"]
    assert scores["groups"]["gender"]["Male"]["silence_hallucination_rate"] == 0.5


def test_loops_and_the_worst_clips_are_stated(predictions: list[Prediction]) -> None:
    looping = changed(predictions[0], hypothesis=predictions[0].reference + "아파요" * 60)
    given = [looping, *predictions[1:400]]
    overall = score_predictions(given, OPTIONS)["overall"]
    errors, length = token_text_cer([p.reference for p in given[1:]], [p.hypothesis for p in given[1:]])
    assert overall["cer_without_loops"] == errors / length < overall["cer"]
    counted = sorted(token_text_cer([p.reference], [p.hypothesis])[0] for p in given)
    assert overall["worst_percent_share"] == sum(counted[-4:]) / sum(counted) > 0.3


def test_numbers_are_counted_with_the_ambiguous_ones(predictions: list[Prediction]) -> None:
    texts = (
        ("이십 일 먹었어요", "21 먹었어요"),
        ("두 알 드세요", "2알 드세요"),
        ("세 번 왔는데 세 킬로 빠졌어요", "네 번 왔는데 세 킬로 빠졌어요"),
    )
    given = [changed(predictions[n], reference=r, hypothesis=h) for n, (r, h) in enumerate(texts)]
    assert score_predictions(given, OPTIONS)["numbers"] == {
        "n_numbers": 3,
        "n_found": 2,
        "n_ambiguous": 1,
        "n_unread": 1,
    }

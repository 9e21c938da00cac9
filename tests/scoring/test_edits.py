import contextlib
import itertools
import json
import unicodedata
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmed_bench.core.errors import KmedError
from kmed_bench.core.predictions import Prediction
from kmed_bench.scoring.counting import TERM_COLUMNS
from kmed_bench.scoring.edits import count_errors, count_word_distances, impose_spacing, token_text_cer
from kmed_bench.scoring.hallucinations import find_signs
from kmed_bench.scoring.measures import COUNT_COLUMNS, MEASURES, count_utterances, rates
from kmed_bench.scoring.numbers import in_one_form, respace
from kmed_bench.text.marks import resolve_marks
from kmed_bench.text.normalise import normalise

TEXTS = st.text(alphabet="가나다라각삼십번 .3", max_size=12)
PAIRS = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=6)


def prediction(reference: str, hypothesis: str, number: int = 0, **fields: Any) -> Prediction:
    filled = {
        "utterance_id": f"u{number:05}",
        "speaker_id": f"s{number % 7}",
        "sentence_id": "",
        "duration_s": 3.0,
        "decode_s": 0.5,
        "gender": "Female",
        "age": "60~69",
        "dialect": "경상",
        "region": "",
        "role": "patient",
    }
    return Prediction(reference=reference, hypothesis=hypothesis, **{**filled, **fields})


def predictions(pairs: list[tuple[str, str]]) -> list[Prediction]:
    return [prediction(r, h, number) for number, (r, h) in enumerate(pairs)]


def distance(a: str | list[str], b: str | list[str]) -> int:
    """Levenshtein's distance, by the book."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]


SDIN = [
    # reference, hypothesis, (substitutions, deletions, insertions, length)
    ("", "", (0, 0, 0, 0)),
    ("", "네", (0, 0, 1, 0)),
    ("네", "", (0, 1, 0, 1)),
    ("네", "네", (0, 0, 0, 1)),
    ("네", "내", (1, 0, 0, 1)),
    ("네", "네네네", (0, 0, 2, 1)),
    ("혈액검사", "혀랙검사", (2, 0, 0, 4)),
    ("배가 아파요", "배 아파요", (0, 1, 0, 6)),
    ("가나다", "나다라", (0, 1, 1, 3)),
    ("가" * 10, "가" * 1000, (0, 0, 990, 10)),
    ("가나다라마", "바" * 500, (5, 0, 495, 5)),
]


@pytest.mark.parametrize(("reference", "hypothesis", "expected"), SDIN)
def test_character_edits(reference: str, hypothesis: str, expected: tuple[int, ...]) -> None:
    counts = count_errors([reference], [hypothesis])
    found = (counts.substitutions, counts.deletions, counts.insertions, counts.length)
    assert tuple(int(column[0]) for column in found) == expected
    assert int(counts.errors[0]) == sum(expected[:3])


def test_edits_of_nothing_are_no_rows() -> None:
    counts = count_errors([], [])
    assert counts.errors.shape == counts.length.shape == count_word_distances([], []).shape == (0,)
    assert counts.rate is None


@given(PAIRS)
def test_edits_equal_the_distance_and_jiwer(pairs: list[tuple[str, str]]) -> None:
    references, hypotheses = ([normalise(side) for side in sides] for sides in zip(*pairs, strict=True))
    counts = count_errors(references, hypotheses)
    assert counts.errors.tolist() == [distance(r, h) for r, h in zip(references, hypotheses, strict=True)]
    assert counts.length.tolist() == [len(r) for r in references]
    if any(references):
        assert counts.rate == jiwer.cer(references, hypotheses)


@given(PAIRS)
def test_word_edits_equal_the_distance_and_jiwer(pairs: list[tuple[str, str]]) -> None:
    references, hypotheses = ([normalise(s, keep_spaces=True) for s in sides] for sides in zip(*pairs, strict=True))
    errors = count_word_distances(references, hypotheses)
    both = zip(references, hypotheses, strict=True)
    assert errors.tolist() == [distance(r.split(), h.split()) for r, h in both]
    if any(references):
        assert int(errors.sum()) / sum(len(r.split()) for r in references) == jiwer.wer(references, hypotheses)


@given(st.lists(TEXTS, min_size=1, max_size=5))
def test_cer_of_a_text_with_itself_is_zero_in_any_composition(texts: list[str]) -> None:
    other = [unicodedata.normalize("NFD", text) for text in texts]
    length = sum(len(normalise(text)) for text in texts)
    for sides in ((texts, texts), (texts, other), (other, texts)):
        assert token_text_cer(*sides) == (0, length)


def test_cer_sums_are_not_capped() -> None:
    references = ["네", "가나다라마바사아자차", ""]
    hypotheses = ["네네네네네네", "가나다라마바사아자", "무시됨"]
    assert token_text_cer(references, hypotheses) == (6, 11)
    assert token_text_cer(["네"], ["네" * 100]) == (99, 1)


def test_sides_of_different_length_are_named() -> None:
    for function in (token_text_cer, count_errors, count_word_distances):
        with pytest.raises(KmedError, match="2 references and 1 hypotheses"):
            function(["가", "나"], ["가"])


SPACING = [
    ("가 나다 라마", "가나다라마", "가 나다 라마"),
    ("가나다라마", "가 나다 라마", "가나다라마"),
    ("가 나다 라마", "가라마", "가 라마"),  # a deleted word leaves none behind
    ("가 나다", "하하가나다", "하하가 나다"),
    ("가 나다", "가음나다", "가음 나다"),  # an insertion stays with the word before it
    ("가 나다", "", ""),
    ("", "가 나", "가나"),
    ("열이 납니다", "여리납니다", "여리 납니다"),
]


@pytest.mark.parametrize(("reference", "hypothesis", "expected"), SPACING)
def test_spacing_of_the_reference_is_imposed(reference: str, hypothesis: str, expected: str) -> None:
    assert impose_spacing(reference, hypothesis) == expected


@given(TEXTS, TEXTS)
def test_imposed_spacing_keeps_every_character(reference: str, hypothesis: str) -> None:
    reference, hypothesis = normalise(reference, keep_spaces=True), normalise(hypothesis, keep_spaces=True)
    respaced = impose_spacing(reference, hypothesis)
    assert respaced.replace(" ", "") == hypothesis.replace(" ", "")
    assert len(respaced.split()) <= max(1, len(reference.split()))
    if hypothesis.replace(" ", "") == reference.replace(" ", ""):
        assert respaced == reference


# Exact sums of every rate: reference, hypothesis, {metric: (numerator, denominator)}
EDGES: list[tuple[str, str, dict[str, tuple[int, int]]]] = [
    (
        "배가 아파요.",
        "배가 아파요",
        {"cer": (0, 5), "cer_spaced": (0, 6), "cer_raw": (1, 7), "wer": (0, 2), "jer": (0, 10), "empty_rate": (0, 1)},
    ),
    (
        "배가 아파요.",
        "",
        {
            "cer": (5, 5),
            "cer_spaced": (6, 6),
            "wer": (2, 2),
            "wer_respaced": (2, 2),
            "deletion_share": (5, 5),
            "insertion_share": (0, 5),
            "empty_rate": (1, 1),
            "hallucination_rate": (0, 1),
        },
    ),
    ("배가 아파요.", "…!", {"cer": (5, 5), "cer_raw": (7, 7), "empty_rate": (1, 1)}),
    ("네", "네", {"cer": (0, 1), "wer": (0, 1), "jer": (0, 2)}),
    ("네", "아니요", {"cer": (3, 1), "wer": (1, 1), "jer": (5, 2), "insertion_share": (2, 3)}),
    ("네", "넵", {"cer": (1, 1), "jer": (1, 2)}),
    (
        unicodedata.normalize("NFD", "혈액검사"),
        "혀랩검사",
        {"cer": (2, 4), "cer_raw": (2, 4), "jer": (3, 11)},
    ),
    ("혈액검사", unicodedata.normalize("NFD", "혀랩검사"), {"cer": (2, 4), "cer_raw": (2, 4), "jer": (3, 11)}),
    ("네 😀", "네", {"cer": (0, 1), "cer_spaced": (0, 1), "cer_raw": (2, 3), "wer": (0, 1)}),
    ("네", "네 😀😀", {"cer": (0, 1), "cer_raw": (3, 1)}),
    ("MRI 2번, CT 1번", "mri 2번 ct 일번", {"cer": (1, 9), "cer_spaced": (1, 12), "cer_raw": (7, 13), "wer": (1, 4)}),
    ("혈압이 120/80이에요", "혈압이 120 80이에요", {"cer": (1, 12), "wer": (2, 2), "wer_respaced": (1, 2)}),
    ("(3)/(삼) 일", "삼일", {"cer": (0, 2), "cer_spaced": (1, 3), "wer": (2, 2), "wer_respaced": (0, 2)}),
    (
        "가나다라마바사아자차",
        "가나다라마바사아자차" * 100,
        {"cer": (990, 10), "insertion_share": (990, 990), "hallucination_rate": (1, 1), "wer": (1, 1)},
    ),
    (
        "체온이 삼십팔 점 오 도, 하루 세 번",
        "체온이 38.5℃ 하루 3번",
        {"cer": (7, 13), "cer_number": (0, 12), "number_exact": (2, 2)},
    ),
    ("두세 번 왔어요", "2~3번 왔어요", {"cer": (3, 6), "cer_number": (0, 7), "number_exact": (1, 1)}),
    ("2~3번 왔어요", "23번 왔어요", {"cer": (1, 7), "cer_number": (1, 7), "number_exact": (0, 1)}),
    ("이십 일 먹었어요", "21 먹었어요", {"cer": (3, 7), "number_exact": (1, 1)}),  # 21, or 20 days
    ("이십 일 먹었어요", "20일 먹었어요", {"cer": (2, 7), "number_exact": (1, 1)}),
    ("이십 일 먹었어요", "22일 먹었어요", {"cer": (2, 7), "number_exact": (0, 1)}),
    ("5mg씩 두 번, 또 두 번", "5ml씩 두 번", {"number_exact": (1, 3)}),
    ("혈압약을 먹고 두통이 왔어요", "혈압약 먹고 두턴이 왔어요", {"term_recall": (1, 2)}),
    ("네", "네 " * 100, {"cer": (99, 1), "cer_spaced": (198, 1), "wer": (99, 1), "wer_respaced": (1, 1)}),
]


@pytest.mark.parametrize(("reference", "hypothesis", "expected"), EDGES)
def test_edge_cases_have_exact_sums(reference: str, hypothesis: str, expected: dict[str, tuple[int, int]]) -> None:
    table = count_utterances([prediction(reference, hypothesis)], "pronunciation")
    columns = {name: (MEASURES[name].top, MEASURES[name].bottom) for name in expected}
    sums = {name: tuple(int(table[column].iloc[0]) for column in pair) for name, pair in columns.items()}
    assert sums == expected


@pytest.mark.parametrize(
    ("reference", "reason"), [("", "reference_empty"), (" ...!", "reference_empty"), ("#@이름# 씨", "reference_masked")]
)
def test_references_that_cannot_be_scored_leave_every_sum_alone(reference: str, reason: str) -> None:
    scored = predictions([("배가 아파요", "배가 아파")])
    more = [*scored, prediction(reference, "시청해 주셔서 감사합니다" * 9, 1)]
    alone, beside = (count_utterances(p, "pronunciation") for p in (scored, more))
    assert beside["excluded"].tolist() == ["", reason]
    silence = "silence_hallucination_rate"
    assert rates(alone) | {silence: None} == rates(beside) | {silence: None}
    assert rates(beside)[silence] == (1 if reason == "reference_empty" else None)
    assert not beside.iloc[1][list({*COUNT_COLUMNS} - {"silent_hallucinated", "clips_silent"})].any()


def test_no_prediction_gives_no_rate() -> None:
    assert set(rates(count_utterances([], "pronunciation")).values()) == {None}


def test_an_utterance_given_twice_is_named() -> None:
    with pytest.raises(KmedError, match="'u00000'"):
        count_utterances([prediction("가", "가"), prediction("나", "나")], "pronunciation")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hypothesis", None),
        ("speaker_id", 3),
        ("age", None),
        ("duration_s", None),
        ("duration_s", -1.0),
        ("decode_s", float("nan")),
        ("decode_s", "0.1"),
    ],
)
def test_fields_of_another_kind_are_named(field: str, value: Any) -> None:
    spoilt = Prediction(**{**vars(prediction("가", "가")), field: value})
    with pytest.raises(KmedError, match=f"'u00000' has {field} "):
        count_utterances([spoilt], "pronunciation")


@pytest.mark.real_speech
def test_spelled_numbers_of_real_labels_cost_nothing_once_in_one_form(real_speech: Path) -> None:
    labels = list(real_labels(real_speech))
    assert len(labels) > 300
    spelled = [(label, resolve_marks(label, "spelling")) for label in labels]
    scores = {policy: rates(count_utterances(predictions(spelled), policy)) for policy in ("pronunciation", "spelling")}
    assert scores["spelling"]["cer"] == scores["spelling"]["wer"] == scores["spelling"]["jer"] == 0
    assert scores["spelling"]["number_exact"] == scores["spelling"]["term_recall"] == 1
    assert scores["spelling"]["hallucination_rate"] == 0
    spoken = scores["pronunciation"]
    assert spoken["cer"] is not None
    assert spoken["cer_number"] is not None
    assert spoken["cer"] > 0.02
    assert spoken["cer_number"] < spoken["cer"] / 3


def real_labels(folder: Path) -> Iterator[str]:
    """Transcripts of the label zips as written; files that are broken on purpose are passed over."""
    for archive in folder.rglob("*라벨링데이터.zip"):
        with zipfile.ZipFile(archive) as opened:
            for name in opened.namelist():
                if name.endswith(".json"):
                    with contextlib.suppress(json.JSONDecodeError):
                        yield json.loads(opened.read(name).decode("utf-8-sig"))["전사정보"]["LabelText"]


def test_policy_chooses_the_reference() -> None:
    pair = [prediction("체온이 (38)/(삼십팔)도", "체온이 38도")]
    cers = {policy: rates(count_utterances(pair, policy))["cer"] for policy in ("pronunciation", "spelling")}
    assert cers == {"pronunciation": 3 / 7, "spelling": 0}


@settings(max_examples=50)
@given(PAIRS)
def test_every_rate_equals_jiwer(pairs: list[tuple[str, str]]) -> None:
    found = rates(count_utterances(predictions(pairs), "pronunciation"))
    kept = [(resolve_marks(r, "pronunciation"), h) for r, h in pairs if normalise(resolve_marks(r, "pronunciation"))]
    if not kept:
        assert {value for name, value in found.items() if name != "silence_hallucination_rate"} == {None}
        return
    plain = [[normalise(side) for side in sides] for sides in zip(*kept, strict=True)]
    spaced = [[normalise(side, keep_spaces=True) for side in sides] for sides in zip(*kept, strict=True)]
    jamo = [[unicodedata.normalize("NFD", side) for side in sides] for sides in plain]
    respaced = [impose_spacing(r, h) for r, h in zip(*spaced, strict=True)]
    output = jiwer.process_characters(*plain)
    errors = output.substitutions + output.deletions + output.insertions
    assert found["cer"] == output.cer
    assert found["cer_spaced"] == jiwer.cer(*spaced)
    assert found["cer_raw"] == jiwer.cer(*([side.strip() for side in sides] for sides in zip(*kept, strict=True)))
    assert found["wer"] == jiwer.wer(*spaced)
    assert found["wer_respaced"] == jiwer.wer(spaced[0], respaced)
    assert found["jer"] == jiwer.cer(*jamo)
    numbered = [in_one_form(spaced[0]), in_one_form(respace(*spaced))]
    assert found["cer_number"] == jiwer.cer(*numbered)
    shares = ("number_exact", "term_recall", "deletion_share", "hallucination_rate")
    assert all(found[name] is None or 0 <= found[name] <= 1 for name in shares)
    assert found["insertion_share"] == (output.insertions / errors if errors else None)
    assert found["deletion_share"] == (output.deletions / errors if errors else None)
    assert found["empty_rate"] == np.mean([not side for side in plain[1]])


SIGNS: list[tuple[str, str, float, tuple[str, ...]]] = [
    ("배가아파요", "배가아파요", 0.1, ()),
    ("네", "네네네", 1.0, ()),
    ("배가아파요", "아파" * 20, 9.0, ("loop",)),
    ("아파" * 20, "아파" * 21, 9.0, ()),  # the speaker did repeat it
    ("배가아파요", "그래서약을먹고나서한참뒤에다시병원에왔어요", 1.0, ("rate",)),
    ("배가아파요", "그래서약을먹고나서한참뒤에다시병원에왔어요", 0.0, ()),
    ("배가아파요", "시청해주셔서감사합니다", 2.0, ("credit",)),
    ("mbc뉴스에서봤어요", "mbc뉴스에서봤서요", 2.0, ()),
    ("배가아파요", "감사합니다" * 30, 2.0, ("loop", "rate")),
]


# Texts at the limits of each sign.
SIGNS += [
    ("배가아파요", "가나" * 7 + "가", 9.0, ("loop",)),  # 12 n-grams of 4 characters, 2 of them distinct
    ("배가아파요", "가나" * 7, 9.0, ()),  # 11 n-grams are too few
    ("배가아파요", "가나다라마바" + "가나다라마바" + "가나다", 9.0, ()),  # 12 n-grams, 6 distinct: half is no loop
    ("배가아파요", "가나다라마" * 3, 9.0, ("loop",)),  # 12 n-grams, 5 distinct
    ("배가아파요", "가나다라마바사아자차", 0.6, ("rate",)),
    ("배가아파요", "가나다라마바사아자", 0.1, ()),  # 9 characters are too few
    ("배가아파요", "가나다라마바사아자차카타파하거", 1.0, ()),  # 15 a second is not above 15
    ("가나다라마바사아자차", "가나다라마바사아자카", 0.1, ()),  # the speaker was as fast
    ("배가아파요", 2 * "".join(chr(0xAC00 + 28 * (37 * n % 399)) for n in range(100)), 60.0, ("loop",)),  # compression
    ("배가아파요", 2 * "".join(chr(0xAC00 + 28 * (37 * n % 399)) for n in range(20)), 60.0, ()),  # too short for it
]


@pytest.mark.parametrize(("reference", "hypothesis", "duration_s", "expected"), SIGNS)
def test_signs_of_invention(reference: str, hypothesis: str, duration_s: float, expected: tuple[str, ...]) -> None:
    assert find_signs(reference, hypothesis, duration_s) == expected


def test_every_rate_has_its_columns() -> None:
    table = count_utterances(predictions([("가", "나")]), "spelling")
    assert (
        {*itertools.chain(*((m.top, m.bottom) for m in MEASURES.values()), *TERM_COLUMNS.values()), "numbers_unread"}
        == set(COUNT_COLUMNS)
        <= set(table.columns)
    )
    assert "가" not in table.astype(str).to_numpy()

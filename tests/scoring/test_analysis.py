import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from misheard import LINES, OPTIONS, predictions

from kmed_bench.scoring import score_predictions
from kmed_bench.scoring.alignment import align, unlikeness
from kmed_bench.scoring.analysis import CLIP_COLUMNS, EDIT_COLUMNS, analyse_errors
from kmed_bench.scoring.edits import count_errors


def test_edits_are_placed_and_keep_their_surroundings() -> None:
    edits = analyse_errors(predictions(LINES), "pronunciation").edits
    assert tuple(edits.columns) == EDIT_COLUMNS
    rows = [tuple(row) for row in edits.itertuples(index=False)]
    assert rows[:4] == [
        ("u0", "substitute", 6, "파", "바", "일째배가아", "요"),
        ("u1", "substitute", 0, "감", "강", "", "기약주세요"),
        ("u2", "delete", 2, "이", "", "혈압", "높아요"),
        ("u2", "substitute", 3, "높아", "노파", "혈압이", "요"),
    ]


def test_confusions_are_counted_by_syllable_jamo_and_word() -> None:
    analysis = analyse_errors(predictions(LINES[:3]), "pronunciation")
    assert {tuple(row) for row in analysis.syllables.itertuples(index=False)} == {
        ("파", "바", 1),
        ("감", "강", 1),
        ("이", "", 1),
        ("높", "노", 1),
        ("아", "파", 1),
    }
    assert {tuple(row) for row in analysis.jamo.itertuples(index=False)} == {
        ("onset", "ㅍ", "ㅂ", 1),
        ("coda", "ㅁ", "ㅇ", 1),
        ("coda", "ㅍ", "", 1),
        ("onset", "ㅇ", "ㅍ", 1),
    }
    assert {tuple(row) for row in analysis.words.itertuples(index=False)} == {
        ("아파요", "아바요", 1),
        ("감기약", "강기약", 1),
        ("혈압이", "혈압", 1),
        ("높아요", "노파요", 1),
    }


def test_missed_terms_are_counted() -> None:
    lines = [
        ("s", "두통하고 두통약", "두통하고 두부약"),
        ("s", "두통이 있어요", "구통이 있어요"),
        ("s", "설사", "설사"),
    ]
    terms = analyse_errors(predictions(lines), "pronunciation").terms
    assert [tuple(row) for row in terms.itertuples(index=False)] == [
        ("drug", "두통약", 1, 1),
        ("symptom", "두통", 2, 1),
    ]


def test_clips_are_worst_first_and_inventions_are_named() -> None:
    analysis = analyse_errors(predictions(LINES), "pronunciation")
    assert tuple(analysis.clips.columns) == CLIP_COLUMNS
    assert analysis.clips["utterance_id"].tolist() == ["u4", "u2", "u1", "u0", "u3"]
    assert analysis.clips["errors"].tolist() == [11, 3, 1, 1, 0]
    assert analysis.hallucinations["signs"].tolist() == ["credit"]
    assert analysis.clips["reference"].tolist()[3] == "삼 일째 배가 아파요"


def test_each_clip_says_its_kinds_of_errors() -> None:
    lines = [
        ("s", "두통약은 (3)/(삼) 알", "두통약은 세알"),
        ("s", "두통약은 (3)/(삼) 알", "두통약은 이알"),
        ("s", "두통이 심해요", "구통이 심해요"),
        ("s", "배가 아파요", "배가 아파요요"),
        ("s", "배가 아파요", "배가 아파"),
        ("s", "어지러워요", "시청해 주셔서 감사합니다"),
        ("s", "네", "네"),
    ]
    clips = analyse_errors(predictions(lines), "pronunciation").clips.set_index("utterance_id").sort_index()
    assert clips["kinds"].tolist() == [
        "substitution",
        "substitution number",
        "substitution term",
        "insertion",
        "deletion",
        "substitution insertion hallucination term",
        "",
    ]
    assert clips["terms"].tolist() == ["두통약", "두통약", "두통", "배; 아프다", "배; 아프다", "어지럽다", ""]
    assert clips["missed_terms"].tolist() == ["", "", "두통", "", "", "어지럽다", ""]


def test_edits_add_up_to_the_scores() -> None:
    given_lines = predictions(LINES)
    overall = score_predictions(given_lines, OPTIONS)["overall"]
    analysis = analyse_errors(given_lines, "pronunciation")
    errors = analysis.clips["errors"].sum()
    assert analysis.syllables["n"].sum() == errors
    assert errors / analysis.clips["length"].sum() == overall["cer"]
    assert (
        analysis.syllables.loc[analysis.syllables["reference"] == "", "n"].sum() / errors
        == (overall["insertion_share"])
    )


def test_frequent_confusions_come_first() -> None:
    analysis = analyse_errors(predictions([("s", "가나다", "가마마"), ("s", "나라", "마라")]), "pronunciation")
    assert analysis.syllables.values.tolist() == [["나", "마", 2], ["다", "마", 1]]


def test_no_error_gives_empty_tables() -> None:
    analysis = analyse_errors(predictions([("s", "네", "네")]), "pronunciation")
    assert [len(t) for t in (analysis.clips, analysis.edits, analysis.syllables, analysis.jamo, analysis.words)] == [
        1,
        0,
        0,
        0,
        0,
    ]


CLOSEST = [
    ("이높아", "노파", [("delete", "이", ""), ("substitute", "높아", "노파")]),
    ("높아이", "노파", [("substitute", "높아", "노파"), ("delete", "이", "")]),
    ("노파", "이높아", [("insert", "", "이"), ("substitute", "노파", "높아")]),
    ("간검장", "강겅상음", [("substitute", "간검장", "강겅상"), ("insert", "", "음")]),
    ("간마장", "강장", [("substitute", "간", "강"), ("delete", "마", ""), ("equal", "장", "장")]),
    ("가", "놈사", [("insert", "", "놈"), ("substitute", "가", "사")]),
]


@pytest.mark.parametrize(("reference", "hypothesis", "expected"), CLOSEST)
def test_errors_pair_with_what_sounds_closest(
    reference: str, hypothesis: str, expected: list[tuple[str, str, str]]
) -> None:
    spans = [
        (run.type, reference[run.ref_start_idx : run.ref_end_idx], hypothesis[run.hyp_start_idx : run.hyp_end_idx])
        for run in align(reference, hypothesis)
    ]
    assert spans == expected


TEXTS = st.text(alphabet="가나다각 ", max_size=10)


@given(st.text(alphabet="가각나낙파높", max_size=4), st.text(alphabet="다닥바밥이노", max_size=6))
def test_no_other_pairing_sounds_closer(one: str, two: str) -> None:
    """The two share no syllable, so any rising choice of partners for the shorter one costs as many edits."""
    short, long = sorted((one, two), key=len)
    choices = itertools.combinations(long, len(short))
    least = min(sum(map(unlikeness, short, chosen)) for chosen in choices)
    pairs = [run for run in align(one, two) if run.type == "substitute"]
    sides = [(one[run.ref_start_idx : run.ref_end_idx], two[run.hyp_start_idx : run.hyp_end_idx]) for run in pairs]
    assert sum(unlikeness(a, b) for pair in sides for a, b in zip(*pair, strict=True)) == pytest.approx(least)


@given(TEXTS, TEXTS)
def test_runs_cover_both_texts(reference: str, hypothesis: str) -> None:
    place, found = (0, 0), Counter[str]()
    for run in align(reference, hypothesis):
        assert (run.ref_start_idx, run.hyp_start_idx) == place
        found[run.type] += max(run.ref_end_idx - place[0], run.hyp_end_idx - place[1])
        place = run.ref_end_idx, run.hyp_end_idx
    assert place == (len(reference), len(hypothesis))
    counts = count_errors([reference], [hypothesis])
    kinds = {"substitute": counts.substitutions, "delete": counts.deletions, "insert": counts.insertions}
    assert all(found[kind] == column[0] for kind, column in kinds.items())

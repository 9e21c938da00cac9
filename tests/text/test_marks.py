"""Transcription marks: a table of what each becomes, and what holds for every text."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmed_bench.text.marks import is_masked, resolve_marks, sentence_id, sentence_key

# label, pronunciation, spelling, key
CASES = [
    ("하루 (3)/(세) 번", "하루 세 번", "하루 3 번", "하루세번"),
    ("하루 (3)(세) 번", "하루 세 번", "하루 3 번", "하루세번"),
    ("하루 (3) / (세) 번", "하루 세 번", "하루 3 번", "하루세번"),
    ("(37.5도,)/(삼십칠쩜오도,) 열", "삼십칠쩜오도, 열", "37.5도, 열", "삼십칠쩜오도열"),
    ("(MRI(자기공명))/(엠알아이) 검사", "엠알아이 검사", "MRI(자기공명) 검사", "엠알아이검사"),
    ("(5 mg/l)/(리터당 오 밀리그램)", "리터당 오 밀리그램", "5 mg/l", "리터당오밀리그램"),
    ("()/(삼)", "삼", "", "삼"),
    ("(웃음) (박수) 네", "(웃음) (박수) 네", "(웃음) (박수) 네", "웃음박수네"),
    ("(웃음) 네", "(웃음) 네", "(웃음) 네", "웃음네"),
    ("(3)/(세", "(3)/(세", "(3)/(세", "3세"),
    ("((((", "((((", "((((", ""),
    ("아/ 배가 음/ 아파요", "아 배가 음 아파요", "아 배가 음 아파요", "배가아파요"),
    ("그게 인제/, 아파요", "그게 인제, 아파요", "그게 인제, 아파요", "그게아파요"),
    ("아/배가 아파요", "아 배가 아파요", "아 배가 아파요", "배가아파요"),
    ("월/수/금 오세요", "월/수/금 오세요", "월/수/금 오세요", "월수금오세요"),
    ("혈압 120/80", "혈압 120/80", "혈압 120/80", "혈압12080"),
    ("b/ 네 n/ 그래요 l/", "네 그래요", "네 그래요", "네그래요"),
    ("o/그래요 u/", "그래요", "그래요", "그래요"),
    ("and/or b/s", "and/or b/s", "and/or b/s", "andorbs"),
    ("분당 5 l/분", "분당 5 l/분", "분당 5 l/분", "분당5l분"),
    ("그+ 그게 아파요", "그 그게 아파요", "그 그게 아파요", "그그게아파요"),
    ("세츄레이션* 떨어져요", "세츄레이션 떨어져요", "세츄레이션 떨어져요", "세츄레이션떨어져요"),
    ("세츄레이션*이 낮아요", "세츄레이션이 낮아요", "세츄레이션이 낮아요", "세츄레이션이낮아요"),
    ("3*4와 3+4, Na+", "3*4와 3+4, Na+", "3*4와 3+4, Na+", "34와34na"),
    ("#@이름# 님", "#@이름# 님", "#@이름# 님", "님"),
    ("", "", "", ""),
    ("  b/  ", "", "", ""),
    ("아/", "아", "아", ""),
    (unicodedata.normalize("NFD", "배가  아파요."), "배가 아파요.", "배가 아파요.", "배가아파요"),
    ("CT 찍어요", "CT 찍어요", "CT 찍어요", "ct찍어요"),
]
marked = st.text(alphabet=st.sampled_from("가나 아/()+*bnl#@3.,:A이름각") | st.characters(codec="utf-8"), max_size=60)


@pytest.mark.parametrize(("text", "pronunciation", "spelling", "key"), CASES)
def test_marks(text: str, pronunciation: str, spelling: str, key: str) -> None:
    assert resolve_marks(text, "pronunciation") == pronunciation
    assert resolve_marks(text, "spelling") == spelling
    assert sentence_key(text) == key


@given(marked, st.sampled_from(["pronunciation", "spelling"]))
def test_resolving_twice_changes_nothing(text: str, policy: str) -> None:
    once = resolve_marks(text, policy)
    assert resolve_marks(once, policy) == once
    assert unicodedata.is_normalized("NFC", once)


@given(marked)
def test_keys_hold_letters_and_digits_alone(text: str) -> None:
    key = sentence_key(text)
    assert all(character.isalnum() for character in key)
    assert sentence_key(key) == key
    assert sentence_key(f" {text}\n") == key


@given(marked)
def test_text_without_marks_is_only_normalised(text: str) -> None:
    plain = "".join(character for character in text if character not in "()/*+")
    assert resolve_marks(plain, "spelling") == " ".join(unicodedata.normalize("NFC", plain).split())


def test_sentences_of_equal_words_share_an_id() -> None:
    same = ["아/ 하루 (3)/(세) 번 먹어요.", "하루 세 번 먹어요", "하루세번 먹어요*!", "b/ 하루 세 번, 먹어요"]
    assert len({sentence_id(text) for text in same}) == 1
    assert sentence_id(same[0]) != sentence_id("하루 네 번 먹어요")
    assert sentence_id(same[0]) == "03a0ed083f74019c"  # the ids of frozen splits: they may not change


@pytest.mark.parametrize(("text", "masked"), [("#@이름# 님", True), ("#@이름 님", True), ("# @", False), ("", False)])
def test_masks(text: str, masked: bool) -> None:
    assert is_masked(text) == masked


@pytest.mark.parametrize("text", ["(" * 20_000, "()" * 10_000, "(a)/" * 5_000, "가" * 20_000 + "/x", "#@" * 10_000])
def test_long_nonsense_takes_no_time(text: str) -> None:
    resolve_marks(text, "spelling")
    sentence_key(text)

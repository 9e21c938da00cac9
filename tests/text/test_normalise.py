import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmed_bench.text.normalise import normalise

SIGNS = "가나다한글ᄀ\u1161\u11a8ab Z019３.,/-−–~%％°º℃㎎İΣ(!?)…\u200b\ufe0f\u0301😀  \n"
TEXTS = st.one_of(st.text(max_size=40), st.text(alphabet=SIGNS, max_size=40))

CASES = [
    # text, without spaces, with spaces
    ("", "", ""),
    (" \n ", "", ""),
    ("네.", "네", "네"),
    ("엄마 얼굴이  이상해지는 거 같아서요,", "엄마얼굴이이상해지는거같아서요", "엄마 얼굴이 이상해지는 거 같아서요"),
    (unicodedata.normalize("NFD", "혈액 검사"), "혈액검사", "혈액 검사"),
    ("MRI 찍었어요", "mri찍었어요", "mri 찍었어요"),
    ("체온은 36.5도.", "체온은36.5도", "체온은 36.5도"),
    ("0.5%, 50 %", "0.5%50%", "0.5% 50 %"),
    ("５０％", "５０%".replace("５０", "50"), "50%"),
    ("혈압 120/80, mg/dL", "혈압120/80mgdl", "혈압 120/80 mgdl"),
    ("38.2℃ 38.2°C 38.2 ° c", "38.2℃38.2℃38.2℃", "38.2℃ 38.2℃ 38.2 ℃"),
    ("38º:C", "38ºc", "38ºc"),
    ("5㎎ 10㎖", "5mg10ml", "5mg 10ml"),
    ("-5도 −5도 (-5)", "−5도−5도−5", "−5도 −5도 −5"),
    ("코로나-19, 010-1234-5678", "코로나1901012345678", "코로나19 01012345678"),
    ("1,000원", "1000원", "1000원"),
    ("3. 5일. 3 .5", "35일35", "3 5일 3 5"),
    ("10:30", "1030", "1030"),
    ("감사합니다 😀👍🏽 ♪", "감사합니다", "감사합니다"),
    ("1️⃣번", "1번", "1번"),
    ("가\u200b나", "가나", "가나"),
    ("아프다...!?~", "아프다", "아프다"),
    ("B형간염 HBsAg(+)", "b형간염hbsag", "b형간염 hbsag"),
]


@pytest.mark.parametrize(("text", "plain", "spaced"), CASES)
def test_normal_form(text: str, plain: str, spaced: str) -> None:
    assert normalise(text) == plain
    assert normalise(text, keep_spaces=True) == spaced


@given(TEXTS, st.booleans())
def test_twice_is_once(text: str, keep_spaces: bool) -> None:
    once = normalise(text, keep_spaces=keep_spaces)
    assert normalise(once, keep_spaces=keep_spaces) == once


@given(TEXTS, st.booleans())
def test_composition_does_not_matter(text: str, keep_spaces: bool) -> None:
    forms = {normalise(unicodedata.normalize(form, text), keep_spaces=keep_spaces) for form in ("NFC", "NFD")}
    assert len(forms) == 1


@given(TEXTS)
def test_dropping_spaces_first_or_last_is_the_same(text: str) -> None:
    assert normalise(text) == normalise(normalise(text, keep_spaces=True))

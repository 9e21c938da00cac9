import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmed_bench.text.normalise import normalise

SIGNS = "가나다한글ᄀ\u1161\u11a8ab Z019３.,/-−–~%％°º˚ㆍ\u119e―ℓ℃㎎İΣ(!?)…\u200b\ufe0f\u0301😀  \n"
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
    ("코로나-19, 010-1234-5678", "코로나19·01012345678", "코로나19·01012345678"),
    ("1,000원", "1000원", "1000원"),
    ("3. 5일. 3 .5", "3·5일3·5", "3·5일 3·5"),
    ("10:30", "10:30", "10:30"),
    # Two numbers never become one because the sign between them goes.
    ("2~3번, 2-3번, 2 ∼ 3번", "2−3번2−3번2−3번", "2−3번 2−3번 2−3번"),
    ("1, 2주 2,3일 1,000원 1,234,567.5", "1·2주2·3일1000원1234567.5", "1·2주 2·3일 1000원 1234567.5"),
    ("120 / 80, 3 : 30, 5×3, 1/2", "120/80·3:30·5·3·1/2", "120/80·3:30·5·3·1/2"),
    ("- 2.5와 -2.5, 검사-3", "−2.5와−2.5검사3", "−2.5와 −2.5 검사3"),
    ("전화 02-123-4567이나 1588-1234", "전화021234567이나15881234", "전화 021234567이나 15881234"),
    ("1500~2000칼로리, 1500-2000 kcal", "1500−2000칼로리1500−2000kcal", "1500−2000칼로리 1500−2000 kcal"),
    ("1,2345 36..5", "1·234536·5", "1·2345 36·5"),
    ("50%~60%, 3시:", "50%60%3시", "50%60% 3시"),
    ("감사합니다 😀👍🏽 ♪", "감사합니다", "감사합니다"),
    ("1️⃣번", "1번", "1번"),
    ("가\u200b나", "가나", "가나"),
    # The araea is a letter to Unicode and a middle dot to who writes it.
    ("두통ㆍ어지럼증, 2ㆍ3일, 2\u119e3일", "두통어지럼증2·3일2·3일", "두통어지럼증 2·3일 2·3일"),
    ("\u1106\u119e\u11af", "\u1106\u119e\u11af", "\u1106\u119e\u11af"),  # a syllable of the Jeju dialect
    ("5―10분, 5—10분, 5﹣10분, 5〰10분", "5−10분5−10분5−10분5−10분", "5−10분 5−10분 5−10분 5−10분"),
    ("10\u00b5g 10\u03bcg 10㎍ 2ℓ 2L", "10μg10μg10μg2l2l", "10μg 10μg 10μg 2l 2l"),
    ("38.2\u02daC", "38.2℃", "38.2℃"),
    ("아프다...!?~", "아프다", "아프다"),
    ("B형간염 HBsAg(+)", "b형간염hbsag", "b형간염 hbsag"),
]


@pytest.mark.parametrize(("text", "plain", "spaced"), CASES)
def test_normal_form(text: str, plain: str, spaced: str) -> None:
    assert normalise(text) == plain
    assert normalise(text, keep_spaces=True) == spaced


NUMBERS = st.text(alphabet="0123456789,.:/~-−―ㆍ ·가%℃\u0301", max_size=25)


@given(st.one_of(TEXTS, NUMBERS), st.booleans())
def test_twice_is_once(text: str, keep_spaces: bool) -> None:
    once = normalise(text, keep_spaces=keep_spaces)
    assert normalise(once, keep_spaces=keep_spaces) == once


@given(TEXTS, st.booleans())
def test_composition_does_not_matter(text: str, keep_spaces: bool) -> None:
    forms = {normalise(unicodedata.normalize(form, text), keep_spaces=keep_spaces) for form in ("NFC", "NFD")}
    assert len(forms) == 1


@given(NUMBERS)
def test_numbers_stay_apart(text: str) -> None:
    """Digits that a sign parted are never joined: only thousands' commas and telephones' hyphens go."""
    for match in re.finditer(r"(?<![\d,])(\d{1,2})([~:/]|, )(\d{1,2})(?![\d,])", text):
        assert match[1] + match[3] != normalise(match[0])


@given(st.one_of(TEXTS, NUMBERS))
def test_dropping_spaces_first_or_last_is_the_same(text: str) -> None:
    assert normalise(text) == normalise(normalise(text, keep_spaces=True))

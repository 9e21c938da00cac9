import json
import re
import unicodedata
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmed_bench.text.counters import UNITS
from kmed_bench.text.lexicon import load_terms
from kmed_bench.text.marks import resolve_marks
from kmed_bench.text.normalise import normalise
from kmed_bench.text.numbers import NUMBERS_VERSION, canonical_numbers, find_quantities

DATA = Path(__file__).resolve().parents[1] / "data"


def rows(name: str) -> list[list[str]]:
    lines = (DATA / name).read_text(encoding="utf-8").splitlines()
    return [line.split("\t") for line in lines if line and not line.startswith("#")]


PAIRS = rows("number_pairs.tsv")
FREE = [row[0] for row in rows("number_free.tsv")]


def scored(text: str) -> str:
    return normalise(canonical_numbers(text))


def find_numbers(text: str) -> list[str]:
    """Return sign, value and unit of measurement of each quantity that is not ambiguous; counters are left out."""
    found = [quantity for quantity in find_quantities(text) if not quantity.is_ambiguous]
    return [q.sign + q.value + (q.unit if q.unit in UNITS else "") for q in found]


def spell(n: int) -> str:
    """Sino-Korean, as it is said: no 일 before 십, 백, 천 and a leading 만."""
    digits = "영일이삼사오육칠팔구"
    if n >= 10_000:
        head = "" if n // 10_000 == 1 else spell(n // 10_000)
        return head + "만" + (spell(n % 10_000) if n % 10_000 else "")
    words = ""
    for place, name in ((1000, "천"), (100, "백"), (10, "십"), (1, "")):
        digit = n // place % 10
        if digit:
            words += ("" if digit == 1 and name else digits[digit]) + name
    return words


def test_tables_are_as_large_as_promised() -> None:
    assert len(PAIRS) >= 300
    assert len({tuple(pair) for pair in PAIRS}) == len(PAIRS)
    assert all(re.search(r"\d", written) for _, written in PAIRS)
    assert not any(re.search(r"\d", spoken) for spoken, _ in PAIRS)
    assert len(set(FREE)) == len(FREE) >= 150


@pytest.mark.parametrize(("spoken", "written"), PAIRS, ids=[f"{a}={b}" for a, b in PAIRS])
def test_spoken_and_written_become_one(spoken: str, written: str) -> None:
    assert scored(spoken) == scored(written)
    assert re.search(r"\d", canonical_numbers(spoken))
    assert find_numbers(spoken) == find_numbers(written) != []
    for text in (spoken, written):
        assert canonical_numbers(canonical_numbers(text)) == canonical_numbers(text)


@pytest.mark.parametrize("text", FREE)
def test_words_stay_words(text: str) -> None:
    assert canonical_numbers(text) == text
    assert find_numbers(text) == []


@pytest.mark.parametrize(
    ("text", "form", "numbers"),
    [
        ("이백 십육", "216", ["216"]),
        ("오후 세시 반에 오세요.", "오후 3시 30분에 오세요.", ["3", "30"]),
        ("혈압은 백이십에 팔십이에요.", "혈압은 120에 80이에요.", ["120", "80"]),
        ("오 밀리그램하고 오 밀리리터", "5mg하고 5ml", ["5mg", "5ml"]),
        ("두통이 두 번 있었어요.", "두통이 2번 있었어요.", ["2"]),
        ("열이 열 시부터 났어요.", "열이 10시부터 났어요.", ["10"]),
        ("이 약을 이 주 동안 드세요.", "이 약을 2주 동안 드세요.", ["2"]),
        ("삼차 접종 후에 삼차 신경통이 왔어요.", "3차 접종 후에 삼차 신경통이 왔어요.", ["3"]),
        ("이백이 넘어요.", "200이 넘어요.", ["200"]),
        ("이백이를 넘어요.", "202를 넘어요.", ["202"]),
        ("만 오천 원, 만 육십오 세", "15000원, 만 65세", ["15000", "65"]),
        ("16,000명과 120/80, -5도, B12", "16000명과 120에 80, -5도, B12", ["16000", "120", "80", "-5도"]),
        ("", "", []),
    ],
)
def test_sentences(text: str, form: str, numbers: list[str]) -> None:
    assert canonical_numbers(text) == form
    assert find_numbers(text) == numbers


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        # endings after a number in digits, and dates before the copula
        ("입원비가 20만이에요", ["200000"]),
        ("혈소판이 8만이 안 돼요", ["80000"]),
        ("하루에 2천이나 먹어요", ["2000"]),
        ("내일이 칠일이에요", ["7"]),
        ("수술이 구일이래요", ["9"]),
        # spaces in a number, and days after one
        ("사십 일 정도 지났어요", ["40"]),
        ("이십 일분 지어 주세요", ["20"]),
        ("열 네 살이에요", ["14"]),
        ("삼 십 프로", ["30%"]),
        ("이 천 칼로리", ["2000"]),
        # a final two before the copula
        ("맥박이 육십이예요", ["62"]),
        ("맥박이 육십이에요", ["60"]),
        ("맥박이 칠십이였어요", ["72"]),
        ("수치가 이백이 나왔어요", ["200"]),
        ("수치가 이백이 정도예요", ["202"]),
        # signs, halves and fractions
        ("영하 삼 도예요", ["-3도"]),
        ("도수가 마이너스 이 점 오예요", ["-2.5"]),
        ("한 알 반씩 드세요", ["1.5"]),
        ("이분의 일 알 드세요", ["1/2"]),
        ("38도 5부예요", ["38.5도"]),
        # never another number
        ("이천이에요", []),
        ("혈당이 사이예요", []),
        ("칠십에서 팔십 사이예요", ["70~80"]),
        ("열 두 번 났어요", []),
        ("이십일에 오세요", []),
        ("혈당이 백이 걱정돼요", []),
        ("공일공 일이삼사 오육칠이예요", ["01012345672"]),
        ("공일공 일이삼사 오육칠팔이에요", ["01012345678"]),
        ("공일공일이삼사오육칠팔이고요", ["01012345678"]),
        ("공이 오오오 일이삼일이에요", ["025551231"]),
        ("공이오오오오일이삼일이에요", ["0255551231"]),
        ("공칠공에 일이삼사에 오육칠팔이요", ["07012345678"]),
        # counters, periods, floors and doses
        ("담배를 스무 개비 피웠어요", ["20"]),
        ("약을 세 종류 먹어요", ["3"]),
        ("항암 여섯 사이클", ["6"]),
        ("인슐린 열두 단위", ["12"]),
        ("보름에 한 번 와요", ["1"]),
        ("지하 이 층 영상의학과", ["2"]),
        ("백신은 이 차까지 맞았어요", ["2"]),
        ("이 층이에요", []),
        ("이 차를 타고 왔어요", []),
        # a space after the first digit
        ("혈당이 이 백이에요", ["200"]),
        ("혈당이 이 백 오십육이에요", ["256"]),
        ("혈압이 이 백에 백이에요", ["200", "100"]),
        ("이 십육살이에요", ["26"]),
        ("이 십오일에 오세요", ["25"]),
        ("이 십 정도 드세요", []),
        ("이 백오십 나왔어요", []),
        ("아침에 칠십만칠천 백이 나왔어요", []),
        ("이 천명이 들려요", []),
        ("이 백사장에서 넘어졌어요", []),
        ("만 육십오 세예요", ["65"]),
        ("혈압이 백삼십 팔십이에요", ["130", "80"]),
        # no day of the calendar
        ("어제 백육십일에 팔십이에요", ["161", "80"]),
        ("어제 백이십일이 나왔어요", []),
        ("검사가 이십일이 나왔어요", []),
        ("어제가 이십일이에요", ["20"]),
        ("생후 백이십일이에요", ["120"]),
        # ranges of large numbers, and numbers that nothing parts
        ("약값이 2~3만 원이에요", ["20000", "30000"]),
        ("혈소판이 15−20만이에요", ["150000", "200000"]),
        ("하루 3~4천 보", ["3000~4000"]),
        ("2, 3만 원", ["20000", "30000"]),
        ("2~3만 5천 원", ["2", "35000"]),
        ("혈소판이 1만2만", ["10000", "20000"]),
        ("1만 5천2만 원", ["15000", "20000"]),
        ("혈압이 백이십80", ["120", "80"]),
        ("5mg10mg 드세요", ["5mg", "10mg"]),
        # a range of times has no minus
        ("9:00−18:00 진료", ["9", "18"]),
        ("오전 9:30−10:30", ["9", "30", "10", "30"]),
        ("검사 −5예요", ["-5"]),
        # ranges that look like telephone numbers
        ("하루 1500~2000칼로리", ["1500~2000"]),
        ("물은 1500-2000cc", ["1500~2000cc"]),
        ("약값이 2000~3000원", ["2000~3000"]),
        ("백혈구가 5000-6000 정도", ["5000~6000"]),
        ("1588-1234번이에요", ["15881234"]),
        # Arabic digits that end a number
        ("진료비가 1만 2000원이에요", ["12000"]),
        ("진료비가 1만 2,500원이에요", ["12500"]),
        ("약값이 3만500원이에요", ["30500"]),
        ("약값이 3만 500원이에요", ["30500"]),
        ("혈소판이 15만3000이에요", ["153000"]),
        ("하루 1만 5000보", ["15000"]),
        ("2천24년 5월", ["2024", "5"]),
        ("십오만 3000원", ["153000"]),
        ("혈소판이 15만 2024년 3월에", ["150000", "2024", "3"]),
        ("혈소판이 15만 120에 80", ["150000", "120", "80"]),
        ("5만 20명", ["50000", "20"]),
        # a weight's point ends no sentence
        ("몸무게가 58.3킬로예요", ["58.3kg"]),
        ("체중이 삼 점 이 킬로로 태어났어요", ["3.2kg"]),
        ("무게를 쟀어요. 3킬로 걸었어요", ["3km"]),
    ],
)
def test_values(text: str, numbers: list[str]) -> None:
    assert find_numbers(text) == numbers


@pytest.mark.parametrize(
    ("said", "written"),
    [
        ("비타민 비십이 주사", "비타민 B12 주사"),
        ("비타민 디 삼을 먹어요", "비타민 D3을 먹어요"),
        ("케이에프 구십사 마스크", "KF94 마스크"),
        ("씨에이 십구 다시 구 검사", "CA19-9 검사"),
        ("씨에이 백이십오 검사", "CA 125 검사"),
        ("에이치비에이원씨가 높아요", "HbA1c가 높아요"),
    ],
)
def test_codes_are_names_and_no_quantities(said: str, written: str) -> None:
    assert scored(said) == scored(written)
    assert find_quantities(said) == find_quantities(written) == []


def test_ambiguous_phrases_keep_their_readings_and_places() -> None:
    text = "혈압이 백이십에 팔십이고 이십 일 먹었어요"
    first, second, open_one = find_quantities(text)
    assert [(q.value, q.unit, q.is_ambiguous) for q in (first, second)] == [("120", "", False), ("80", "", False)]
    form = canonical_numbers(text)
    assert [form[q.start : q.end] for q in (first, second, open_one)] == ["120", "80", "이십 일"]
    assert open_one.is_ambiguous
    assert open_one.meanings == {("", "21", ""), ("", "20", "일")}


def test_quantities_hold_sign_value_and_unit() -> None:
    found = find_quantities("영하 오 도에서 한 알 반을 하루 두세 번, 세 시 반에")
    meant = [("-", "5", "도"), ("", "1.5", "알"), ("", "2~3", "번"), ("", "3", "시"), ("", "30", "분")]
    assert [(q.sign, q.value, q.unit) for q in found] == meant


@pytest.mark.parametrize(
    ("said", "other"),
    [
        ("이삼 일", "이십삼 일"),
        ("두세 번", "스물세 번"),
        ("2~3번", "23번"),
        ("2～3번", "23번"),
        ("36.5~37.5도", "36.537.5도"),
        ("이삼십 분", "2030분"),
        ("10~5", "105"),
        ("2, 3일", "23일"),
        ("120 / 80", "12080"),
        ("- 2.5", "2.5"),
        ("1/2정", "12정"),
        ("이, 삼 번", "이십삼 번"),
    ],
)
def test_a_range_is_no_longer_number(said: str, other: str) -> None:
    assert scored(said) != scored(other)
    assert len(scored(said)) <= len(scored(other)) + 1
    assert normalise(scored(said)) == scored(said)


def test_terms_are_no_numbers() -> None:
    """No medical term but the units turns into a number, alone or with its particle."""
    for term in load_terms():
        for spelling in term.spellings if term.category != "unit" else ():
            stem = spelling.removesuffix("-")
            if not re.search(r"\d|일구|오메가|비타민", stem):
                for text in (stem, f"{stem}이 있어요", f"{stem}도 했어요", f"이 {stem} 때문에"):
                    assert canonical_numbers(text) == text


def test_decomposed_input_is_read_too() -> None:
    assert canonical_numbers(unicodedata.normalize("NFD", "세 번")) == "3번"


@settings(deadline=None)
@given(st.integers(11, 99_999_999))
def test_every_sum_of_money_is_read(n: int) -> None:
    assert canonical_numbers(f"{spell(n)} 원") == f"{n}원"
    assert canonical_numbers(f"{spell(n)}원이에요") == f"{n}원이에요"
    assert canonical_numbers(f"{n:,} 원") == f"{n}원"


@settings(deadline=None)
@given(st.integers(11, 999), st.integers(0, 999))
def test_every_decimal_is_read(whole: int, places: int) -> None:
    spelled = f"{spell(whole)} 점 {''.join('공일이삼사오육칠팔구'[int(d)] for d in str(places))} 퍼센트"
    assert canonical_numbers(spelled) == f"{whole}.{places}%"


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from([word for pair in PAIRS for word in pair] + FREE + list("이일십백만반점시월 .~-:5")), max_size=5
    )
)
def test_twice_is_once(parts: list[str]) -> None:
    for joint in ("", " "):
        once = canonical_numbers(joint.join(parts))
        assert canonical_numbers(once) == once


@pytest.mark.slow
@settings(deadline=None)
@given(st.text(max_size=30))
def test_any_text_is_taken(text: str) -> None:
    once = canonical_numbers(text)
    assert canonical_numbers(once) == once


@settings(deadline=None)
@given(st.text(alphabet="가나라마바파하물약병원에서는 .,?", max_size=40))
def test_text_without_number_words_is_untouched(text: str) -> None:
    assert canonical_numbers(text) == text


def test_version_is_a_string() -> None:
    assert NUMBERS_VERSION


@pytest.mark.real_speech
def test_dual_notation_of_real_labels_agrees(real_speech: Path) -> None:
    """Spelling and pronunciation of the same real label: none agree as written, 27 of 31 do in one form."""
    labels = set()
    for path in sorted(real_speech.rglob("*라벨*.zip")):
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                try:
                    label = json.loads(archive.read(member).decode("utf-8-sig"))
                except ValueError:
                    continue
                labels.add(label["전사정보"]["LabelText"])
    agreed = before = total = 0
    for label in labels:
        spelling, pronunciation = resolve_marks(label, "spelling"), resolve_marks(label, "pronunciation")
        if spelling != pronunciation and re.search(r"\d", spelling):
            total += 1
            before += normalise(spelling) == normalise(pronunciation)
            agreed += scored(spelling) == scored(pronunciation)
    assert total >= 25
    assert before == 0
    assert agreed >= 0.85 * total, f"{agreed} of {total}"

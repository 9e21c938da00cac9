from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmed_bench.corpus.demo.sentences import read_sentences
from kmed_bench.text.terms import CATEGORIES, TERMS_VERSION, find_terms, load_terms, match_terms

NAMES = [term.name for term in load_terms()]


def names(text: str) -> list[str]:
    return [term.name for term in find_terms(text)]


def term_hits(reference: str, hypothesis: str) -> tuple[int, int]:
    """How many terms a reference has, and how many of them the hypothesis has too."""
    matched = match_terms(reference, hypothesis)
    return sum(n for _, n, _ in matched), sum(found for _, _, found in matched)


def test_lexicon_is_what_is_promised() -> None:
    terms = load_terms()
    assert len(terms) >= 1000
    assert len(set(NAMES)) == len(NAMES)
    spellings = Counter(spelling for term in terms for spelling in term.spellings)
    assert [spelling for spelling, n in spellings.items() if n > 1] == []
    counts = Counter(term.category for term in terms)
    assert set(counts) == set(CATEGORIES)
    for category in ("symptom", "drug", "body", "test"):
        assert counts[category] >= 150
    assert counts["department"] >= 80
    assert counts["unit"] >= 25
    assert all(spelling.removesuffix("-") for term in terms for spelling in term.spellings)
    assert TERMS_VERSION


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ("두통이 심해서 두통약을 먹었어요.", ["두통", "두통약"]),
        ("대장 내시경을 했어요.", ["대장내시경"]),
        ("대장내시경하고 위 내시경", ["대장내시경", "위내시경"]),
        ("당뇨병 환자예요", ["당뇨"]),
        ("당뇨약이랑 혈압약은요?", ["당뇨약", "혈압약"]),
        ("급성 위염이래요", ["위염"]),
        ("급성위염이래요", ["위염"]),
        ("왼쪽무릎관절이 아파요", ["무릎관절", "아프다"]),
        ("목이 붓고 열이 나요", ["목", "붓다", "열"]),
        ("구토했어요", ["구토"]),
        ("엠알아이하고 CT를 찍었어요", ["엠알아이", "씨티"]),
        ("mri 찍고 씨티도 찍었어요", ["엠알아이", "씨티"]),
        ("하루 500mg, 20 ml씩", ["밀리그램", "밀리리터"]),
        ("오백 밀리그램하고 십 미리리터", ["밀리그램", "밀리리터"]),
        ("오백밀리그램씩 드세요", ["밀리그램"]),
        ("산소 포화도가 95%예요", ["산소포화도", "퍼센트"]),
        ("120 mg/dL", ["밀리그램퍼데시리터"]),
        ("이비인후과에서 정형외과로", ["이비인후과", "정형외과"]),
        ("정신건강의학과 외래", ["정신과", "외래"]),
        ("갑상샘 수치가 높아요", ["갑상선수치"]),
        ("속이 메스꺼워서 토했어요", ["속", "메스껍다", "토하다"]),
        ("어지럽고 숨이 차요", ["어지럽다", "숨차다"]),
        ("코로나19 백신", ["코로나", "백신"]),
    ],
)
def test_terms_are_found(text: str, found: list[str]) -> None:
    assert names(text) == found


@pytest.mark.parametrize(
    "text",
    [
        "두 통을 샀어요.",
        "이마트에서 만나요.",
        "다리미로 옷을 다려요.",
        "허리케인이 온대요.",
        "목요일에 올게요.",
        "배우가 되고 싶어요.",
        "손님이 많아요.",
        "발표를 했어요.",
        "약속이 있어요.",
        "약 삼십 분 걸려요.",
        "열심히 할게요.",
        "열 번 했어요.",
        "귀신을 봤어요.",
        "입학했어요.",
        "코끼리가 커요.",
        "팔아요.",
        "프로 선수예요.",
        "그램린",
        "미터기를 봤어요.",
        "직장에 다녀요.",
        "사지 마세요.",
        "눈사람을 만들었어요.",
        "간장을 넣었어요.",
        "CTO and MRIs",
        "오늘 날씨가 좋네요.",
        "내일 세 시에 만나요.",
        "감사합니다.",
    ],
)
def test_other_words_are_no_terms(text: str) -> None:
    assert names(text) == []


@pytest.mark.parametrize(
    ("reference", "hypothesis", "hits"),
    [
        ("", "두통이 있어요", (0, 0)),
        ("안녕하세요", "", (0, 0)),
        ("두통이 있어요", "", (1, 0)),
        ("두통이 있어요", "두통이 있어요", (1, 1)),
        ("두통이 있어요", "두 통이 있어요", (1, 1)),
        ("두통이 있어요", "구통이 있어요", (1, 0)),
        ("두통하고 두통하고 설사", "두통하고 설사", (3, 2)),
        ("위내시경을 했어요", "위 내시경을 했어요", (1, 1)),
        ("위내시경을 했어요", "내시경을 했어요", (1, 0)),
        ("오백 밀리그램", "500mg", (1, 1)),
        ("오백 밀리그램", "500ml", (1, 0)),
        ("구십오 퍼센트", "95%", (1, 1)),
        ("엠알아이를 찍었어요", "MRI를 찍었어요", (1, 1)),
        ("목이 아파요", "몫이 아파요", (2, 1)),
        ("배가 아파요", "배우가 아파요", (2, 1)),
        ("갑상선 수치", "갑상샘 수치", (1, 1)),
        ("아스피린이랑 타이레놀", "아스피린이랑 타이레놀이랑 두통", (2, 2)),
    ],
)
def test_hits(reference: str, hypothesis: str, hits: tuple[int, int]) -> None:
    assert term_hits(reference, hypothesis) == hits


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_spelling_is_found_in_a_sentence(category: str) -> None:
    """Nouns with their particle; units after a number; stems of verbs with an ending."""
    for term in load_terms():
        for spelling in term.spellings if term.category == category else ():
            if spelling.endswith("-"):
                text = f"어제 {spelling[:-1]} 것 같아요"
            elif category == "unit":
                text = f"5 {spelling} 있어요"
            else:
                closed = spelling[-1].isascii() or (ord(spelling[-1]) - 0xAC00) % 28
                text = f"어제 {spelling}{'이' if closed else '가'} 있어요"
            assert term in find_terms(text), (spelling, names(text))


words = st.sampled_from([*NAMES, "어제", "아파요", "세 번", "있어요", "그리고", "12", "mg", " "])


@settings(deadline=None)
@given(st.lists(words, max_size=8))
def test_a_text_keeps_all_its_own_terms(parts: list[str]) -> None:
    text = " ".join(parts)
    n_wanted, n_found = term_hits(text, text)
    assert n_wanted == n_found == len(find_terms(text))


@settings(deadline=None)
@given(st.text(max_size=40), st.lists(words, max_size=5))
def test_found_never_exceeds_wanted(hypothesis: str, parts: list[str]) -> None:
    n_wanted, n_found = term_hits(" ".join(parts), hypothesis)
    assert 0 <= n_found <= n_wanted


def test_most_demo_sentences_have_terms() -> None:
    spoken = [sentence.spoken for sentence in read_sentences()]
    assert sum(bool(find_terms(text)) for text in spoken) >= 0.75 * len(spoken)

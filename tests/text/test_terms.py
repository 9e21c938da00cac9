from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmed_bench.corpus.demo.sentences import read_sentences
from kmed_bench.text.inflection import ending_after, inflect
from kmed_bench.text.lexicon import CATEGORIES, load_terms
from kmed_bench.text.terms import TERMS_VERSION, find_terms, match_terms

NAMES = [term.name for term in load_terms()]
DATA = Path(__file__).resolve().parents[1] / "data"
SOURCES = {"own", "kiwi", "wikidata", "hc"}


def labelled(part: str) -> list[tuple[str, list[str]]]:
    """Sentences of a part, each with the names of the terms that stand in it."""
    lines = (DATA / f"terms_{part}.tsv").read_text(encoding="utf-8").splitlines()
    rows = [line.partition("\t") for line in lines if not line.startswith("#")]
    return [(text, terms.split("|") if terms else []) for text, _, terms in rows]


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
    assert counts["drug"] >= 500
    assert all(spelling for term in terms for spelling in term.spellings)
    assert all(set(term.source.split(",")) <= SOURCES for term in terms)
    assert TERMS_VERSION == "2"


@pytest.mark.parametrize("part", ["development", "held_out"])
def test_precision_and_recall_on_labelled_sentences(part: str) -> None:
    rows = labelled(part)
    assert len(rows) >= 200
    assert sum(not terms for _, terms in rows) >= 60
    found = right = wanted = 0
    for text, terms in rows:
        said = Counter(names(text))
        found += said.total()
        wanted += len(terms)
        right += (said & Counter(terms)).total()
    assert right / found >= 0.98
    assert right / wanted >= 0.98


@pytest.mark.parametrize(
    ("predicate", "irregular", "forms"),
    [
        ("아프다", "", "아파요 아픕니다 아프고 아픈 아플 아팠어요 아프세요 아퍼요 아픔 아프니까 아파지다"),
        ("가렵다", "ㅂ", "가려워요 가렵습니다 가려우세요 가려운 가려울 가려웠어요 가려우면 가렵지"),
        ("붓다", "ㅅ", "부어요 붓습니다 부으세요 부은 부을 부었어요 부으면 붓고"),
        ("깨닫다", "ㄷ", "깨달아요 깨닫습니다 깨달으세요 깨달은 깨달았어요 깨달으면 깨닫고"),
        ("마르다", "", "말라요 마릅니다 마르세요 마른 말랐어요 마르면 마르고"),
        ("부르트다", "", "부르터요 부르틉니다 부르튼 부르텄어요 부르트면"),
        ("멍들다", "", "멍들어요 멍듭니다 멍드세요 멍든 멍들었어요 멍들면 멍드는 멍들고"),
        ("체하다", "", "체해요 체합니다 체하세요 체한 체했어요 체하면 체하여"),
        ("저리다", "", "저려요 저립니다 저리세요 저린 저렸어요 저리면 저리네요"),
        ("곪다", "", "곪아요 곪습니다 곪으면 곪은 곪았어요"),
        ("삐다", "", "삐었어요 삐어서 삔 삐고"),
        ("데다", "", "데었어요 데어서 덴 데면"),
    ],
)
def test_inflection(predicate: str, irregular: str, forms: str) -> None:
    surfaces = inflect(predicate, irregular)

    def is_form(word: str) -> bool:
        return any(
            word.startswith(surface) and ending_after(word, len(surface), kinds) == len(word)
            for surface, kinds in surfaces.items()
        )

    assert [form for form in forms.split() if not is_form(form)] == []


@pytest.mark.parametrize("word", ["아프리카", "저리", "저리로", "쓰려고", "부어라마셔라", "토하"])
def test_other_words_are_no_forms(word: str) -> None:
    for predicate, irregular in (("아프다", ""), ("저리다", ""), ("쓰리다", ""), ("토하다", "")):
        assert [
            surface
            for surface, kinds in inflect(predicate, irregular).items()
            if word.startswith(surface) and ending_after(word, len(surface), kinds) is not None
        ] == []


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
        ("머리가 아픕니다", ["머리", "아프다"]),
        ("귀가 가려우세요?", ["귀", "가렵다"]),
        ("온몸이 쑤십니다", ["온몸", "쑤시다"]),
        ("밤에 토해요", ["토하다"]),
        ("갑자기 어지러웠어요", ["어지럽다"]),
        ("점심 먹고 체해서 왔어요", ["체하다"]),
        ("땅콩 알러지가 있어요", ["알레르기"]),
        ("목 아파요", ["목", "아프다"]),
        ("열 나요", ["열"]),
        ("머리아파요", ["머리", "아프다"]),
        ("머릴 다쳤어요", ["머리", "다치다"]),
        ("코가 꽉 막혔어요", ["코막힘"]),
        ("숨이 너무 차요", ["숨차다"]),
        ("잠을 통 못 자요", ["잠이안오다"]),
        ("리피토정하고 노바스크", ["리피토", "노바스크"]),
        ("체온이 38.5도예요", ["체온", "도"]),
        ("발목이 퉁퉁 부었어요", ["발목", "붓다"]),
        ("초음파로 간을 봤어요", ["초음파", "간"]),
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
        "컵에 물을 부어 주세요.",
        "적금을 붓고 있어요.",
        "저리 가세요.",
        "글을 쓰려고 해요.",
        "친구를 속이고 왔어요.",
        "아는 체했어요.",
        "성격이 화끈해요.",
        "볼거리가 많아요.",
        "법안을 입안했어요.",
        "눈이 와요.",
        "눈 오는 날이에요.",
        "배를 타고 왔어요.",
        "값이 두 배예요.",
        "찌개 간을 봤어요.",
        "입을 옷이 없어요.",
        "크림을 발라도 돼요.",
        "다리를 건너세요.",
        "화상 통화를 했어요.",
        "자상하신 분이에요.",
        "편도 요금이에요.",
        "신경 쓰지 마세요.",
        "시티 투어를 했어요.",
        "하나도 없어요.",
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
        ("열이 나요", "열 나요", (1, 1)),
        ("배가 아파요", "배 아파요", (2, 2)),
        ("머리가 아픕니다", "머리가아파요", (2, 2)),
        ("숨이 차요", "수미 차요", (1, 0)),
        ("배가 아프다", "배가 아프리카", (2, 1)),
        ("목이 부었어요", "모기 부었어요", (2, 1)),
        ("코가 막혀요", "코가막혀서 왔어요", (1, 1)),
        ("아스피린이랑 타이레놀", "아스피린이랑 타이레놀이랑 두통", (2, 2)),
    ],
)
def test_hits(reference: str, hypothesis: str, hits: tuple[int, int]) -> None:
    assert term_hits(reference, hypothesis) == hits


# Spellings that count only with company other than that of the sentences below.
COMPANY = {
    "구역": "속이 메스껍고 구역이 나요",
    "복수": "배에 복수가 찼어요",
    "볼거리": "볼거리 백신",
    "사시": "눈이 사시예요",
    "뜸": "뜸을 떴어요",
    "쑥뜸": "쑥뜸을 떴어요",
    "뜸치료": "뜸치료를 받았어요",
}


def carriers(spelling: str, category: str) -> list[str]:
    """Sentences that a spelling may stand in."""
    if spelling.endswith("다") and category == "symptom":
        heads = (
            "어제",
            "머리가",
            "손이",
            "귀가",
            "코가",
            "입안이",
            "소변을",
            "혀가",
            "뼈가",
            "눈앞이",
            "배 속이",
            "종아리가",
        )
        return [f"{head} {spelling[:-1]}고 있어요" for head in heads]
    if category == "unit":
        return [f"5 {spelling}이에요", f"5 {spelling}예요"]
    closed = spelling[-1].isascii() or (ord(spelling[-1]) - 0xAC00) % 28
    subject = f"{spelling}{'이' if closed else '가'}"
    endings = ("있어요", "아파요", "나왔어요", "걸렸어요", "안 나와요", "나요", "심해요", "염증이 있어요")
    heads = (
        "어제",
        "배에",
        "손이랑",
        "귀에서",
        "항문에",
        "피부에",
        "암은",
        "절개하고",
        "숨소리에",
        "손으로",
        "한의원에서",
    )
    return [f"{head} {subject} {ending}" for head in heads for ending in endings]


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_spelling_is_found_in_a_sentence(category: str) -> None:
    """Nouns with their particle; units after a number; verbs and adjectives with an ending."""
    lost = [
        spelling
        for term in load_terms()
        if term.category == category
        for spelling in term.spellings
        if not any(term in find_terms(text) for text in [*carriers(spelling, category), COMPANY.get(spelling, "")])
    ]
    assert lost == []


words = st.sampled_from([*NAMES, "어제", "아파요", "세 번", "있어요", "그리고", "12", "mg", " "])


@settings(deadline=None)
@given(st.lists(words, max_size=8))
def test_a_text_keeps_all_its_own_terms(parts: list[str]) -> None:
    text = " ".join(parts)
    n_wanted, n_found = term_hits(text, text)
    assert n_wanted == n_found == len(find_terms(text))


@settings(deadline=None)
@given(st.text(max_size=40))
def test_a_reference_without_terms_wants_none(hypothesis: str) -> None:
    assert match_terms("오늘 날씨가 좋네요", hypothesis) == []


@settings(deadline=None)
@given(st.text(max_size=40), st.lists(words, max_size=5))
def test_found_never_exceeds_wanted(hypothesis: str, parts: list[str]) -> None:
    n_wanted, n_found = term_hits(" ".join(parts), hypothesis)
    assert 0 <= n_found <= n_wanted


def test_most_demo_sentences_have_terms() -> None:
    spoken = [sentence.spoken for sentence in read_sentences()]
    assert sum(bool(find_terms(text)) for text in spoken) >= 0.75 * len(spoken)

import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmed_bench.corpus.demo.sentences import read_sentences
from kmed_bench.text.normalise import normalise
from kmed_bench.text.variants import VARIANTS_VERSION, code_switch, load_variants, resolve_variants

KINDS = {"latin", "unit", "native", "loan", "word", "short", "part"}
SOURCES = {"own", "letters", "si", "orth", "hc"}


def written(form: str, kind: str) -> str:
    """A sentence that a form may stand in."""
    return {
        "unit": f"하루 5 {form} 드세요",
        "native": f"체온이 38 {form}",
        "part": f"어제 {form}던 것 같아요",
        "short": f"어제 {form} 뭐라고 했지요",
    }.get(kind, f"어제 {form} 말씀하셨지요")


def test_table_is_what_is_promised() -> None:
    table = load_variants()
    assert VARIANTS_VERSION == "1"
    assert len(table) >= 800
    assert {variant.kind for variant in table} == KINDS
    assert all(set(variant.source.split(",")) <= SOURCES for variant in table)
    assert all(len(variant.forms) > 1 for variant in table)
    letters = [tuple(normalise(form) for form in variant.forms) for variant in table]
    assert all(len(set(forms)) == len(forms) for forms in letters)
    counts = Counter(variant.kind for variant in table)
    assert counts["latin"] >= 500
    assert counts["loan"] >= 100
    assert counts["unit"] >= 30


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_pair_of_forms_is_one_word(kind: str) -> None:
    lost = []
    for variant in load_variants():
        for right, other in itertools.permutations(variant.forms, 2) if variant.kind == kind else ():
            reference, hypothesis = written(right, kind), written(other, kind)
            text, resolved = resolve_variants(reference, hypothesis)
            if normalise(text) != normalise(reference) or len(resolved) != 1 or resolved[0].kind != kind:
                lost.append((right, other, text, resolved))
    assert lost == []


@pytest.mark.parametrize(
    ("reference", "hypothesis", "text", "replaced"),
    [
        ("CT를 찍었어요", "씨티를 찍었어요", "ct를 찍었어요", [("씨티", "ct")]),
        ("시티를 찍었어요", "CT를 찍었어요.", "시티를 찍었어요", [("ct", "시티")]),
        ("엠알아이 찍고", "MRI 찍고", "엠알아이 찍고", [("mri", "엠알아이")]),
        ("MRI 찍고", "엠 알 아이 찍고", "mri 찍고", [("엠 알 아이", "mri")]),
        ("복부 CT", "복부씨티", "복부ct", [("씨티", "ct")]),
        ("MRI/CT 결과", "엠알아이 씨티 결과", "mri ct 결과", [("엠알아이", "mri"), ("씨티", "ct")]),
        ("120 mg/dL", "120 밀리그램 퍼 데시리터", "120 mg dl", [("밀리그램 퍼 데시리터", "mg dl")]),
        ("X-ray 결과", "엑스레이 결과", "xray 결과", [("엑스레이", "xray")]),
        ("500mg 드세요", "500밀리그램 드세요", "500mg 드세요", [("밀리그램", "mg")]),
        ("95%예요", "95프로예요", "95%예요", [("프로", "%")]),
        ("알레르기 약", "알러지 약", "알레르기 약", [("알러지", "알레르기")]),
        ("타이레놀 주세요", "타이래놀 주세요", "타이레놀 주세요", [("타이래놀", "타이레놀")]),
        ("이건 됐어요", "이것은 되었어요", "이건 됐어요", [("이것은", "이건"), ("되었", "됐")]),
        ("CT 찍고 CT 봐요", "씨티 찍고 시티 봐요", "ct 찍고 ct 봐요", [("씨티", "ct"), ("시티", "ct")]),
        ("CT 찍고 씨티 봐요", "시티 찍고 CT 봐요", "ct 찍고 씨티 봐요", [("시티", "ct"), ("ct", "씨티")]),
        ("어제 병원에서 CT 찍었어요", "병원에서 씨티 찍었어요", "병원에서 ct 찍었어요", [("씨티", "ct")]),
    ],
)
def test_right_spellings(reference: str, hypothesis: str, text: str, replaced: list[tuple[str, str]]) -> None:
    got, resolved = resolve_variants(reference, hypothesis)
    assert got == text
    assert [(one.written, one.accepted) for one in resolved] == replaced


@pytest.mark.parametrize(
    ("reference", "hypothesis"),
    [
        ("CT를 찍었어요", "MRI를 찍었어요"),
        ("CT를 찍었어요", "시트를 찍었어요"),
        ("CT를 찍었어요", "찍었어요"),
        ("찍었어요", "씨티를 찍었어요"),
        ("500mg", "500밀리리터"),
        ("500 밀리그램", "500 엠지"),  # heard otherwise
        ("95퍼센트", "95프로"),
        ("씨티", "CTO"),
        ("씨티", "XCT"),
        ("5그램", "5gb"),
        ("그램이 커요", "g이 커요"),
        ("이건 제 거예요", "이 건 제 거예요"),
        ("되었어요", "되었어요"),
        ("CT를 찍고 집에 가서 저녁을 먹었어요", "저녁을 먹고 나서 집에 가는데 씨티를"),
        ("", "씨티"),
        ("CT", ""),
    ],
)
def test_wrong_words_stay(reference: str, hypothesis: str) -> None:
    assert resolve_variants(reference, hypothesis) == (hypothesis, [])


def test_no_row_makes_another_word_right() -> None:
    """The first form of each row against every form of the row after it."""
    table = load_variants()
    for variant, other in itertools.pairwise(table):
        if set(map(normalise, variant.forms)) & set(map(normalise, other.forms)):
            continue
        for form in other.forms:
            hypothesis = written(form, other.kind)
            assert resolve_variants(written(variant.forms[0], variant.kind), hypothesis) == (hypothesis, [])


FORMS = sorted({form for variant in load_variants() for form in variant.forms})
texts = st.lists(
    st.sampled_from([*FORMS, "어제", "찍었어요", "5", "를", "이", "CT", "씨티", "시티", "mg", "밀리그램"]), max_size=8
).map(" ".join) | st.text(max_size=20)


@settings(deadline=None)
@given(texts)
def test_identical_texts_stay(text: str) -> None:
    assert resolve_variants(text, text) == (text, [])


@settings(deadline=None)
@given(texts, texts)
def test_resolving_twice_changes_nothing(reference: str, hypothesis: str) -> None:
    once, _ = resolve_variants(reference, hypothesis)
    assert resolve_variants(reference, once) == (once, [])


@settings(deadline=None)
@given(texts, texts)
def test_only_named_spellings_change(reference: str, hypothesis: str) -> None:
    """Taking the accepted spellings back gives the hypothesis: nothing else is touched, and every one is a row's."""
    text, resolved = resolve_variants(reference, hypothesis)
    at = 0
    pieces = []
    for one in resolved:
        place = text.index(one.accepted, at)
        pieces += [text[at:place], one.written]
        at = place + len(one.accepted)
        pair = {normalise(one.accepted), normalise(one.written)}
        assert any(pair <= set(map(normalise, variant.forms)) for variant in load_variants())
    if resolved:
        assert normalise("".join(pieces) + text[at:]) == normalise(hypothesis)
    else:
        assert text == hypothesis


@pytest.mark.parametrize(
    ("text", "style"),
    [
        ("", "none"),
        ("배가 아파요", "none"),
        ("이건 하나도 안 됐어요", "none"),
        ("열이 삼십팔 도예요", "none"),
        ("미리 말씀해 주세요", "none"),
        ("씨티를 찍었어요", "hangul"),
        ("복부씨티", "hangul"),
        ("타이레놀 먹었어요", "hangul"),
        ("오 밀리그램", "hangul"),
        ("CT 찍었어요", "latin"),
        ("ＭＲＩ", "latin"),
        ("5 mg", "latin"),
        ("씨티하고 MRI", "latin"),
    ],
)
def test_code_switch(text: str, style: str) -> None:
    assert code_switch(text) == style


def test_demo_sentences_have_each_style() -> None:
    styles = Counter(code_switch(sentence.spoken) for sentence in read_sentences())
    assert styles["none"] > styles["hangul"] > 0

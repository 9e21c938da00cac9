"""Marks and numbers of absurd texts: linear in their length by counting, the same when applied twice."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kmed_bench.text import marks, numbers
from kmed_bench.text.marks import resolve_marks, sentence_key
from kmed_bench.text.numbers import canonical_numbers

# Marks, letters that compose with what a mark keeps from them, and parts of numbers.
PARTS = [
    *"()/*+#@ 가나아음bn.,3~-A\u11a8\u1161\u1100\u0301\u0327\u200d",
    "일",
    "이십",
    "백",
    "만",
    "점",
    "세 번",
    "영하 ",
]
texts = st.lists(st.sampled_from(PARTS), max_size=14).map("".join)


@given(texts, st.sampled_from(["pronunciation", "spelling"]))
@example("가*\u11a8", "spelling")  # 가 and a final consonant are one letter once nothing stands between them
@example("(가)/(나)\u11a8", "pronunciation")
def test_marks_are_gone_after_one_time(text: str, policy: Any) -> None:
    resolved = resolve_marks(text, policy)
    assert resolve_marks(resolved, policy) == resolved


@given(texts)
def test_a_key_is_its_own_key(text: str) -> None:
    assert sentence_key(sentence_key(text)) == sentence_key(text)


@given(texts)
def test_numbers_are_in_their_form_after_one_time(text: str) -> None:
    assert canonical_numbers(canonical_numbers(text)) == canonical_numbers(text)


def count_calls(monkeypatch: pytest.MonkeyPatch, module: Any, *names: str) -> Counter[str]:
    calls = Counter[str]()

    def counting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def count(*args: Any, **kwargs: Any) -> Any:
            calls[name] += 1
            return function(*args, **kwargs)

        return count

    for name in names:
        monkeypatch.setattr(module, name, counting(name, getattr(module, name)))
    return calls


MARKED = [
    "(",
    ")",
    "(가)/(나) ",
    "(가)(나)",
    "(a)/(b)/(c)/",
    "아/",
    "아/음/",
    "아/ ",
    "나/",
    "b/",
    "b/ ",
    "+",
    "*",
    "가+ ",
    "#@",
]


@pytest.mark.parametrize("unit", [*MARKED, "((가)/(나))/(다) ", "아/나/ ", "가*\u11a8", "(가", "아/+", "/*"])
def test_marks_take_passes_by_depth_and_not_by_length(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = count_calls(monkeypatch, marks, "_strip_marks", "_strip_duals")
    for n in (10, 1_000):
        calls.clear()
        resolve_marks(unit * n, "spelling")
        sentence_key(unit * n)
        assert calls["_strip_marks"] <= 4
        assert calls["_strip_duals"] <= 8


def test_brackets_nested_beyond_reason_are_no_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = count_calls(monkeypatch, marks, "_strip_marks")
    for depth, left in ((20, "나"), (5_000, None)):
        calls.clear()
        text = "(" * depth + "가" + ")/(나)" * depth
        resolved = resolve_marks(text, "pronunciation")
        assert resolved == (text if left is None else left)
        assert calls["_strip_marks"] <= 22


NUMBERED = [
    "일",
    "이십",
    "세 번 ",
    "삼점",
    "- ",
    "−",
    "영하 ",
    "2~3번 ",
    "이십육쩜칠 ",
    "오 밀리그램씩 ",
    "백",
    "3시 반 ",
    "1/2 ",
]


@pytest.mark.parametrize(
    "unit", [*NUMBERED, "A-", "CA ", "B12", "1,000,", "1.", "십 ", "공일공", "1~", "-일", "A\u0301"]
)
def test_numbers_take_reads_by_length_and_few_passes(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = count_calls(monkeypatch, numbers, "_scan", "_read")
    for n in (10, 300):
        calls.clear()
        canonical_numbers(unit * n)
        assert calls["_scan"] <= 3
        assert calls["_read"] <= 3 * n * len(unit)


class CountingCode:
    """The pattern of Latin codes, counting the letters that it may look at."""

    def __init__(self, pattern: Any) -> None:
        self.pattern, self.letters = pattern, 0

    def match(self, text: str, at: int) -> Any:
        run = numbers._LATIN_RUN.match(text, at)
        assert run is not None
        self.letters += run.end() - at
        return self.pattern.match(text, at)


@pytest.mark.parametrize("unit", ["A-", "CA-", "a", "AB ", "-A", "A-CA 1"])
def test_letters_without_a_digit_are_looked_at_a_few_times(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counting = CountingCode(numbers._LATIN_CODE)
    monkeypatch.setattr(numbers, "_LATIN_CODE", counting)
    canonical_numbers(unit * 2_000)
    assert counting.letters <= 4 * len(unit) * 2_000


@pytest.mark.parametrize("text", ["A-CA 125", "CA 125", "x CA 19-9", "AB-B12", "COVID-19", "A-B-C 3번", "XCA 125일"])
def test_codes_behind_letters_stay_as_they_are(text: str) -> None:
    assert canonical_numbers(text) == text

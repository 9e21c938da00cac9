"""``number_exact`` and ``cer_number``: quantities, order, both sides of the notation, spaces."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmed_bench.core.predictions import Prediction
from kmed_bench.scoring.measures import count_utterances
from kmed_bench.scoring.numbers import respace
from kmed_bench.text.marks import Policy
from kmed_bench.text.numbers import count_unread

DATA = Path(__file__).resolve().parents[1] / "data"
SPOKEN = [
    line.split("\t")[0]
    for line in (DATA / "number_pairs.tsv").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
]
POLICIES: tuple[Policy, ...] = ("pronunciation", "spelling")


def count(reference: str, hypothesis: str, policy: Policy = "pronunciation") -> dict[str, int]:
    prediction = Prediction(
        utterance_id="u",
        speaker_id="s",
        sentence_id="x",
        reference=reference,
        hypothesis=hypothesis,
        duration_s=3.0,
        decode_s=0.1,
        gender="Female",
        age="20~29",
        dialect="경상",
        region="N/A",
        role="patient",
    )
    row = count_utterances([prediction], policy).iloc[0]
    names = ("numbers_found", "numbers", "numbers_ambiguous", "numbers_unread", "cer_errors", "cer_number_errors")
    return {name: int(row[name]) for name in names}


def exact(reference: str, hypothesis: str) -> tuple[int, int]:
    counts = count(reference, hypothesis)
    return counts["numbers_found"], counts["numbers"]


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("약을 세 번 이 일 동안", "약을 2번 3일 동안", (0, 2)),
        ("육 개월 먹었어요", "여섯 개 먹었어요", (0, 1)),
        ("5mg 드세요", "5ml 드세요", (0, 1)),
        ("오 퍼센트예요", "5예요", (0, 1)),
        ("혈압이 백사십에 구십이에요", "혈압이 90에 140이에요", (1, 2)),
        ("혈압이 백사십에 구십이에요", "혈압이 140/90이에요", (2, 2)),
        ("영하 삼 도", "3도", (0, 1)),
        ("영하 삼 도", "-3℃", (1, 1)),
        ("시력이 -1.5예요", "시력이 1.5예요", (0, 1)),
        ("두 알 반 드세요", "두 알 드세요", (0, 1)),
        ("두 알 반 드세요", "2.5알 드세요", (1, 1)),
        ("삼분의 이 남았어요", "3/2 남았어요", (0, 1)),
        ("이분의 일 정 드세요", "한 정 두 정 드세요", (0, 1)),
        ("두세 번 깼어요", "23번 깼어요", (0, 1)),
        ("한 번에 두 알, 한 번에 세 알", "한 번에 두 알", (2, 4)),
        ("두 번", "두 번 두 번", (1, 1)),
        ("오백 밀리 드세요", "500mg 드세요", (1, 1)),  # the speaker doesn't say of what
        ("오백 밀리 드세요", "500g 드세요", (0, 1)),
        ("약을 드세요", "약을 세 번 드세요", (0, 0)),
    ],
)
def test_quantities_are_compared_in_order(reference: str, hypothesis: str, expected: tuple[int, int]) -> None:
    assert exact(reference, hypothesis) == expected


@pytest.mark.parametrize("hypothesis", ["이십 일 먹었어요", "20일 먹었어요", "21 먹었어요", "이십일 먹었어요"])
def test_an_ambiguous_number_is_counted_and_found_by_any_reading(hypothesis: str) -> None:
    counts = count("이십 일 먹었어요", hypothesis)
    assert (counts["numbers_found"], counts["numbers"], counts["numbers_ambiguous"]) == (1, 1, 1)
    assert exact("이십 일 먹었어요", "22일 먹었어요") == (0, 1)


@pytest.mark.parametrize(
    ("label", "spelled", "said", "n_numbers"),
    [
        ("(3기)/(삼기)예요", "3기예요", "삼기예요", 1),
        (
            "이번 주에 (2번)/(이번) 창가에 앉았어요",
            "이번 주에 2번 창가에 앉았어요",
            "이번 주에 이번 창가에 앉았어요",
            1,
        ),
        ("(20일)/(이십 일) 먹었어요", "20일 먹었어요", "이십 일 먹었어요", 1),
        ("(6관)/(육관)으로 (3시)/(세 시)까지 오세요", "6관으로 3시까지 오세요", "육관으로 세 시까지 오세요", 2),
        ("체온이 (38.5도)/(삼십팔 점 오 도)예요", "체온이 38.5도예요", "체온이 삼십팔 점 오 도예요", 1),
    ],
)
def test_both_sides_of_the_notation_give_one_score(label: str, spelled: str, said: str, n_numbers: int) -> None:
    for hypothesis, found in ((spelled, n_numbers), (said, n_numbers), ("전혀 다른 말이에요", 0)):
        for policy in POLICIES:
            counts = count(label, hypothesis, policy)
            assert (counts["numbers_found"], counts["numbers"]) == (found, n_numbers)


@pytest.mark.slow
@settings(deadline=None)
@given(st.sampled_from(SPOKEN), st.data())
def test_spaces_alone_are_no_error(text: str, data: st.DataObject) -> None:
    letters = text.replace(" ", "")
    cuts = data.draw(st.sets(st.integers(1, len(letters) - 1), max_size=4))
    spaced = "".join(" " * (place in cuts) + letter for place, letter in enumerate(letters))
    for reference, hypothesis in ((text, spaced), (spaced, text)):
        counts = count(reference, hypothesis)
        assert counts["cer_errors"] == counts["cer_number_errors"] == 0
        assert counts["numbers_found"] == counts["numbers"]


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("혈압이 백이십에 팔십이에요", "혈압이백이십에 팔십이에요", "혈압이 백이십에 팔십이에요"),
        ("폐암 사기래요", "폐암사기 래요", "폐암 사기래요"),
        ("하루 세 번 드세요", "하루 3번 드 세요", "하루 3번 드세요"),
        ("체온이 삼십팔 도예요", "체온이 38도예요", "체온이 38도예요"),
        ("약", "", ""),
        ("", "약 이", "약 이"),
    ],
)
def test_the_references_spaces_are_imposed_where_both_agree(reference: str, hypothesis: str, expected: str) -> None:
    assert respace([reference], [hypothesis]) == [expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("세 킬로 빠졌어요", 1),
        ("스무 그램씩 두 밀리", 2),
        ("오륙 미터 걸어요", 1),
        ("삼 킬로 빠졌고 오백 밀리그램을 먹어요", 0),
        ("두 시간 전에 세 번", 0),
        ("이 프로그램을 봐요", 0),  # this programme
        ("열 도까지 올라요", 0),  # 도 is the particle of 열, fever, too
        ("이십 일 먹었어요", 0),  # ambiguous, which is something else
        ("몇 밀리 드려요", 0),
    ],
)
def test_number_words_before_a_unit_that_stay_words_are_counted(text: str, expected: int) -> None:
    assert count_unread(text) == expected
    assert count(text, "네")["numbers_unread"] == expected

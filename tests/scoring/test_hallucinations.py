"""Signs of hallucination: what is invented is found, and nothing that people say is taken for it."""

from pathlib import Path

import pytest

from kmed_bench.scoring.hallucinations import find_signs
from kmed_bench.text.normalise import normalise

DATA = Path(__file__).resolve().parents[1] / "data"


def read(name: str) -> list[str]:
    return [line for line in (DATA / name).read_text(encoding="utf-8").splitlines() if not line.startswith("#")]


LEGITIMATE = read("legitimate_speech.tsv")
HALLUCINATED = [tuple(line.split("\t")) for line in read("hallucinated_speech.tsv")]


def signs(reference: str, hypothesis: str) -> tuple[str, ...]:
    return find_signs(normalise(reference, keep_spaces=True), normalise(hypothesis, keep_spaces=True), 30.0)


def test_there_are_enough_of_both() -> None:
    assert len(set(LEGITIMATE)) >= 60
    assert len(set(HALLUCINATED)) >= 60


@pytest.mark.parametrize("said", LEGITIMATE)
def test_what_people_say_shows_no_sign(said: str) -> None:
    for reference in (said, "어제부터 배가 아파서 왔어요", said[1:], said[:-2], f"{said} 네"):
        assert signs(reference, said) == ()


@pytest.mark.parametrize(("sign", "reference", "hypothesis"), HALLUCINATED)
def test_inventions_show_their_sign(sign: str, reference: str, hypothesis: str) -> None:
    assert sign in signs(reference, hypothesis)
    assert signs(hypothesis, hypothesis) == ()


@pytest.mark.parametrize(
    ("reference", "hypothesis"),
    [
        ("복약 알람 설정하세요", "복약 알림 설정하세요"),
        ("구독 버튼은 눌러 주셨어요", "구독 버튼 눌러 주셨어요"),
        ("와 주셔서 감사합니다", "봐 주셔서 감사합니다"),
        ("진료해 주셔서 감사합니다", "시청해 주셔서 감사합니다"),  # one word misheard
        ("아파요 아파요 아파요 아파요 아파요 아파요", "아파요 아파요 아파요 아파요 아파요 아파여"),
        ("하루에 한 번 하루에 한 번 하루에 한 번이요", "하루에 한 번 하루에 한 번 하루에 한 번이여"),
        ("日本", "日木"),
        ("I have a headache", "I have a head ache"),
    ],
)
def test_speech_that_was_misheard_is_not_invented(reference: str, hypothesis: str) -> None:
    assert signs(reference, hypothesis) == ()


@pytest.mark.parametrize("times", [2, 3, 8, 40])
@pytest.mark.parametrize("reference", ["배가 아파요", "머리가 아파서 병원에 왔어요", "하루에 세 번 식후에 드세요"])
def test_a_transcript_repeated_as_a_whole_is_a_loop(reference: str, times: int) -> None:
    assert "loop" in signs(reference, " ".join([reference] * times))
    assert signs(" ".join([reference] * times), " ".join([reference] * times)) == ()

"""What may be logged of messages and exceptions."""

import pytest

from kmed_bench.core.errors import KmedError
from kmed_bench.tracking.privacy import describe_failure, without_speech


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Source /home/hong/aihub208 does not exist; give it.", "Source (path) does not exist; give it."),
        ("The parts in out/kim-chulsoo/split are others", "The parts in (path) are others"),
        ("'/data/hong gildong/a.wav' can't be read", "(path) can't be read"),
        (r"C:\Users\hong\x.zip is no archive", "(path) is no archive"),
        ("kim.wav has no samples", "(path) has no samples"),
        ("the label says 배가 아파요, which is empty", "the label says (korean), which is empty"),
        ("nan at epoch 1 (utterances d001-a, d002-b). Lower train.lr", "nan at epoch 1 (utterances). Lower train.lr"),
        ("http://user:secret@host/x is away", "http://***@host/x is away"),
        (
            "see split.json and models:/kmed-whisper-base@champion",
            "see split.json and models:/kmed-whisper-base@champion",
        ),
        ("train/loss = nan at step 3; set train.grad_clip=1.0", "train/loss = nan at step 3; set train.grad_clip=1.0"),
    ],
)
def test_paths_ids_and_korean_are_left_out(text: str, shown: str) -> None:
    assert without_speech(text) == shown


def test_a_failure_is_one_line_and_foreign_texts_are_not_quoted() -> None:
    assert describe_failure(KmedError("a\n b " + "x" * 600)) == "a b " + "x" * 495 + "…"
    try:
        without_speech(3)  # type: ignore[arg-type]
    except TypeError as error:
        reason = describe_failure(error)
    assert reason.startswith("TypeError in addresses.py, line ")
    assert "expected" not in reason
    assert describe_failure(ValueError("배가 아파요")).startswith("ValueError;")

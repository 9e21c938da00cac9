"""What a message may hold of what it quotes."""

import pytest

from kmed_bench.core.errors import KmedError, brief


def test_a_message_is_one_line_whatever_it_quotes():
    error = KmedError("m.pt does not hold the tensors: Error(s):\n\tsize mismatch\r\nfor a\u2028b; save it again.")
    assert str(error) == "m.pt does not hold the tensors: Error(s): size mismatch for a b; save it again."
    assert str(KmedError("two  spaces stay")) == "two  spaces stay"
    assert str(KmedError()) == ""


@pytest.mark.parametrize(
    ("said", "quoted"),
    [
        ("first line\nsecond", "first line"),
        ("  \n padded\ttabs  \nmore", "padded tabs"),
        ("x" * 200, "x" * 200),
        ("x" * 201, "x" * 199 + "…"),
        ("", ""),
    ],
)
def test_a_librarys_words_are_quoted_by_their_first_line(said, quoted):
    assert brief(ValueError(said)) == quoted

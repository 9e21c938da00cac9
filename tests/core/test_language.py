"""Texts in the language in use: looked up when shown, with named placeholders, also those stored in English."""

import threading

import pytest

from kmed_bench.core.language import current_language, gettext, translate_stored, use_language
from kmed_bench.core.quantities import OVER_WHOLE, explain_rates


def test_a_text_is_looked_up_when_it_is_shown():
    assert gettext("size") == "size"
    with use_language("ko"):
        assert gettext("size") == "크기"
        with use_language("en"):
            assert gettext("size") == "size"
        assert explain_rates(1.2) != OVER_WHOLE
    assert (current_language(), explain_rates(1.2)) == ("en", OVER_WHOLE)


def test_the_language_is_given_back_after_an_error_and_holds_for_one_thread():
    seen = []

    def fail():
        with use_language("ko"):
            thread = threading.Thread(target=lambda: seen.append(current_language()))
            thread.start()
            thread.join()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (seen, current_language()) == (["en"], "en")


def test_placeholders_are_filled_and_no_text_is_none():
    assert gettext("{hours} h {minutes:02d} min", hours=2, minutes=5) == "2 h 05 min"
    with use_language("ko"):
        assert gettext("{hours} h {minutes:02d} min", hours=2, minutes=5) == "2시간 05분"
        assert gettext("") == ""  # gettext has its header under the empty text


@pytest.mark.parametrize(
    ("stored", "shown"),
    [
        ("not compared", "비교하지 않음"),
        ("(no interval: none was logged)", "(신뢰구간 없음: 기록되지 않음)"),  # what fills a placeholder too
        ("(no interval: 어제)", "(신뢰구간 없음: 어제)"),
        ("12 h 05 min", "12시간 05분"),
        ("+0.10 pp", "+0.10 pp"),  # too few letters to be known by
        ("something else", "something else"),
        ("not compared; 어제; 12 h 05 min", "비교하지 않음; 어제; 12시간 05분"),
        ("No interval. 2 speakers are too few for how much they differ", None),  # of several sentences: as it is
    ],
)
def test_stored_texts_are_translated_where_they_are_shown(stored, shown):
    assert translate_stored(stored) == stored
    with use_language("ko"):
        assert translate_stored(stored) == (shown or stored)

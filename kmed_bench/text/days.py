"""Days: 이십일 is 21, the 20th or 20 days, and what stands around it may tell."""

import re

from kmed_bench.text.contexts import (
    ABOUT,
    ABOUT_DAYS,
    DATE_END,
    LASTING,
    PORTION,
    SECOND_NUMBER,
    is_day,
    is_event,
    is_measured,
)
from kmed_bench.text.counters import SINO_COUNTER, TAIL, counter_at, unit_at
from kmed_bench.text.numerals import Numeral
from kmed_bench.text.quantities import Reading, ambiguous_reading, quantity_reading

_PORTION_COUNTER = re.compile(r" ?분")
_RATE = re.compile(r"에 ?[한두세네\d]")
_CAME_OUT = re.compile(r" (?:나[오왔온와옵]|찍[히혔]|떨어[지졌]|올[라랐])")
_REACHED = re.compile(r"까지 ?(?:올|떨|내|나|높|낮|갔|찍|치|늘|줄)")


def read_days(text: str, at: int, numerals: list[Numeral]) -> Reading | None:
    """Return how 이십일 is meant where both 21 and 20 days are grammatical, or None where they aren't.

    Days of the calendar, spans of time and portions show by their context, and so does a measured value.
    """
    whole = next((n for n in numerals if n.words.endswith("일") and len(n.words) > 1), None)
    tens = whole and next((n for n in numerals if n.words == whole.words[:-1]), None)
    if whole is None or tens is None or tens.is_digit or int(tens.value) >= 1000:
        return None
    day, end = quantity_reading(whole.end, tens.value, "일"), whole.end
    portion = _PORTION_COUNTER.match(text, end)
    if portion and TAIL.match(text, portion.end()):
        tight = portion.end() == end + 1
        if PORTION.match(text, portion.end()) or (whole.spaced_last and tight):
            return day
        of_time = _RATE.match(text, portion.end()) or LASTING.match(text, portion.end())
        after_hour = text[max(0, at - 2) : at].strip().endswith("시")
        if of_time or after_hour or not (tight or whole.spaced_last):
            return None
        return ambiguous_reading(text, at, portion.end(), (whole.value, "분"), (tens.value, "일"))
    counter = counter_at(text, end, SINO_COUNTER)
    if counter and counter[0] in ("일", "분") and not PORTION.match(text, counter.end()):
        return None  # 이십일 일, 십일 분째
    follows = TAIL.match(text, end)
    # No month has more days, and a day doesn't come out: 어제 백이십일이 나왔어요.
    is_value = is_event(text, at) and (int(tens.value) > 30 or (follows and _CAME_OUT.match(text, follows.end())))
    if is_day(text, at) and follows and not is_value:
        return day
    measured = is_measured(text, at)
    if measured and int(tens.value) <= 30 and DATE_END.match(text, end):
        measured = _REACHED.match(text, end) is not None  # 혈압 검사를 이십일에 받아요
    if _RATE.match(text, end) and not measured:
        return day  # 삼십일에 한 번
    about = ABOUT.match(text, end)
    if about and measured and whole.spaced_last:
        return ambiguous_reading(text, at, end, (whole.value, ""), (tens.value, "일"))
    if LASTING.match(text, end) and not measured and (whole.spaced_last or not about or ABOUT_DAYS.match(text, end)):
        return day
    if LASTING.match(text, end) and whole.spaced_last:
        return day
    if not follows or measured or unit_at(text, end) or counter:
        return None
    if whole.spaced_last and DATE_END.match(text, end) and int(tens.value) <= 30:
        return day
    if SECOND_NUMBER.match(text, end):
        return None  # 백이십일에 팔십: a blood pressure
    return ambiguous_reading(text, at, end, (whole.value, ""), (tens.value, "일"))

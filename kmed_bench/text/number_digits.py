"""Numbers written in Arabic digits: telephone numbers, times, dates, ranges, blood pressures, and the rest."""

import re

from kmed_bench.text.contexts import is_measured
from kmed_bench.text.counters import NATIVE_COUNTER, SINO_COUNTER, TAIL, counter_at, unit_at
from kmed_bench.text.decimals import ARABIC, read_decimal, read_fraction, with_unit
from kmed_bench.text.numerals import sino_readings
from kmed_bench.text.quantities import Quantity, Reading, quantity_reading
from kmed_bench.text.sino_words import read_places

_DASH = r"−–\-"
_PHONE = re.compile(
    rf"(?<!\d)(0\d{{1,2}})(?:[{_DASH}. ·]|\) ?)(\d{{3,4}})[{_DASH}. ](\d{{4}})(?!\d)|"
    rf"(?<!\d)(1[56]\d\d|\d{{3,4}})[{_DASH}](\d{{4}})(?!\d| ?년)"
)
_CLOCK = re.compile(r"([01]?\d|2[0-4]) ?: ?([0-5]\d)(?![\d:])분?")
_DATE = re.compile(rf"(\d{{4}}) ?([{_DASH}./·]) ?(0?[1-9]|1[0-2]) ?\2 ?(0?[1-9]|[12]\d|3[01])(?!\d)\.?")
_INTERVAL = re.compile(rf"(\d{{1,4}}(?:\.\d+)?) ?[~∼〜～{_DASH}] ?(\d{{1,4}}(?:\.\d+)?)(?![\d{_DASH}])")
_FROM_TO = re.compile(r"(\d+(?:\.\d+)?)에서 ?(\d+(?:\.\d+)?)(?=[^\d])")
_ABOUT = re.compile(r" (?:정도|사이)")
_LIST = re.compile(r"(\d{1,2})(?:, ?| ?· ?)(\d{1,2})(?![\d,.])")
_PLACES = {"천": 1000, "만": 10**4, "억": 10**8}
_GOES_ON = re.compile(r" ?(?:\d|[일이삼사오육칠팔구]?[십백천])")
_DATE_END = re.compile(r"(?:에|부터|까지)(?![가-힣])")
_SLASH = re.compile(r"(\d{1,3}) ?/ ?(\d{1,3})(?![\d/])")
# Digits before a word that can't continue the number, so that none of the longer forms applies.
_PLAIN = re.compile(r"\d+(?!\d)(?=\Z| ?[가-힣])(?! ?[에십백천만억점쩜분])")


def read_digits(text: str, at: int) -> Reading:
    """Return the number whose first digit stands here."""
    plain = _PLAIN.match(text, at)
    if plain:
        return with_unit(text, plain.end(), plain[0])
    phone = _PHONE.match(text, at)
    if phone and not _is_measured_range(text, phone):
        return quantity_reading(phone.end(), "".join(group for group in phone.groups() if group))
    for read in (_read_clock, _read_date, _read_range, _read_slash):
        reading = read(text, at)
        if reading:
            return reading
    for numeral in sino_readings(text, at):  # 3만 5천, 2백
        if TAIL.match(text, numeral.end) or counter_at(text, numeral.end, SINO_COUNTER) or unit_at(text, numeral.end):
            return read_places(text, at, sino_readings(text, at)) or with_unit(text, numeral.end, numeral.value)
    for found in (read_decimal(text, at), read_fraction(text, at)):
        if found:
            return found
    match = ARABIC.match(text, at)
    assert match is not None  # the caller saw a digit
    return with_unit(text, match.end(), match[0].replace(",", ""))


def _read_clock(text: str, at: int) -> Reading | None:
    match = _CLOCK.match(text, at)
    if match is None:
        return None
    hour, minute = int(match[1]), int(match[2])
    quantities = (Quantity(value=str(hour), unit="시"), Quantity(value=str(minute), unit="분"))
    if minute == 0:
        return Reading(end=match.end(), form=f"{hour}시", quantities=quantities[:1])
    return Reading(end=match.end(), form=f"{hour}시 {minute}분", quantities=quantities)


def _read_date(text: str, at: int) -> Reading | None:
    match = _DATE.match(text, at)
    if match is None:
        return None
    parts = (match[1], str(int(match[3])), str(int(match[4])))
    quantities = tuple(Quantity(value=value, unit=unit) for value, unit in zip(parts, "년월일", strict=True))
    return Reading(end=match.end(), form="{}년 {}월 {}일".format(*parts), quantities=quantities)


def _read_range(text: str, at: int) -> Reading | None:
    """Return 2~3번, 2, 3번 or 10에서 15분 as one range that rises."""
    for pattern in (_INTERVAL, _FROM_TO, _LIST):
        match = pattern.match(text, at)
        if match is None:
            continue
        low, high = float(match[1]), float(match[2])
        if pattern is _INTERVAL:
            rises = low < high
        else:  # a list only of neighbours, and both only of what is counted or measured
            of_things = unit_at(text, match.end()) or _counter(text, match.end()) or _ABOUT.match(text, match.end())
            rises = of_things is not None and (low < high if pattern is _FROM_TO else high == low + 1)
        factor = _PLACES.get(text[match.end() : match.end() + 1])
        if factor and pattern is not _FROM_TO and (low < high if pattern is _INTERVAL else high == low + 1):
            return _read_large_range(text, match, factor)
        if rises:
            return with_unit(text, match.end(), f"{_whole(match[1])}~{_whole(match[2])}")
    return None


def _is_measured_range(text: str, phone: re.Match[str]) -> bool:
    """Return whether what looks like a telephone number is a range: 1500-2000칼로리, but 1588-1234번."""
    if phone[4] is None or int(phone[4]) >= int(phone[5]):
        return False
    counter = _counter(text, phone.end())
    counted = counter is not None and counter[0] != "번"
    return counted or unit_at(text, phone.end()) is not None or _ABOUT.match(text, phone.end()) is not None


def _read_large_range(text: str, match: re.Match[str], factor: int) -> Reading | None:
    """Return 2~3만 원, where the place counts for both ends, unless the second goes on: 2~3만 5천."""
    end = match.end() + 1
    stands = TAIL.match(text, end) or _counter(text, end) or unit_at(text, end)
    if stands is None or not (match[1] + match[2]).isdecimal() or _GOES_ON.match(text, end):
        return None
    return with_unit(text, end, f"{int(match[1]) * factor}~{int(match[2]) * factor}")


def _counter(text: str, end: int) -> re.Match[str] | None:
    return counter_at(text, end, SINO_COUNTER) or counter_at(text, end, NATIVE_COUNTER)


def _whole(digits: str) -> str:
    return str(int(digits)) if digits.isdecimal() else digits


def _read_slash(text: str, at: int) -> Reading | None:
    """Return a blood pressure as it is said (120에 80), or a fraction."""
    match = _SLASH.match(text, at)
    if match is None:
        return None
    first, second = int(match[1]), int(match[2])
    if 1 <= first <= 12 < second <= 31 and _DATE_END.match(text, match.end()):  # 3/15에
        date = Quantity(value=str(first), unit="월"), Quantity(value=str(second), unit="일")
        return Reading(end=match.end(), form=f"{first}월 {second}일", quantities=date)
    if 60 <= first <= 300 and 30 <= second <= 200 and (first >= second or is_measured(text, at)):
        diastolic = with_unit(text, match.end(), str(second))
        quantities = (Quantity(value=str(first)), *diastolic.quantities)
        return Reading(end=diastolic.end, form=f"{first}에 {diastolic.form}", quantities=quantities)
    return with_unit(text, match.end(), f"{first}/{second}")

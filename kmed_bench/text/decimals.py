"""Decimals, fractions and halves, and the unit or counter that a number takes."""

import re

from kmed_bench.text.contexts import RISING, ROUGHLY, is_measured
from kmed_bench.text.counters import (
    COPULA,
    NATIVE_COUNTER,
    SINO_COUNTER,
    TAIL,
    counter_at,
    unit_at,
    unit_sign,
)
from kmed_bench.text.numerals import SINO_DIGITS, Numeral, sino_readings
from kmed_bench.text.quantities import Quantity, Reading, quantity_reading

ARABIC = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?(?![\d,])|\d+(?:\.\d+)?")

_DIGITS = "".join(SINO_DIGITS)
_POINT = re.compile(r" ?([점쩜]) ?")
_PLACES = re.compile(rf"[{_DIGITS}]+|\d+")
_SPACED_PLACES = re.compile(rf"[{_DIGITS}](?: [{_DIGITS}])+")
_TWO_PLACES = re.compile(r"([이삼사오육칠팔구]?)십([일이삼사오육칠팔구]?)")
_FRACTION = re.compile(rf"([{_DIGITS}십백]|\d+) ?분의 ?([{_DIGITS}]|\d+)(?![십백천])")
_ENDING = re.compile(rf"만?{TAIL.pattern}")
_TEXT_END = re.compile(r"[ .,?!]*$")
_CAME = re.compile(r" (?:나[오왔온]|떨어|올[라랐]|내려|찍혔)")
_LEADING_ZERO = re.compile(r"^0+(?=\d)")
_TENTH = re.compile(rf" ?([{_DIGITS}1-9]) ?부(?=[^가-힣]|$|예요|이에요|까지|나|로|쯤|정도|가|는|였|라고|래요|입니다)")
# 한 알 반, but in 오 밀리 반 알 the half is a tablet's.
_HALF = re.compile(
    r" ?반(?! ?(?:알|정(?!도)|포|개|봉|컵|캡슐|병|잔|스푼|숟가락))"
    r"(?=이에요|이었|입니다|이나|이 |까지|부터|정도|동안|을|씩|만|째|간|쯤|[^가-힣]|$)"
)
_HALF_PAST = re.compile(r" ?반(?=에|이|[쯤경]|까지|부터|정도|으로|[^가-힣]|$)")
_HALVED = re.compile(
    "시간|알|정|개|포|봉|봉지|병|컵|잔|스푼|티스푼|숟가락|큰술|캡슐|갑|달|개월|년|주일|주|배|살|공기|그릇|조각|모금|팩|끼|장|대|통"
)


def counted(text: str, end: int, value: str, counter: str) -> Reading:
    """Return a number with its counter that ends here, and the half after it: 세 시 반, 한 알 반."""
    if counter == "시" and (half := _HALF_PAST.match(text, end)):
        quantities = (Quantity(value=value, unit="시"), Quantity(value="30", unit="분"))
        return Reading(end=half.end(), form=f"{value}시 30분", quantities=quantities)
    if _HALVED.fullmatch(counter):
        return _halved(text, end, value, counter)
    return quantity_reading(end, value, counter)


def _halved(text: str, end: int, value: str, unit: str) -> Reading:
    half = _HALF.match(text, end) if value.isdecimal() else None
    return quantity_reading(half.end(), f"{value}.5", unit) if half else quantity_reading(end, value, unit)


def with_unit(text: str, end: int, value: str) -> Reading:
    """Return the number that ends here with the unit or the counter that follows it."""
    unit = unit_at(text, end)
    if unit:
        sign, end = unit_sign(text, unit), unit.end()
        tenth = _TENTH.match(text, end) if sign == "도" and value.isdecimal() else None
        if tenth:  # 삼십팔 도 오 부
            return quantity_reading(tenth.end(), f"{value}.{SINO_DIGITS.get(tenth[1], tenth[1])}", sign)
        return quantity_reading(end, value, sign) if sign == "%" else _halved(text, end, value, sign)
    counter = counter_at(text, end, SINO_COUNTER) or counter_at(text, end, NATIVE_COUNTER)
    if counter is None:
        return quantity_reading(end, value)
    if counter[0] in ("월", "일", "시", "분"):
        value = _LEADING_ZERO.sub("", value)
    return counted(text, counter.end(), value, counter[0])


def read_decimal(text: str, at: int) -> Reading | None:
    """Return a decimal spelled with its point, such as 이십육 점 칠, 영점오 or 36 점 5, or None."""
    for head in _heads(text, at):
        point = _POINT.match(text, head.end)
        if point is None:
            continue
        tens = _TWO_PLACES.match(text, point.end()) if head.value == "0" else None
        if tens and (unit_at(text, tens.end()) or TAIL.match(text, tens.end())):  # 영 점 이십오
            places = f"{SINO_DIGITS.get(tens[1], 1)}{SINO_DIGITS.get(tens[2], 0)}"
            return with_unit(text, tens.end(), f"0.{places}")
        spaced = _SPACED_PLACES.match(text, point.end()) if head.value == "0" else None  # 영 점 영 삼
        if (
            spaced
            and not _POINT.match(text, spaced.end())
            and (unit_at(text, spaced.end()) or TAIL.match(text, spaced.end()))
        ):
            return with_unit(text, spaced.end(), f"0.{_in_digits(spaced[0].replace(' ', ''))}")
        places_said = _PLACES.match(text, point.end())
        for end in range(places_said.end(), places_said.start(), -1) if places_said else ():
            if _is_decimal(text, at, head, point, end):
                return with_unit(text, end, f"{head.value}.{_in_digits(text[point.end() : end])}")
    return None


def _in_digits(words: str) -> str:
    return "".join(str(SINO_DIGITS.get(sign, sign)) for sign in words)


def _heads(text: str, at: int) -> list[Numeral]:
    """Return what may stand before a decimal point, the longest first."""
    if text[at] in "영공":
        return [Numeral(end=at + 1, value="0", words=text[at])]
    if text[at].isdecimal():
        match = ARABIC.match(text, at)
        return [Numeral(end=match.end(), value=match[0].replace(",", ""), words=match[0])] if match else []
    return sino_readings(text, at)


def _is_decimal(text: str, at: int, head: Numeral, point: re.Match[str], end: int) -> bool:
    """Return whether a number, 점 and the digits up to the end are a decimal."""
    words = text[point.end() : end]
    if unit_at(text, end) or counter_at(text, end, SINO_COUNTER):
        return True
    copula = (
        words.endswith("이") and COPULA.match(text, end - 1) is not None and text[end : end + 1] not in ("예", "였")
    )
    if copula and (len(words) > 1 or point[0].endswith("점")):
        return False  # 영점일이라고 is 0.1이라고, 칠 점이에요 is 7점이에요
    if not TAIL.match(text, end) or (words.endswith("이") and len(words) > 1 and RISING.match(text, end)):
        return False  # 육 점 오이 나왔어요 is 6.5이
    if words != "이" and not (words == "일" and head.words in ("이", "일") and not _CAME.match(text, end)):
        return True
    if head.value == "0" or point[1] == "쩜" or text[end : end + 1].isalpha() or ROUGHLY.match(text, end):
        return True
    # 삼십점이 is "thirty points" with its particle, and 이 점 이 문제예요 "this point, this …"
    ends_text = _TEXT_END.match(text, end) is not None
    spaced = point[0].endswith(" ")
    loose = head.words in ("이", "일") and not is_measured(text, at) and not _CAME.match(text, end)
    return (spaced and not loose) or (ends_text and words == "일")


def read_fraction(text: str, at: int) -> Reading | None:
    """Return a fraction such as 삼분의 일, 3분의 1 or 이분의 일 알, or None."""
    match = _FRACTION.match(text, at)
    if match is None:
        return None
    low, high = ({"십": 10, "백": 100} | SINO_DIGITS).get(match[1], match[1]), SINO_DIGITS.get(match[2], match[2])
    reading = with_unit(text, match.end(), f"{high}/{low}")
    return reading if reading.end > match.end() or _ENDING.match(text, match.end()) else None

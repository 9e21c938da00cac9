"""Number words in a sentence: which of a numeral's readings its counter and its neighbours allow."""

import dataclasses
import re

from kmed_bench.text.counters import (
    CONTEXT_AFTER,
    CONTEXT_BEFORE,
    COPULA,
    COUNTER_TAIL,
    HUNDRED_COUNTERS,
    LASTING,
    NATIVE_COUNTER,
    NATIVE_ONLY,
    NATIVE_WORDS,
    NOT_AFTER_TEN,
    PERIOD,
    RISING,
    ROUND_COUNTERS,
    SINO_COUNTER,
    SINO_WORDS,
    TAIL,
    THIS,
    UNIT,
    UNIT_SIGN,
)
from kmed_bench.text.numerals import (
    NATIVE_RANGES,
    SINO_DIGITS,
    Numeral,
    digit_run,
    native_readings,
    range_reading,
    sino_readings,
)

_DIGITS = "".join(SINO_DIGITS)
ARABIC = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?")
_POINT = re.compile(r" ?([점쩜]) ?")
_HALF = re.compile(r" ?반(?=에|이|[쯤경]|까지|부터|정도|으로|[^가-힣]|$)")
_PHONE_GAP = re.compile(r" ?(?:다시|국?에|-)? ?")
_RUN_WORDS = re.compile(r"(?:사이|구이|오이|이사|일일|오일|이일|구사|이이)[이일사오]|사이사이")
_LEADING_ZERO = re.compile(r"^0+(?=\d)")
_PLACES = re.compile(rf"[{_DIGITS}]+|\d+")
_RUN_COUNTER = re.compile(r" ?(?:번|호|병동)")
_FRACTION = re.compile(rf"([{_DIGITS}]|십|백|\d+) ?분의 ?([{_DIGITS}]|\d+)(?![십백천])")
_CALENDAR_AGE = re.compile(r"만 (?=[가-힣\d ]{1,7}(?:세|살|개월))")
_TRIGEMINAL = re.compile(r" ?신경")
_AS_MANY = re.compile(r"로|나|의| ?이상")
# 이천 and 사천 are towns, 천사 an angel, 만사 "everything", 이만 "that much".
_PLAIN_THOUSANDS = frozenset(["십만", "백만", "삼천", "오천", "육천", "칠천", "팔천", "구천"])

FIRST = _DIGITS + "십백천만억한두세네석넉하둘셋넷다여일아열스서마쉰예너대유시"  # how number words begin


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """A stretch of text that is a number: where it ends, its one form, and the numbers in it."""

    end: int
    form: str
    numbers: tuple[str, ...]
    counter: str = ""


def read_words(text: str, at: int) -> Reading | None:
    """Return the number in words that starts a word here, or None.

    A reading without numbers says that the stretch up to its end is ambiguous and stays as it is.
    """
    if text[at] not in FIRST:
        return None
    for read in (_read_set_phrase, _read_range, _read_digit_run, read_decimal, read_fraction, _read_sino, _read_native):
        reading = read(text, at)
        if reading is not None:
            return reading
    return None


# The virus; months with names of their own; types of diabetes; 일일 before a dose.
_SET_PHRASES = (
    (re.compile(r"(?<=코로나)일구|(?<=코로나 )일구"), "19", ""),
    (re.compile(r"유월(?= |$|[은에의이부까])"), "6", "월"),
    (re.compile(r"시월(?= |$|[은에의이부까])"), "10", "월"),
    (re.compile(r"일 ?형(?= ?(?:당뇨|호흡))"), "1", "형"),
    (re.compile(r"이 ?형(?= ?(?:당뇨|호흡))"), "2", "형"),
    (re.compile(rf"일일(?= ?(?:[{_DIGITS}십]{{1,3}} ?[회번]|\d))"), "1", "일"),
)


def _read_set_phrase(text: str, at: int) -> Reading | None:
    for pattern, number, counter in _SET_PHRASES:
        match = pattern.match(text, at)
        if match:
            return _counted(text, match.end(), number, counter)
    return None


def _read_range(text: str, at: int) -> Reading | None:
    numeral = range_reading(text, at)
    if numeral is None:
        return None
    native = numeral.words in NATIVE_RANGES
    counter = counter_at(text, numeral.end, NATIVE_COUNTER if native else SINO_COUNTER)
    if counter is None:
        unit = unit_at(text, numeral.end) if not native else None
        return with_unit(text, numeral.end, numeral.value) if unit and len(numeral.words) > 2 else None
    if numeral.words == "일이" and not (
        counter[0] in ("년", "개월", "주일") or (counter[0] in ("주", "일") and LASTING.match(text, counter.end()))
    ):
        return None  # 일이 주로: the work mainly …
    return _counted(text, counter.end(), numeral.value, counter[0])


def _read_digit_run(text: str, at: int) -> Reading | None:
    run = digit_run(text, at)
    if run is None or text[run.end : run.end + 1] in tuple("십백천만억점쩜") or _RUN_WORDS.fullmatch(run.words):
        return None
    value, end = run.value, run.end
    while len(value) < 11:  # 공일공 다시 일이삼사 다시 오육칠팔
        gap = _PHONE_GAP.match(text, end)
        more = digit_run(text, gap.end()) if gap else None
        if more is None or len(more.value) < 3:
            break
        value, end = value + more.value, more.end
    counted = _RUN_COUNTER.match(text, end)
    is_number = (len(value) >= 3 and TAIL.match(text, end)) or (counted and (len(value) >= 3 or run.words[0] in "공영"))
    return Reading(end=end, form=value, numbers=(value,)) if is_number else None


def read_decimal(text: str, at: int) -> Reading | None:
    """Return a decimal spelled with its point, such as 이십육 점 칠, 영점오 or 36 점 5, or None."""
    heads = sino_readings(text, at)
    if text[at] in "영공":
        heads = [Numeral(end=at + 1, value="0", words=text[at])]
    elif text[at].isdecimal():
        match = ARABIC.match(text, at)
        heads = [Numeral(end=match.end(), value=match[0].replace(",", ""), words=match[0])] if match else []
    for head in heads:
        point = _POINT.match(text, head.end)
        places = _PLACES.match(text, point.end()) if point else None
        if point is None or places is None:
            continue
        loose = head.words in ("이", "일") and point[0] != point[0].strip()  # 이 점 이 문제예요: "this point …"
        for end in range(places.end(), places.start(), -1):
            words = text[places.start() : end]
            digits = "".join(str(SINO_DIGITS.get(sign, sign)) for sign in words)
            if COPULA.match(text, end - 1) and words.endswith("이") and len(words) > 1:
                continue  # 영점일이라고 is 0.1이라고
            measured = unit_at(text, end) or counter_at(text, end, SINO_COUNTER)
            # 삼십점이 is "thirty points" with its particle, 삼십쩜이 is 30.2
            bare = TAIL.match(text, end) and not loose and (point[1] == "쩜" or words != "이")
            if measured or bare:
                return with_unit(text, end, f"{head.value}.{digits}")
    return None


def read_fraction(text: str, at: int) -> Reading | None:
    """Return a fraction such as 삼분의 일 or 3분의 1, or None."""
    match = _FRACTION.match(text, at)
    if match is None or not TAIL.match(text, match.end()):
        return None
    low, high = ({"십": 10, "백": 100} | SINO_DIGITS).get(match[1], match[1]), SINO_DIGITS.get(match[2], match[2])
    return Reading(end=match.end(), form=f"{high}/{low}", numbers=(f"{high}/{low}",))


def _read_sino(text: str, at: int) -> Reading | None:
    if _CALENDAR_AGE.match(text, at):
        return None  # 만 육십오 세: the age by the calendar, not 10,065
    numerals = sino_readings(text, at)
    measured = [m for numeral in numerals if (m := _measure(text, at, numeral)) is not None]
    bare = [numeral for numeral in numerals if _is_bare(text, numeral)]
    longest = max(measured, key=lambda reading: reading.end, default=None)
    if not bare:
        return longest
    if longest is None or longest.end < bare[0].end:
        return _choose_bare(text, bare)
    if longest.end > bare[0].end:
        return longest
    # 이십일 is 21, or the 20th, or 20 days.
    if longest.counter != "일" or CONTEXT_BEFORE["일"].search(text[:at]) or LASTING.match(text, longest.end):
        return longest
    return Reading(end=longest.end, form="", numbers=())


def _choose_bare(text: str, bare: list[Numeral]) -> Reading:
    """Tell 이백이 (202) from 이백 with its particle, or leave it."""
    numeral = bare[0]
    shorter = next((other for other in bare if other.end == numeral.end - 1), None)
    if shorter and numeral.words.endswith("이"):
        if COPULA.match(text, shorter.end) or RISING.match(text, numeral.end):
            numeral = shorter
        elif text[numeral.end : numeral.end + 1] == " ":
            return Reading(end=numeral.end, form="", numbers=())
    return Reading(end=numeral.end, form=numeral.value, numbers=(numeral.value,))


def _is_bare(text: str, numeral: Numeral) -> bool:
    """Return whether a Sino-Korean number is one without any counter."""
    words = numeral.words
    if len(words) < 2 or not TAIL.match(text, numeral.end):
        return False
    if len(words) == 2 and (words[0] in "천만" or words[1] in "만천" or words in ("백일", "백이", "백사", "백구")):
        return words in _PLAIN_THOUSANDS
    if numeral.spaced_last and text[numeral.end : numeral.end + 1] in tuple("이과"):
        return False  # 팔십 사이, 백 오이, 이십 사과
    if numeral.spaced_last and words[-1] in "이일":
        return words[-1] == "일" or not text[numeral.end :].strip(" .,?!")
    return True


def _measure(text: str, at: int, numeral: Numeral) -> Reading | None:
    unit = unit_at(text, numeral.end)
    if unit and _fits(text, at, numeral, unit):
        number = numeral.value + UNIT_SIGN[unit[0].lower()]
        return Reading(end=unit.end(), form=number, numbers=(number,))
    counter = counter_at(text, numeral.end, SINO_COUNTER)
    if counter and _fits(text, at, numeral, counter):
        return _counted(text, counter.end(), numeral.value, counter[0])
    return None


def _fits(text: str, at: int, numeral: Numeral, counter: re.Match[str]) -> bool:
    """Return whether a number and its counter are that, and no words of their own."""
    name, words = counter[0], numeral.words
    before, after = text[:at], counter.end()
    tight = counter.start() == numeral.end
    if numeral.is_multiplier and (not _fits_round(words, name) or (tight and words + name in SINO_WORDS)):
        return False
    if name in CONTEXT_BEFORE and CONTEXT_BEFORE[name].search(before):
        return True
    if name in CONTEXT_AFTER and CONTEXT_AFTER[name].match(text, after):
        return True
    if name == "세" and text.startswith("요", after):
        return False  # 오세요, 사세요
    if name == "시":
        return 13 <= int(numeral.value) <= 24
    if name == "월":
        return int(numeral.value) <= 12
    if name == "호":
        return len(words) >= 3
    if words == "백" and name == "일":
        return False  # without the context above: 백일 떡
    if not numeral.is_digit:
        return name != "기"
    if name in NATIVE_ONLY or (words == "삼" and name == "차" and _TRIGEMINAL.match(text, after)):
        return False
    if tight:
        doubtful = words + name in SINO_WORDS
    else:
        doubtful = (words == "이" and name in THIS) or (words == "일" and name in ("일", "주"))
    return not doubtful or (name in ("번", "회") and PERIOD.search(before) is not None)


def _fits_round(words: str, name: str) -> bool:
    """Return whether 십, 백, 천, 만 or 억 alone goes with a counter or a unit."""
    if words == "십":
        return name not in NOT_AFTER_TEN
    return name in (HUNDRED_COUNTERS if words == "백" else ROUND_COUNTERS) or (name in UNIT_SIGN and name != "도")


def _read_native(text: str, at: int) -> Reading | None:
    for numeral in native_readings(text, at):
        counter = counter_at(text, numeral.end, NATIVE_COUNTER)
        if counter and _fits_native(text, at, numeral, counter):
            return _counted(text, counter.end(), numeral.value, counter[0])
        # From eleven up the full forms are numbers without a counter too; 쉰 is also "hoarse".
        if numeral.is_full and TAIL.match(text, numeral.end):
            return Reading(end=numeral.end, form=numeral.value, numbers=(numeral.value,))
    return None


def _fits_native(text: str, at: int, numeral: Numeral, counter: re.Match[str]) -> bool:
    name, words, after = counter[0], numeral.words, counter.end()
    if counter.start() == numeral.end and words + name in NATIVE_WORDS:
        return False
    if words.endswith(("하나", "둘", "셋", "넷")):
        return False  # these take no counter: 하나병원 is a name
    if words in ("석", "넉"):
        return name in ("달", "잔", "장")
    if name == "시":
        return int(numeral.value) <= 12 and not text.startswith(("도", "라도"), after)  # 한시도: "not for a moment"
    if words == "한" and name == "번":  # 한번 보세요: "have a look"
        return bool(PERIOD.search(text[:at])) or text.startswith("씩", after)
    if name == "배" and words in ("한", "네", "열"):  # 네, 배가 아파요
        return _AS_MANY.match(text, after) is not None
    return True


def counter_at(text: str, end: int, pattern: re.Pattern[str]) -> re.Match[str] | None:
    """Return the counter after a number, one space allowed, if it ends a word or takes a particle."""
    start = end + (text[end : end + 1] == " ")
    for stop in range(min(len(text), start + 4), start, -1):
        match = pattern.fullmatch(text, start, stop)
        if match and COUNTER_TAIL.match(text, stop):
            return match
    return None


def unit_at(text: str, end: int) -> re.Match[str] | None:
    """Return the unit after a number, on the same terms as ``counter_at``."""
    match = UNIT.match(text, end + (text[end : end + 1] == " "))
    return match if match and COUNTER_TAIL.match(text, match.end()) else None


def with_unit(text: str, end: int, number: str) -> Reading:
    """Return the number with the unit or the counter that follows it."""
    unit = unit_at(text, end)
    if unit:
        number += UNIT_SIGN[unit[0].lower()]
        return Reading(end=unit.end(), form=number, numbers=(number,))
    counter = counter_at(text, end, SINO_COUNTER) or counter_at(text, end, NATIVE_COUNTER)
    if counter is None:
        return Reading(end=end, form=number, numbers=(number,))
    if counter[0] in ("월", "일", "시", "분"):
        number = _LEADING_ZERO.sub("", number)
    return _counted(text, counter.end(), number, counter[0])


def _counted(text: str, end: int, number: str, counter: str) -> Reading:
    half = _HALF.match(text, end) if counter == "시" else None
    if half:
        return Reading(end=half.end(), form=f"{number}시 30분", numbers=(number, "30"), counter="분")
    return Reading(end=end, form=number + counter, numbers=(number,), counter=counter)

"""Sino-Korean numbers in a sentence: which of a numeral's readings its counter and its neighbours allow."""

import re

from kmed_bench.text.contexts import (
    AND_SOME,
    CONTEXT_AFTER,
    CONTEXT_BEFORE,
    HUNDRED_COUNTERS,
    MEASURED_NEXT,
    MEASURED_SUBJECT,
    NATIVE_ONLY,
    NOT_AFTER_TEN,
    OUT_OF_TEN,
    PERIOD,
    RISING,
    ROUGHLY,
    ROUND_COUNTERS,
    SECOND_NUMBER,
    SINO_WORDS,
    THIS,
    before,
    is_day,
    is_diastolic,
    is_measured,
    stands_alone,
)
from kmed_bench.text.counters import COPULA, SINO_COUNTER, TAIL, UNIT, begins_copula, counter_at, unit_at
from kmed_bench.text.days import read_days
from kmed_bench.text.decimals import counted, with_unit
from kmed_bench.text.numerals import SINO_DIGITS, SINO_SIGNS, Numeral, sino_readings
from kmed_bench.text.quantities import Reading, ambiguous_reading, quantity_reading

# 만 육십오 세, 만 이 년: counted by the calendar; 만 이천 년 is 12,000 years.
_CALENDAR = re.compile(r"만 (?=[일이삼사오육칠팔구십\d ]{1,6}(?:세|살|개월|년|주)|[가-힣]{1,3} ?[가-힣]{0,2} ?살)")
_WORD_BEFORE = re.compile(r"(?<![^\W_])[일이삼사오육칠팔구십백천만억]+ $")
_TRIGEMINAL = re.compile(r" ?신경")
_FULLY = re.compile(r"십분 (?:이해|공감|활용|발휘)")
_AGED = re.compile(r" (?:번|개|알|시간|시|달|명|군데|가지|포|잔|병|차례)")
_CHANGES = re.compile(r"(?:에서 ?[가-힣\d]|으?로 ?(?:올|떨|내|낮|높|나)|까지 ?(?:올|떨|내|나))")
VALUE_END = re.compile(rf"(?:(?! ?이[ 가]){COPULA.pattern})|이? ?(?:정도|쯤|이상|이하|미만|밖에)")
"""What stands after a short number that is a value."""
_COMPARED = re.compile(r"(?:에서| 중에| 중) ?")
_PASSED = re.compile(rf"(?:을|으로|까지|도|은)?(?:{ROUGHLY.pattern}| ?(?:넘|떨|올[라랐]|내려|밑|안 [되돼넘]))")
_TEXT_END = re.compile(r"[ .,?!]*$")
# 이천 and 사천 are towns, 천사 an angel, 만사 "everything", 이만 "that much".
_PLAIN_THOUSANDS = frozenset(["십만", "백만", "삼천", "오천", "육천", "칠천", "팔천", "구천"])
_HUNDREDS_AND_WORDS = frozenset(["백일", "백이", "백사", "백구"])
_PARTICLES = ("이", "은", "을", "도", "가", "는", "를")


def read_sino(text: str, at: int) -> Reading | None:
    """Return the Sino-Korean number that starts here with its unit or counter, or None."""
    if _CALENDAR.match(text, at) or _ends_unread(text, at):
        return None
    return read_places(text, at, sino_readings(text, at))


def _ends_unread(text: str, at: int) -> bool:
    """Return whether a word before this one begins a longer number that was left unread: 이 백이십 정도 is no 120."""
    word = _WORD_BEFORE.search(text, max(0, at - 12), at) if text[at - 2 : at - 1] in SINO_SIGNS else None
    if word is None or _CALENDAR.match(text, word.start()):
        return False
    whole, rest = sino_readings(text, word.start())[:1], sino_readings(text, at)[:1]
    return [w.end for w in whole] == [r.end for r in rest] and [w.value for w in whole] != [r.value for r in rest]


def read_places(text: str, at: int, numerals: list[Numeral]) -> Reading | None:
    """Return what a positional number (백이십, 3만 5천) is with what follows it, or None."""
    measured = [m for numeral in numerals if (m := _measure(text, at, numeral)) is not None]
    bare = [numeral for numeral in numerals if _is_bare(text, at, numeral)]
    longest = max(measured, key=lambda reading: reading.end, default=None)
    days = read_days(text, at, numerals)
    if days and (longest is None or longest.end <= days.end or longest.counter in ("분", "일")):
        return days
    if not bare or (longest and longest.end > bare[0].end):
        return longest
    if longest and longest.end == bare[0].end and longest.counter == "일":
        return longest
    return _choose_bare(text, at, bare[0], numerals)


def _choose_bare(text: str, at: int, numeral: Numeral, numerals: list[Numeral]) -> Reading | None:
    """Tell 이백이 (202) from 이백 with its particle, or leave it."""
    words, end = numeral.words, numeral.end
    shorter = next((other for other in numerals if other.words == words[:-1]), None)
    if words[-1] == "이" and shorter:
        written = text[at].isdecimal() and text[end : end + 1] == " "  # nobody writes 15만2
        if RISING.match(text, end) and is_diastolic(text, at):
            return ambiguous_reading(text, at, end, (numeral.value, ""), (shorter.value, ""))
        if begins_copula(text, end - 1) or RISING.match(text, end) or written:
            # 이천이에요 is no 2002, and 이천 may be the town.
            return quantity_reading(shorter.end, shorter.value) if _is_bare(text, at, shorter) else None
        if text[end : end + 1] == " " and not ROUGHLY.match(text, end):
            return ambiguous_reading(text, at, end, (numeral.value, ""), (shorter.value, ""))
    elif numeral.spaced_last and shorter and stands_alone(words[-1]):  # 백이십 팔이 아파요
        particle = TAIL.match(text, end)
        rises = is_measured(text, at) and particle and RISING.match(text, particle.end())
        if particle and particle[0] in _PARTICLES and not rises:
            return ambiguous_reading(text, at, end, (numeral.value, ""), (shorter.value, ""))
    return quantity_reading(end, numeral.value)


def _is_bare(text: str, at: int, numeral: Numeral) -> bool:
    """Return whether a Sino-Korean number is one without any counter."""
    words, end = numeral.words, numeral.end
    if (
        (numeral.spaced_first and not MEASURED_SUBJECT.search(before(text, at)))
        or AND_SOME.match(text, end)
        or not (TAIL.match(text, end) or (words[-1] == "이" and begins_copula(text, end - 1)))
    ):
        return False
    if numeral.is_digit:
        return _is_bare_digit(text, at, numeral)
    if numeral.is_multiplier:
        return _is_bare_round(text, at, numeral)
    if is_measured(text, at) or words[0].isdecimal():
        return True
    if "억" in words and words[-1] == "천":
        return False  # 일억 오천: 150 million, the 만 left out
    if len(words) == 2 and (words[0] in "천만" or words[1] in "만천" or words in _HUNDREDS_AND_WORDS):
        return words in _PLAIN_THOUSANDS or SECOND_NUMBER.match(text, end) is not None
    if not numeral.spaced_last:
        return True
    after = text[end : end + 1]
    return words[-1] + after != "사이" and (after not in ("이", "과") or COPULA.match(text, end) is not None)


def _is_bare_digit(text: str, at: int, numeral: Numeral) -> bool:
    """Return whether one digit is a value: 통증이 칠이에요, 십 점 만점에 육 정도."""
    out_of_ten = OUT_OF_TEN.search(before(text, at)) is not None
    if out_of_ten and _TEXT_END.match(text, numeral.end):
        return True
    if numeral.words == "사" and text.startswith("이", numeral.end):
        return False  # 사이예요: between
    value = VALUE_END.match(text, numeral.end) or (numeral.words != "이" and _CHANGES.match(text, numeral.end))
    if value is None or (numeral.words == "이" and not COPULA.match(text, numeral.end)):
        return False
    return out_of_ten or MEASURED_NEXT.search(before(text, at)) is not None


def _is_bare_round(text: str, at: int, numeral: Numeral) -> bool:
    """Return whether 십, 백, 천 or 만 alone is a value: 혈당이 백이에요, 십 중에 칠."""
    words, end = numeral.words, numeral.end
    if words in "만억":
        return MEASURED_NEXT.search(before(text, at)) is not None and begins_copula(text, end)
    if _COMPARED.match(text, end) and words != "천":
        return True
    rises = text[end : end + 1] == "이" and RISING.match(text, end + 1)
    if is_measured(text, at):
        return text[end : end + 1] != "이" or begins_copula(text, end) or rises is not None
    if words == "천":
        return False
    return begins_copula(text, end) or rises is not None or _PASSED.match(text, end) is not None


def _measure(text: str, at: int, numeral: Numeral) -> Reading | None:
    unit = unit_at(text, numeral.end)
    if unit and _fits(text, at, numeral, unit):
        return with_unit(text, numeral.end, numeral.value)
    counter = counter_at(text, numeral.end, SINO_COUNTER)
    if counter and _fits(text, at, numeral, counter):
        return counted(text, counter.end(), numeral.value, counter[0])
    return None


def _fits(text: str, at: int, numeral: Numeral, counter: re.Match[str]) -> bool:
    """Return whether a number and its counter are that, and no words of their own."""
    name, words, after = counter[0], numeral.words, counter.end()
    tight = counter.start() == numeral.end
    is_word = not _fits_round(words[-1], name) or words[-1] + name in SINO_WORDS
    if numeral.spaced_first and tight and is_word and (len(words) == 2 or name == "장"):
        return False  # 이 천식, 이 천명, 이 백사장: words
    if numeral.is_multiplier and not _fits_round(words, name):
        return False
    if (not numeral.is_digit and tight and words + name in SINO_WORDS) or _FULLY.match(text, at):
        return False
    if numeral.is_digit and _has_context(text, at, name, words, after):
        return True
    if name == "세" and (text.startswith("요", after) or _AGED.match(text, after)):
        return False  # 오세요, 사세요; 팔 세 번: the arm, three times
    if name == "시":
        return 12 <= int(numeral.value) <= 24
    if name == "월":
        return int(numeral.value) <= 12
    if name == "호":
        return int(numeral.value) >= 100
    if name == "일" and words[-1] not in SINO_DIGITS:
        return False  # 이십일 may be 21: read_days decides
    if not numeral.is_digit:
        return True
    if words == "삼" and name == "차" and _TRIGEMINAL.match(text, after):
        return False
    if tight:
        doubtful = words + name in SINO_WORDS or name in NATIVE_ONLY
    else:
        doubtful = (name in NATIVE_ONLY and stands_alone(words)) or (words == "이" and name in THIS)
        doubtful |= (words == "일" and name in ("일", "주")) or name in ("기", "시", "시간", "살", "명")
    return not doubtful or (name in ("번", "회") and PERIOD.search(before(text, at)) is not None)


def _has_context(text: str, at: int, name: str, words: str, after: int) -> bool:
    """Return whether what stands around a digit and its counter makes them a number."""
    if name == "일" and is_day(text, at):
        # 수술 오일을: oil; a day has an ending of its own
        return not (stands_alone(words) and text[after : after + 1] in ("을", "를", "도"))
    if words == "이" and text[after : after + 1] in ("을", "를"):
        return False  # 이 캡슐을: this capsule
    if name in CONTEXT_BEFORE and CONTEXT_BEFORE[name].search(before(text, at)):
        return not (name == "도" and text[after : after + 1] == "록")
    return name in CONTEXT_AFTER and CONTEXT_AFTER[name].match(text, after) is not None


def _fits_round(words: str, name: str) -> bool:
    """Return whether 십, 백, 천, 만 or 억 alone goes with a counter or a unit."""
    if words == "십":
        return name not in NOT_AFTER_TEN
    is_unit = name not in ("도", "배") and UNIT.fullmatch(name) is not None
    return is_unit or name in (HUNDRED_COUNTERS if words == "백" else ROUND_COUNTERS)

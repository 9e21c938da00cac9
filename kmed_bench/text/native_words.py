"""Native Korean numbers in a sentence, with the counters that they take."""

import re

from kmed_bench.text.contexts import AND_SOME, NATIVE_WORDS, PERIOD, TIMES, before
from kmed_bench.text.counters import COPULA, NATIVE_COUNTER, TAIL, counter_at
from kmed_bench.text.decimals import counted, with_unit
from kmed_bench.text.numerals import Numeral, native_readings, sino_readings
from kmed_bench.text.quantities import Reading, ambiguous_reading, quantity_reading

_AS_MANY = re.compile(r"로|나|의| ?이상")
_FEVER = re.compile(r" ?(?:동안 |정도 |쯤 )?(?:났|나[고서다요]|난|올랐|올라|지속|앓)")
_DOG = re.compile(r"가 ?(?:물|짖|핥|할퀴|뛰)|한테 ?물")
_AGE = re.compile(r"(?:올해|나이[가는도]?|연세[가는]?) ?$")
_MIXED = re.compile(r"([이삼사오육칠팔구]십) ?(하나|둘|셋|넷|다섯|여섯|일곱|여덟|아홉)")
_ALONE = frozenset(["하나", "둘", "셋", "넷", "다섯", "여섯", "일곱", "여덟", "아홉"])


def read_mixed(text: str, at: int) -> Reading | None:
    """Return Sino-Korean tens with native ones, as ages are said: 육십 다섯, 칠십둘."""
    match = _MIXED.match(text, at)
    if match is None:
        return None
    tens, ones = sino_readings(match[1], 0)[0], native_readings(match[2], 0)[0]
    value = str(int(tens.value) + int(ones.value))
    reading = with_unit(text, match.end(), value)
    return reading if reading.end > match.end() or TAIL.match(text, match.end()) else None


def read_native(text: str, at: int) -> Reading | None:
    """Return the native number that starts here with its counter, or None."""
    numerals = native_readings(text, at)
    for numeral in numerals:
        counter = counter_at(text, numeral.end, NATIVE_COUNTER)
        if counter and _fits_native(text, at, numeral, counter):
            if numeral.spaced_first and _may_be_fever(text, at, counter):
                other = native_readings(text, at + 2)[0].value
                return ambiguous_reading(text, at, counter.end(), (numeral.value, counter[0]), (other, counter[0]))
            return counted(text, counter.end(), numeral.value, counter[0])
        if numeral.spaced_first:
            continue
        # From eleven up the full forms are numbers without a counter too; 쉰 is also "hoarse".
        if numeral.is_full and TAIL.match(text, numeral.end) and not AND_SOME.match(text, numeral.end):
            return quantity_reading(numeral.end, numeral.value)
        is_age = numeral.words in ("열", "쉰") and _AGE.search(before(text, at))
        if (is_age or numeral.words in _ALONE) and COPULA.match(text, numeral.end):
            return quantity_reading(numeral.end, numeral.value)
    return None


def _may_be_fever(text: str, at: int, counter: re.Match[str]) -> bool:
    """Return whether 열 두 번 may be "the fever, twice" besides "twelve times"."""
    if counter[0] not in TIMES or PERIOD.search(before(text, at)):
        return False
    return counter[0] in ("번", "차례") or _FEVER.match(text, counter.end()) is not None


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
        return bool(PERIOD.search(before(text, at))) or text.startswith(("씩", "에 "), after)
    if numeral.spaced_first and words.endswith("한") and text[counter.start() - 1] == "한" and name == "번":
        return PERIOD.search(before(text, at)) is not None  # 열 한번 재 볼게요
    if words == "네" and name in ("장", "배", "병") and text[after : after + 1] in ("이", "가", "은", "는", "도"):
        return False  # 네, 장이 안 좋아요
    if name == "배" and words in ("한", "네", "열"):  # 네, 배가 아파요
        return _AS_MANY.match(text, after) is not None
    return not (words == "네" and name == "개" and _DOG.match(text, after))  # 네 개가 물었어요: your dog

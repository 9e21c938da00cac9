"""Number words in a sentence, whatever they are made of: ranges, digits said one by one, decimals, and the rest."""

import re
from collections.abc import Callable

from kmed_bench.text.contexts import LASTING, MEASURED_NEXT, ROUGHLY, before, is_day, is_measured
from kmed_bench.text.counters import COPULA, NATIVE_COUNTER, SINO_COUNTER, TAIL, begins_copula, counter_at, unit_at
from kmed_bench.text.decimals import counted, read_decimal, read_fraction, with_unit
from kmed_bench.text.native_words import read_mixed, read_native
from kmed_bench.text.numerals import (
    SINO_DIGITS,
    SINO_SIGNS,
    digit_run,
    is_native_range,
    range_reading,
    sino_readings,
)
from kmed_bench.text.quantities import Reading, quantity_reading
from kmed_bench.text.set_phrases import read_set_phrase
from kmed_bench.text.sino_words import VALUE_END, read_sino

_DIGITS = "".join(SINO_DIGITS)
FIRST = (
    _DIGITS + "십백천만억한두세네석넉하둘셋넷다여일아열스서마쉰예너대유시제반비케씨티삐쓰에"
)  # how number words begin

# Words that begin like a native number, which their next syllable rules out.
_ORDINARY = re.compile(
    "다(?!섯)|여(?![섯덟덜든])|아(?![홉흔])|스(?![물무])|서(?![른너])|마(?!흔)|예(?![순닐])|너(?!댓)|대(?!여섯)|하(?!나)|"
    "유(?!월)|시(?!월)|반(?!의)|에(?![이스])|케(?!이)|쓰(?!리)"
)
_SOME = re.compile(r"몇 ?$")
_PHONE_GAP = re.compile(r" ?(?:다시|국?에|-)? ?")
_RUN_WORDS = re.compile(r"(?:사이|구이|오이|이사|일일|오일|이일|구사|이이)[이일사오]|사이사이|삼칠일")
_RUN_COUNTER = re.compile(r" ?(?:번|호|병동)")
_WAITING = re.compile(r" ?(?:지켜|기다|쉬|쉰|더 |두고|약 |약을|드[시세]|복용|경과|관찰|입원|있다|먹|걸|후|뒤|간격)")
_FROM = re.compile(rf"([{_DIGITS}])에서 ?")


def read_words(text: str, at: int) -> Reading | None:
    """Return the number in words that starts a word here, or None; an ambiguous one stays as it is written."""
    if text[at] not in FIRST or ("몇" in text[max(0, at - 2) : at] and _SOME.search(text, max(0, at - 2), at)):
        return None
    if _ORDINARY.match(text, at):
        return None
    for read in _READERS if text[at] in SINO_SIGNS else _NATIVE_READERS:
        reading = read(text, at)
        if reading is not None:
            return reading
    return None


def _read_range(text: str, at: int) -> Reading | None:
    numeral = range_reading(text, at)
    if numeral is None:
        return None
    native = is_native_range(numeral)
    counter = counter_at(text, numeral.end, NATIVE_COUNTER if native else SINO_COUNTER)
    if counter is None:
        unit = None if native or len(numeral.words) == 2 else unit_at(text, numeral.end)
        tens = numeral.words[-1] in "십백천만" and TAIL.match(text, numeral.end) is not None
        bare = tens and (len(numeral.words) > 3 or is_measured(text, at) or ROUGHLY.match(text, numeral.end))
        return with_unit(text, numeral.end, numeral.value) if unit or bare else None
    lasts = LASTING.match(text, counter.end()) or _WAITING.match(text, counter.end())
    spans = counter[0] in ("년", "개월", "주일") or (counter[0] in ("주", "일") and lasts)
    if numeral.words == "일이" and not spans:
        return None  # 일이 주로: the work mainly …
    if counter[0] == "일" and len(numeral.words) == 2 and is_day(text, at) and COPULA.match(text, counter.end()):
        return None
    return counted(text, counter.end(), numeral.value, counter[0])


def _read_from_to(text: str, at: int) -> Reading | None:
    """Return one digit as the low end of a range that the next number ends: 육에서 팔 도, 통증이 오에서 육 정도."""
    match = _FROM.match(text, at)
    if match is None or match[1] not in SINO_DIGITS:
        return None
    for high in sino_readings(text, match.end()):
        measured = unit_at(text, high.end) or counter_at(text, high.end, SINO_COUNTER)
        value = MEASURED_NEXT.search(before(text, at)) and VALUE_END.match(text, high.end)
        if (measured or value) and int(high.value) > SINO_DIGITS[match[1]]:
            return with_unit(text, high.end, f"{SINO_DIGITS[match[1]]}~{high.value}")
    return None


def _read_digit_run(text: str, at: int) -> Reading | None:
    run = digit_run(text, at)
    if run is None or text[run.end : run.end + 1] in tuple("십백천만억점쩜") or _RUN_WORDS.fullmatch(run.words):
        return None
    value, end, last = run.value, run.end, len(run.value)
    while len(value) < 11:  # 공일공 다시 일이삼사 다시 오육칠팔
        gap = _PHONE_GAP.match(text, end)
        more = digit_run(text, gap.end()) if gap else None
        if more is None or len(more.value) < 3:
            break
        value, end, last = value + more.value, more.end, len(more.value)
    if text[end - 1] == "이" and begins_copula(text, end - 1) and not _is_telephone(value, last):
        value, end = value[:-1], end - 1  # 육일이에요 is 육일 and its copula
    counter = _RUN_COUNTER.match(text, end)
    is_number = (len(value) >= 3 and TAIL.match(text, end)) or (counter and (len(value) >= 3 or run.words[0] in "공영"))
    return quantity_reading(end, value) if is_number else None


def _is_telephone(value: str, last: int) -> bool:
    """Return whether digits may be a telephone number whose last group has so many digits: 오육칠이, not 오육칠팔이."""
    longest = 10 if value.startswith("02") else 11
    return value.startswith("0") and 9 <= len(value) <= longest and last in (4, len(value))


_READERS: tuple[Callable[[str, int], Reading | None], ...] = (
    read_set_phrase,
    _read_range,
    _read_from_to,
    _read_digit_run,
    read_mixed,
    read_decimal,
    read_fraction,
    read_sino,
    read_native,
)
_NATIVE_READERS = (read_set_phrase, _read_range, read_native)
"""Those of words that begin with no Sino-Korean numeral."""

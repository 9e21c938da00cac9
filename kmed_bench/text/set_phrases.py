"""Phrases whose number words mean one thing whatever surrounds them: codes with letters, ordinals with 제, months."""

import re

from kmed_bench.text.counters import COUNTER_TAIL
from kmed_bench.text.decimals import counted
from kmed_bench.text.numerals import SINO_DIGITS, sino_readings
from kmed_bench.text.quantities import Reading, quantity_reading

_DIGITS = "".join(SINO_DIGITS)
# Letters are spelled by their names; these are names, no quantities.
_CODES = tuple(
    (re.compile(spoken), code)
    for spoken, code in (
        (r"(?:비타민 ?)?[비삐] ?십이(?=[^가-힣]|$|[가를는도와]|예요|수치|주사)", "B12"),
        (r"케이 ?에프 ?구(?:십)?사", "KF94"),
        (r"비타민 ?디 ?(?:삼|쓰리)(?=[^가-힣]|$|[가이을를은는도])", "D3"),
        (r"비타민 ?비 ?(?:일|원)(?=[^가-힣]|$|[이을은도])", "B1"),
        (r"비타민 ?비 ?(?:육|식스)(?=[^가-힣]|$|[이을은도])", "B6"),
        (r"에이치비에이 ?원 ?씨(?=[^가-힣]|$|[가를는도])", "HbA1c"),
        (r"에스피오 ?투(?=[^가-힣]|$|[가를는도])", "SpO2"),
        (r"케이 ?에프 ?팔십", "KF80"),
        (r"씨에이 ?(?:십구|일구) ?(?:다시|에)? ?구", "CA19-9"),
        (r"씨에이 ?(?:십오|일오) ?(?:다시|에)? ?삼", "CA15-3"),
        (r"씨에이 ?(?:백이십오|일이오)", "CA125"),
        (r"씨디 ?(?:포|사)(?=[^가-힣]|$|[가를는도])", "CD4"),
        (r"씨디 ?(?:에잇|팔)(?=[^가-힣]|$|[이을은도])", "CD8"),
        (r"(?:프리 ?)?티 ?포(?=[^가-힣]|$|[가를는도])", "T4"),
        (r"(?:프리 ?)?티 ?(?:쓰리|삼)(?=[^가-힣]|$|[가이를을는은도])", "T3"),
    )
)
_CODES_BEGIN = "비삐케씨프티에"
_PREFIX = re.compile(r"비타민 ?|프리 ?")
_BONES = r"요추|경추|흉추|천추|늑골|뇌신경|중족골|중수골|갈비뼈|족지|수지"
_ORDINAL = re.compile(rf"(제 ?)([{_DIGITS}십]+)(?:(?= ?(?:{_BONES}))| ?(?P<counter>형|차|기|급|종|세대|도|단계|등급))")
_MONTH_END = rf"(?= |$|[은에의이부까]|[{_DIGITS}십]{{1,3}} ?일)"
# The virus; months with names of their own; types of diabetes; 일일 before a dose; a quarter.
_PHRASES = (
    (re.compile(r"(?<=코로나)일구|(?<=코로나 )일구"), "19", ""),
    (re.compile(rf"유월{_MONTH_END}"), "6", "월"),
    (re.compile(rf"시월{_MONTH_END}"), "10", "월"),
    (re.compile(r"일 ?형(?= ?(?:당뇨|호흡))"), "1", "형"),
    (re.compile(r"이 ?형(?= ?(?:당뇨|호흡))"), "2", "형"),
    (re.compile(rf"일 ?일(?= ?(?:[{_DIGITS}십]{{1,3}} ?[회번]|\d|[한두세네] 번|에 ?(?:[한두세네]|\d)))"), "1", "일"),
    (re.compile(r"(?<=오메가)(?:삼|쓰리)|(?<=오메가 )(?:삼|쓰리)"), "3", ""),
)
_PHRASES_BEGIN = "일유시이삼쓰"
_QUARTER = re.compile(r"반의 ?반 ?(알|정|개|포|봉지|컵|병|숟가락|스푼|캡슐)")


def read_set_phrase(text: str, at: int) -> Reading | None:
    """Return the code, ordinal or phrase that starts here, or None."""
    if text[at] in _CODES_BEGIN:
        for pattern, code in _CODES:
            match = pattern.match(text, at)
            if match:
                prefix = _PREFIX.match(match[0])
                return Reading(end=match.end(), form=(prefix[0] if prefix else "") + code, quantities=())
    if text[at] in _PHRASES_BEGIN:
        for pattern, number, counter in _PHRASES:
            match = pattern.match(text, at)
            if match:
                return counted(text, match.end(), number, counter)
    quarter = _QUARTER.match(text, at)
    if quarter and COUNTER_TAIL.match(text, quarter.end()):
        return quantity_reading(quarter.end(), "1/4", quarter[1])
    return _read_ordinal(text, at)


def _read_ordinal(text: str, at: int) -> Reading | None:
    """Return 제이형, 제삼 뇌신경 and the like; 제 이 형 may be "this brother of mine" and 제일 means "most"."""
    match = _ORDINAL.match(text, at)
    if match is None:
        return None
    numeral = next((n for n in sino_readings(match[2], 0) if n.end == len(match[2])), None)
    counter = match["counter"] or ""
    if numeral is None or (counter and not COUNTER_TAIL.match(text, match.end())):
        return None
    spaced = match[1].endswith(" ") or match.end() - len(counter) > match.end(2)
    if counter and numeral.is_digit and spaced and not re.compile(r" ?당뇨").match(text, match.end()):
        return None
    reading = quantity_reading(match.end(), numeral.value, counter)
    return Reading(end=reading.end, form="제" + reading.form, quantities=reading.quantities)

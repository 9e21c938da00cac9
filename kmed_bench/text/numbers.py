"""Korean numbers in one form, so that 이십육쩜칠 and 26.7 count as the same transcript.

A number word is converted only where grammar and context leave one reading: with a counter or a unit (세 번, 오 밀리),
as a number of several places (백이십), as digits read one by one (공일공), as a decimal. What can mean two things
(이십 일: 21, or 20 days) and what is also an ordinary word (이번, 사과, 두통) stays as written. Both sides of a
comparison go through the same rules, so what stays costs nothing that it did not cost before. The rules need the
spaces between words: apply them before a normaliser drops those.

Conventions of the form: 3시 반 is 3시 30분, 3:30 likewise; 두세 번 is 2~3번; 반, 하루 and 열흘 stay words; a phone
number is its digits; ℃ and 도 are one unit.
"""

import re
import unicodedata

from kmed_bench.text.counters import SINO_COUNTER, TAIL
from kmed_bench.text.number_words import (
    ARABIC,
    FIRST,
    Reading,
    counter_at,
    read_decimal,
    read_fraction,
    read_words,
    unit_at,
    with_unit,
)
from kmed_bench.text.numerals import sino_readings

NUMBERS_VERSION = "2"
"""Changes whenever a function of this module may give another result for some text; 2: 2~3 is told from 23."""

# A number word starts a word, or follows another number or one of these.
_OPENER = re.compile(r"(?:오전|오후|새벽|아침|저녁|하루에?|매일|코로나|영하|영상|섭씨|\d)$")
_LATIN_CODE = re.compile(r"[A-Za-z][A-Za-z-]*\d[\dA-Za-z.]*")  # B12, CD4, COVID-19: names, not numbers
_START = re.compile(rf"[\dA-Za-z{FIRST}]")
_PHONE = re.compile(r"(?<!\d)(0\d{1,2})[-. ](\d{3,4})[-. ](\d{4})(?!\d)|(?<!\d)(1[56]\d\d)-(\d{4})(?!\d)")
_CLOCK = re.compile(r"([01]?\d|2[0-4]):([0-5]\d)(?![\d:])분?")
_DATE = re.compile(r"(\d{4})([-./]) ?(0?[1-9]|1[0-2])\2 ?(0?[1-9]|[12]\d|3[01])(?!\d)\.?")
_INTERVAL = re.compile(r"(\d{1,4}) ?[~∼〜～-] ?(\d{1,4})(?![\d-])")
_BETWEEN = re.compile(r"(?<=\d)[~∼〜～](?=\d)")


def canonical_numbers(text: str) -> str:
    """Return the text with its numbers in Arabic digits and its units as signs.

    Numbers lose their thousands commas and the space before their counter; everything else stays as written.
    Applying it twice changes nothing.

    Parameters
    ----------
    text : str
        Text whose transcription marks are already resolved.

    Examples
    --------
    >>> canonical_numbers("체온은 삼십팔 점 오 도, 하루 세 번 오백 밀리그램씩 드세요.")
    '체온은 38.5도, 하루 3번 500mg씩 드세요.'
    """
    return _settle(text)[0]


def keep_ranges(text: str) -> str:
    """Return a text of ``canonical_numbers`` with a sign between a range's ends that normalisation keeps.

    The normaliser drops ``~`` as it drops all such signs, and 2~3 would become 23; a minus between digits stays.

    Examples
    --------
    >>> keep_ranges("2~3번")
    '2−3번'
    """
    return _BETWEEN.sub("−", text)


def find_numbers(text: str) -> list[str]:
    """Return the numbers of a text in order, in one form, with their units.

    A number keeps its unit (``5mg`` is another dose than ``5ml``) and drops its counter (``3`` for 세 번).

    Examples
    --------
    >>> find_numbers("하루 세 번 오백 밀리그램씩")
    ['3', '500mg']
    """
    return [number for piece in _settle(text)[1] if isinstance(piece, Reading) for number in piece.numbers]


def _settle(text: str) -> tuple[str, list[str | Reading]]:
    """Return the one form of a text and its pieces.

    A conversion may give its neighbour the context that it lacked, so this goes on until nothing changes; it ends,
    for every change leaves fewer number words.
    """
    text = unicodedata.normalize("NFC", text)
    while True:
        pieces = _scan(text)
        form = "".join(piece if isinstance(piece, str) else piece.form for piece in pieces)
        if form == text:
            return text, pieces
        text = form


def _scan(text: str) -> list[str | Reading]:
    pieces: list[str | Reading] = []
    at, last = 0, None
    while start := _START.search(text, at):
        pieces.append(text[at : start.start()])
        at = start.start()
        code = _LATIN_CODE.match(text, at)
        if code and not text[at - 1 : at].isalnum():
            pieces.append(code[0])
            at = code.end()
            continue
        reading = _read(text, at, follows_number=last is not None and last.end == at)
        if reading is None:
            pieces.append(text[at])
            at += 1
        else:
            pieces.append(reading if reading.numbers else text[at : reading.end])
            at, last = reading.end, reading
    pieces.append(text[at:])
    return pieces


def _read(text: str, at: int, *, follows_number: bool) -> Reading | None:
    """Return the number that starts here; one without numbers means: leave this stretch alone."""
    before = text[at - 1] if at else " "
    if text[at].isdecimal():
        return None if before.isdecimal() or (before.isascii() and before.isalpha()) else _read_arabic(text, at)
    if before.isalnum() and not follows_number and not _OPENER.search(text, max(0, at - 4), at):
        return None
    return read_words(text, at)


def _read_arabic(text: str, at: int) -> Reading:
    phone = _PHONE.match(text, at)
    if phone:
        number = "".join(group for group in phone.groups() if group)
        return Reading(end=phone.end(), form=number, numbers=(number,))
    clock = _CLOCK.match(text, at)
    if clock:
        return _clock(clock.end(), int(clock[1]), int(clock[2]))
    date = _DATE.match(text, at)
    if date:
        parts = (date[1], str(int(date[3])), str(int(date[4])))
        return Reading(end=date.end(), form="{}년 {}월 {}일".format(*parts), numbers=parts, counter="일")
    interval = _INTERVAL.match(text, at)
    if interval and int(interval[1]) < int(interval[2]):
        return with_unit(text, interval.end(), f"{int(interval[1])}~{int(interval[2])}")
    for numeral in sino_readings(text, at):  # 3만 5천, 2백
        if TAIL.match(text, numeral.end) or counter_at(text, numeral.end, SINO_COUNTER) or unit_at(text, numeral.end):
            return with_unit(text, numeral.end, numeral.value)
    for found in (read_decimal(text, at), read_fraction(text, at)):
        if found:
            return found
    match = ARABIC.match(text, at)
    assert match is not None  # the caller saw a digit
    return with_unit(text, match.end(), match[0].replace(",", ""))


def _clock(end: int, hour: int, minute: int) -> Reading:
    if minute == 0:
        return Reading(end=end, form=f"{hour}시", numbers=(str(hour),), counter="시")
    return Reading(end=end, form=f"{hour}시 {minute}분", numbers=(str(hour), str(minute)), counter="분")

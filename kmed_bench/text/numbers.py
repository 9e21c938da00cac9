"""Korean numbers in one form, so that 이십육쩜칠 and 26.7 count as the same transcript.

A number word is converted only where grammar and context leave one reading: with a counter or a unit (세 번, 오 밀리),
as a number of several places (백이십), as digits read one by one (공일공), as a decimal. What can mean two things
(이십 일: 21, or 20 days) and what is also an ordinary word (이번, 사과, 두통) stays as written. Both sides of a
comparison go through the same rules, so what stays costs nothing that it did not cost before. The rules need the
spaces between words: apply them before a normaliser drops those.

Conventions of the form: 3시 반 is 3시 30분, 3:30 likewise; 한 알 반 is 1.5알 and 38도 5부 38.5도; 두세 번 and 2, 3번
are 2~3번; 마이너스 and 영하 are a minus; a blood pressure is 120에 80; 반, 하루 and 열흘 stay words; a phone number is
its digits; ℃ and 도 are one unit; endings agree with the number as it is read (72이에요 is 72예요).

``contexts`` knows which words around a short number make it one, ``counters`` the units, ``numerals`` the grammar of
the numbers themselves, ``number_words`` and ``number_digits`` choose between readings, ``quantities`` holds the result.
"""

import dataclasses
import functools
import re
import unicodedata

from kmed_bench.text.counters import unit_at
from kmed_bench.text.endings import agree
from kmed_bench.text.number_digits import read_digits
from kmed_bench.text.number_words import FIRST, read_words
from kmed_bench.text.numerals import NATIVE_WORDS, SINO_SIGNS
from kmed_bench.text.quantities import Quantity, Reading

NUMBERS_VERSION = "4"
"""Changes whenever a function of this module may give another result for some text; 4: mixed and spaced places."""

# A number word starts a word, or follows a counter or one of these.
_OPENER = re.compile(r"(?:오전|오후|새벽|아침|저녁|하루에?|매일|코로나|오메가|영하|영상|섭씨|마이너스)$")
_LATIN_CODE = re.compile(
    r"[A-Za-z][A-Za-z-]*\d[\dA-Za-z.]*(?:[-−]\d+)?|(?:CA|ca) \d+(?:[-−]\d+)?"
)  # B12, CA19-9, COVID-19: names, not numbers
_LATIN_RUN = re.compile(r"[A-Za-z-]*")
# Within a word a number starts only at a digit, or after the last syllable of an opener.
_START = re.compile(rf"(?:(?<![^\W_])|(?<=[전후벽침녁루에일나가하상씨스])|(?=\d))[\dA-Za-z{FIRST}−–-]")
_MINUS = re.compile(r"(?:(?<![^\s(\[{])[-–]|(?<![\d시분일%])−) ?(?=\d)|(?:마이너스|영하) ?")  # no 9시−18시
_SENTENCE_END = re.compile(r"(?<=[요다까죠야][.?!] )")  # after endings that are never a number's last word
_WORD_BEFORE_UNIT = re.compile(
    rf"(?<![^\W_])(?!이 )(?:[{''.join(sorted(SINO_SIGNS))}륙]+|{NATIVE_WORDS})(?= ?[가-힣A-Za-z%℃㎎㎏㎖㎝㎜㎍ℓ㏄])"
)


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


def find_quantities(text: str) -> list[Quantity]:
    """Return the quantities of a text in order; the ambiguous ones among them hold all their readings.

    Their places are those in ``canonical_numbers(text)``.

    Examples
    --------
    >>> [(q.value, q.unit) for q in find_quantities("하루 세 번 오백 밀리그램씩")]
    [('3', '번'), ('500', 'mg')]
    """
    at, found = 0, []
    for piece in _settle(text)[1]:
        if isinstance(piece, Reading):
            end = at + len(piece.form)
            found += [dataclasses.replace(quantity, start=at, end=end) for quantity in piece.quantities]
            at = end
        else:
            at += len(piece)
    return found


def count_unread(text: str) -> int:
    """Return how many number words stand before a unit of measurement and yet stay as they are written.

    A listener takes them for numbers, but no rule reads them: 세 킬로 (three kilos) and 스무 그램. A 이 before a space
    may be "this", and a 도 the particle "too", so neither is counted; nor are ambiguous numbers.

    Examples
    --------
    >>> count_unread("세 킬로 빠졌고 오백 밀리그램을 먹어요")
    1
    """
    form, pieces = _settle(text)
    n_unread = at = 0
    for piece in pieces:
        if isinstance(piece, Reading):
            at += len(piece.form)
            continue
        for match in _WORD_BEFORE_UNIT.finditer(form, at, at + len(piece)):
            unit = unit_at(form, match.end())
            n_unread += unit is not None and unit[0] != "도"
        at += len(piece)
    return n_unread


@functools.lru_cache(maxsize=1 << 14)  # the same text is asked for its form and for its quantities
def _settle(text: str) -> tuple[str, tuple[str | Reading, ...]]:
    """Return the one form of a text and its pieces; no reading looks past a sentence's end."""
    forms, pieces = [], []
    for sentence in _SENTENCE_END.split(unicodedata.normalize("NFC", text)):
        form, found = _settle_sentence(sentence)
        forms.append(form)
        pieces += found
    return "".join(forms), tuple(pieces)


def _settle_sentence(text: str) -> tuple[str, list[str | Reading]]:
    """Return the one form of a sentence and its pieces.

    A conversion may give its neighbour the context that it lacked, so this goes on until nothing changes; it ends,
    for every change leaves fewer number words.
    """
    while True:
        pieces = _scan(text)
        form = "".join(piece if isinstance(piece, str) else piece.form for piece in pieces)
        if form == text:
            return text, pieces
        text = form


def _scan(text: str) -> list[str | Reading]:
    pieces: list[str | Reading] = []
    at, done = 0, 0  # what stands before done is in pieces
    last_end, codeless_to = -1, 0
    while at < len(text):
        if at != last_end:  # after a counter a number may follow without a space: 오월오일
            start = _START.search(text, at)
            if start is None:
                break
            at = start.start()
        if text[at].isascii() and at >= codeless_to and not text[at - 1 : at].isalnum():
            code = _LATIN_CODE.match(text, at)
            if code:
                at = code.end()
                continue
            # No code begins inside these letters, except for CA at their end; trying each would read on to the end.
            codeless_to = _LATIN_RUN.match(text, at).end() - 2  # type: ignore[union-attr]  # it may be empty
        reading = _read(text, at, follows_number=last_end == at)
        if reading is None:
            at += 1
            continue
        end = reading.end
        ending = ""
        if reading.quantities and reading.form[-1:].isascii():
            ending, end = agree(reading.form, text, end)
            if text[end : end + 1].isdecimal() and reading.form[-1].isdecimal():
                ending = "·"  # 1만2만: two numbers, whose digits never become one number
        pieces += [text[done:at], reading, ending]
        # What follows sees the number in its form.
        text = text[:at] + reading.form + ending + text[end:]
        at = done = at + len(reading.form) + len(ending)
        codeless_to = 0
        last_end = at if reading.quantities and reading.counter else -1  # 오월오일, but no 10일
    pieces.append(text[done:])
    return pieces


def _read(text: str, at: int, *, follows_number: bool) -> Reading | None:
    """Return the number that starts here, or None."""
    before = text[at - 1] if at else " "
    if text[at].isdecimal():
        joined = before.isdecimal() or (before.isascii() and before.isalpha())
        return None if joined and not follows_number else read_digits(text, at)  # 5mg10mg
    if before.isalnum() and not follows_number and not _OPENER.search(text, max(0, at - 4), at):
        return None
    minus = _MINUS.match(text, at)
    if minus:
        return _read_negative(text, minus)
    return read_words(text, at)


def _read_negative(text: str, minus: re.Match[str]) -> Reading | None:
    """Return the number after a minus; after 영하 only degrees are one."""
    at = minus.end()
    if at == len(text):
        return None
    reading = read_digits(text, at) if text[at].isdecimal() else read_words(text, at)
    if reading is None or not reading.quantities or reading.quantities[0].is_ambiguous or reading.form[0] == "제":
        return None
    first, *rest = reading.quantities
    if first.sign or (minus[0].startswith("영하") and first.unit not in ("도", "")):
        return None
    sign = text[minus.start()] if text[minus.start()] in "-−–" else "-"
    negative = (dataclasses.replace(first, sign="-"), *rest)
    return Reading(end=reading.end, form=sign + reading.form, quantities=negative)

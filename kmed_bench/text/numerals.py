"""Grammar of Korean numerals: which strings are numbers, and what they are worth.

Nothing here knows counters or context; ``numbers`` decides which of these readings a sentence means.
"""

import functools
import re
from collections.abc import Iterator
from typing import NamedTuple

SINO_DIGITS = {"영": 0, "공": 0, "일": 1, "이": 2, "삼": 3, "사": 4, "오": 5, "육": 6, "칠": 7, "팔": 8, "구": 9}
_SMALL = {"십": 10, "백": 100, "천": 1000}
_BIG = {"만": 10**4, "억": 10**8}
SINO_SIGNS = frozenset(SINO_DIGITS | _SMALL | _BIG)
"""Signs of a Sino-Korean number."""
_STRETCH = re.compile(rf"[{''.join(SINO_SIGNS)}\d., ]*")
_ARABIC = re.compile(r"\d{1,4}(?![\d.,])(?=[십백천만억])")
# Digits that end a number after 만, 천 or 백: as many as that place leaves (1만 2000, 3천 500), or fewer where no space
# or a sum of money shows that they belong to it (2천24년, 1만 500원). After a space no year, no range
# and no blood pressure.
_APART = r"(?! ?년|에 ?\d| ?[~∼〜～−–/:-] ?\d)"
_REST = {
    sign: re.compile(rf"(?:\d{{1,{n}}}|{full}| {full}{_APART}| [1-9]\d{{0,{n - 1}}}(?= ?원))(?![\d.,]*\d|[십백천만억])")
    for sign, n, full in (("만", 4, r"[1-9],?\d{3}"), ("천", 3, r"[1-9]\d\d"), ("백", 2, r"[1-9]\d"))
}
_DIGIT_RUN = re.compile(rf"[{''.join(SINO_DIGITS)}]{{2,}}")

_ONES = {"한": 1, "두": 2, "세": 3, "네": 4, "하나": 1, "둘": 2, "셋": 3, "넷": 4}
_ONES |= {"다섯": 5, "여섯": 6, "일곱": 7, "여덟": 8, "여덜": 8, "아홉": 9}
_TENS = {"열": 10, "스물": 20, "서른": 30, "마흔": 40, "쉰": 50, "예순": 60, "일흔": 70, "여든": 80, "아흔": 90}
_OLD = {"석": 3, "넉": 4, "스무": 20}  # before some counters: 석 달, 스무 살

_BY_LENGTH = "|".join(sorted(_ONES, key=len, reverse=True))
NATIVE_WORDS = rf"(?:{'|'.join(_TENS)}) ?(?:{_BY_LENGTH})|{'|'.join(_TENS)}|{_BY_LENGTH}|스무"
"""Pattern of a native number, the longest form first."""
_NATIVE = re.compile(
    rf"(?P<tens>{'|'.join(_TENS)})(?: ?(?P<ones>{_BY_LENGTH}))?"
    rf"|(?P<alone>{'|'.join(sorted(_ONES | _OLD, key=len, reverse=True))})"
)

# Two neighbours said as one, and where a space may part them: 두세 번, 두 세 번. But 네 다섯 may be "yes, five".
_NATIVE_NEIGHBOURS = {
    "한 두": "1~2",
    "두 세": "2~3",
    "두 서너": "2~4",
    "서너": "3~4",
    "세 네": "3~4",
    "네다섯": "4~5",
    "너댓": "4~5",
    "네댓": "4~5",
    "다섯 여섯": "5~6",
    "대여섯": "5~6",
    "여섯 일곱": "6~7",
    "예닐곱": "6~7",
    "일곱 여덟": "7~8",
    "일고여덟": "7~8",
    "여덟 아홉": "8~9",
}
_NATIVE_RANGES = {words.replace(" ", ""): value for words, value in _NATIVE_NEIGHBOURS.items()}
_NATIVE_RANGE = re.compile("|".join(sorted(_NATIVE_NEIGHBOURS, key=len, reverse=True)).replace(" ", " ?"))
_NATIVE_TENS_RANGE = re.compile(rf"({'|'.join(_TENS)})(한두|두세|서너|네다섯|네댓|대여섯)")
# Neighbours may end a longer number (백이삼십, 십이삼 일) and be tens or more themselves.
_SINO_NEIGHBOURS = re.compile(
    r"(?P<head>(?:[일이삼사오육칠팔구]?[천백십])*)"
    r"(?P<low>일,? ?이|이,? ?삼|삼,? ?사|사,? ?오|오,? ?륙|오,? ?육|육,? ?칠|칠,? ?팔|팔,? ?구)(?P<unit>[십백천만]?)"
)


class Numeral(NamedTuple):
    """One reading of the text from a position on as a number.

    Attributes
    ----------
    end : int
        Position after its last character.
    value : str
        Digits; a range as ``2~3``.
    words : str
        The characters read, without spaces.
    spaced_last : bool
        A space stands before the last character (이십 일).
    spaced_first : bool
        A space stands after a first 이 or 일, which alone is a word (이 백), or after a first 열 (열 두).
    """

    end: int
    value: str
    words: str
    spaced_last: bool = False
    spaced_first: bool = False

    @property
    def is_digit(self) -> bool:
        """One Sino-Korean digit alone: nearly all of them are words of their own (이, 일, 오, 팔)."""
        return len(self.words) == 1 and self.words in SINO_DIGITS

    @property
    def is_multiplier(self) -> bool:
        """십, 백, 천, 만 or 억 alone."""
        return len(self.words) == 1 and not self.is_digit

    @property
    def is_full(self) -> bool:
        """A native number that stands without a counter: 열하나, 스물, not 열 (fever) or 쉰 (hoarse)."""
        return self.words not in (*_ONES, *_OLD, "열", "쉰") and not self.words.endswith(("한", "두", "세", "네"))


def sino_readings(text: str, start: int) -> list[Numeral]:
    """Return every prefix that is a positional Sino-Korean number, the longest first.

    Arabic digits may stand for a digit word (3만 5천, 2백) or end the number (1만 2000). Places must descend, so
    오십 육십 gives 50 alone.
    """
    first = text[start : start + 1]
    if first not in SINO_SIGNS and not first.isdecimal():
        return []
    stretch = _STRETCH.match(text, start)
    assert stretch is not None  # it may be empty
    found = [Numeral(start + numeral.end, *numeral[1:]) for numeral in _read_stretch(stretch[0])]
    if not found or not text[found[0].end : found[0].end + 2].strip()[:1].isdecimal():
        return found  # nearly always: a test for a digit is cheaper than the patterns
    rest = _read_rest(text, found[0])
    return [rest, *found[1:]] if rest else found


def _read_rest(text: str, numeral: Numeral) -> Numeral | None:
    """Return the number with the Arabic digits that end it: 1만 2000, 3천500."""
    last = numeral.words[-1]
    mixed = last == "만" or any(sign.isdecimal() for sign in numeral.words)
    match = _REST[last].match(text, numeral.end) if mixed and last in _REST else None
    if match is None:
        return None
    digits = match[0].strip().replace(",", "")
    value = str(int(numeral.value) + int(digits))
    spaced = match[0].startswith(" ")
    return Numeral(match.end(), value, numeral.words + digits, spaced, numeral.spaced_first)


@functools.lru_cache(maxsize=1 << 14)
def _read_stretch(text: str) -> tuple[Numeral, ...]:
    """Return the readings from the beginning of a text that holds nothing after the number, the longest first."""
    return tuple(_walk_places(text, 0))[::-1]


def _walk_places(text: str, start: int) -> Iterator[Numeral]:
    closed = section = 0  # sums of the finished ten-thousands and of the running one
    digit: int | None = None
    small_limit, big_limit = 10**4, 10**12
    at, words, spaced, spaced_first = start, "", False, False
    while at < len(text):
        sign = text[at]
        if sign in SINO_DIGITS and digit is None and sign not in "영공":
            digit = SINO_DIGITS[sign]
        elif sign.isdecimal() and digit is None:
            match = _ARABIC.match(text, at)
            if match is None:
                return
            digit, sign = int(match[0]), match[0]
        elif sign in _SMALL and _SMALL[sign] < small_limit and (digit is None or digit < 10):
            small_limit = _SMALL[sign]
            section, digit = section + (1 if digit is None else digit) * _SMALL[sign], None
        elif sign in _BIG and _BIG[sign] < big_limit:
            big_limit, small_limit = _BIG[sign], 10**4
            closed += (section + (digit or 0) or 1) * _BIG[sign]
            section, digit = 0, None
        else:
            return
        at += len(sign)
        words += sign
        if not sign.isdecimal():
            value = str(closed + section + (digit or 0))
            yield Numeral(end=at, value=value, words=words, spaced_last=spaced, spaced_first=spaced_first)
        spaced = False
        if text[at : at + 1] == " " and (words not in ("이", "일") or text[at + 1 : at + 2] in _SMALL | _BIG):
            at, spaced = at + 1, True
            spaced_first |= words in ("이", "일")


def digit_run(text: str, start: int) -> Numeral | None:
    """Return digits read one by one (공일공, 삼육오), at least two of them, or None."""
    match = _DIGIT_RUN.match(text, start)
    if match is None:
        return None
    value = "".join(str(SINO_DIGITS[sign]) for sign in match[0])
    return Numeral(end=match.end(), value=value, words=match[0])


def native_readings(text: str, start: int) -> list[Numeral]:
    """Return the prefixes that are native Korean numbers (스물다섯, 세, 열한), the longest first."""
    match = _NATIVE.match(text, start)
    if match is None:
        return []
    if not match["tens"]:
        return [Numeral(end=match.end(), value=str((_ONES | _OLD)[match[0]]), words=match[0])]
    tens = Numeral(end=match.end("tens"), value=str(_TENS[match["tens"]]), words=match["tens"])
    if not match["ones"]:
        return [tens]
    value = str(_TENS[match["tens"]] + _ONES[match["ones"]])
    spaced = match["tens"] == "열" and match.start("ones") > match.end("tens")
    words = match["tens"] + match["ones"]
    return [Numeral(end=match.end(), value=value, words=words, spaced_first=spaced), tens]


def range_reading(text: str, start: int) -> Numeral | None:
    """Return two neighbouring numbers said as one (두세, 이삼, 삼사십, 백이삼십), or None."""
    native = _NATIVE_RANGE.match(text, start)
    if native:
        words = native[0].replace(" ", "")
        return Numeral(end=native.end(), value=_NATIVE_RANGES[words], words=words)
    teens = _NATIVE_TENS_RANGE.match(text, start)
    if teens:
        low, high = (str(_TENS[teens[1]] + int(end)) for end in _NATIVE_RANGES[teens[2]].split("~"))
        return Numeral(end=teens.end(), value=f"{low}~{high}", words=teens[0])
    match = _SINO_NEIGHBOURS.match(text, start)
    if match is None:
        return None
    factor = (_SMALL | _BIG).get(match["unit"], 1)
    head = next((int(n.value) for n in sino_readings(match["head"], 0) if n.end == len(match["head"])), 0)
    if match["head"] and (not head or head % (10 * factor)):
        return None
    first = SINO_DIGITS[match["low"][0]]
    value = f"{head + first * factor}~{head + (first + 1) * factor}"
    spaced = " " in match["low"]
    words = match[0].replace(" ", "").replace(",", "")
    return Numeral(end=match.end(), value=value, words=words, spaced_first=spaced)


def is_native_range(numeral: Numeral) -> bool:
    """Return whether a range is said in native numbers, which go with native counters."""
    return numeral.words[-1] not in SINO_DIGITS | _SMALL | _BIG and numeral.words[-1] != "륙"

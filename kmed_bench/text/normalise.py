"""One normal form for scoring: what counts as a character, the same for references and hypotheses.

The rules, in order; a change of any of them is a new ``NORMALISER_VERSION``:

1. NFC, so that decomposed Hangul equals composed Hangul.
2. Compatibility units (``㎎``, ``㎖``, ``ℓ``) and full-width ASCII (``％``) become their plain spelling, ``°C`` becomes
   ``℃``. The araea (``ㆍ``), which Korean keyboards write for the middle dot, becomes one.
3. Lower case.
4. ``%`` and ``℃`` stay. A minus before a digit stays, a space between them or not, where it doesn't hang on a word
   (``-5``, not ``코로나-19``). It is written ``−`` (U+2212), so that it is told from a hyphen once the spaces are gone.
5. Signs between two digits never go without a trace, or they would make one number of two. With the spaces around
   them they become one sign: ``.`` or ``/`` or ``:`` stays as it is, a dash or a wave (``2~3``, ``2-3``) is ``−``,
   and all else (``2, 3``, ``3. 5``) is ``·``. Only the commas of thousands and the hyphens of telephone numbers go.
6. All other punctuation, symbols (emoji among them) and control characters go.
7. Spaces go, or with ``keep_spaces`` every run of white space becomes one space.

Transcription marks such as ``(3)/(삼)`` must have been resolved before: these rules would keep both readings.
"""

import re
import unicodedata

NORMALISER_VERSION = "3"

# Most texts need only a part of the rules: Hangul and lower-case letters, with digits or with plain punctuation.
_LETTERS = re.compile(r"[가-힣a-z0-9 ]*")
_SENTENCES = re.compile(r"[가-힣a-z .,?!]*")
_PUNCTUATION = str.maketrans("", "", ".,?!")
_COMPATIBILITY = re.compile(r"[\u3300-\u33FF\uFF01-\uFF5E\u00B5\u2113]")  # squared units, full-width ASCII, µ, ℓ
_ARAEA = re.compile("\u318d|(?<![\u1100-\u115f\ua960-\ua97c])\u119e")  # Unicode counts it as a letter
_DEGREE = re.compile(r"[°\u02DA]\s*c(?![a-z])", re.IGNORECASE)
_DIGIT = re.compile(r"\d")
_MINUS = re.compile(r"(?:(?<![^\s(\[{])[-–]|−)\s*(?=\d)")
_THOUSANDS = re.compile(r"(?<!\d)(?<!\d,)(\d{1,3})((?:,\d{3})+)(?!,?\d)")
_OF_THINGS = r"\s?(?:[a-z%℃μ]|원|칼로리|킬로|밀리|마이크로|씨씨|리터|그램|미터|보(?![가-힣])|명|단위|유닛|년|정도|사이)"
# 02) 555-1234 too, but no range: 1500~2000 칼로리.
_PHONE = re.compile(rf"0\d{{1,2}}[−·]\d{{3,4}}−\d{{4}}|1[56]\d\d−\d{{4}}(?!{_OF_THINGS})")
_JOINED = str.maketrans("", "", "−·")
_BETWEEN = re.compile(r"(?<=\d)[^\w℃%]+(?=\d)")
_WAVES = frozenset("~∼〜～˜−")  # and every dash
_KEPT = frozenset(".:/−·%℃")
_OUTSIDE_NUMBER = re.compile(r"(?<!\d)[.:/·]|[.:/·](?!\d)|−(?!\d)")


def _sign_between(match: re.Match[str]) -> str:
    """Return the one sign that two numbers keep between them."""
    categories = {sign: unicodedata.category(sign) for sign in match[0] if not sign.isspace()}
    signs = [sign for sign in match[0] if categories.get(sign, "")[:1] in ("P", "S")]
    if not signs or any(category[0] == "M" for category in categories.values()):
        return match[0]
    if all(sign in _WAVES or categories[sign] == "Pd" for sign in signs):
        return "−"
    if len(signs) == 1 and (signs[0] in "/:" or match[0] == "."):
        return signs[0]
    return "·"


class _Removal(dict[int, int | None]):
    """Table for ``str.translate``, filled as characters are met: None removes the character."""

    def __missing__(self, point: int) -> int | None:
        sign = chr(point)
        category = unicodedata.category(sign)
        # Me and the variation selectors only dress the sign before them, as in a keycap emoji.
        dressing = category == "Me" or 0xFE00 <= point <= 0xFE0F or 0xE0100 <= point <= 0xE01EF
        removed = (category[0] in "PSC" and sign not in _KEPT and not sign.isspace()) or dressing
        self[point] = None if removed else point
        return self[point]


_REMOVAL = _Removal()


def normalise(text: str, *, keep_spaces: bool = False) -> str:
    """Return the text as it is scored.

    Normalising twice changes nothing, and decomposed (NFD) input gives the same result as composed input.

    Parameters
    ----------
    text : str
        Text whose transcription marks are already resolved.
    keep_spaces : bool
        False drops all white space (the headline ``cer``); True keeps single spaces between words.

    Examples
    --------
    >>> normalise("체온은 36.5°C, 혈압은 120/80이에요.")
    '체온은36.5℃혈압은120/80이에요'
    """
    joint = " " if keep_spaces else ""
    if _LETTERS.fullmatch(text):
        return joint.join(text.split())
    if _SENTENCES.fullmatch(text):
        return joint.join(text.translate(_PUNCTUATION).split())
    text = _ARAEA.sub("·", unicodedata.normalize("NFC", text))
    text = _COMPATIBILITY.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text)
    text = _DEGREE.sub("℃", text).lower()
    has_digits = _DIGIT.search(text) is not None
    if has_digits:
        text = _THOUSANDS.sub(lambda match: match[1] + match[2].replace(",", ""), text)
        text = _BETWEEN.sub(_sign_between, _MINUS.sub("−", text))
    text = _OUTSIDE_NUMBER.sub("", text).translate(_REMOVAL)
    text = joint.join(text.split())
    if has_digits:
        text = _PHONE.sub(lambda match: match[0].translate(_JOINED), text)
    # Characters that were apart may now compose.
    return unicodedata.normalize("NFC", text)

"""One normal form for scoring: what counts as a character, the same for references and hypotheses.

The rules, in order; a change of any of them is a new ``NORMALISER_VERSION``:

1. NFC, so that decomposed Hangul equals composed Hangul.
2. Compatibility units (``㎎``, ``㎖``) and full-width ASCII (``％``) become their plain spelling, ``°C`` becomes ``℃``.
3. Lower case.
4. Punctuation, symbols (emoji among them) and control characters go. Four signs carry meaning and stay:
   ``.`` and ``/`` between digits, a minus before a digit, and ``%`` and ``℃`` anywhere. A kept minus is written
   ``−`` (U+2212), so that it is told from a hyphen once the spaces around it are gone.
5. Spaces go, or with ``keep_spaces`` every run of white space becomes one space.

Transcription marks such as ``(3)/(삼)`` must have been resolved before: these rules would keep both readings.
"""

import re
import unicodedata

NORMALISER_VERSION = "1"

_COMPATIBILITY = re.compile(r"[\u3300-\u33FF\uFF01-\uFF5E]")  # squared units, full-width ASCII
_DEGREE = re.compile(r"°\s*c(?![a-z])", re.IGNORECASE)
_MINUS = re.compile(r"(?:(?<![^\s(\[{])[-–]|−)(?=\d)")  # "-5", not "코로나-19" nor "010-1234"
_SIGN_OUTSIDE_NUMBER = re.compile(r"(?<!\d)[./]|[./](?!\d)|−(?!\d)")
_KEPT = frozenset("./−%℃")


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
    text = unicodedata.normalize("NFC", text)
    text = _COMPATIBILITY.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text)
    text = _DEGREE.sub("℃", text).lower()
    text = _MINUS.sub("−", text)
    text = _SIGN_OUTSIDE_NUMBER.sub("", text)
    text = text.translate(_REMOVAL)
    text = (" " if keep_spaces else "").join(text.split())
    # Characters that were apart may now compose.
    return unicodedata.normalize("NFC", text)

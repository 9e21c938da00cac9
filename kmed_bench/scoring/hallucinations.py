"""Signs of hallucination in a hypothesis: repetition loops, impossible speaking rates, credits, other scripts.

A sign that the reference shows too is speech, so a correct transcript is never flagged.
"""

import functools
import re
import unicodedata
import zlib

from rapidfuzz import fuzz

from kmed_bench.scoring.credits import has_credit

SIGNS = ("loop", "rate", "credit", "script")

_GRAM = 4
"""Characters per n-gram: two Korean words' worth of context."""
_MIN_GRAMS = 12
"""Texts of fewer n-grams are not checked for loops: people do say "네 네 네"."""
_MIN_UNIQUE_SHARE = 0.5
"""A text with a smaller share of distinct n-grams is a loop."""
_MAX_COMPRESSION = 2.4
"""UTF-8 bytes per zlib byte above which a text is a loop; openai-whisper's own threshold."""
_MAX_CHARACTERS_PER_S = 15.0
"""Fast Korean speech has about 9 syllables a second; no speaker reaches 15."""
_MIN_CHARACTERS = 10
"""Shorter texts are not checked for rate, because durations in labels are rounded."""

_RUN = re.compile(r"(.{1,60}?)\1{2,}")
_TWICE = re.compile(r"(.{10,100}?)\1")
_MIN_EXCESS = 15
"""Characters that a unit, said three times or more in a row, must have beyond what the reference has of it."""
_PHRASE = 6
"""Characters from which a unit is a phrase; people repeat words in a row, but hardly phrases three times."""
_ALIKE = 80.0
"""Similarity in percent (rapidfuzz) from which a stretch is the reference's, a wrong syllable or two included."""
_MIN_WHOLE = 5
"""Shorter references are not checked for being repeated as a whole: 네 네, 아파요 아파요."""

_OTHER = re.compile(r"[^\W\d_a-zÀ-ɏ\u1100-\u11ff\u3130-\u318f\ua960-\ua97f가-힣\ud7b0-\ud7ff]{2,}")
_LATIN = re.compile(r"[a-zÀ-ɏ]")
_LATIN_WORD = re.compile(r"(?<![^\W_])[a-zÀ-ɏ]+(?![^\W_])")
_ENGLISH_WORD = re.compile(
    r"\b(?:i|you|he|she|it|we|they|me|my|your|this|that|the|a|an|is|are|was|be|am|im|have|has|do|dont|did|will|can|of|to|"
    r"in|on|for|with|at|by|from|and|or|but|so|not|no|what|how|please|thanks?|hello|hi|bye|oh|okay|all|just|lets?|see|good|"
    r"very|much|going|know)\b"
)
_MIN_LATIN_LETTERS = 10


def find_signs(reference: str, hypothesis: str, duration_s: float) -> tuple[str, ...]:
    """Return the signs of ``SIGNS`` that the hypothesis shows and the reference does not.

    Parameters
    ----------
    reference, hypothesis : str
        Normalised texts; sentences in Latin letters are only found where they have spaces.
    duration_s : float
        Length of the audio in seconds; zero or less turns the rate sign off.
    """
    said, heard = reference.replace(" ", ""), hypothesis.replace(" ", "")
    if heard == said:
        return ()
    shown = {
        "loop": (_loops(heard) and not _loops(said)) or _repeats(said, heard) or _repeats_whole(said, heard),
        "rate": _too_fast(heard, duration_s) and not _too_fast(said, duration_s),
        "credit": has_credit(said, heard),
        "script": _leaves_script(said, hypothesis),
    }
    return tuple(sign for sign in SIGNS if shown[sign])


def _loops(text: str) -> bool:
    grams = [text[i : i + _GRAM] for i in range(len(text) - _GRAM + 1)]
    if len(grams) < _MIN_GRAMS:
        return False
    if len(set(grams)) / len(grams) < _MIN_UNIQUE_SHARE:
        return True
    raw = text.encode("utf-8")
    # zlib needs 11 bytes for its head and tail, so a short text without repeats can't pass the threshold.
    return len(raw) > 26 and len(raw) / len(zlib.compress(raw)) > _MAX_COMPRESSION


def _repeats(reference: str, hypothesis: str) -> bool:
    """Return whether a stretch of the hypothesis is repeated in a row, more than in the reference.

    Three times or more: a phrase, or a word so often that 15 characters are too many. Twice: only a stretch of the
    reference of ten characters or more, which makes the hypothesis longer.
    """
    if len(hypothesis) < 3 * _PHRASE:
        return False
    n_grams = len(hypothesis) - _GRAM + 1
    if n_grams - len({hypothesis[i : i + _GRAM] for i in range(n_grams)}) < _PHRASE:
        return False
    for match in _RUN.finditer(hypothesis):
        unit = match[1]
        excess = len(match[0]) - len(unit) * max(1, reference.count(unit))
        if excess >= _MIN_EXCESS or (len(unit) >= _PHRASE and excess >= 2 * len(unit)):
            return True
    return any(
        len(hypothesis) - len(reference) >= 0.8 * len(match[1])
        and reference.count(match[1]) < 2
        and len(reference) >= len(match[1])
        and fuzz.partial_ratio(match[1], reference) >= _ALIKE
        for match in _TWICE.finditer(hypothesis)
    )


def _repeats_whole(reference: str, hypothesis: str) -> bool:
    """Return whether the hypothesis is the reference twice or more, each time with hardly an error."""
    length = len(reference)
    if length < _MIN_WHOLE or len(hypothesis) < 1.8 * length:
        return False
    ends = hypothesis[:length], hypothesis[-length:]
    return all(fuzz.ratio(reference, end) >= _ALIKE for end in ends)


def _too_fast(text: str, duration_s: float) -> bool:
    return duration_s > 0 and len(text) >= _MIN_CHARACTERS and len(text) / duration_s > _MAX_CHARACTERS_PER_S


def _leaves_script(reference: str, hypothesis: str) -> bool:
    """Return whether the hypothesis has letters of a script, or a sentence in Latin letters, unlike the reference."""
    if any(_scripts(match[0]) - _scripts(reference) for match in _OTHER.finditer(hypothesis)):
        return True
    if _LATIN.search(reference):
        return False
    words = _LATIN_WORD.findall(hypothesis)
    letters = sum(map(len, words))
    if len(words) < 3 or letters < _MIN_LATIN_LETTERS:
        return False
    n_english = len(set(_ENGLISH_WORD.findall(hypothesis)))
    rest = sum(character.isalpha() for character in hypothesis) - letters
    return n_english >= 2 or (rest < 3 and (n_english > 0 or len(words) > 3))


def _scripts(text: str) -> set[str]:
    return {_script(character) for character in text} - {"HANGUL", "LATIN", "GREEK", ""}


@functools.cache
def _script(character: str) -> str:
    """Return the first word of a letter's Unicode name, which is its script; empty for other characters."""
    return unicodedata.name(character, "").partition(" ")[0] if character.isalpha() else ""

"""Transcription marks of AI Hub labels: what was written beside what was said.

The labels of data set 208 and of the KsponSpeech family carry more than speech: two readings of
one stretch, ``(3)/(삼)`` = (spelling)/(pronunciation); fillers ``아/``; noise tags ``b/ n/ o/ l/ u/``;
``+`` after a stutter; ``*`` after a term or an unclear word; and masks ``#@이름#`` in place of a
name. Everything here starts from the label as written and leaves case, punctuation and numbers
to the normaliser.
"""

import hashlib
import re
import unicodedata
from typing import Literal

MARKS_VERSION = "1"
"""Changes whenever ``resolve_marks`` or ``sentence_key`` may give another text for some label."""

Policy = Literal["pronunciation", "spelling"]

# One level of brackets inside a side: `(MRI(자기공명))/(엠알아이)`. Possessive, so that a label of
# nothing but brackets costs linear time.
_SIDE = r"\(((?:[^()]++|\([^()]*+\))*+)\)"
# With the slash, spaces around it are typing slips; without it only `)(` counts, since
# `(웃음) (박수)` are two remarks and no dual notation.
_DUAL_SLASH = re.compile(rf"{_SIDE}\s*/\s*{_SIDE}")
_DUAL_BARE = re.compile(rf"{_SIDE}{_SIDE}")
# Not inside Latin (`and/or`, `mg/l/day`) and not a unit after a number (`5 l/분`).
_NOISE = re.compile(r"(?<![A-Za-z0-9/])(?<!\d )[bnolu]/(?![A-Za-z0-9])")
_INTERJECTION = "아|어|음|에|으|응|엄|흠|오"
# A filler ends a word; before more Hangul the slash joins alternatives (`월/수/금`), unless the
# word is an interjection at a word's start.
_FILLER = re.compile(rf"(?<![가-힣A-Za-z0-9/])(?:([가-힣]++)/(?=[\s.,!?…~*+]|$)|((?:{_INTERJECTION}))/(?=[가-힣]))")
_STAR = re.compile(r"(?<!\d)\*+|\*+(?!\d)")
_PLUS = re.compile(r"(?<=[가-힣,.?!])\++|(?<!\S)\++(?!\S)")
_SPACES = re.compile(r"\s+")
_MASK = re.compile(r"#@[^#]*#?")
_MARKED = re.compile(r"[()/*+]")


def is_masked(text: str) -> bool:
    """Return whether a part of the speech is withheld from the label (``#@이름#``)."""
    return "#@" in text


def resolve_marks(text: str, policy: Policy) -> str:
    """Return the label's text without marks, one reading per dual notation.

    Parameters
    ----------
    text : str
        The label as written.
    policy : {"pronunciation", "spelling"}
        The side of ``(spelling)/(pronunciation)`` that stays.

    Returns
    -------
    str
        NFC, spaces collapsed. Fillers stay as words, since they are spoken; noise tags go; masks
        stay, since nothing can stand for them (see ``is_masked``). Applying it twice changes
        nothing.
    """
    text = unicodedata.normalize("NFC", text)
    if _MARKED.search(text):
        before = ""
        while before != text:  # every pass that changes anything takes marks away, so this ends
            before = text
            text = _strip_marks(text, 1 if policy == "spelling" else 2)
    return _SPACES.sub(" ", text).strip()


def _strip_marks(text: str, side: int) -> str:
    text = _DUAL_SLASH.sub(lambda found: found[side], text)
    text = _DUAL_BARE.sub(lambda found: found[side], text)
    text = _NOISE.sub(" ", text)
    text = _FILLER.sub(lambda found: found[1] or f"{found[2]} ", text)
    return _PLUS.sub("", _STAR.sub("", text))


def sentence_key(text: str) -> str:
    """Return what two labels of the same sentence share.

    Pronunciation side, fillers and masks dropped, letters and digits alone, lower case; empty
    when nothing is left.
    """
    text = unicodedata.normalize("NFC", _MASK.sub(" ", text))
    before = ""
    while before != text and _MARKED.search(text):
        before = text
        text = _NOISE.sub(" ", _DUAL_BARE.sub(r"\2", _DUAL_SLASH.sub(r"\2", text)))
        text = _FILLER.sub(" ", text)
    return "".join(character for character in text.casefold() if character.isalnum())


def sentence_id(text: str) -> str:
    """Return a 16-digit hash of ``sentence_key``: groups by sentence without giving it away."""
    return hashlib.blake2b(sentence_key(text).encode(), digest_size=8).hexdigest()

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

MARKS_VERSION = "2"
"""Changes whenever ``resolve_marks`` or ``sentence_key`` may give another text for some label; 2: letters composed."""

Policy = Literal["pronunciation", "spelling"]

# One level of brackets inside a side: `(MRI(자기공명))/(엠알아이)`. Possessive, so that a label of
# nothing but brackets costs linear time.
_SIDE = r"\(((?:[^()]++|\([^()]*+\))*+)\)"
# With the slash, spaces around it are typing slips; without it only `)(` counts, since
# `(웃음) (박수)` are two remarks and no dual notation.
_DUAL_SLASH = re.compile(rf"{_SIDE}\s*/\s*{_SIDE}")
_DUAL_BARE = re.compile(rf"{_SIDE}{_SIDE}")
# Not inside Latin (`and/or`, `mg/l/day`) and not a unit after a number (`5 l/분`).
_BRACKET = re.compile(r"[()]")
_NOISE = re.compile(r"(?<![A-Za-z0-9/])(?<!\d )[bnolu]/(?![A-Za-z0-9])")
_INTERJECTION = "아|어|음|에|으|응|엄|흠|오"
# A filler ends a word; before more Hangul the slash joins alternatives (`월/수/금`), unless the
# word is an interjection at a word's start.
# A run of them (`아/음/네`) is removed at once; one at a time, a long run would take as many passes.
# No possessive groups: Python before 3.11.5 matches them wrongly (python/cpython#106052). None is needed, since the
# optional group can always be empty, so nothing is ever given back.
_FILLER = re.compile(
    rf"(?<![가-힣A-Za-z0-9/])(?=[가-힣])((?:(?:{_INTERJECTION})/(?=[가-힣]))*)(?:([가-힣]++)/(?=[\s.,!?…~*+]|$))?"
)
_STAR = re.compile(r"(?<!\d)\*+|\*+(?!\d)")
_PLUS = re.compile(r"(?<=[가-힣,.?!])\++|(?<!\S)\++(?!\S)")
_SPACES = re.compile(r"\s+")
_MASK = re.compile(r"#@[^#]*#?")
_MARKED = re.compile(r"[()/*+]")
_MAX_DEPTH = 32  # each level takes a pass, and no real label has three


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
        side = r"\1" if policy == "spelling" else r"\2"
        before = ""
        while before != text:  # every pass that changes anything takes marks away, so this ends
            before = text
            # Removing a mark may bring a letter and a combining one together.
            text = unicodedata.normalize("NFC", _strip_marks(text, side))
    return _SPACES.sub(" ", text).strip()


def _strip_marks(text: str, side: str) -> str:
    text = _NOISE.sub(" ", _strip_duals(text, side))
    text = _FILLER.sub(lambda found: found[1].replace("/", " ") + (found[2] or ""), text)
    return _PLUS.sub("", _STAR.sub("", text))


def _strip_duals(text: str, side: str) -> str:
    """Return the text with one side of each dual notation; more deeply nested brackets than ``_MAX_DEPTH`` are kept."""
    depth = deepest = 0
    for bracket in _BRACKET.findall(text):
        depth = depth + 1 if bracket == "(" else max(depth - 1, 0)
        deepest = max(deepest, depth)
    return text if deepest > _MAX_DEPTH else _DUAL_BARE.sub(side, _DUAL_SLASH.sub(side, text))


def sentence_key(text: str) -> str:
    """Return what two labels of the same sentence share.

    Pronunciation side, fillers and masks dropped, letters and digits alone, lower case; empty
    when nothing is left.
    """
    text = unicodedata.normalize("NFC", _MASK.sub(" ", text))
    before = ""
    while before != text and _MARKED.search(text):
        before = text
        text = _NOISE.sub(" ", _strip_duals(text, r"\2"))
        text = unicodedata.normalize("NFC", _FILLER.sub(lambda found: " " if found[0] else "", text))
    key = "".join(character for character in text.casefold() if character.isalnum())
    return unicodedata.normalize("NFC", key)


def sentence_id(text: str) -> str:
    """Return a 16-digit hash of ``sentence_key``: groups by sentence without giving it away."""
    return hashlib.blake2b(sentence_key(text).encode(), digest_size=8).hexdigest()

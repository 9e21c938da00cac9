"""Accepted spellings: one spoken word that is written in several ways, so that a right transcript counts as right.

The table is ``variants.tsv`` beside this file; its head says what a row is and where it comes from. CT and 씨티 are one
word, and so are mg and 밀리그램; 퍼센트 and 프로 are two, though both read %.
"""

import dataclasses
import functools
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from typing import Literal

from kmed_bench.text.inflection import ends_noun
from kmed_bench.text.normalise import normalise

VARIANTS_VERSION = "1"
"""Changes with the table and whenever a function of this module may give another result for some text."""

CodeSwitch = Literal["none", "hangul", "latin"]

FOREIGN = frozenset(("latin", "unit", "loan"))
"""Kinds of rows whose Hangul spellings are foreign words."""

_DRIFT = 6  # characters by which the place of a word may differ beyond what the texts' lengths explain
_NUMBER = re.compile(r"[\d일이삼사오육칠팔구십백천만영공반몇한두세네] ?$")
_JOINED = re.compile(r"(?<=[A-Za-z])[/·&](?=\w)")  # the normaliser would make one word of MRI/CT
_LATIN = re.compile(r"[A-Za-zÀ-ɏ]")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
    """A row of the table.

    Attributes
    ----------
    kind : str
        What kind of variants they are; the table's head explains the names.
    forms : tuple of str
        The ways to write the word, as listed.
    source : str
        Where the row comes from.
    """

    kind: str
    forms: tuple[str, ...]
    source: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resolved:
    """A spelling of the hypothesis that was replaced by the reference's, both normalised."""

    kind: str
    written: str
    accepted: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Found:
    """A form in a text: its characters, its rows, and its place when each form counts as one character."""

    start: int
    end: int
    place: int
    rows: tuple[int, ...]


@functools.cache
def load_variants() -> tuple[Variant, ...]:
    """Return the table in the order of its file."""
    text = (resources.files("kmed_bench.text") / "variants.tsv").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in text.splitlines() if not line.startswith("#")][1:]
    return tuple(Variant(kind=kind, forms=tuple(forms.split("|")), source=source) for kind, forms, source in rows)


@functools.cache
def _patterns() -> Mapping[str, tuple[tuple[re.Pattern[str], str, str, tuple[int, ...]], ...]]:
    """Return each form's pattern, letters, kind and rows by its first character, the longest first."""
    rows: dict[tuple[str, str], list[int]] = {}
    for row, variant in enumerate(load_variants()):
        for form in variant.forms:
            rows.setdefault((normalise(form, keep_spaces=True), variant.kind), []).append(row)
    by_first: dict[str, list[tuple[re.Pattern[str], str, str, tuple[int, ...]]]] = {}
    for (form, kind), found in rows.items():
        # Letter names may be written apart (씨 티), but 이 건 is not 이건.
        spaced = " ?".join(map(re.escape, form.replace(" ", ""))) if kind in FOREIGN else form.replace(" ", " ?")
        by_first.setdefault(form[0], []).append((re.compile(spaced), form.replace(" ", ""), kind, tuple(found)))
    return {first: tuple(sorted(entries, key=lambda entry: -len(entry[1]))) for first, entries in by_first.items()}


@functools.cache
def _seconds() -> Mapping[str, frozenset[str]]:
    """Return what can follow each first character, spaces aside, in a form; empty text where a form ends there."""
    return {first: frozenset(letters[1:2] for _, letters, *_ in forms) for first, forms in _patterns().items()}


def _stands(text: str, match: re.Match[str], letters: str, kind: str) -> bool:
    """Return whether what looks like a form is one, and no part of another word."""
    start, end = match.span()
    before, after = text[max(0, start - 1) : start], text[end : end + 1]
    if (letters[0].isascii() and before.isascii() and before.isalpha()) or (
        letters[-1].isascii() and letters[-1].isalnum() and after.isascii() and after.isalnum()
    ):
        return False
    if kind in ("unit", "native"):
        counted = letters == "%" or _NUMBER.search(text, max(0, start - 2), start) is not None
        return counted and (letters[-1].isascii() or ends_noun(text, end))
    if kind == "part":
        return True
    if kind == "short":
        return not ("가" <= before <= "힣" or "가" <= after <= "힣")
    if letters[-1].isascii():
        return True
    starts_word = not before.isalpha()
    return (starts_word or (kind != "word" and len(letters) > 1)) and ends_noun(text, end)


def _spaced(text: str) -> str:
    return normalise(_JOINED.sub(" ", text), keep_spaces=True)


@functools.lru_cache(maxsize=1 << 14)  # a reference is looked through once for each system and each speaker
def _find(text: str) -> tuple[tuple[_Found, ...], int]:
    """Return the forms of a normalised text with spaces, the longest of each place, and the text's length in places."""
    found: list[_Found] = []
    seconds = _seconds()
    at = place = 0
    while at < len(text):
        following = seconds.get(text[at])
        hit = None
        # Most places are none of a form by their first two letters, which is cheaper to see than to match.
        if following and ("" in following or text[at + 1 : at + 3].lstrip()[:1] in following):
            hit = _form_at(text, at)
        if hit is not None:
            end, rows = hit
            found.append(_Found(start=at, end=end, place=place, rows=rows))
            at = end - 1
        place += text[at] != " "
        at += 1
    return tuple(found), place


def _form_at(text: str, at: int) -> tuple[int, tuple[int, ...]] | None:
    """Return where the longest form at a place ends, and its rows; None if there is none."""
    length, end = 0, 0
    rows: tuple[int, ...] = ()
    for pattern, letters, kind, found in _patterns().get(text[at], ()):
        if rows and len(letters) < length:
            break
        match = pattern.match(text, at)
        if match and _stands(text, match, letters, kind):
            length, end, rows = len(letters), match.end(), (*rows, *found)
    return (end, rows) if rows else None


def resolve_variants(reference: str, hypothesis: str) -> tuple[str, list[Resolved]]:
    """Return the hypothesis with the reference's spellings, and which of its spellings were replaced.

    A spelling is replaced where another spelling of the same row of the table stands at the same place of the
    reference: the k-th with the k-th, no further apart than the texts' difference in length explains, and 6 characters.
    Everything else stays, so a wrong word stays wrong; resolving twice changes nothing. The time is linear.

    Parameters
    ----------
    reference, hypothesis : str
        Texts whose transcription marks are already resolved.

    Returns
    -------
    tuple of str and list of Resolved
        The hypothesis as given if nothing was replaced, else normalised with its spaces kept.

    Examples
    --------
    >>> resolve_variants("CT를 찍었어요", "씨티를 찍었어요")[0]
    'ct를 찍었어요'
    """
    wanted_text, heard_text = _spaced(reference), _spaced(hypothesis)
    wanted, n_wanted = _find(wanted_text)
    if not wanted or wanted_text == heard_text:
        return hypothesis, []
    heard, n_heard = _find(heard_text)
    pieces: list[str] = []
    resolved: list[Resolved] = []
    at = 0
    for theirs, ours in _pairs(wanted, heard, n_heard - n_wanted):
        accepted, written = wanted_text[theirs.start : theirs.end], heard_text[ours.start : ours.end]
        if accepted.replace(" ", "") == written.replace(" ", ""):
            continue
        row = next(row for row in ours.rows if row in theirs.rows)
        resolved.append(Resolved(kind=load_variants()[row].kind, written=written, accepted=accepted))
        pieces += [heard_text[at : ours.start], accepted]
        at = ours.end
    return ("".join(pieces) + heard_text[at:], resolved) if resolved else (hypothesis, [])


def _pairs(wanted: Sequence[_Found], heard: Sequence[_Found], longer: int) -> Iterator[tuple[_Found, _Found]]:
    """Yield the reference's and the hypothesis's forms of one row at one place, each form at most once.

    ``longer`` is how many places the hypothesis has more: a word can't have moved further than by these and the drift.
    """
    lowest, highest = min(0, longer) - _DRIFT, max(0, longer) + _DRIFT
    waiting: dict[int, deque[_Found]] = {}
    for form in wanted:
        for row in form.rows:
            waiting.setdefault(row, deque()).append(form)
    used: set[int] = set()
    for ours in heard:
        heads = []
        for row in ours.rows:
            queue = waiting.get(row, deque())
            while queue and (queue[0].place in used or ours.place - queue[0].place > highest):
                queue.popleft()
            if queue and ours.place - queue[0].place >= lowest:
                heads.append(queue[0])
        if heads:
            theirs = min(heads, key=lambda form: form.place)
            used.add(theirs.place)
            yield theirs, ours


def code_switch(text: str) -> CodeSwitch:
    """Return how a text writes foreign words: in Latin letters, in Hangul (after the table), or not at all.

    A text with both counts as ``latin``.

    Parameters
    ----------
    text : str
        Text whose transcription marks are already resolved.
    """
    text = _spaced(text)
    if _LATIN.search(text):
        return "latin"
    table = load_variants()
    foreign = any(
        table[row].kind in FOREIGN and "가" <= text[form.start] <= "힣" for form in _find(text)[0] for row in form.rows
    )
    return "hangul" if foreign else "none"

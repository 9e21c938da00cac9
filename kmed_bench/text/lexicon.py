"""The lexicon of medical terms, and the surfaces in which each term appears.

It is ``medical_terms.tsv`` beside this file, whose head describes the columns and the sources.
"""

import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping
from importlib import resources

from kmed_bench.text.inflection import inflect
from kmed_bench.text.normalise import normalise

CATEGORIES = ("symptom", "drug", "body", "department", "test", "unit")
ORDINARY = "-"
"""Category of the lexicon's ordinary words, which hide terms inside them and are never reported."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Term:
    """An entry of the lexicon.

    Attributes
    ----------
    name : str
        The term as it is listed.
    category : str
        One of ``CATEGORIES``; diseases count as symptoms, procedures as tests. Or ``ORDINARY``.
    spellings : tuple of str
        Every way to write it, normalised; verbs and adjectives in their dictionary form.
    source : str
        Where the entry comes from; the lexicon's head explains the short names.
    """

    name: str
    category: str
    spellings: tuple[str, ...]
    source: str


@dataclasses.dataclass(frozen=True)
class Entry:
    """One form in which a term appears; ``kinds`` are a predicate's endings, ``phrase`` what follows its noun."""

    term: Term
    letters: str
    kinds: str
    phrase: Mapping[str, str] | None
    only: re.Pattern[str] | None
    never: re.Pattern[str] | None


class Node:
    """A node of the trie of all entries' letters."""

    __slots__ = ("entries", "following")

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.following: dict[str, Node] = {}


def load_terms() -> tuple[Term, ...]:
    """Return the lexicon's terms in the order of its file."""
    return tuple(term for term, *_ in _rows() if term.category != ORDINARY)


@functools.cache
def _rows() -> tuple[tuple[Term, tuple[str, ...], str, str], ...]:
    """Return each term with its spellings as listed and the conditions on its context."""
    text = (resources.files("kmed_bench.text") / "medical_terms.tsv").read_text(encoding="utf-8")
    rows = []
    for line in [line for line in text.splitlines() if not line.startswith("#")][1:]:
        category, name, others, only, never, source = line.split("\t")
        listed = tuple(form for one in (name, *others.split("|")) if one for form in _expand(one))
        spellings = tuple(dict.fromkeys(normalise(form.partition(":")[0].replace("~", "")) for form in listed))
        term = Term(name=name.partition(":")[0], category=category, spellings=spellings, source=source)
        rows.append((term, listed, only, never))
    return tuple(rows)


def _expand(listed: str) -> tuple[str, ...]:
    """Return the forms of a sound-symbolic word that is listed with a star: 욱신* is 욱신거리다, 욱신욱신 and so on."""
    root = listed.removesuffix("*")
    if root == listed:
        return (listed,)
    return (f"{root}거리다", f"{root}대다", f"{root}하다", f"{root}{root}", f"{root}{root}하다", f"{root}거림")


@functools.cache
def entries_by_term() -> Mapping[Term, tuple[Entry, ...]]:
    """Return the forms in which each term appears."""
    entries: dict[Term, tuple[Entry, ...]] = {}
    for term, listed, only, never in _rows():
        guards = (re.compile(only) if only else None, re.compile(never) if never else None)
        entries[term] = tuple(
            Entry(term, letters, kinds, phrase, *guards) for form in listed for letters, kinds, phrase in _shows(form)
        )
    return entries


def _shows(form: str) -> Iterator[tuple[str, str, Mapping[str, str] | None]]:
    """Yield the letters of a listed form, and what its entry needs after them."""
    predicate, _, irregular = form.partition(":")
    head, _, verb = predicate.rpartition("~")
    if head:
        yield normalise(head), "", inflect(verb, irregular)
    elif predicate.endswith("다"):
        for surface, kinds in inflect(predicate, irregular).items():
            yield surface, kinds, None
    else:
        yield normalise(predicate), "", None


@functools.cache
def trie() -> Node:
    """Return the root of the trie of all entries' letters."""
    root = Node()
    for entries in entries_by_term().values():
        for entry in entries:
            node = root
            for letter in entry.letters:
                node = node.following.setdefault(letter, Node())
            node.entries.append(entry)
    return root

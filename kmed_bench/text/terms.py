"""Medical terms in Korean speech: a versioned lexicon, and which of a reference's terms a hypothesis kept.

The lexicon is ``medical_terms.tsv`` beside this file; its head says where it comes from.
"""

import dataclasses
import functools
import re
from collections import Counter
from collections.abc import Mapping
from importlib import resources
from types import MappingProxyType

from kmed_bench.text.counters import TAIL
from kmed_bench.text.normalise import normalise

TERMS_VERSION = "1"
"""Changes with the lexicon and whenever ``find_terms`` or ``match_terms`` may give another result for some text."""

CATEGORIES = ("symptom", "drug", "body", "department", "test", "unit")

# Verbs made from nouns (구토했어요), and words that nouns lean on (기침약, 당뇨 환자).
_VERBAL = re.compile(r"하|해|했|할|한|합|되|돼|됐|된|될|됩|나|났|난|날|납|생기|생겼|시키|시켜|스러|같|때문|없|있|심")
_SUFFIX = re.compile(r"약|제|과|실|증|염|병|통|암|쪽|검사|수술|치료|주사|환자|수치|상태|부위|전|후|중|시|용")
# A compound's first part that is no term itself: 급성위염, 왼무릎.
_PREFIX = re.compile(r"(?:급성|만성|양쪽|왼쪽|오른쪽|좌측|우측|왼|양|생|재)$")
_NUMBER = re.compile(r"(?:\d|[일이삼사오육칠팔구십백천만영공반몇한두세네섯곱덟홉열]) ?$")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Term:
    """An entry of the lexicon.

    Attributes
    ----------
    name : str
        The term as it is listed.
    category : str
        One of ``CATEGORIES``; diseases count as symptoms, procedures as tests.
    spellings : tuple of str
        Every way to write it, normalised; the stem of a verb ends in ``-``.
    """

    name: str
    category: str
    spellings: tuple[str, ...]


@functools.cache
def load_terms() -> tuple[Term, ...]:
    """Return the lexicon in the order of its file."""
    text = (resources.files("kmed_bench.text") / "medical_terms.tsv").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in text.splitlines() if not line.startswith("#")][1:]
    return tuple(
        Term(
            name=name,
            category=category,
            spellings=tuple(_spelling(listed) for listed in (name, *others.split("|")) if listed),
        )
        for category, name, others in rows
    )


def _spelling(listed: str) -> str:
    """Return a spelling as texts are after normalisation: mg/dL is mgdl there."""
    return normalise(listed.removesuffix("-")) + ("-" if listed.endswith("-") else "")


@functools.cache
def _patterns() -> Mapping[str, tuple[tuple[re.Pattern[str], str, Term], ...]]:
    """Return each spelling's pattern by its first character, the longest first."""
    by_first: dict[str, list[tuple[re.Pattern[str], str, Term]]] = {}
    for term in load_terms():
        for spelling in term.spellings:
            stem = spelling.removesuffix("-")
            # Spaces inside a term are a matter of taste (위 내시경), but 두 통 is not 두통.
            gap = " ?" if len(stem) > 2 else ""
            pattern = re.compile(gap.join(map(re.escape, stem)))
            by_first.setdefault(stem[0], []).append((pattern, spelling, term))
    return MappingProxyType(
        {first: tuple(sorted(found, key=lambda entry: -len(entry[1]))) for first, found in by_first.items()}
    )


def find_terms(text: str) -> list[Term]:
    """Return the medical terms of a text in order, repeats included.

    The longest term wins (대장내시경, not 대장); particles and endings after a term and spaces within it don't
    matter. A term of one syllable counts only as a word with its particle (목이), for most such syllables
    are parts of other words.

    Parameters
    ----------
    text : str
        Text whose transcription marks are already resolved; it is normalised here.
    """
    text = normalise(text, keep_spaces=True)
    found: list[Term] = []
    at, last_end = 0, -1
    while at < len(text):
        hit = _match_at(text, at, follows_term=at == last_end)
        if hit is None:
            at += 1
        else:
            found.append(hit[0])
            at = last_end = hit[1]
    return found


def _match_at(text: str, at: int, *, follows_term: bool) -> tuple[Term, int] | None:
    starts_word = at == 0 or not text[at - 1].isalnum()
    opened = starts_word or follows_term or _PREFIX.search(text, max(0, at - 3), at) is not None
    for pattern, spelling, term in _patterns().get(text[at], ()):
        match = pattern.match(text, at)
        if match and _stands(text, match, spelling, term, opened=opened, starts_word=starts_word):
            return term, match.end()
    return None


def _stands(text: str, match: re.Match[str], spelling: str, term: Term, *, opened: bool, starts_word: bool) -> bool:
    """Return whether what looks like a term is one, and no part of another word."""
    end = match.end()
    if spelling.isascii() or not spelling[0].isalpha():  # CT, mg, %
        lone = not (match.start() and text[match.start() - 1].isascii() and text[match.start() - 1].isalpha())
        lone = lone and not (text[end : end + 1].isascii() and text[end : end + 1].isalpha())
        return lone and (term.category != "unit" or _NUMBER.search(text, 0, match.start()) is not None)
    if term.category == "unit":
        return _NUMBER.search(text, 0, match.start()) is not None and _ends_well(text, end)
    if spelling.endswith("-"):
        return starts_word
    if len(spelling) == 1:
        tail = TAIL.match(text, end)
        return starts_word and tail is not None and tail.end() > end
    return len(spelling) > 2 or (opened and _ends_well(text, end))


def _ends_well(text: str, end: int) -> bool:
    """Return whether a word may go on like this after a term of two syllables."""
    if TAIL.match(text, end) or _VERBAL.match(text, end) or _SUFFIX.match(text, end):
        return True
    return any(
        len(spelling) > 1 and pattern.match(text, end)
        for pattern, spelling, _ in _patterns().get(text[end : end + 1], ())
    )


def match_terms(reference: str, hypothesis: str) -> list[tuple[Term, int, int]]:
    """Return each medical term of a reference, how often it is said there, and how often the hypothesis has it too.

    Over a corpus the sum of the third over that of the second is ``term_recall``.
    In the hypothesis a term's letters suffice, wherever its spaces are; more than the reference says don't count.

    Parameters
    ----------
    reference, hypothesis : str
        Texts whose transcription marks are already resolved.
    """
    wanted = Counter(find_terms(reference))
    if not wanted:
        return []
    said = Counter(find_terms(hypothesis))
    letters = normalise(hypothesis)
    matched = []
    for term, n_wanted in wanted.items():
        spelled = sum(
            letters.count(stem)
            for stem in (spelling.removesuffix("-") for spelling in term.spellings)
            if len(stem) > 1 and not stem.isascii()
        )
        matched.append((term, n_wanted, min(n_wanted, max(said[term], spelled))))
    return matched

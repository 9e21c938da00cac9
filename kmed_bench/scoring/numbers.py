"""Numbers of a reference and its hypothesis: in one form for ``cer_number``, as quantities for ``number_exact``."""

import functools
import itertools
import re
from collections.abc import Sequence

import jiwer
import numpy as np

from kmed_bench.scoring.edits import Alignments, Counts, align_characters, align_words
from kmed_bench.text.normalise import normalise
from kmed_bench.text.numbers import canonical_numbers, count_unread, find_quantities
from kmed_bench.text.quantities import Quantity, count_shared

_BETWEEN_NUMBERS = re.compile(r"(?<=\d) (?=\d)")


def in_one_form(texts: Sequence[str]) -> list[str]:
    """Return normalised texts with spaces as ``cer_number`` compares them: numbers in one form, without spaces.

    Between two numbers a space is as good as the sign that the normaliser keeps in a list of digits.
    """
    return [normalise(_BETWEEN_NUMBERS.sub("·", canonical_numbers(text))) for text in texts]


def respace(references: Sequence[str], hypotheses: Sequence[str], aligned: Alignments | None = None) -> list[str]:
    """Return the hypotheses with their references' spaces wherever both have the same characters.

    How numbers are read depends on the spaces, and a transcriber's habit in spacing is no error of recognition. Where
    characters differ, as in 백이십 and 120, the hypothesis keeps its own spaces.

    Parameters
    ----------
    references, hypotheses : sequence of str
        Normalised texts with single spaces.
    aligned : list, optional
        Their alignment without spaces, where it is at hand.
    """
    if aligned is None:
        aligned = align_characters(*([text.replace(" ", "") for text in side] for side in (references, hypotheses)))
    return [_respace(*row) for row in zip(references, hypotheses, aligned, strict=True)]


def _respace(reference: str, hypothesis: str, chunks: list[jiwer.AlignmentChunk]) -> str:
    if reference == hypothesis:
        return hypothesis
    breaks, own = _breaks(reference), _breaks(hypothesis)
    for chunk in chunks:
        if chunk.type == "equal":
            shift = chunk.ref_start_idx - chunk.hyp_start_idx
            inside = range(chunk.hyp_start_idx + 1, chunk.hyp_end_idx)
            own = own.difference(inside) | {place for place in inside if place + shift in breaks}
    letters = hypothesis.replace(" ", "")
    return " ".join(letters[a:b] for a, b in itertools.pairwise([0, *sorted(own), len(letters)]))


def _breaks(text: str) -> set[int]:
    """Return before which characters, spaces not counted, a word begins, the first word left out."""
    return set(itertools.accumulate(len(word) for word in text.split(" ")[:-1])) - {0}


@functools.lru_cache(maxsize=1 << 14)  # many speakers read the same sentence
def _find(text: str) -> tuple[Quantity, ...]:
    return tuple(find_quantities(text))


def count_numbers(
    spelled: Sequence[str], said: Sequence[str], heard: Sequence[str]
) -> tuple[Counts, Counts, Counts, Counts]:
    """Return each reference's numbers, how many of them the hypothesis has, and how many are ambiguous and unread.

    Value, unit and order count. Numbers are those of the spelling side of the dual notation, whichever side is the
    reference elsewhere: the label itself says that its 이번 is 2번, which no rule could know. A number that stays
    ambiguous, as 이십 일, counts as one and is found where the hypothesis has any of its readings.

    Parameters
    ----------
    spelled, said : sequence of str
        Both sides of the references' dual notation, normalised with single spaces.
    heard : sequence of str
        Hypotheses normalised likewise, with the spaces that ``respace`` gives them after ``said``.
    """
    counts = np.zeros((4, len(spelled)), dtype=np.int64)
    heard = _spell_as_label(spelled, said, heard)
    for place, (reference, hypothesis) in enumerate(zip(spelled, heard, strict=True)):
        quantities = _find(reference)
        if quantities:
            same = hypothesis == reference
            shared = len(quantities) if same else count_shared(quantities, _find(hypothesis))
            counts[:3, place] = len(quantities), shared, sum(q.is_ambiguous for q in quantities)
        counts[3, place] = count_unread(reference)
    return counts[0], counts[1], counts[2], counts[3]


def _spell_as_label(spelled: Sequence[str], said: Sequence[str], hypotheses: Sequence[str]) -> list[str]:
    """Return the hypotheses with the label's spelling of every stretch of numbers that they have as it was said."""
    heard = list(hypotheses)
    dual = [place for place, pair in enumerate(zip(spelled, said, strict=True)) if pair[0] != pair[1]]
    notations = align_words([said[place] for place in dual], [spelled[place] for place in dual])
    hits = align_words([said[place] for place in dual], [heard[place] for place in dual])
    for place, notation, hit in zip(dual, notations, hits, strict=True):
        words, spelling = heard[place].split(" "), spelled[place].split(" ")
        same: dict[int, int] = {}
        for chunk in hit:
            if chunk.type == "equal":
                span = range(chunk.ref_start_idx, chunk.ref_end_idx)
                same |= {said_at: chunk.hyp_start_idx + step for step, said_at in enumerate(span)}
        for start, end, written in reversed(_differences(notation, spelling)):
            at = [same.get(said_at) for said_at in range(start, end)]
            first = at[0] if at else None
            if first is not None and at == list(range(first, first + len(at))):
                words[first : first + len(at)] = written
        heard[place] = " ".join(words)
    return heard


def _differences(notation: list[jiwer.AlignmentChunk], spelling: list[str]) -> list[tuple[int, int, list[str]]]:
    """Return where the said words differ from the spelled ones, with the spelled words, each stretch as one."""
    merged: list[list[int]] = []
    for chunk in notation:
        if chunk.type == "equal":
            continue
        if merged and merged[-1][1] == chunk.ref_start_idx and merged[-1][3] == chunk.hyp_start_idx:
            merged[-1][1], merged[-1][3] = chunk.ref_end_idx, chunk.hyp_end_idx
        else:
            merged.append([chunk.ref_start_idx, chunk.ref_end_idx, chunk.hyp_start_idx, chunk.hyp_end_idx])
    return [(start, end, spelling[first:last]) for start, end, first, last in merged]

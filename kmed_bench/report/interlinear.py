"""A reference with what each system heard below it, word by word."""

import itertools
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jiwer

from kmed_bench.scoring.alignment import align


class Mark(NamedTuple):
    """A run of characters of one kind: equal, substitute, delete or insert."""

    kind: str
    said: str
    heard: str


class Word(NamedTuple):
    """A word of the reference, and for each system the runs that it heard there."""

    said: str
    heard: tuple[tuple[Mark, ...], ...]


def align_by_word(reference: str, hypotheses: Sequence[str]) -> list[Word]:
    """Return the words of a reference, each with what stands for it in every hypothesis.

    The runs are those that ``cer`` counts, cut at the reference's spaces; the hypotheses' own spaces are no error and
    are left out. What was inserted between two words belongs to the first of them, as in ``impose_spacing``. An empty
    reference is one empty word.

    Parameters
    ----------
    reference, hypotheses : str
        Normalised texts with single spaces.
    """
    words = reference.split() or [""]
    columns: list[list[list[Mark]]] = [[[] for _ in hypotheses] for _ in words]
    ends = [*itertools.accumulate(map(len, words))]
    flat = "".join(words)
    for system, hypothesis in enumerate(hypotheses):
        heard = hypothesis.replace(" ", "")
        for run in align(flat, heard):
            for word, mark in _cut(run, flat, heard, ends):
                columns[word][system].append(mark)
    return [Word(word, tuple(map(tuple, column))) for word, column in zip(words, columns, strict=True)]


def _cut(run: jiwer.AlignmentChunk, said: str, heard: str, ends: list[int]) -> Iterator[tuple[int, Mark]]:
    """Yield a run cut where words of the reference end, each piece with the number of its word."""
    start, begin = run.ref_start_idx, run.hyp_start_idx
    if run.type == "insert":
        yield bisect_right(ends[:-1], max(start - 1, 0)), Mark("insert", "", heard[begin : run.hyp_end_idx])
    while start < run.ref_end_idx:
        word = bisect_right(ends, start)
        end = min(ends[word], run.ref_end_idx)
        finish = begin + (end - start) * (run.type != "delete")
        yield word, Mark(run.type, said[start:end], heard[begin:finish])
        start, begin = end, finish

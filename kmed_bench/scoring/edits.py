"""Edit counts of paired texts: one row per utterance, so the errors of a group are a sum.

Alignments are jiwer's chunks, computed by rapidfuzz as jiwer does, but without its transforms and its totals, which
take most of its time. Where only the number of edits matters, no alignment is made.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import jiwer
import numpy as np
import numpy.typing as npt
from rapidfuzz.distance import Levenshtein

from kmed_bench.core.errors import KmedError
from kmed_bench.text.normalise import normalise

Counts = npt.NDArray[np.int64]
Alignments = list[list[jiwer.AlignmentChunk]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EditCounts:
    """Edits that turn each reference into its hypothesis.

    Attributes
    ----------
    substitutions, deletions, insertions, length : numpy.ndarray
        (n_utterances,) integers; length counts the reference's characters or words.
    """

    substitutions: Counts
    deletions: Counts
    insertions: Counts
    length: Counts

    @property
    def errors(self) -> Counts:
        """(n_utterances,) S + D + I."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float | None:
        """(S + D + I) / N over all utterances, not capped; None where the references hold nothing."""
        total = int(self.length.sum())
        return int(self.errors.sum()) / total if total else None


def count_errors(references: Sequence[str], hypotheses: Sequence[str]) -> EditCounts:
    """Return each utterance's character edits; texts are compared as they are, spaces included.

    Raises
    ------
    KmedError
        When the two sides differ in length.
    """
    return count_edits(align_characters(references, hypotheses), [len(text) for text in references])


def count_distances(references: Sequence[str], hypotheses: Sequence[str]) -> Counts:
    """Return each utterance's number of character edits; raises like ``count_errors``."""
    _check_pairs(references, hypotheses)
    return np.fromiter(map(Levenshtein.distance, references, hypotheses), np.int64, len(references))


def count_word_distances(references: Sequence[str], hypotheses: Sequence[str]) -> Counts:
    """Return each utterance's number of word edits; raises like ``count_errors``."""
    _check_pairs(references, hypotheses)
    pairs = zip(references, hypotheses, strict=True)
    return np.fromiter((0 if r == h else Levenshtein.distance(r.split(), h.split()) for r, h in pairs), np.int64)


def align_characters(references: Sequence[str], hypotheses: Sequence[str]) -> Alignments:
    """Return jiwer's chunks of each utterance's characters, spaces included; raises like ``count_errors``."""
    _check_pairs(references, hypotheses)
    return [_align(*pair) for pair in zip(references, hypotheses, strict=True)]


def align_words(references: Sequence[str], hypotheses: Sequence[str]) -> Alignments:
    """Return jiwer's chunks of each utterance's words; raises like ``count_errors``."""
    _check_pairs(references, hypotheses)
    return [_align(r.split(), h.split()) for r, h in zip(references, hypotheses, strict=True)]


def _align(reference: Sequence[str], hypothesis: Sequence[str]) -> list[jiwer.AlignmentChunk]:
    if reference == hypothesis:
        return [jiwer.AlignmentChunk("equal", 0, len(reference), 0, len(reference))] if reference else []
    steps = Levenshtein.opcodes(reference, hypothesis)
    return [jiwer.AlignmentChunk(*step) for step in steps.as_list()]


def _check_pairs(references: Sequence[str], hypotheses: Sequence[str]) -> None:
    if len(references) != len(hypotheses):
        raise KmedError(
            f"There are {len(references)} references and {len(hypotheses)} hypotheses; give one of each per utterance."
        )


def count_edits(alignments: Alignments, lengths: Sequence[int]) -> EditCounts:
    """Return the edits of aligned utterances whose references have the given lengths."""
    counts = np.zeros((3, len(lengths)), dtype=np.int64)
    rows = {"substitute": 0, "delete": 1, "insert": 2}
    for index, chunks in enumerate(alignments):
        for chunk in chunks:
            row = rows.get(chunk.type)
            if row is not None:
                # The spans of a substitution are equal; of a deletion or insertion one is zero.
                counts[row, index] += max(
                    chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx
                )
    length = np.asarray(lengths, dtype=np.int64)
    return EditCounts(substitutions=counts[0], deletions=counts[1], insertions=counts[2], length=length)


def token_text_cer(references: Sequence[str], hypotheses: Sequence[str]) -> tuple[int, int]:
    """Return (errors, reference characters) of decoded token texts, to be summed over batches and divided once.

    These are the sums behind ``cer_teacher_forced``. Both sides are normalised as for ``cer``; empty references
    do not count.
    """
    _check_pairs(references, hypotheses)
    pairs = [(normalise(r), normalise(h)) for r, h in zip(references, hypotheses, strict=True)]
    pairs = [pair for pair in pairs if pair[0]]
    counts = count_errors([r for r, _ in pairs], [h for _, h in pairs])
    return int(counts.errors.sum()), int(counts.length.sum())


def impose_spacing(reference: str, hypothesis: str, chunks: list[jiwer.AlignmentChunk] | None = None) -> str:
    """Return the hypothesis with the reference's word boundaries, for ``wer_respaced``.

    The characters of both are aligned without spaces; a word of the hypothesis begins where one of the reference
    does. Characters inserted at a boundary belong to the word before it; a word deleted as a whole leaves none.

    Parameters
    ----------
    reference, hypothesis : str
        Normalised texts with single spaces.
    chunks : list, optional
        Their alignment without spaces; computed if left out.
    """
    if reference == hypothesis:
        return hypothesis
    letters = hypothesis.replace(" ", "")
    words = reference.split()
    flat = "".join(words)
    positions: list[int] = []  # of each reference character in the hypothesis
    for chunk in chunks if chunks is not None else align_characters([flat], [letters])[0]:
        n_characters = chunk.ref_end_idx - chunk.ref_start_idx
        if chunk.type == "delete":
            positions += [chunk.hyp_start_idx] * n_characters
        else:
            positions += range(chunk.hyp_start_idx, chunk.hyp_start_idx + n_characters)
    starts = itertools.accumulate(map(len, words[:-1]))
    cuts = [0, *(positions[start] for start in starts), len(letters)]
    return " ".join(letters[a:b] for a, b in itertools.pairwise(cuts) if b > a)

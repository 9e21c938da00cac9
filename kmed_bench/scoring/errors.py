"""Edit counts of paired texts, on jiwer's alignments: one row per utterance, so that groups are sums."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import jiwer
import numpy as np
import numpy.typing as npt

from kmed_bench.records import KmedError
from kmed_bench.text.normalise import normalise

Counts = npt.NDArray[np.int64]

# jiwer's default transforms strip and filter; here the texts are final, so they are split and nothing else.
_BY_CHARACTER = jiwer.Compose([jiwer.ReduceToListOfListOfChars()])
_BY_WORD = jiwer.Compose([jiwer.ReduceToListOfListOfWords()])


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
    _check_pairs(references, hypotheses)
    if not references:
        return _tally_alignments([], [])
    output = jiwer.process_characters(list(references), list(hypotheses), _BY_CHARACTER, _BY_CHARACTER)
    return _tally_alignments(output.alignments, output.references)


def count_word_errors(references: Sequence[str], hypotheses: Sequence[str]) -> EditCounts:
    """Return each utterance's word edits; words are what single spaces part.

    Raises
    ------
    KmedError
        When the two sides differ in length.
    """
    _check_pairs(references, hypotheses)
    if not references:
        return _tally_alignments([], [])
    output = jiwer.process_words(list(references), list(hypotheses), _BY_WORD, _BY_WORD)
    return _tally_alignments(output.alignments, output.references)


def _check_pairs(references: Sequence[str], hypotheses: Sequence[str]) -> None:
    if len(references) != len(hypotheses):
        raise KmedError(
            f"{len(references)} references stand against {len(hypotheses)} hypotheses; give one of each per utterance."
        )


def _tally_alignments(alignments: list[list[Any]], references: list[list[str]]) -> EditCounts:
    counts = np.zeros((4, len(references)), dtype=np.int64)
    rows = {"substitute": 0, "delete": 1, "insert": 2}
    for index, chunks in enumerate(alignments):
        counts[3, index] = len(references[index])
        for chunk in chunks:
            row = rows.get(chunk.type)
            if row is not None:
                span = (
                    (chunk.hyp_start_idx, chunk.hyp_end_idx) if row == 2 else (chunk.ref_start_idx, chunk.ref_end_idx)
                )
                counts[row, index] += span[1] - span[0]
    return EditCounts(substitutions=counts[0], deletions=counts[1], insertions=counts[2], length=counts[3])


def cer(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Return the headline character error rate of texts without transcription marks, as a fraction.

    Both sides are normalised without spaces; errors and characters are summed over the corpus and divided once.
    Pairs whose reference is empty after that do not count.

    Raises
    ------
    KmedError
        When the sides differ in length, or every reference is empty.
    """
    errors, length = token_text_cer(references, hypotheses)
    if not length:
        raise KmedError(f"All {len(references)} references are empty once normalised; there is nothing to divide by.")
    return errors / length


def token_text_cer(references: Sequence[str], hypotheses: Sequence[str]) -> tuple[int, int]:
    """Return (errors, reference characters) of decoded token texts, to be summed over batches and divided once.

    This is what ``cer_teacher_forced`` is made of. Both sides are normalised as for ``cer``; empty references
    do not count.
    """
    _check_pairs(references, hypotheses)
    pairs = [(normalise(r), normalise(h)) for r, h in zip(references, hypotheses, strict=True)]
    pairs = [pair for pair in pairs if pair[0]]
    counts = count_errors([r for r, _ in pairs], [h for _, h in pairs])
    return int(counts.errors.sum()), int(counts.length.sum())


def impose_spacing(reference: str, hypothesis: str) -> str:
    """Return the hypothesis with the reference's word boundaries, for ``wer_respaced``.

    The characters of both, without spaces, are aligned; where a word of the reference begins, one begins in the
    hypothesis. Inserted characters at a boundary stay with the word before it; a word that was wholly deleted
    leaves none behind.

    Parameters
    ----------
    reference, hypothesis : str
        Normalised texts with single spaces.
    """
    letters = hypothesis.replace(" ", "")
    words = reference.split()
    flat = "".join(words)
    if not flat:
        return letters
    output = jiwer.process_characters([flat], [letters], _BY_CHARACTER, _BY_CHARACTER)
    place = np.zeros(len(flat), dtype=np.int64)  # where each reference character falls in the hypothesis
    for chunk in output.alignments[0]:
        span = chunk.ref_end_idx - chunk.ref_start_idx
        step = 0 if chunk.type == "delete" else 1
        place[chunk.ref_start_idx : chunk.ref_end_idx] = chunk.hyp_start_idx + step * np.arange(span)
    starts = np.cumsum([0, *(len(word) for word in words)])[1:-1]
    cuts = [0, *place[starts].tolist(), len(letters)]
    return " ".join(letters[a:b] for a, b in itertools.pairwise(cuts) if b > a)

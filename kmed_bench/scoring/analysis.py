"""What goes wrong: aligned edits, confusions by syllable, jamo and word, worst clips, hallucinations.

All of it contains transcripts, which are private speech: it stays in memory and in local files.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import jiwer
import pandas as pd

from kmed_bench.core.predictions import Prediction
from kmed_bench.core.schema import GROUP_FIELDS
from kmed_bench.scoring.alignment import align, split_syllable
from kmed_bench.scoring.edits import align_words, impose_spacing
from kmed_bench.scoring.hallucinations import find_signs
from kmed_bench.scoring.measures import count_utterances
from kmed_bench.text.lexicon import Term
from kmed_bench.text.marks import Policy, resolve_marks
from kmed_bench.text.normalise import normalise
from kmed_bench.text.terms import match_terms
from kmed_bench.text.variants import resolve_variants

CLIP_COLUMNS = (
    "utterance_id",
    "speaker_id",
    *GROUP_FIELDS,
    "duration_s",
    "cer",
    "errors",
    "length",
    "signs",
    "errors_resolved",
    "accepted",
    "kinds",
    "terms",
    "missed_terms",
    "code_switching",
    "reference",
    "hypothesis",
)
KINDS = ("substitution", "deletion", "insertion", "hallucination", "number", "term")
"""Kinds of errors of a clip: edits of ``cer``, a sign of hallucination, a number or a medical term missed."""
SILENCE_COLUMNS = ("utterance_id", "speaker_id", *GROUP_FIELDS, "duration_s", "hypothesis")
EDIT_COLUMNS = ("utterance_id", "kind", "position", "reference", "hypothesis", "before", "after")
_CONTEXT = 5
"""Characters of the reference shown on each side of an edit."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ErrorAnalysis:
    """Tables of one system's errors.

    Attributes
    ----------
    clips : pandas.DataFrame
        One row per scored clip, worst first (by errors, then by rate); texts are normalised, spaces kept.
        ``errors_resolved`` are those of ``cer_resolved``, ``accepted`` its accepted spellings, as in ``씨티 = ct``,
        ``kinds`` the kinds of errors of ``KINDS``, separated by spaces, ``terms`` the medical terms of the reference,
        of which the hypothesis lacks the ``missed_terms``; both are separated by semicolons.
    edits : pandas.DataFrame
        One row per run of edits of ``cer``; ``position`` counts reference characters.
    syllables, jamo, words : pandas.DataFrame
        Confusions with their counts ``n``, most frequent first. An empty hypothesis is a deletion, an empty reference
        an insertion. Jamo have a ``place``: onset, nucleus or coda of a substituted syllable.
    terms : pandas.DataFrame
        Medical terms that were missed at least once: category, term, times said (``n``), times missed (``missed``).
    spellings : pandas.DataFrame
        Accepted spellings that count as right in ``cer_resolved``: kind, reference, hypothesis, times ``n``.
    silence : pandas.DataFrame
        Clips without speech (empty reference) whose hypothesis is not empty, the longest first.
    """

    clips: pd.DataFrame
    edits: pd.DataFrame
    syllables: pd.DataFrame
    jamo: pd.DataFrame
    words: pd.DataFrame
    terms: pd.DataFrame
    spellings: pd.DataFrame
    silence: pd.DataFrame

    @property
    def hallucinations(self) -> pd.DataFrame:
        """The clips that show a sign of hallucination."""
        return self.clips[self.clips["signs"] != ""]


def analyse_errors(predictions: Sequence[Prediction], policy: Policy) -> ErrorAnalysis:
    """Return the error tables of one system; clips without a scorable reference are only in ``silence``.

    Raises
    ------
    KmedError
        When an utterance appears twice.
    """
    counts = count_utterances(predictions, policy)
    scored = (counts["excluded"] == "").to_numpy()
    kept = [p for p, usable in zip(predictions, scored, strict=True) if usable]
    references = [normalise(resolve_marks(p.reference, policy), keep_spaces=True) for p in kept]
    hypotheses = [normalise(p.hypothesis, keep_spaces=True) for p in kept]
    plain = [t.replace(" ", "") for t in references], [t.replace(" ", "") for t in hypotheses]
    runs = [align(r, h) for r, h in zip(*plain, strict=True)]
    rows = map(_edits, [p.utterance_id for p in kept], *plain, runs)
    edits = pd.DataFrame(list(itertools.chain.from_iterable(rows)), columns=list(EDIT_COLUMNS))
    signs = [" ".join(find_signs(r, h, p.duration_s)) for p, r, h in zip(kept, references, hypotheses, strict=True)]
    resolved = [resolve_variants(resolve_marks(p.reference, policy), p.hypothesis)[1] for p in kept]
    accepted = ["; ".join(f"{one.written} = {one.accepted}" for one in ones) for ones in resolved]
    names = {"cer_errors": "errors", "cer_length": "length", "cer_resolved_errors": "errors_resolved"}
    clips = counts[scored].rename(columns=names)
    clips = clips.assign(signs=signs, accepted=accepted, reference=references, hypothesis=hypotheses)
    matched = [match_terms(*pair) for pair in zip(references, hypotheses, strict=True)]
    clips["kinds"] = _kinds(clips)
    clips["terms"] = ["; ".join(term.name for term, *_ in found) for found in matched]
    clips["missed_terms"] = ["; ".join(term.name for term, n, n_found in found if n_found < n) for found in matched]
    clips["cer"] = clips["errors"] / clips["length"]
    order = ["errors", "cer", "utterance_id"]
    pairs = list(_syllable_pairs(edits))
    return ErrorAnalysis(
        clips=clips.sort_values(order, ascending=[False, False, True], ignore_index=True)[list(CLIP_COLUMNS)],
        edits=edits,
        syllables=_tally(pairs, ["reference", "hypothesis"]),
        jamo=_tally([row for pair in pairs for row in _jamo_pairs(*pair)], ["place", "reference", "hypothesis"]),
        words=_tally(list(_word_pairs(references, hypotheses, runs)), ["reference", "hypothesis"]),
        terms=_missed_terms(matched),
        spellings=_tally(
            [(one.kind, one.accepted, one.written) for one in itertools.chain.from_iterable(resolved)],
            ["kind", "reference", "hypothesis"],
        ),
        silence=_inventions_in_silence(predictions, counts),
    )


def _inventions_in_silence(predictions: Sequence[Prediction], counts: pd.DataFrame) -> pd.DataFrame:
    invented = counts["silent_hallucinated"] > 0
    texts = [normalise(p.hypothesis, keep_spaces=True) for p in itertools.compress(predictions, invented)]
    clips = counts[invented].assign(hypothesis=texts, size=[-len(text) for text in texts])
    return clips.sort_values(["size", "utterance_id"], ignore_index=True)[list(SILENCE_COLUMNS)]


def _edits(
    utterance_id: str, reference: str, hypothesis: str, runs: list[jiwer.AlignmentChunk]
) -> Iterator[tuple[str, str, int, str, str, str, str]]:
    for run in runs:
        if run.type != "equal":
            start, end = run.ref_start_idx, run.ref_end_idx
            edited = reference[start:end], hypothesis[run.hyp_start_idx : run.hyp_end_idx]
            before, after = reference[max(0, start - _CONTEXT) : start], reference[end : end + _CONTEXT]
            yield utterance_id, run.type, start, *edited, before, after


def _syllable_pairs(edits: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Yield (reference, hypothesis) characters, one of them empty for a deletion or an insertion."""
    for kind, reference, hypothesis in zip(edits["kind"], edits["reference"], edits["hypothesis"], strict=True):
        if kind == "substitute":
            yield from zip(reference, hypothesis, strict=True)
        else:
            yield from ((character, "") for character in reference)
            yield from (("", character) for character in hypothesis)


def _jamo_pairs(reference: str, hypothesis: str) -> Iterator[tuple[str, str, str]]:
    """Yield the letters in which two Hangul syllables differ, with their place; nothing for other characters."""
    one, two = split_syllable(reference), split_syllable(hypothesis)
    if one and two:
        for place, a, b in zip(("onset", "nucleus", "coda"), one, two, strict=True):
            if a != b:
                yield place, a, b


def _word_pairs(
    references: list[str], hypotheses: list[str], runs: list[list[jiwer.AlignmentChunk]]
) -> Iterator[tuple[str, str]]:
    """Yield the words that still differ once the hypothesis has the reference's spacing."""
    respaced = [impose_spacing(*row) for row in zip(references, hypotheses, runs, strict=True)]
    for reference, hypothesis, chunks in zip(references, respaced, align_words(references, respaced), strict=True):
        words = reference.split(), hypothesis.split()
        for chunk in chunks:
            if chunk.type != "equal":
                sides = (
                    words[0][chunk.ref_start_idx : chunk.ref_end_idx],
                    words[1][chunk.hyp_start_idx : chunk.hyp_end_idx],
                )
                yield from itertools.zip_longest(*sides, fillvalue="")


def _kinds(clips: pd.DataFrame) -> list[str]:
    """Return the kinds of errors of each clip, from its counts and its signs of hallucination."""
    shown = (
        clips["errors"] > clips["cer_insertions"] + clips["cer_deletions"],
        clips["cer_deletions"] > 0,
        clips["cer_insertions"] > 0,
        clips["signs"] != "",
        clips["numbers_found"] < clips["numbers"],
        clips["terms_found"] < clips["terms"],
    )
    return [" ".join(itertools.compress(KINDS, row)) for row in zip(*shown, strict=True)]


def _missed_terms(matched: list[list[tuple[Term, int, int]]]) -> pd.DataFrame:
    """Return the terms that were missed, most often missed first."""
    rows = [(term.category, term.name, n, n - n_found) for term, n, n_found in itertools.chain.from_iterable(matched)]
    table = pd.DataFrame(rows, columns=["category", "term", "n", "missed"])
    counted = table.groupby(["category", "term"], sort=True, as_index=False).sum()
    return counted[counted["missed"] > 0].sort_values("missed", ascending=False, kind="stable", ignore_index=True)


def _tally(rows: Sequence[tuple[str, ...]], columns: list[str]) -> pd.DataFrame:
    """Return distinct rows with their count ``n``, most frequent first; ties are sorted by their texts."""
    table = pd.DataFrame(rows, columns=columns)
    counted = table.groupby(columns, sort=True).size().rename("n").reset_index()
    return counted.sort_values("n", ascending=False, kind="stable", ignore_index=True)

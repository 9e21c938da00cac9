"""Counts of one prediction after another, from its texts alone, in chunks that several processes can share."""

import functools
import gc
import hashlib
import itertools
import multiprocessing
import os
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from kmed_bench.core.progress import track
from kmed_bench.scoring.edits import (
    Counts,
    align_characters,
    count_distances,
    count_edits,
    count_word_distances,
    impose_spacing,
)
from kmed_bench.scoring.hallucinations import find_signs
from kmed_bench.scoring.numbers import count_numbers, in_one_form, respace
from kmed_bench.text.lexicon import CATEGORIES
from kmed_bench.text.marks import Policy, is_masked, resolve_marks, sentence_id
from kmed_bench.text.normalise import normalise
from kmed_bench.text.terms import match_terms
from kmed_bench.text.variants import code_switch, resolve_variants

Exclusion = Literal["", "reference_empty", "reference_masked"]
Row = tuple[str, str, float, str]
"""Reference as labelled, hypothesis, seconds of audio, id of the sentence (empty: the reference tells)."""

TERM_COLUMNS = {name: (f"terms_found_{name}", f"terms_{name}") for name in CATEGORIES}
"""Category of medical terms to (found, said) columns; summed over the categories they give ``term_recall``."""

_CHUNK = 4000
"""Predictions counted at once: few enough that the caches of texts hold both sides of a chunk."""
_MIN_SHARED = 40_000
"""Fewer predictions than these are counted by this process: starting others would take longer than it saves."""
_CACHED = 1 << 14
"""References kept: many speakers read the same sentence."""


class _Reference(NamedTuple):
    """A reference as the measures need it; sides of the dual notation and the policy's own are with single spaces."""

    excluded: Exclusion
    resolved: str
    spaced: str
    spelled: str
    said: str
    numbered: str
    switching: str
    digest: int


@functools.lru_cache(maxsize=_CACHED)
def _prepare(label: str, policy: Policy) -> _Reference:
    resolved = resolve_marks(label, policy)
    spaced = normalise(resolved, keep_spaces=True)
    digest = int.from_bytes(hashlib.blake2b(spaced.encode(), digest_size=8).digest(), "big")
    if is_masked(resolved) or not spaced:
        excluded: Exclusion = "reference_masked" if is_masked(resolved) else "reference_empty"
        return _Reference(excluded, resolved, spaced, spaced, spaced, "", "none", digest)
    other = resolve_marks(label, "pronunciation" if policy == "spelling" else "spelling")
    second = spaced if other == resolved else normalise(other, keep_spaces=True)
    spelled, said = (spaced, second) if policy == "spelling" else (second, spaced)
    numbered = in_one_form([spaced])[0]
    return _Reference("", resolved, spaced, spelled, said, numbered, code_switch(resolved), digest)


_identify = functools.lru_cache(maxsize=_CACHED)(sentence_id)


def count_rows(rows: Sequence[Row], policy: Policy) -> pd.DataFrame:
    """Return the counts of each row, in the order given; they don't depend on how many processes count.

    Other processes help from 40,000 rows on, where they can be forked safely: on Linux, while torch isn't loaded.
    """
    chunks = [rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK)] or [[]]
    tables: list[pd.DataFrame] = []
    with track("Scoring clips", beats=False) as tick:
        for table in _share(chunks, policy):
            tables.append(table)
            tick(min(len(tables) * _CHUNK, len(rows)), len(rows))
    return pd.concat(tables, ignore_index=True)


def _share(chunks: list[Sequence[Row]], policy: Policy) -> Iterator[pd.DataFrame]:
    n_workers = min(len(chunks), len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1)
    if n_workers < 2 or len(chunks) * _CHUNK < _MIN_SHARED or "torch" in sys.modules:
        yield from (_count_chunk(chunk, policy) for chunk in chunks)
        return
    _count_chunk(chunks[0][:100], policy)  # builds the tables of terms and spellings once, for every process
    gc.freeze()  # garbage collections of the worker processes would copy every shared page
    try:
        with ProcessPoolExecutor(n_workers, mp_context=multiprocessing.get_context("fork")) as pool:
            yield from pool.map(_count_chunk, chunks, itertools.repeat(policy))
    finally:
        gc.unfreeze()


def _count_chunk(rows: Sequence[Row], policy: Policy) -> pd.DataFrame:
    references = [_prepare(label, policy) for label, *_ in rows]
    table = pd.DataFrame(
        {
            "excluded": [reference.excluded for reference in references],
            "code_switching": [reference.switching for reference in references],
            "reference": np.array([reference.digest for reference in references], dtype=np.uint64),
            "sentence_id": [name or _identify(label) for label, _, _, name in rows],
        }
    )
    silent = (table["excluded"] == "reference_empty").to_numpy()
    invented = np.array([bool(normalise(hypothesis)) for _, hypothesis, *_ in itertools.compress(rows, silent)], bool)
    scored = (table["excluded"] == "").to_numpy()
    counts = _count([*itertools.compress(references, scored)], [*itertools.compress(rows, scored)])
    counts = {name: _spread(column, scored) for name, column in counts.items()}
    counts["clips_silent"] = silent.astype(np.int64)
    counts["silent_hallucinated"] = _spread(invented, silent)
    return pd.concat([table, pd.DataFrame(counts)], axis=1)


def _spread(column: npt.NDArray[Any], at: npt.NDArray[np.bool_]) -> Counts:
    """Return a column of all rows, zero outside the rows that were counted."""
    whole = np.zeros(len(at), dtype=np.int64)
    whole[at] = column
    return whole


def _count(references: list[_Reference], rows: list[Row]) -> dict[str, Counts]:
    """Return every count of scorable rows."""
    heard = [hypothesis for _, hypothesis, *_ in rows]
    spaced = [r.spaced for r in references], [normalise(text, keep_spaces=True) for text in heard]
    flat = [[text.replace(" ", "") for text in side] for side in spaced]
    # Letters that a space separated may compose.
    plain = [[unicodedata.normalize("NFC", text) for text in side] for side in flat]
    raw = [r.resolved for r in references], [_compose(text) for text in heard]
    jamo = [_decompose(text) for text in plain[0]], [_decompose(text) for text in plain[1]]
    aligned = align_characters(*flat)
    characters = count_edits(aligned if plain == flat else align_characters(*plain), [*map(len, plain[0])])
    respaced = [impose_spacing(*row) for row in zip(*spaced, aligned, strict=True)]
    placed = respace(*spaced, aligned)
    numbered = [r.numbered for r in references], _in_one_form(references, placed)
    resolved = _resolve(references, heard, numbered[1])
    said = [r.said for r in references]
    heard_as_said = placed if said == spaced[0] else respace(said, spaced[1])
    spoken, found, ambiguous, unread = count_numbers([r.spelled for r in references], said, heard_as_said)
    signs = [find_signs(*row) for row in zip(*spaced, [duration_s for _, _, duration_s, _ in rows], strict=True)]
    fluent = np.array(["loop" not in shown for shown in signs], dtype=np.int64)
    words = np.array([len(text.split()) for text in spaced[0]], dtype=np.int64)
    return {
        "cer_errors": characters.errors,
        "cer_length": characters.length,
        "cer_insertions": characters.insertions,
        "cer_deletions": characters.deletions,
        "cer_without_loops_errors": characters.errors * fluent,
        "cer_without_loops_length": characters.length * fluent,
        "cer_resolved_errors": count_distances(numbered[0], resolved),
        "cer_resolved_length": _lengths(numbered[0]),
        "cer_spaced_errors": count_distances(*spaced),
        "cer_spaced_length": _lengths(spaced[0]),
        "cer_raw_errors": count_distances(*raw),
        "cer_raw_length": _lengths(raw[0]),
        "cer_number_errors": count_distances(*numbered),
        "cer_number_length": _lengths(numbered[0]),
        "wer_errors": count_word_distances(*spaced),
        "wer_length": words,
        "wer_respaced_errors": count_word_distances(spaced[0], respaced),
        "jer_errors": count_distances(*jamo),
        "jer_length": _lengths(jamo[0]),
        "numbers": spoken,
        "numbers_found": found,
        "numbers_ambiguous": ambiguous,
        "numbers_unread": unread,
        **_count_terms(*spaced),
        "clips": np.ones(len(rows), dtype=np.int64),
        "empty": np.array([not text for text in plain[1]], dtype=np.int64),
        "hallucinated": np.array([bool(shown) for shown in signs], dtype=np.int64),
    }


def _in_one_form(references: list[_Reference], heard: list[str]) -> list[str]:
    rows = zip(references, heard, strict=True)
    return [r.numbered if text == r.spaced else in_one_form([text])[0] for r, text in rows]


def _lengths(texts: list[str]) -> Counts:
    return np.fromiter(map(len, texts), np.int64, len(texts))


def _resolve(references: list[_Reference], heard: list[str], numbered: list[str]) -> list[str]:
    """Return the hypotheses with their references' accepted spellings and with numbers in one form.

    ``numbered`` are those with numbers in one form only, which a hypothesis without another spelling is here too.
    """
    texts = list(numbered)
    pairs = zip(references, heard, strict=True)
    changed = {
        row: normalise(text, keep_spaces=True)
        for row, (reference, hypothesis) in enumerate(pairs)
        for text, accepted in [resolve_variants(reference.resolved, hypothesis)]
        if accepted
    }
    placed = respace([references[row].spaced for row in changed], [*changed.values()])
    for row, text in zip(changed, in_one_form(placed), strict=True):
        texts[row] = text
    return texts


def _count_terms(references: list[str], hypotheses: list[str]) -> dict[str, Counts]:
    """Return the medical terms of each reference, and those its hypothesis has too, in total and by category."""
    said, found = np.zeros((2, len(CATEGORIES), len(references)), dtype=np.int64)
    for place, row in enumerate(zip(references, hypotheses, strict=True)):
        for term, n_said, n_found in match_terms(*row):
            category = CATEGORIES.index(term.category)
            said[category, place] += n_said
            found[category, place] += n_found
    columns = {"terms": said.sum(axis=0), "terms_found": found.sum(axis=0)}
    for category, (top, bottom) in enumerate(TERM_COLUMNS.values()):
        columns |= {top: found[category], bottom: said[category]}
    return columns


def _compose(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip()


def _decompose(text: str) -> str:
    return unicodedata.normalize("NFD", text)

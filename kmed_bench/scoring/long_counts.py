"""Counts of predictions that are too many to be held: the texts are dropped as they are counted."""

import hashlib
import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import union_categoricals

from kmed_bench.core.errors import KmedError
from kmed_bench.core.predictions import Prediction
from kmed_bench.core.progress import track
from kmed_bench.scoring.measures import (
    COUNT_COLUMNS,
    ID_COLUMNS,
    SENTENCE,
    TIME_COLUMNS,
    count_perfect,
    count_texts,
    errors_of_worst,
)
from kmed_bench.text.marks import Policy

_AT_A_TIME = 4_000
_WORDS = (*ID_COLUMNS[1:], "excluded", "code_switching")


def count_sorted(predictions: Iterable[Prediction], policy: Policy, n_predictions: int) -> pd.DataFrame:
    """Return what `groups.score_counts` needs of predictions sorted by id: no ids and no digests of references.

    Less than 200 bytes a prediction: counts in as few bytes as their largest value needs, a number for each text.
    Sentences are told apart by the first 8 bytes of a hash.

    Parameters
    ----------
    n_predictions : int
        How many there are, for the progress.

    Raises
    ------
    KmedError
        When two predictions follow one another that are not sorted, or a field has the wrong type.
    """
    tables: list[pd.DataFrame] = []
    last, done = "", 0
    remaining = iter(predictions)
    with track("Scoring", unit="clips") as tick:
        while chunk := list(itertools.islice(remaining, _AT_A_TIME)):
            for prediction in chunk:
                if prediction.utterance_id <= last:
                    raise KmedError(f"Utterance {prediction.utterance_id!r:.80} comes after {last!r:.80}; sort by id.")
                last = prediction.utterance_id
            tables.append(_shrink(count_texts(chunk, policy)))
            done += len(chunk)
            tick(done, n_predictions)
    if not tables:
        raise KmedError("There are no predictions to score; give a predictions.jsonl with at least one line.")
    table = _join(tables)
    for name, column in (
        ("perfect", count_perfect(table)),
        ("worst_percent_errors", errors_of_worst(pd.Series(np.arange(len(table))), table)),
    ):
        table[name] = pd.to_numeric(column, downcast="signed")
    return table


def _shrink(counts: pd.DataFrame) -> pd.DataFrame:
    """Return the columns that scores are made of, in few bytes."""
    numbers = [name for name in COUNT_COLUMNS if name in counts]
    columns: dict[str, Any] = {name: counts[name].astype("category") for name in _WORDS}
    columns |= {name: counts[name].astype(np.float64) for name in TIME_COLUMNS}
    columns[SENTENCE] = pd.Series([_number(name) for name in counts["sentence_id"]], dtype=np.int64)
    columns |= {name: pd.to_numeric(counts[name], downcast="signed") for name in numbers}
    return pd.DataFrame(columns)


def _number(name: str) -> int:
    """Return a number of 63 bits for a sentence."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") >> 1


def _join(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Return one table of several, column by column, which are given up meanwhile."""
    columns: dict[str, Any] = {}
    for name in list(tables[0].columns):
        parts = [table.pop(name) for table in tables]
        if name in _WORDS:
            columns[name] = union_categoricals(parts, sort_categories=True)
        else:
            columns[name] = np.concatenate([part.to_numpy() for part in parts])
    columns[SENTENCE] = pd.factorize(columns[SENTENCE])[0].astype(np.int32)
    return pd.DataFrame(columns)

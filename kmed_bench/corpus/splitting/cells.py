"""What a disjoint split leaves out, by cell of its design: speaker and sentence each seen in training or not.

The test part is the cell of unseen speakers and unseen sentences. A split that shares speakers and sentences between
its parts measures the other three cells.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from kmed_bench.core.schema import CELLS, PARTS, SELECTION, UNKNOWN, UNSEEN
from kmed_bench.corpus.splitting.identity import holds_recordings, join_spellings
from kmed_bench.corpus.splitting.selection import hash_unit

LEFT_OUT = "left_out"
"""Name of the part, and of its file, that holds the utterances in no part."""
CELL = "cell"


def name_cells(rows: pd.DataFrame, parts: Mapping[str, pd.DataFrame]) -> "pd.Series[str]":
    """Return each row's cell: one of ``CELLS``, or ``SELECTION``.

    Seen is what the training part holds. Unseen is what neither the training part nor the valid part holds, as in a
    disjoint test part. A speaker or a sentence that only the valid part holds influenced which epoch was chosen, so
    its utterances are neither: they are ``SELECTION``. So are left-out utterances whose recording is in a part under
    another id. So are those whose speaker is not known. All spellings of a sentence are
    one sentence.
    """
    joined = join_spellings(pd.concat([rows, *(parts[part] for part in PARTS)]).reset_index(drop=True))
    held = {part: joined[joined["utterance_id"].isin(parts[part]["utterance_id"])] for part in ("train", "valid")}
    own = joined.iloc[: len(rows)]
    states = []
    for column in ("speaker_id", "sentence_id"):
        seen = own[column].isin(held["train"][column]).to_numpy()
        chosen = ~seen & own[column].isin(held["valid"][column]).to_numpy()
        if column == "speaker_id":
            unknown = own[column].isin(UNKNOWN).to_numpy()
            seen, chosen = seen & ~unknown, chosen | unknown
        states.append(np.where(seen, "seen", np.where(chosen, "", "unseen")))
    speaker, sentence = states
    named = [f"{a}_{b}" if a and b else SELECTION for a, b in zip(speaker, sentence, strict=True)]
    others = [parts[part][~parts[part]["utterance_id"].isin(rows["utterance_id"])] for part in PARTS]
    return pd.Series(named, index=rows.index, dtype="str").mask(holds_recordings(rows, others), SELECTION)


def find_left_out(table: pd.DataFrame, parts: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the rows of a manifest that are in no part, with their cell in a further column ``cell``."""
    used = pd.concat([parts[part]["utterance_id"] for part in PARTS])
    rows = table[~table["utterance_id"].isin(used)].reset_index(drop=True)
    return rows.assign(**{CELL: name_cells(rows, parts)})


def count_cells(left_out: pd.DataFrame) -> dict[str, int]:
    """Return how many utterances of each cell were left out; the sum is all of them."""
    counts = left_out[CELL].value_counts()
    return {cell: int(counts.get(cell, 0)) for cell in (*CELLS, SELECTION)}


def sample_cells(left_out: pd.DataFrame, limit: int, seed: int) -> pd.DataFrame:
    """Return at most ``limit`` utterances of each cell but ``UNSEEN``, which is the test part, sorted by id.

    The sample is a simple random one: the utterances whose hashes with the seed are lowest. It depends only on the ids
    and the seed, and a smaller sample is a subset of a larger one.
    """
    rows = left_out[left_out[CELL].isin([cell for cell in CELLS if cell != UNSEEN])]
    order = pd.Series(hash_unit("leak", rows["utterance_id"], seed), index=rows.index)
    turn = order.groupby(rows[CELL]).rank(method="first")
    return rows[turn <= limit].sort_values("utterance_id", kind="stable", ignore_index=True)

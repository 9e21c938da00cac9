"""The published benchmark's draw, kept to compare its figures on equal terms. It leaks.

Two steps, both by utterance and only on age: 70 % of the corpus for train, then 70 % of the rest
for valid and 30 % for test (scikit-learn's stratified split); then the requested numbers are drawn
from each. The published draw weighted each utterance by its dialect's share times its age's share
over its gender's share, which skews the shares that it was meant to keep; it had no seed, ours has.
"""

import numpy as np
import pandas as pd

from kmed_bench.core.errors import KmedError
from kmed_bench.core.schema import PARTS
from kmed_bench.corpus.splitting.quotas import Counts, count_values, merge_thin
from kmed_bench.corpus.splitting.selection import UNUSED, hash_unit

FIRST_SHARE = 0.7  # train from all, then valid from the rest
_FEWEST = 10  # utterances of an age: both steps need two of each on each side


def draw_published(table: pd.DataFrame, sizes: tuple[int, int, int], seed: int) -> Counts:
    """Return each utterance's index into PARTS, or UNUSED.

    Parameters
    ----------
    table : pandas.DataFrame
        The manifest, sorted by utterance id.
    sizes : tuple
        Utterances of each part.

    Raises
    ------
    KmedError
        When a pool holds fewer utterances than asked for.
    """
    pools = _split_in_two_steps(table, seed)
    room = [len(pool) for pool in pools]
    if any(size > there for size, there in zip(sizes, room, strict=True)):
        nearest = " ".join(f"--split.{p} {min(n, r)}" for p, n, r in zip(PARTS, sizes, room, strict=True))
        raise KmedError(
            f"The published draw makes pools of {room[0]}, {room[1]} and {room[2]} from {len(table)} utterances, and "
            f"{sizes[0]}, {sizes[1]} and {sizes[2]} were asked for; the nearest sizes that it can draw are {nearest}."
        )
    part = np.full(len(table), UNUSED, np.int64)
    # In (0, 1): the hash's place among all its values.
    uniform = (hash_unit("draw", table["utterance_id"], seed) + 0.5) / 2.0**63
    for index, (pool, size) in enumerate(zip(pools, sizes, strict=True)):
        part[_draw(table, pool, size, uniform)] = index
    return part


def _split_in_two_steps(table: pd.DataFrame, seed: int) -> list[Counts]:
    from sklearn.model_selection import train_test_split  # a second to import, and only this draw needs it

    everyone = np.arange(len(table))
    if len(table) < _FEWEST:
        return [everyone[:0]] * len(PARTS)
    ages = count_values(table["age"])
    merged = merge_thin(ages, lambda values: sum(ages[value] for value in values) < _FEWEST)
    strata = table["age"].astype(str).map(merged).to_numpy()
    train, rest = train_test_split(everyone, train_size=FIRST_SHARE, stratify=strata, random_state=seed)
    valid, test = train_test_split(rest, train_size=FIRST_SHARE, stratify=strata[rest], random_state=seed)
    return [np.sort(train), np.sort(valid), np.sort(test)]


def _draw(table: pd.DataFrame, pool: Counts, n: int, uniform: np.ndarray) -> Counts:
    """Draw n of the pool without replacement, with the published weights.

    The n largest of u ** (1 / w), u uniform and w the weight, are such a draw (Efraimidis and
    Spirakis, 2006); log(u) / w keeps their order.
    """
    rows = table.iloc[pool]
    share = {
        field: rows[field].map(rows[field].value_counts(normalize=True)).to_numpy(dtype=float)
        for field in ("dialect", "age", "gender")
    }
    keys = np.log(uniform[pool]) * share["gender"] / (share["dialect"] * share["age"])
    drawn: Counts = pool[np.argsort(-keys, kind="stable")[:n]]
    return drawn

"""How many utterances of each kind a part needs, and which counts fill those needs exactly.

The unit of a quota is a *stratum*: one value of one field, or several thin values of it taken
together. Everything here is integer arithmetic, so that every machine finds the same counts.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

Counts = npt.NDArray[np.int64]

# A broken quota outweighs any distance from the cells' own shares (at most 2 n + 1 a move, n < 2**31).
_QUOTA_WEIGHT = 1 << 34


def largest_remainder(n: int, weights: Sequence[int] | Counts) -> Counts:
    """Return whole numbers that sum to n and follow the weights as closely as rounding allows.

    The method of largest remainders (Hamilton): everyone gets the whole part of its share, the
    rest goes one each to the largest remainders; ties go to the earlier weight.

    Parameters
    ----------
    n : int
        What is to be shared out.
    weights : sequence of int
        Not negative, at least one above zero.
    """
    scaled = np.asarray(weights, dtype=np.int64) * n
    total = int(np.sum(np.asarray(weights, dtype=np.int64)))
    whole, remainder = scaled // total, scaled % total
    whole[np.argsort(-remainder, kind="stable")[: n - int(whole.sum())]] += 1
    return whole


def merge_thin(
    counts: Mapping[str, int], holders: Mapping[str, int], n_smallest: int, n_holders: int
) -> dict[str, str]:
    """Return the stratum of each value of a field.

    The rule for rare values: a stratum is thin when its share of the smallest part is under one
    utterance, or when fewer speakers (or sentences) carry it than there are parts that may not
    share them. The two smallest strata are joined, smallest first, until none is thin. A joined
    stratum is named by its values, ``"강원+전라"``.

    Parameters
    ----------
    counts : mapping
        Value to utterances in the corpus.
    holders : mapping
        Value to speakers, or to sentences where those are fewer; only compared with n_holders.
    n_smallest : int
        Utterances in the smallest part.
    n_holders : int
        How many holders a stratum needs; 0: any number will do.
    """
    total = sum(counts.values())
    groups: list[tuple[int, int, tuple[str, ...]]] = [(counts[v], holders[v], (v,)) for v in sorted(counts)]
    while len(groups) > 1:
        groups.sort()
        thin = [g for g in groups if g[0] * n_smallest < total or g[1] < n_holders]
        if not thin:
            break
        first = thin[0]
        second = next(g for g in groups if g is not first)
        groups = [g for g in groups if g is not first and g is not second]
        groups.append((first[0] + second[0], first[1] + second[1], tuple(sorted(first[2] + second[2]))))
    return {value: "+".join(values) for _, _, values in groups for value in values}


@dataclasses.dataclass(frozen=True)
class Strata:
    """The kinds of utterances in a corpus.

    Attributes
    ----------
    fields : tuple of str
        The fields whose shares are kept and that have more than one stratum.
    names : tuple
        Name of each stratum, as (field, values joined by ``+``), all fields in a row.
    cell : array (n_utterances,)
        Cell of each utterance: its combination of values over the fields.
    member : array (n_cells, n_fields)
        Index into names of each cell's stratum in each field.
    size : array (n_cells,)
        Utterances of the corpus in each cell.
    """

    fields: tuple[str, ...]
    names: tuple[tuple[str, str], ...]
    cell: Counts
    member: Counts
    size: Counts

    def count(self, per_cell: Counts) -> Counts:
        """Return utterances per stratum from utterances per cell."""
        total = np.zeros(len(self.names), dtype=np.int64)
        for column in range(self.member.shape[1]):
            np.add.at(total, self.member[:, column], per_cell)
        return total

    def quotas(self, n: int) -> Counts:
        """Return the utterances that a part of n needs from each stratum; each field's sum to n."""
        size = self.count(self.size)
        needs = np.zeros(len(self.names), dtype=np.int64)
        for field in self.fields:
            mine = [i for i, name in enumerate(self.names) if name[0] == field]
            needs[mine] = largest_remainder(n, size[mine])
        return needs


def build_strata(table: pd.DataFrame, fields: Sequence[str], n_smallest: int, disjoint: Sequence[str]) -> Strata:
    """Return the strata of a manifest; thin values are merged by the rule of ``merge_thin``.

    A field with a single stratum, constant or wholly unknown, sets no quota. ``N/A`` is a value
    like any other: each part keeps the corpus's share of the unknown.
    """
    names: list[tuple[str, str]] = []
    kept: list[str] = []
    merged: dict[str, dict[str, str]] = {}
    for field in fields:
        values = table[field].astype(str)
        counts = {str(v): int(n) for v, n in values.value_counts().items()}
        holders = counts
        for who in disjoint:
            per_value = table[f"{who}_id"].groupby(values.to_numpy()).nunique()
            holders = {v: min(holders[v], int(per_value[v])) for v in counts}
        strata = merge_thin(counts, holders, n_smallest, 3 if disjoint else 0)
        if len(set(strata.values())) > 1:
            kept.append(field)
            merged[field] = strata
            names += [(field, name) for name in sorted(set(strata.values()))]
    if not kept:
        n = len(table)
        return Strata((), (), np.zeros(n, np.int64), np.zeros((1, 0), np.int64), np.array([n], np.int64))
    keys = table[kept].astype(str)
    cells = sorted(set(keys.itertuples(index=False, name=None)))
    index = {cell: i for i, cell in enumerate(cells)}
    cell = np.fromiter((index[k] for k in keys.itertuples(index=False, name=None)), np.int64, len(keys))
    place = {name: i for i, name in enumerate(names)}
    member = np.array([[place[f, merged[f][v]] for f, v in zip(kept, c, strict=True)] for c in cells], np.int64)
    return Strata(tuple(kept), tuple(names), cell, member, np.bincount(cell, minlength=len(cells)).astype(np.int64))


def choose_counts(strata: Strata, available: Counts, n: int, rounds: int = 400) -> Counts:
    """Return how many utterances to take from each cell: at most what is there, n in all if there are n.

    The quotas of every field come first, the cells' own shares second (so values that were merged
    keep their shares as far as possible). Starts from the cells' largest remainders and moves one
    utterance at a time between the two cells that improve the sum of squared deviations most; a
    short tabu list leads out of local optima while a quota is broken.

    Parameters
    ----------
    available : array (n_cells,)
        Eligible utterances.
    """
    wish = largest_remainder(n, strata.size)
    take = np.minimum(wish, available)
    while (short := min(n, int(available.sum())) - int(take.sum())) > 0:
        room = available - take
        extra = largest_remainder(short, np.where(room > 0, np.maximum(strata.size, 1), 0))
        take += np.minimum(extra, room)
    if not strata.fields:
        return take
    return _improve(strata, take, available, wish, strata.quotas(n), rounds)


def _improve(strata: Strata, take: Counts, available: Counts, wish: Counts, quotas: Counts, rounds: int) -> Counts:
    member = strata.member
    shared = (member[:, None, :] == member[None, :, :]).sum(axis=2)
    best, best_cost, stuck = take.copy(), None, 0
    tabu = np.zeros(len(take), np.int64)
    for step in range(rounds + int(np.abs(take - wish).sum())):
        deviation = strata.count(take) - quotas
        cost = (int((deviation**2).sum()), int(((take - wish) ** 2).sum()))
        if best_cost is None or cost < best_cost:
            best, best_cost, stuck = take.copy(), cost, 0
        else:
            stuck += 1
        pull = deviation[member].sum(axis=1) * 2
        away = take - wish
        quota_change = pull[None, :] - pull[:, None] + 2 * (member.shape[1] - shared)
        change = quota_change * _QUOTA_WEIGHT + 2 * (away[None, :] - away[:, None]) + 2
        change[(take == 0) | (tabu > step), :] = np.iinfo(np.int64).max
        change[:, (take >= available) | (tabu > step)] = np.iinfo(np.int64).max
        np.fill_diagonal(change, np.iinfo(np.int64).max)
        out, into = np.unravel_index(int(change.argmin()), change.shape)
        worse = change[out, into] >= 0
        if change[out, into] == np.iinfo(np.int64).max or (worse and (best_cost[0] == 0 or stuck > 60)):
            break
        take = take.copy()
        take[out] -= 1
        take[into] += 1
        if worse:
            tabu[[out, into]] = step + 4
    return best

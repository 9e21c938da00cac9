"""How many utterances of each kind a part needs, and which counts fill those needs exactly.

The unit of a quota is a *stratum*: one value of one field, or several thin values of it taken
together. Everything here is integer arithmetic, so that every machine finds the same counts.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

Counts = npt.NDArray[np.int64]

# What comes first when counts are chosen: strata, then the single values, then the cells. Half of a
# move's change in a sum of squares is at most 6 n; with n under a million nothing overflows 63 bits.
_STRATUM_WEIGHT, _VALUE_WEIGHT = 1 << 36, 1 << 16
_FEWEST_HOLDERS, _MANY_HOLDERS = 3, 6
_NEVER = np.iinfo(np.int64).max
_TABU_MOVES = 4
_PATIENCE = 60  # moves without a gain while a quota is broken


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


def count_values(values: pd.Series) -> dict[str, int]:
    """Return utterances per value."""
    return {str(value): int(n) for value, n in values.astype(str).value_counts().items()}


def merge_thin(counts: Mapping[str, int], is_thin: Callable[[tuple[str, ...]], bool]) -> dict[str, str]:
    """Return the stratum of each value of a field, named by its values: ``"강원+전라"``.

    While a stratum is thin, the smallest thin one is joined with the largest other one: that one is
    disturbed least, and no share can then stray further than the thin values' own shares add up to.

    Parameters
    ----------
    counts : mapping
        Value to utterances in the corpus.
    is_thin : callable
        Says of some values, taken together, whether they are too few to be a stratum.
    """
    groups: list[tuple[int, tuple[str, ...]]] = [(counts[value], (value,)) for value in counts]
    while len(groups) > 1:
        groups.sort()
        thin = next((group for group in groups if is_thin(group[1])), None)
        if thin is None:
            break
        other = next(group for group in reversed(groups) if group is not thin)
        groups = [group for group in groups if group is not thin and group is not other]
        groups.append((thin[0] + other[0], tuple(sorted(thin[1] + other[1]))))
    return {value: "+".join(values) for _, values in groups for value in values}


def can_cover(loads: Counts, needs: Sequence[int]) -> bool:
    """Return whether whole loads, dealt largest first to the need of which most is left, meet all needs."""
    left = list(needs)
    for load in np.sort(loads)[::-1].tolist():
        neediest = left.index(max(left))
        if left[neediest] <= 0:
            break
        left[neediest] -= load
    return max(left) <= 0


@dataclasses.dataclass(frozen=True)
class Strata:
    """The kinds of utterances in a corpus.

    Attributes
    ----------
    fields : tuple of str
        The fields that have more than one stratum, and so quotas.
    names : tuple
        Name of each stratum, as (field, values joined by ``+``), all fields in a row.
    merged : tuple
        Likewise, the strata of several values, those that make up a whole field and set no quota included.
    cell : array (n_utterances,)
        Cell of each utterance: its combination of values over the fields asked for.
    size : array (n_cells,)
        Utterances of the corpus in each cell.
    member : array (n_cells, n_fields)
        Index into names of each cell's stratum in each field.
    value : array (n_cells, n_varying_fields)
        Likewise for single values, before any were merged, over all fields that have more than one.
    """

    fields: tuple[str, ...]
    names: tuple[tuple[str, str], ...]
    merged: tuple[tuple[str, str], ...]
    cell: Counts
    size: Counts
    member: Counts
    value: Counts

    def count(self, per_cell: Counts) -> Counts:
        """Return utterances per stratum from utterances per cell."""
        return count_members(self.member, per_cell)

    def quotas(self, n: int) -> Counts:
        """Return the utterances that a part of n needs from each stratum; each field's sum to n."""
        return share_out(self.member, self.size, n)


def count_members(member: Counts, per_cell: Counts) -> Counts:
    """Return the sums of per_cell over the cells of each member, shape (n_members,)."""
    total = np.zeros(int(member.max(initial=-1)) + 1, dtype=np.int64)
    for column in member.T:
        np.add.at(total, column, per_cell)
    return total


def share_out(member: Counts, size: Counts, n: int) -> Counts:
    """Return n shared out within each field (a column of member) by the sizes of its members."""
    total = count_members(member, size)
    shares = np.zeros_like(total)
    for column in member.T:
        mine = np.unique(column)
        shares[mine] = largest_remainder(n, total[mine])
    return shares


def build_strata(
    table: pd.DataFrame, fields: Sequence[str], sizes: tuple[int, int, int], disjoint: Sequence[str]
) -> Strata:
    """Return the strata of a manifest.

    The rule for rare values: a stratum is thin when its share of the smallest part is under one
    utterance, when it has fewer than three speakers (sentences), or when it has fewer than six and
    these, each given whole to one part, can't supply all parts. Thin strata are merged as in
    `merge_thin`; what remains is guaranteed its quota in every part. A field left with one stratum,
    or constant from the start, sets no quota. ``N/A`` is a value like any other: each part keeps
    the corpus's share of the unknown.
    """
    holders = [pd.factorize(table[f"{who}_id"])[0].astype(np.int64) for who in disjoint]
    coded = [pd.factorize(table[field].astype(str), sort=True) for field in fields]
    cells, cell = np.unique(
        np.array([codes for codes, _ in coded], np.int64).reshape(len(coded), len(table)), axis=1, return_inverse=True
    )
    names: list[tuple[str, str]] = []
    joined: list[tuple[str, str]] = []
    member, value, kept, n_values = [], [], [], 0
    for field, (codes, uniques), column in zip(fields, coded, cells, strict=True):
        values = [str(v) for v in uniques]
        counts = np.bincount(codes)
        strata = merge_thin(dict(zip(values, counts.tolist(), strict=True)), _thinness(codes, values, holders, sizes))
        if len(values) > 1:
            value.append(column + n_values)
            n_values += len(values)
        merged = sorted(set(strata.values()))
        joined += [(field, name) for name in merged if name not in values]
        if len(merged) > 1:
            kept.append(field)
            member.append(np.array([merged.index(strata[v]) for v in values], np.int64)[column] + len(names))
            names += [(field, name) for name in merged]
    n = cells.shape[1]
    return Strata(
        fields=tuple(kept),
        names=tuple(names),
        merged=tuple(joined),
        cell=cell.reshape(-1).astype(np.int64),
        size=np.bincount(cell.reshape(-1), minlength=n).astype(np.int64),
        member=np.array(member, np.int64).reshape(len(member), n).T,
        value=np.array(value, np.int64).reshape(len(value), n).T,
    )


def _thinness(
    codes: Counts, values: Sequence[str], holders: Sequence[Counts], sizes: tuple[int, int, int]
) -> Callable[[tuple[str, ...]], bool]:
    """Return the rule of `build_strata` for one field, given each utterance's value and its holders."""
    counts = np.bincount(codes)
    loads = []
    for units in holders:
        n_units = int(units.max()) + 1
        loads.append(
            np.bincount(codes * n_units + units, minlength=len(values) * n_units).reshape(len(values), n_units)
        )

    def is_thin(group: tuple[str, ...]) -> bool:
        rows = [values.index(value) for value in group]
        n = int(counts[rows].sum())
        if n * min(sizes) < len(codes):
            return True
        needs = [-(-n * size // len(codes)) for size in sizes]
        for per_value in loads:
            load = per_value[rows].sum(axis=0)
            held = load[load > 0]
            if len(held) < _FEWEST_HOLDERS or (len(held) < _MANY_HOLDERS and not can_cover(held, needs)):
                return True
        return False

    return is_thin


def choose_counts(strata: Strata, available: Counts, n: int) -> Counts:
    """Return how many utterances to take from each cell: at most what is there, n in all if there are n.

    The quotas of the strata come first, the shares of the values that were merged second, those of
    the cells third. Starts from the cells' largest remainders and moves one utterance at a time
    between the two cells that improve the sum of squared deviations most; a short tabu list leads
    out of local optima while a quota is broken.

    Parameters
    ----------
    available : array (n_cells,)
        Eligible utterances.
    """
    wish = largest_remainder(n, strata.size)
    take = np.minimum(wish, available)
    while (short := min(n, int(available.sum())) - int(take.sum())) > 0:
        room = available - take
        take += np.minimum(largest_remainder(short, np.where(room > 0, strata.size, 0)), room)
    return _improve(strata, take, available, wish, n) if len(take) > 1 else take


def _improve(strata: Strata, take: Counts, available: Counts, wish: Counts, n: int) -> Counts:
    levels = [
        (member, share_out(member, strata.size, n), (member[:, None, :] == member[None, :, :]).sum(axis=2), weight)
        for member, weight in ((strata.member, _STRATUM_WEIGHT), (strata.value, _VALUE_WEIGHT))
    ]
    best, best_cost, stuck, step = take, None, 0, 0
    tabu = np.zeros(len(take), np.int64)
    while True:
        step += 1
        away = take - wish
        # Half of what each move (out of a row's cell, into a column's) would add to the sum of squares.
        gain = away[None, :] - away[:, None] + 1
        cost = [int((away**2).sum())]
        for member, goal, shared, weight in levels:
            gap = count_members(member, take) - goal
            pull = gap[member].sum(axis=1)
            gain += weight * (pull[None, :] - pull[:, None] + member.shape[1] - shared)
            cost.append(int((gap**2).sum()))
        cost = [cost[1], cost[2], cost[0]]
        if best_cost is None or cost < best_cost:
            best, best_cost, stuck = take, cost, 0
        else:
            stuck += 1
        gain[(take == 0) | (tabu > step), :] = _NEVER
        gain[:, (take >= available) | (tabu > step)] = _NEVER
        np.fill_diagonal(gain, _NEVER)
        out, into = np.unravel_index(int(gain.argmin()), gain.shape)
        worse = gain[out, into] >= 0
        if gain[out, into] == _NEVER or (worse and (best_cost[0] == 0 or stuck > _PATIENCE)):
            return best
        take = take.copy()
        take[out] -= 1
        take[into] += 1
        if worse:
            tabu[[out, into]] = step + _TABU_MOVES

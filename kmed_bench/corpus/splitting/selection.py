"""Which utterance goes into which part: disjoint assignment, then exact quotas, then the draw."""

import dataclasses
import hashlib
from collections.abc import Iterable

import numpy as np
import pandas as pd

from kmed_bench.config import SplitConfig
from kmed_bench.core.errors import KmedError
from kmed_bench.core.schema import PARTS, UNKNOWN
from kmed_bench.corpus.splitting.disjoint import Problem, assign
from kmed_bench.corpus.splitting.quotas import Counts, Strata, build_strata, choose_counts, largest_remainder

DISJOINT = ("speaker", "sentence")
UNUSED = -1
_ATTEMPTS = ((0, False), (0, True), (10, False), (25, False))  # slack in per cent, quotas of combinations
_SIZES_TRIED = 8
Sizes = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Selection:
    """What one search found.

    Attributes
    ----------
    part : array (n_utterances,)
        Index into PARTS, or UNUSED.
    eligible : array (n_utterances,)
        The part that an utterance could have served, or UNUSED where its speaker and its sentence
        belong to different parts.
    lacking : dict
        Part to {stratum: how many more utterances it needs}; a part that lacks nothing is left
        out, so an empty dict is success.
    fits : tuple
        The largest sizes, up to those asked for, that the same assignment can fill.
    strata : Strata
        The strata that the quotas were kept for.
    """

    part: Counts
    eligible: Counts
    lacking: dict[str, dict[str, int]]
    fits: Sizes
    strata: Strata


def hash_unit(kind: str, names: Iterable[str], seed: int) -> Counts:
    """Return 63 bits of SHA-256 per name: an order that depends only on names and seed."""
    digests = (hashlib.sha256(f"{seed}\t{kind}\t{name}".encode()).digest()[:8] for name in names)
    return np.frombuffer(b"".join(digests), dtype=">u8").astype(np.uint64).view(np.int64) & np.int64(2**63 - 1)


def select_parts(table: pd.DataFrame, config: SplitConfig) -> Selection:
    """Return a selection that meets the settings.

    Raises
    ------
    KmedError
        When the search finds none; the message names what lacks and the nearest sizes found.
    """
    asked = (config.train, config.valid, config.test)
    sizes, lacks = asked, ""
    if sum(asked) > 2 * len(table):  # hopeless: look for the same proportions
        lacks = f"{sum(asked) - len(table)} utterances are lacking in all"
        train, valid, test = np.maximum(1, largest_remainder(len(table), asked)).tolist()
        sizes = (train, valid, test)
    found = search_parts(table, config, sizes)
    lacks = lacks or _name_all_lacks(found)
    for _ in range(_SIZES_TRIED):
        if not found.lacking:
            break
        # The same search must find the sizes when it is asked for them, so it is asked now.
        sizes = _shrink(sizes, found.fits)
        found = search_parts(table, config, sizes)
    if lacks:
        raise KmedError(_explain(table, config, found, lacks, None if found.lacking else sizes))
    return found


def _shrink(sizes: Sizes, fits: Sizes) -> Sizes:
    smaller = [fit or max(1, size // 2) for size, fit in zip(sizes, fits, strict=True)]
    return smaller[0], smaller[1], smaller[2]


def search_parts(table: pd.DataFrame, config: SplitConfig, sizes: Sizes) -> Selection:
    """Return the best selection found for the sizes, complete or not."""
    strata = build_strata(table, config.by, sizes, config.disjoint)
    order = hash_unit("utterance", table["utterance_id"], config.seed)
    if not config.disjoint:
        return _fill_parts(table, config, sizes, strata, order, None)
    speaker, sentence = _index_units(table, config)
    best = None
    for slack, jointly in _ATTEMPTS if len(strata.fields) > 1 else _ATTEMPTS[:1]:
        eligible, complete = _assign_units(speaker, sentence, config.seed, sizes, strata, slack, jointly)
        found = _fill_parts(table, config, sizes, strata, order, eligible)
        if best is None or sum(found.fits) > sum(best.fits):
            best = found
        if not found.lacking or not (complete or slack or jointly):
            break
    assert best is not None
    return best


def _fill_parts(
    table: pd.DataFrame, config: SplitConfig, sizes: Sizes, strata: Strata, order: Counts, eligible: Counts | None
) -> Selection:
    part = np.full(len(table), UNUSED, np.int64)
    lacking: dict[str, dict[str, int]] = {}
    fits = list(sizes)
    # Smallest part first: without disjointness all parts draw from one pool.
    for p in sorted(range(len(PARTS)), key=lambda i: sizes[i]):
        pool = np.flatnonzero(part == UNUSED) if eligible is None else np.flatnonzero(eligible == p)
        available = np.bincount(strata.cell[pool], minlength=len(strata.size)).astype(np.int64)
        take = choose_counts(strata, available, sizes[p])
        if not _fits(strata, take, sizes[p], config.tolerance):
            lacking[PARTS[p]] = _name_lacks(strata, available, take, sizes[p])
            fits[p] = _largest_fit(strata, available, sizes[p], config.tolerance)
        part[_draw(pool, strata.cell, take, table["speaker_id"], order)] = p
    found = part if eligible is None else eligible
    return Selection(part, found, lacking, (fits[0], fits[1], fits[2]), strata)


def _index_units(table: pd.DataFrame, config: SplitConfig) -> tuple[Counts, Counts]:
    """Return speaker and sentence of each utterance; where one may be shared, the other takes its place."""
    codes = [_order_units(table[f"{who}_id"], who, config.seed) for who in DISJOINT if who in config.disjoint]
    return codes[0], codes[-1]


def _assign_units(
    speaker: Counts, sentence: Counts, seed: int, sizes: Sizes, strata: Strata, slack: int, jointly: bool
) -> tuple[Counts, bool]:
    """Return each utterance's part, UNUSED where speaker and sentence disagree, and whether all needs are met.

    Several fields need more than each of their quotas: the combinations must be there, too. So a
    choice that meets the quotas and still can't be drawn from is searched again, with quotas for the
    combinations (jointly) or with slack per cent more of each.
    """
    if strata.fields:
        member, needs = strata.member, np.array([strata.quotas(size) for size in sizes])
    else:
        member, needs = np.zeros((len(strata.size), 1), np.int64), np.array([[size] for size in sizes])
    if jointly:
        combinations, joint = np.unique(strata.member, axis=0, return_inverse=True)
        in_each = np.bincount(joint.reshape(-1), weights=strata.size, minlength=len(combinations)).astype(np.int64)
        member = np.column_stack([member, joint.reshape(-1) + needs.shape[1]])
        needs = np.column_stack([needs, [largest_remainder(size, in_each) for size in sizes]])
    value = strata.value if strata.value.shape[1] else member
    problem = Problem(speaker, sentence, strata.cell, member, value, needs + needs * slack // 100, sizes)
    found = assign(problem, seed)
    of_speaker, of_sentence = np.array(found.speaker)[speaker], np.array(found.sentence)[sentence]
    return np.where(of_speaker == of_sentence, of_speaker, UNUSED).astype(np.int64), found.cost() == 0


def _order_units(names: pd.Series, kind: str, seed: int) -> Counts:
    """Return an index per utterance into its speakers (or sentences), which are in hashed order."""
    codes, unique = pd.factorize(names, sort=True)
    rank = np.empty(len(unique), np.int64)
    rank[np.argsort(hash_unit(kind, unique, seed), kind="stable")] = np.arange(len(unique))
    ordered: Counts = rank[codes]
    return ordered


def _fits(strata: Strata, take: Counts, size: int, tolerance: float) -> bool:
    gap = strata.quotas(size) - strata.count(take)
    return int(take.sum()) == size and int(np.abs(gap).max(initial=0)) <= tolerance * size


def _name_lacks(strata: Strata, available: Counts, take: Counts, size: int) -> dict[str, int]:
    """Return how many utterances each stratum lacks, or the combinations where each stratum would suffice."""
    if (missing := size - int(available.sum())) > 0 and not strata.fields:
        return {"utterances": missing}
    short = strata.quotas(size) - strata.count(available)
    lacks = {f"{field} {value}": int(n) for (field, value), n in zip(strata.names, short, strict=True) if n > 0}
    broken = int(np.abs(strata.quotas(size) - strata.count(take)).sum())
    return lacks or {f"combinations of {', '.join(strata.fields)}": -(-broken // 2)}


def _largest_fit(strata: Strata, available: Counts, size: int, tolerance: float) -> int:
    """Return the largest size, at most the one asked for, whose quotas the available utterances fill."""
    size = min(size, int(available.sum()))
    whole = int(strata.size.sum())
    for have, there in zip(strata.count(available), strata.count(strata.size), strict=True):
        size = min(size, int((have + 1 + tolerance * size) * whole // there))
    while size > 0 and not _fits(strata, choose_counts(strata, available, size), size, tolerance):
        size -= max(1, size // 200)
    return size


def _draw(pool: Counts, cell: Counts, take: Counts, speakers: pd.Series, order: Counts) -> Counts:
    """Return the utterances drawn: take[c] of each cell, spread over its speakers turn by turn."""
    frame = pd.DataFrame(
        {"at": pool, "cell": cell[pool], "order": order[pool], "speaker": speakers.to_numpy()[pool]}
    ).sort_values("order", kind="stable")
    frame["turn"] = frame.groupby(["cell", "speaker"], sort=False).cumcount()
    frame = frame.sort_values(["cell", "turn", "order"], kind="stable")
    place = frame.groupby("cell", sort=False).cumcount().to_numpy()
    drawn: Counts = frame["at"].to_numpy()[place < take[frame["cell"].to_numpy()]]
    return drawn


def _name_all_lacks(found: Selection) -> str:
    lists = [
        f"{part} lacks " + ", ".join(f"{n} of {name}" for name, n in found.lacking[part].items())
        for part in PARTS
        if part in found.lacking
    ]
    return "; ".join(lists)


def _explain(table: pd.DataFrame, config: SplitConfig, found: Selection, lacks: str, nearest: Sizes | None) -> str:
    kept = f" with the corpus's shares of {', '.join(found.strata.fields)}" if found.strata.fields else ""
    apart = f" that share no {' and no '.join(config.disjoint)}" if config.disjoint else ""
    n_speakers = table.loc[~table["speaker_id"].isin(UNKNOWN), "speaker_id"].nunique()
    remedy = (
        f"The nearest sizes found are --split.train {nearest[0]} --split.valid {nearest[1]} --split.test {nearest[2]}"
        if nearest
        else "No smaller sizes were found either"
    )
    return (
        f"--split.train {config.train} --split.valid {config.valid} --split.test {config.test} can't be drawn from "
        f"{len(table)} utterances ({n_speakers} known speakers, {table['sentence_id'].nunique()} sentences) as parts"
        f"{apart}{kept}: {lacks}. {remedy}; fewer fields in --split.by, or only speakers in --split.disjoint, "
        "allow more."
    )

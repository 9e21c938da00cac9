"""Small groups hidden from what is passed on, and so many others that no sum gives the hidden ones away.

A group is small if it has speakers, and fewer than the minimum. In a table with a known total one hidden value is that
total minus the others, so the smallest of the others is hidden as well; in a table of two fields this holds in every
row and column (complementary suppression; Hundepool et al., Statistical Disclosure Control, Wiley 2012, chapter 4).
"""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from kmed_bench.core.contracts import Scores
from kmed_bench.core.language import N_
from kmed_bench.core.run_contracts import Leak
from kmed_bench.core.schema import GROUP_FIELDS, SCORE_FIELDS, UNSEEN
from kmed_bench.scoring.leak import DIFFERENCES

Sizes = Mapping[str, int]
Hidden = dict[str, set[str]]
"""Field, or two fields joined by ``_``, to the values that are hidden."""
_OF_CORPUS = ("quality", "release")
_SINGLES = ("0", "100")
"""Quantiles over speakers that are one speaker's figure."""


def hide_values(sizes: Sizes, minimum: int) -> set[str]:
    """Return the values of one field to hide: the small ones and, if that is one alone, the smallest other one.

    Parameters
    ----------
    sizes : mapping
        Value to its number of speakers.
    """
    small = {value for value, n in sizes.items() if 0 < n < minimum}
    return small | _companion({value: n for value, n in sizes.items() if n}, small)


def hide_pairs(
    sizes: Mapping[tuple[str, str], int], first: set[str], second: set[str], minimum: int
) -> set[tuple[str, str]]:
    """Return the cells of two crossed fields to hide, with the hidden values of each field alone.

    Every cell of a hidden value is hidden. In each row and column that is shown, one hidden cell takes the smallest
    shown one with it, until no line has exactly one.
    """
    cells = {pair: n for pair, n in sizes.items() if n}
    hidden = {pair for pair, n in cells.items() if n < minimum or pair[0] in first or pair[1] in second}
    lines: dict[tuple[int, str], dict[tuple[str, str], int]] = defaultdict(dict)
    for pair, n in cells.items():
        lines[0, pair[0]][pair] = n
        lines[1, pair[1]][pair] = n
    while True:
        more = set().union(*(_companion(line, hidden & line.keys()) for line in lines.values()))
        if not more:
            return hidden
        hidden |= more


def _companion(sizes: Mapping[Any, int], hidden: set[Any]) -> set[Any]:
    """Return the smallest shown member of a line with exactly one hidden one; nothing otherwise."""
    shown = [member for member in sizes if member not in hidden]
    return {min(shown, key=lambda member: (sizes[member], member))} if len(hidden) == 1 and shown else set()


def hide_groups(speakers: Callable[[str], Sizes], fields: Iterable[str], minimum: int) -> Hidden:
    """Return what to hide of each field and of each pair of fields.

    Parameters
    ----------
    speakers : callable
        Field, or two joined by ``_``, to each value's number of speakers; the values of a pair are joined by ``_``.
    """
    named = list(fields)
    hidden: Hidden = {field: hide_values(speakers(field), minimum) for field in named}
    for first, second in itertools.permutations(named, 2):
        sizes = speakers(f"{first}_{second}")
        pairs = {
            (a, b): sizes[f"{a}_{b}"]
            for a, b in itertools.product(speakers(first), speakers(second))
            if f"{a}_{b}" in sizes
        }
        if sizes:
            found = hide_pairs(pairs, hidden[first], hidden[second], minimum)
            unknown = set(sizes) - {f"{a}_{b}" for a, b in pairs}
            hidden[f"{first}_{second}"] = {f"{a}_{b}" for a, b in found} | unknown
    return hidden


def without_small_groups(scores: Scores, minimum: int) -> tuple[dict[str, Any], int]:
    """Return scores without small groups and single speakers' figures, and the number of groups left out.

    Differences between groups go with their groups. The gap of the elderly goes if either side is small.
    """
    groups: Mapping[str, Mapping[str, Any]] = scores["groups"]

    def speakers(field: str) -> Sizes:
        return {value: cell["n_speakers"] for value, cell in groups.get(field, {}).items()}

    hidden = hide_groups(speakers, SCORE_FIELDS, minimum)
    shown: dict[str, Any] = dict(scores)
    shown["groups"] = {
        field: {value: cell for value, cell in cells.items() if value not in hidden.get(field, set(cells))}
        for field, cells in groups.items()
    }
    shown["gaps"] = rows_of_shown(scores.get("gaps", ()), hidden, minimum)
    gap = scores["elderly_gap"]
    if min(gap["elderly"]["n_speakers"], gap["rest"]["n_speakers"]) < minimum:
        shown["elderly_gap"] = _hidden_gap(gap)
    spread = scores.get("speakers")
    if spread:
        quantiles = {q: None if q in _SINGLES else value for q, value in spread["cer_quantiles"].items()}
        shown["speakers"] = {**spread, "cer_quantiles": quantiles}
    left_out = sum(len(cells) - len(shown["groups"][field]) for field, cells in groups.items())
    return shown, left_out


def without_small_cells(leak: Leak, minimum: int) -> dict[str, Any]:
    """Return the content of leak.json without cells of few speakers and without differences from them."""
    cells = {cell: found for cell, found in leak["cells"].items() if not 0 < found["tuned"]["n_speakers"] < minimum}
    differences = {
        name: found for name, found in leak["differences"].items() if {DIFFERENCES[name], UNSEEN} <= cells.keys()
    }
    return {**leak, "cells": cells, "differences": differences}


def rows_of_shown(rows: Iterable[Mapping[str, Any]], hidden: Hidden, minimum: int) -> list[dict[str, Any]]:
    """Return the comparisons of groups of which neither side is hidden or small.

    A side may be several values together, such as the rest, or 60 and over, which no list of values names.
    """
    return [
        dict(row)
        for row in rows
        if not {row.get("group"), row.get("against")} & hidden.get(str(row.get("field")), set())
        and min(row.get("n_speakers_group", 0), row.get("n_speakers_against", 0)) >= minimum
    ]


def _hidden_gap(gap: Mapping[str, Any]) -> dict[str, Any]:
    side = {"cer": None, "cer_low": None, "cer_high": None, "n_clips": 0, "n_speakers": 0}
    return {
        **gap,
        "cer_gap": None,
        "cer_gap_low": None,
        "cer_gap_high": None,
        "no_interval": N_("hidden: a side has too few speakers"),
        "n_unknown_age": 0,  # all clips minus these are those of both sides
        "elderly": side,
        "rest": side,
    }


def hidden_in_corpus(parts: Mapping[str, Any], minimum: int) -> Hidden:
    """Return what to hide of a corpus and its parts: the values that are small anywhere.

    Parameters
    ----------
    parts : mapping
        Name to a table with ``speaker_id`` and the columns of `GROUP_FIELDS`; the corpus itself is one of them.
    """
    hidden: Hidden = defaultdict(set)
    for table in parts.values():

        def speakers(field: str, table: Any = table) -> Sizes:
            names = field.split("_")
            if not set(names) <= set(table.columns):
                return {}
            keys = table[names[0]].astype(str) if len(names) == 1 else table[names].astype(str).agg("_".join, axis=1)
            return {str(key): int(n) for key, n in table.groupby(keys)["speaker_id"].nunique().items()}

        for field, values in hide_groups(speakers, GROUP_FIELDS, minimum).items():
            hidden[field] |= values
    return dict(hidden)


def without_small_counts(quality: Mapping[str, Any], hidden: Hidden, minimum: int) -> dict[str, Any]:
    """Return a quality report without the counts of hidden groups, without ids and without rare values.

    Releases and values of quality are counted in the whole corpus alone, so what is hidden of them follows from there.
    """
    speakers = quality.get("speakers_by", {})
    in_corpus = {
        # Earlier releases did not count speakers.
        field: hide_values(speakers[field], minimum) if field in speakers else set(values)
        for field, values in quality.get("by", {}).items()
        if field in _OF_CORPUS
    }
    hidden = {**hidden, **in_corpus}
    shown = {**quality, "unknown_values": {}, "reject_examples": {}, "warning_examples": {}}
    for key in {"by", "hours_by", "speakers_by"} & quality.keys():
        shown[key] = {
            field: {value: n for value, n in values.items() if value not in hidden.get(field, set())}
            for field, values in quality[key].items()
            if field in GROUP_FIELDS or field in _OF_CORPUS
        }
    # A bin of this one holds speakers, and often a single one.
    shown["histograms"] = {
        name: bins for name, bins in quality.get("histograms", {}).items() if name != "speaker_utterances"
    }
    shown["pairs"] = {
        fields: {
            a: kept
            for a, row in table.items()
            if (
                kept := {
                    b: n for b, n in row.items() if f"{a}_{b}" not in hidden.get(fields.replace(",", "_"), {f"{a}_{b}"})
                }
            )
        }
        for fields, table in quality.get("pairs", {}).items()
    }
    return shown


def without_small_shares(split: Mapping[str, Any], hidden: Hidden) -> dict[str, Any]:
    """Return a split report without the shares of hidden groups and without the names of merged strata.

    The distances of a field with a hidden value go too, and with them the largest of all: where a field has two values,
    its distance from the corpus can be a hidden value's share.
    """
    shown = dict(split)
    if any(hidden.values()):
        shown.pop("max_share_deviation", None)
    shown["shares"] = {
        field: {value: share for value, share in values.items() if value not in hidden.get(field, set())}
        for field, values in split.get("shares", {}).items()
    }
    for key in {"share_deviation", "distance"} & split.keys():
        shown[key] = {field: found for field, found in split[key].items() if not hidden.get(field)}
    shown["merged_strata"] = []
    return shown

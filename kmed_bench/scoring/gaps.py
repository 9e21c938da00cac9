"""Groups of speakers against the rest: gaps in CER, and whether fine-tuning helps groups unequally.

A group's speakers and the rest are different people, so both are differences of two independent ratios, with Welch's
interval and test (``intervals.gap_interval``). Where both sides read the same sentences, their errors rise and fall
together; the variance ignores that and is somewhat too large. ``benchmarks/group_tests.py`` measures how often the
tests reject where there is no difference.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar, cast

import pandas as pd

from kmed_bench.core.contracts import BenefitGap, GroupGap, NamedBenefit, NamedGap
from kmed_bench.core.predictions import Prediction
from kmed_bench.core.schema import GROUP_FIELDS, UNKNOWN
from kmed_bench.scoring.compare import holm, pair_counts, paired_clips
from kmed_bench.scoring.intervals import gap_interval, gap_p_value, t_p_value
from kmed_bench.scoring.measures import MEASURES, cer_clips, count_utterances
from kmed_bench.scoring.options import ScoringOptions
from kmed_bench.scoring.spread import Clips, Spread, add_spreads, count_speakers

ELDERLY_AGES = ("60~69", "over70")
KNOWN_AGES = ("7~10", "11~19", "20~29", "30~39", "40~49", "50~59", *ELDERLY_AGES)
ELDERLY, REST = "60 and over", "rest"
_CER = MEASURES["cer"]
_Row = TypeVar("_Row", GroupGap, BenefitGap)


class Sides(NamedTuple):
    """A group and what it is compared with, as masks over a table's rows."""

    field: str
    group: str
    against: str
    inside: "pd.Series[bool]"
    outside: "pd.Series[bool]"


def group_sides(table: pd.DataFrame) -> Iterator[Sides]:
    """Yield each group with the rest: ages as 60 and over, each dialect, gender and role of those that are known.

    A field with two known values is compared once, its first value in alphabetical order against the second; one with
    a single value not at all. Clips whose value is unknown are on neither side.
    """
    for field in GROUP_FIELDS:
        if field == "age":
            inside, known = table["age"].isin(ELDERLY_AGES), table["age"].isin(KNOWN_AGES)
            if known.any():
                yield Sides(field, ELDERLY, REST, inside, known & ~inside)
            continue
        known = ~table[field].isin(UNKNOWN)
        values = sorted(table.loc[known, field].unique())
        against = values[1] if len(values) == 2 else REST
        for value in {0: [], 1: [], 2: values[:1]}.get(len(values), values):
            inside = table[field] == value
            yield Sides(field, value, against, inside, known & ~inside)


def group_gaps(scored: pd.DataFrame, options: ScoringOptions) -> list[GroupGap]:
    """Return each group's CER minus the rest's, with its 95 % interval and p-value.

    Groups of which either side is below the minimum are marked and not tested: ``p_value`` and ``p_holm`` are None.
    ``p_holm`` is corrected over the tested groups (Holm). Where there is no interval, ``p_value`` is 1.

    Parameters
    ----------
    scored : pandas.DataFrame
        The scored rows of ``measures.count_utterances``.
    """
    rows: list[GroupGap] = []
    for sides in group_sides(scored):
        group, rest = (cer_clips(scored[mask]) for mask in sides[3:])
        interval = gap_interval(group, rest)
        gap = group.ratio - rest.ratio if group.n_speakers and rest.n_speakers else None
        row = _describe(sides, scored, options)
        found = {"cer_group": _ratio(group), "cer_against": _ratio(rest), "cer_gap": gap}
        found |= {"cer_gap_low": interval.low, "cer_gap_high": interval.high}
        p = None if row["below_minimum"] else rates_p_value(group, rest)
        rows.append(cast(GroupGap, {**row, **found, "no_interval": interval.reason, "p_value": p, "p_holm": None}))
    return _corrected(rows)


def benefit_gaps(untouched: pd.DataFrame, tuned: pd.DataFrame, options: ScoringOptions) -> list[BenefitGap]:
    """Return how much more fine-tuning lowers the CER of each group than that of the rest.

    A benefit is the untouched CER minus the fine-tuned one on the same clips. ``difference`` is the group's benefit
    minus the rest's, with its 95 % interval and p-value, marked and corrected as in `group_gaps`; it is positive where
    fine-tuning helps the group more.

    Parameters
    ----------
    untouched, tuned : pandas.DataFrame
        As ``measures.count_utterances`` returns them, of the same utterances.

    Raises
    ------
    KmedError
        When the utterances or their references differ.
    """
    before, after = pair_counts(untouched, tuned, _CER.bottom)
    scored = before["excluded"] == ""
    before, after = before[scored], after[scored]
    rows: list[BenefitGap] = []
    for sides in group_sides(before):
        # Tuned first, so that the numerators are the errors that fine-tuning removed.
        group, rest = (paired_clips(after[mask], before[mask], _CER) for mask in sides[3:])
        interval = gap_interval(group, rest)
        row = _describe(sides, before, options)
        known = group.n_speakers and rest.n_speakers
        found = {"benefit_group": _ratio(group), "benefit_against": _ratio(rest)}
        found |= {"difference": group.ratio - rest.ratio if known else None}
        found |= {"difference_low": interval.low, "difference_high": interval.high}
        p = None if row["below_minimum"] else gap_p_value(group, rest)
        rows.append(cast(BenefitGap, {**row, **found, "no_interval": interval.reason, "p_value": p, "p_holm": None}))
    return _corrected(rows)


def gaps_of_sizes(
    sizes: Mapping[str, tuple[Sequence[Prediction], Sequence[Prediction]]], options: ScoringOptions
) -> tuple[list[NamedGap], list[NamedBenefit]]:
    """Return the gaps of the fine-tuned sizes, and the differences in benefit, each corrected over all sizes.

    These are two families of tests, each with one Holm correction over all its groups and sizes.

    Parameters
    ----------
    sizes : mapping
        As `significance.compare_sizes` takes it.
    """
    gaps: list[NamedGap] = []
    benefits: list[NamedBenefit] = []
    for size, pair in sizes.items():
        untouched, tuned = (count_utterances(side, options.transcript_side) for side in pair)
        scored = tuned[tuned["excluded"] == ""]
        gaps += [cast(NamedGap, {"size": size, **row}) for row in group_gaps(scored, options)]
        benefits += [cast(NamedBenefit, {"size": size, **row}) for row in benefit_gaps(untouched, tuned, options)]
    return cast(list[NamedGap], _corrected(gaps)), cast(list[NamedBenefit], _corrected(benefits))


def _ratio(clips: Clips) -> float | None:
    return clips.ratio if clips.n_speakers else None


def rates_p_value(group: Clips, rest: Clips) -> float:
    """Return the p-value of equal rates: the larger of Welch's tests of the rates and of their logarithms.

    With few speakers and skewed rates the first rejects up to 8 percentage points too often, the larger of both up to
    2. It is 1 where a side shows no variation, as without an error.
    """
    if not (group.spread.variance and rest.spread.variance):
        return 1.0
    logarithms = [Spread(variance=side.spread.variance / side.ratio**2, df=side.spread.df) for side in (group, rest)]
    of_logarithms = t_p_value(math.log(group.ratio / rest.ratio), add_spreads(*logarithms))
    return max(gap_p_value(group, rest), of_logarithms)


def _describe(sides: Sides, table: pd.DataFrame, options: ScoringOptions) -> dict[str, object]:
    """Return what is compared, and on how many clips and speakers."""
    counts: dict[str, int] = {}
    for name, mask in (("group", sides.inside), ("against", sides.outside)):
        counts[f"n_clips_{name}"] = int(mask.sum())
        counts[f"n_speakers_{name}"] = count_speakers(table.loc[mask, "speaker_id"])
    clips, speakers = (min(counts[f"{kind}_group"], counts[f"{kind}_against"]) for kind in ("n_clips", "n_speakers"))
    below = clips < options.min_group_clips or speakers < options.min_group_speakers
    return {"field": sides.field, "group": sides.group, "against": sides.against, "below_minimum": below, **counts}


def _corrected(rows: list[_Row]) -> list[_Row]:
    """Return the rows with ``p_holm`` corrected over those that have a p-value."""
    tested = [row["p_value"] for row in rows if row["p_value"] is not None]
    corrected = iter(holm(tested))
    for row in rows:
        row["p_holm"] = next(corrected) if row["p_value"] is not None else None
    return rows

"""Tables of gaps between groups, unequal benefit of fine-tuning, the spread of speakers, and means over seeds."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from kmed_bench.core.contracts import NamedBenefit, NamedGap, SeedsMean
from kmed_bench.core.language import N_, gettext
from kmed_bench.core.records import BenchRecord
from kmed_bench.report.table_view import Column, View
from kmed_bench.report.tables import scored_trains
from kmed_bench.scoring.groups import SPEAKER_QUANTILES

_SIDES = ("size", "field", "group", "against", "n_clips_group", "n_speakers_group", "n_clips_against")
_TEST = ("n_speakers_against", "p_value", "p_holm", "below_minimum", "no_interval")
_GAP = ("cer_group", "cer_against", "cer_gap", "cer_gap_low", "cer_gap_high")
_BENEFIT = ("benefit_group", "benefit_against", "difference", "difference_low", "difference_high")
_SEEDS = ("size", "n_seeds", "cer", "cer_low", "cer_high", "seed_sd", "note", "no_interval", "n_clips", "n_speakers")
_QUANTILE_LABELS = {"q0": N_("best speaker"), "q50": N_("median"), "q100": N_("worst speaker")}
_QUANTILES = {f"q{percent}": str(percent) for percent in SPEAKER_QUANTILES}


def _frame(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> pd.DataFrame:
    """Return the named entries of each row; None is NaN."""
    values = [{name: math.nan if row.get(name) is None else row[name] for name in names} for row in rows]
    return pd.DataFrame(values, columns=list(names))


def gaps_table(gaps: Sequence[NamedGap]) -> pd.DataFrame:
    """Return one row per size and group: its CER, that of the others, the gap with interval and p-values."""
    return _frame(gaps, (*_SIDES, *_TEST, *_GAP))


def benefits_table(benefits: Sequence[NamedBenefit]) -> pd.DataFrame:
    """Return one row per size and group: how much fine-tuning lowers its CER and the others', and the difference."""
    return _frame(benefits, (*_SIDES, *_TEST, *_BENEFIT))


def seeds_table(seeds: Sequence[SeedsMean]) -> pd.DataFrame:
    """Return one row per size: the mean CER over seeds, its interval, and the standard deviation between seeds."""
    return _frame([{**row, "n_seeds": len(row["seeds"])} for row in seeds], _SEEDS)


def speakers_table(bench: BenchRecord) -> pd.DataFrame:
    """Return one row per run: quantiles of the speakers' CER, such as ``q90``; no speaker is named."""
    rows = []
    for run, scores in scored_trains(bench):
        spread = scores.get("speakers")
        if spread and spread["n_speakers"]:
            quantiles = {name: spread["cer_quantiles"][key] for name, key in _QUANTILES.items()}
            row = {"run_id": run.run_id, "size": run.size, "seed": run.seed, "n_speakers": spread["n_speakers"]}
            rows.append({**row, **quantiles})
    return pd.DataFrame(rows, columns=["run_id", "size", "seed", "n_speakers", *_QUANTILES])


def fairness_views(frames: Mapping[str, pd.DataFrame], chosen: Sequence[str]) -> list[View]:
    """Return the views of these tables; that of speakers has the chosen runs."""
    speakers = frames["speaker_spread"]
    return [
        _group_view(
            "gaps",
            gettext(
                "Fine-tuned models: each group against the others. A positive gap means more errors for the group; in "
                "bold the significant gaps (p below 0.05 after Holm's correction over this table). In grey: too few "
                "clips or speakers to be tested."
            ),
            [
                Column(key="cer_group", label=gettext("CER, group"), kind="percent"),
                Column(key="cer_against", label=gettext("CER, others"), kind="percent"),
                Column(key="cer_gap", label=gettext("gap"), kind="points", low="cer_gap_low", high="cer_gap_high"),
            ],
            frames["gaps"],
        ),
        _group_view(
            "benefits",
            gettext(
                "Does fine-tuning help all groups equally? How much it lowers each group's CER and that of the others "
                "(in percentage points); a positive difference means that it helps the group more. Bold and p as "
                "above. In grey: too few clips or speakers to be tested."
            ),
            [
                Column(key="benefit_group", label=gettext("gain, group"), kind="points"),
                Column(key="benefit_against", label=gettext("gain, others"), kind="points"),
                Column(
                    key="difference",
                    label=gettext("difference"),
                    kind="points",
                    low="difference_low",
                    high="difference_high",
                ),
            ],
            frames["benefits"],
        ),
        _speakers_view(speakers[speakers["run_id"].isin(chosen)]),
        _seeds_view(frames["seeds"]),
    ]


def _group_view(name: str, caption: str, figures: Sequence[Column], rows: pd.DataFrame) -> View:
    columns = [
        Column(key="size", label=gettext("size")),
        Column(key="field", label=gettext("field"), words=True),
        Column(key="group", label=gettext("group"), words=True),
        Column(key="against", label=gettext("others"), words=True),
        *figures,
        Column(key="p_holm", label=gettext("p (Holm)"), kind="p_value"),
        Column(key="n_speakers_group", label=gettext("speakers, group"), kind="count"),
        Column(key="n_speakers_against", label=gettext("speakers, others"), kind="count"),
    ]
    marked = rows.assign(strong=rows["p_holm"] < 0.05)
    return View(name=name, caption=caption, columns=columns, rows=marked, weak="below_minimum", strong="strong")


def _speakers_view(rows: pd.DataFrame) -> View:
    return View(
        name="speaker_spread",
        caption=gettext(
            "How much speakers differ: the fine-tuned CER of the best recognized speaker, the median one and the "
            "worst. “90 %” is the CER that nine in ten speakers do not exceed."
        ),
        columns=[
            Column(key="size", label=gettext("size")),
            Column(key="n_speakers", label=gettext("speakers"), kind="count"),
            *(
                Column(key=name, label=gettext(_QUANTILE_LABELS.get(name, f"{key} %")), kind="percent")
                for name, key in _QUANTILES.items()
            ),
        ],
        rows=rows,
    )


def _seeds_view(rows: pd.DataFrame) -> View:
    return View(
        name="seeds",
        caption=gettext(
            "Fine-tuned test CER, averaged over training seeds. With several seeds the 95 % interval counts how much "
            "speakers, sentences and seeds differ: what another training would give on other speakers. With one seed "
            "it does not count how much seeds differ."
        ),
        columns=[
            Column(key="size", label=gettext("size")),
            Column(key="n_seeds", label=gettext("seeds"), kind="count"),
            Column(key="cer", label=gettext("mean CER"), kind="percent", low="cer_low", high="cer_high"),
            Column(key="seed_sd", label=gettext("standard deviation of seeds"), kind="spread"),
        ],
        rows=rows,
    )

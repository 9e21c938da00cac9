"""Every table of the report, and how each is shown on the page."""

from collections.abc import Mapping, Sequence

import pandas as pd

from kmed_bench.core.contracts import NamedComparison
from kmed_bench.core.language import N_, gettext, translate_stored
from kmed_bench.core.records import BenchRecord
from kmed_bench.report import data_tables, fairness, leak_tables, score_tables, seal_tables, tables, verdict_tables
from kmed_bench.report.table_view import Column, Kind, View
from kmed_bench.report.words import category_word
from kmed_bench.scoring.recommendation import Recommendation

MAX_RUNS_SHOWN = 100
"""Train runs on the page; the CSV has all of them, as the caption says."""

COSTS: dict[str, tuple[str, Kind]] = {
    "epoch_s": (N_("median epoch"), "seconds"),
    "train_s": (N_("all epochs"), "seconds"),
    "test_rtfx": (N_("audio seconds decoded per second"), "number"),
    "test_decode_s_p50": (N_("decoding a clip, median"), "seconds"),
    "test_decode_s_p95": (N_("decoding a clip, 95th percentile"), "seconds"),
    "parameters": (N_("parameters"), "count"),
    "checkpoint_bytes": (N_("checkpoint"), "bytes"),
    "peak_memory_bytes": (N_("peak memory"), "bytes"),
}


def make_frames(
    record: BenchRecord, comparisons: Sequence[NamedComparison], advice: Recommendation
) -> dict[str, pd.DataFrame]:
    """Return the report's tables by the name of their CSV file, with rates as fractions."""
    runs = tables.runs_table(record)
    sizes = tables.sizes_table(runs)
    return {
        "verdicts": verdict_tables.verdicts_table(advice),
        "speakers": verdict_tables.speakers_table(advice),
        "runs": runs,
        "sizes": sizes,
        "history": tables.history_table(record),
        "costs": score_tables.costs_table(record),
        "rates": score_tables.rates_table(record),
        "numbers": score_tables.numbers_table(record),
        "terms": score_tables.terms_table(record),
        "groups": score_tables.groups_table(record),
        "elderly": score_tables.elderly_table(record),
        "gaps": fairness.gaps_table(record.gaps),
        "benefits": fairness.benefits_table(record.benefits),
        "speaker_spread": fairness.speakers_table(record),
        "seeds": fairness.seeds_table(record.seeds),
        "comparisons": score_tables.comparisons_table(comparisons),
        "leak_cells": leak_tables.leak_cells_table(record),
        "leak": leak_tables.leak_table(record),
        "openings": seal_tables.openings_table(record.openings),
        "plan_changes": seal_tables.plan_changes_table(record.openings),
        "published": score_tables.beside_published(sizes, **_describe_test(record, sizes)),
        "missing": tables.missing_table(record),
        "split_parts": data_tables.parts_table(record.split),
        "split_shares": data_tables.shares_table(record.split),
        "split_merged": data_tables.merged_table(record.split),
        "split_distance": data_tables.distance_table(record.split),
        "quality": data_tables.quality_table(record.quality),
        "quality_fields": data_tables.fields_table(record.quality),
        "quality_pairs": data_tables.pairs_table(record.quality),
        "quality_examples": data_tables.examples_table(record.quality),
        "quality_histograms": data_tables.histogram_table(record.quality),
        "provenance": tables.provenance_table(record),
    }


def _describe_test(record: BenchRecord, sizes: pd.DataFrame) -> dict[str, str]:
    """Return the test part and the rules of this benchmark's figures, for its rows among published ones."""
    rules = gettext("no spaces, no punctuation")
    if policy := tables.scored_with(record, "transcript_policy"):
        rules += f"; {', '.join(map(gettext, policy))}"
    corpus = gettext("demo corpus, synthetic speech") if record.synthetic else gettext("this bench's test part")
    if len(sizes) and sizes["n_clips"].notna().any():
        n_clips = int(sizes["n_clips"].max())
        corpus = gettext("{corpus}, {n:,} clips", corpus=corpus, n=n_clips)
    return {"test_set": corpus, "rules": rules}


def chosen_runs(frames: Mapping[str, pd.DataFrame]) -> list[str]:
    """Return the id of each size's chosen run, from small to large."""
    return list(frames["sizes"]["run_id"]) if len(frames["sizes"]) else []


def size_costs(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the chosen runs' rows of ``sizes`` with their ``speed/…`` figures as further columns."""
    sizes, costs = frames["sizes"], frames["costs"]
    if not len(sizes) or not len(costs):
        return sizes
    return sizes.merge(costs.drop(columns=["size", "seed"]), on="run_id", how="left")


def make_views(frames: Mapping[str, pd.DataFrame]) -> dict[str, View]:
    """Return the page's tables by name, without those that have no row."""
    views = [verdict_tables.verdict_view(frames["verdicts"])]
    views += [*_size_views(frames), *_rate_views(frames), *_group_views(frames), *data_tables.data_views(frames)]
    views += fairness.fairness_views(frames, chosen_runs(frames))
    views += leak_tables.leak_views(frames, chosen_runs(frames))
    views += seal_tables.seal_views(frames["openings"], frames["plan_changes"])
    return {view.name: view for view in views if len(view.rows)}


def _size_views(frames: Mapping[str, pd.DataFrame]) -> list[View]:
    costs, compared = size_costs(frames), frames["comparisons"]
    return [
        View(
            name="sizes",
            caption=gettext("Of each size the run with the lowest decoded valid CER; 95 % intervals in brackets."),
            columns=_size_columns(frames["sizes"]),
            rows=frames["sizes"],
        ),
        View(
            name="costs",
            caption=gettext(
                "What the chosen runs cost. A clip's decoding time is its batch's time over the batch's clips."
            ),
            columns=[
                Column(key="size", label=gettext("size")),
                *(
                    Column(key=key, label=gettext(label), kind=kind)
                    for key, (label, kind) in COSTS.items()
                    if key in costs
                ),
            ],
            rows=costs,
        ),
        View(
            name="comparisons",
            caption=gettext(
                "Paired differences on the same clips, by speaker and sentence; p by Holm's method for the "
                "number of comparisons in this table. A negative difference means that the second is better."
            ),
            columns=[
                Column(key="a_name", label=gettext("first"), words=True),
                Column(key="b_name", label=gettext("second"), words=True),
                Column(
                    key="delta", label=gettext("difference in CER"), kind="points", low="delta_low", high="delta_high"
                ),
                Column(key="p_holm", label=gettext("p (Holm)"), kind="p_value"),
                Column(key="n_clips", label=gettext("clips"), kind="count"),
                Column(key="n_speakers", label=gettext("speakers"), kind="count"),
            ],
            rows=compared.assign(strong=compared["p_holm"] < 0.05),
            strong="strong",
        ),
        _runs_view(frames["runs"]),
    ]


def _rate_views(frames: Mapping[str, pd.DataFrame]) -> list[View]:
    rates = score_tables.rates_of_sizes(frames["rates"], chosen_runs(frames))
    states = [str(name).removesuffix("_low") for name in rates if str(name).endswith("_low")]
    return [
        View(
            name="rates",
            caption=gettext(
                "Rates on the test part; CER is the headline, the others explain it. Brackets hold 95 % intervals; "
                "rates without brackets have none by design."
            ),
            columns=[
                Column(key="label", label=gettext("measure"), hint="description", words=True),
                *(
                    Column(
                        key=state,
                        label=translate_stored(state),
                        kind="percent",
                        low=f"{state}_low",
                        high=f"{state}_high",
                    )
                    for state in states
                ),
            ],
            rows=rates,
        ),
        View(
            name="numbers",
            caption=gettext(
                "Numbers of the test part's references that the fine-tuned models found: an ambiguous one is found "
                "by any of its readings; an unread one is a number word before a unit that no rule reads, so it is not "
                "among the numbers."
            ),
            columns=[
                Column(key="size", label=gettext("size")),
                Column(key="n_numbers", label=gettext("numbers"), kind="count"),
                Column(key="n_found", label=gettext("found"), kind="count"),
                Column(key="n_ambiguous", label=gettext("ambiguous"), kind="count"),
                Column(key="n_unread", label=gettext("unread"), kind="count"),
            ],
            rows=frames["numbers"][frames["numbers"]["run_id"].isin(chosen_runs(frames))],
        ),
        View(
            name="terms",
            caption=gettext(
                "Medical terms of the test part that the chosen runs found, by category of the lexicon; 95 % "
                "intervals in brackets."
            ),
            columns=_term_columns(list(frames["sizes"]["size"]) if chosen_runs(frames) else []),
            rows=_name_categories(score_tables.terms_of_sizes(frames["terms"], chosen_runs(frames))),
        ),
        View(
            name="published",
            caption=gettext(
                "This bench in bold, then published figures under their own conditions: other clips, other "
                "splits, other rules. In grey what is no recognition rate."
            ),
            columns=[
                Column(key="model", label=gettext("model")),
                Column(key="training", label=gettext("training"), words=True),
                Column(key="test_set", label=gettext("test set"), words=True),
                Column(key="cer", label=gettext("CER"), kind="percent", until="cer_high"),
                Column(key="rules", label=gettext("rules"), words=True),
                Column(key="source", label=gettext("source"), words=True),
            ],
            rows=frames["published"].assign(weak=~frames["published"]["comparable"]),
            weak="weak",
            strong="ours",
        ),
    ]


def _group_views(frames: Mapping[str, pd.DataFrame]) -> list[View]:
    chosen = chosen_runs(frames)
    sizes = list(frames["sizes"]["size"]) if chosen else []
    elderly = frames["elderly"]
    return [
        View(
            name="groups",
            caption=gettext(
                "CER by group, 95 % intervals in brackets. In grey: too few clips or speakers to be ranked."
            ),
            columns=[
                Column(key="field", label=gettext("field"), words=True),
                Column(key="value", label=gettext("group"), words=True),
                *(Column(key=s, label=s, kind="percent", low=f"{s}_low", high=f"{s}_high") for s in sizes),
                Column(key="n_clips", label=gettext("clips"), kind="count"),
                Column(key="n_speakers", label=gettext("speakers"), kind="count"),
            ],
            rows=score_tables.groups_of_sizes(frames["groups"], chosen),
            weak="below_minimum",
        ),
        View(
            name="elderly",
            caption=gettext(
                "Speakers aged 60 and over against the rest; a positive gap means more errors for the elderly."
            ),
            columns=[
                Column(key="size", label=gettext("size")),
                Column(key="elderly_cer", label=gettext("60 and over"), kind="percent"),
                Column(key="elderly_n_clips", label=gettext("clips"), kind="count"),
                Column(key="elderly_n_speakers", label=gettext("speakers"), kind="count"),
                Column(key="rest_cer", label=gettext("rest"), kind="percent"),
                Column(key="rest_n_clips", label=gettext("clips (rest)"), kind="count"),
                Column(key="rest_n_speakers", label=gettext("speakers (rest)"), kind="count"),
                Column(key="cer_gap", label=gettext("gap"), kind="points", low="cer_gap_low", high="cer_gap_high"),
            ],
            rows=elderly[elderly["run_id"].isin(chosen)] if len(elderly) else elderly,
            weak="below_minimum",
        ),
    ]


def _name_categories(terms: pd.DataFrame) -> pd.DataFrame:
    return terms.assign(category=terms["category"].map(category_word)) if len(terms) else terms


def _term_columns(sizes: Sequence[str]) -> list[Column]:
    columns = [
        Column(key="category", label=gettext("category")),
        Column(key="n_terms", label=gettext("terms"), kind="count"),
    ]
    for size in sizes:
        ends = f"{size}_low", f"{size}_high"
        columns.append(
            Column(key=size, label=gettext("{size}, found", size=size), kind="percent", low=ends[0], high=ends[1])
        )
        columns.append(Column(key=f"{size}_missed", label=gettext("{size}, missed", size=size), kind="count"))
    return columns


def _runs_view(runs: pd.DataFrame) -> View:
    shown = gettext("The first {n} of {of} train runs; the CSV has all.", n=MAX_RUNS_SHOWN, of=len(runs))
    return View(
        name="runs",
        caption=shown if len(runs) > MAX_RUNS_SHOWN else gettext("Every train run."),
        columns=[
            Column(key="size", label=gettext("size")),
            Column(key="seed", label=gettext("seed"), kind="count"),
            Column(key="status", label=gettext("state"), words=True),
            Column(key="epochs", label=gettext("epochs"), kind="count"),
            Column(key="best_epoch", label=gettext("best epoch"), kind="count"),
            Column(key="valid_cer", label=gettext("valid CER"), kind="percent"),
            Column(key="test_cer", label=gettext("test CER"), kind="percent", low="test_cer_low", high="test_cer_high"),
            Column(key="epoch_s", label=gettext("median epoch"), kind="seconds"),
            Column(key="train_s", label=gettext("all epochs"), kind="seconds"),
        ],
        rows=runs.head(MAX_RUNS_SHOWN),
    )


def _size_columns(sizes: pd.DataFrame) -> list[Column]:
    untouched = "untouched_test_cer"
    columns = [
        Column(key="size", label=gettext("size")),
        Column(key="untouched_valid_cer", label=gettext("untouched, valid CER"), kind="percent"),
        Column(key="valid_cer", label=gettext("fine-tuned, valid CER"), kind="percent"),
        Column(
            key=untouched,
            label=gettext("untouched, test CER"),
            kind="percent",
            low=f"{untouched}_low",
            high=f"{untouched}_high",
        ),
        Column(
            key="test_cer",
            label=gettext("fine-tuned, test CER"),
            kind="percent",
            low="test_cer_low",
            high="test_cer_high",
        ),
        Column(key="n_clips", label=gettext("test clips"), kind="count"),
        Column(key="n_speakers", label=gettext("test speakers"), kind="count"),
        Column(key="best_epoch", label=gettext("best epoch"), kind="count"),
    ]
    if len(sizes) and sizes["n_seeds"].max() > 1:
        columns += [
            Column(key="n_seeds", label=gettext("seeds"), kind="count"),
            Column(key="test_cer_min", label=gettext("test CER of the seeds"), kind="percent", until="test_cer_max"),
        ]
    return columns

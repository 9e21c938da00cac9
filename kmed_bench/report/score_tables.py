"""Tables on what the models do on the test part: groups, rates, costs, comparisons, published figures."""

import math
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, cast

import pandas as pd

from kmed_bench.core.contracts import NamedComparison
from kmed_bench.core.language import N_, gettext
from kmed_bench.core.records import BenchRecord, TrainRecord
from kmed_bench.core.schema import SCORE_FIELDS
from kmed_bench.report.table_view import NOT_MEANT
from kmed_bench.report.tables import ordered_trains, scored_trains
from kmed_bench.scoring.groups import split_values
from kmed_bench.scoring.intervals import MIN_SPEAKERS
from kmed_bench.scoring.measures import MEASURES

_COUNTS = ("n_clips", "n_speakers", "below_minimum")
_CELL = ("cer", "cer_low", "cer_high", "n_clips", "n_speakers")
_UNTOUCHED = "untouched/test_"


def groups_table(bench: BenchRecord) -> pd.DataFrame:
    """Return one row per run and group of the test part: field, value, CER with interval, counts.

    Fields such as ``dialect_age`` are pairs. ``below_minimum`` marks groups too small to be ranked.
    """
    rows = []
    for run, scores in scored_trains(bench):
        groups = scores.get("groups", {})
        single = [name for name in SCORE_FIELDS if name in groups]
        for field in single + [name for name in groups if name not in single]:
            for value, score in groups[field].items():
                row = {"run_id": run.run_id, "size": run.size, "seed": run.seed, "field": field, "value": value}
                rows.append(row | _cell(score) | {"below_minimum": bool(score.get("below_minimum", False))})
    return pd.DataFrame(
        rows, columns=["run_id", "size", "seed", "field", "value", *_CELL, "cer_reason", "below_minimum"]
    )


def _cell(score: Mapping[str, Any]) -> dict[str, Any]:
    reason = score.get("no_interval", {}).get("cer", "")
    return {name: _number(score.get(name)) for name in _CELL} | {"cer_reason": reason}


def _number(value: Any) -> float:
    return math.nan if value is None else value


def groups_of_sizes(groups: pd.DataFrame, run_ids: Sequence[str]) -> pd.DataFrame:
    """Return one row per single-field group with each chosen run's CER and interval.

    These are in columns ``<size>``, ``<size>_low`` and ``<size>_high``. Counts and ``below_minimum`` are those
    of the test part, which the runs share.
    """
    chosen = groups[groups["run_id"].isin(run_ids) & groups["field"].isin(SCORE_FIELDS)]
    rows = []
    for (field, value), cells in sort_groups(chosen).groupby(["field", "value"], sort=False):
        first = cells.iloc[0]
        row = {"field": field, "value": value, **{k: first[k] for k in ("n_clips", "n_speakers", "below_minimum")}}
        for cell in cells.to_dict("records"):
            row |= {f"{cell['size']}{end}": cell[f"cer{end}"] for end in ("", "_low", "_high", "_reason")}
        rows.append(row)
    return pd.DataFrame(rows)


def sort_groups(groups: pd.DataFrame) -> pd.DataFrame:
    """Return the rows by field as given, ages from young to old, other values as given."""
    fields = {field: rank for rank, field in enumerate(dict.fromkeys(groups["field"]))}
    ages = groups["value"].map(age_rank).where(groups["field"] == "age", 0)
    keyed = groups.assign(_field=groups["field"].map(fields), _age=ages)
    return keyed.sort_values(["_field", "_age"], kind="stable").drop(columns=["_field", "_age"])


def age_rank(value: str) -> int:
    """Return the first number of an age band such as ``60~69`` or ``over70``, 999 for bands without one."""
    number = re.search(r"\d+", value)
    return int(number.group()) if number else 999


def pairs_of_run(groups: pd.DataFrame, run_id: str, first: str, second: str) -> pd.DataFrame:
    """Return one run's cells of a pair of fields, with a column per field, the largest cell first."""
    cells = groups[(groups["run_id"] == run_id) & (groups["field"] == f"{first}_{second}")]
    if not len(cells):
        return pd.DataFrame()
    values = [split_values(value) for value in cells["value"]]
    columns = dict(zip((first, second), zip(*values, strict=True), strict=True))
    return cells.assign(**columns).sort_values("n_clips", ascending=False, kind="stable")


def elderly_table(bench: BenchRecord) -> pd.DataFrame:
    """Return one row per run: CER of speakers aged 60 and over, of the rest, and the gap with its interval."""
    rows = []
    for run, scores in scored_trains(bench):
        gap = scores.get("elderly_gap")
        if gap:
            row: dict[str, Any] = {"run_id": run.run_id, "size": run.size, "seed": run.seed}
            row |= {name: _number(gap[name]) for name in ("cer_gap", "cer_gap_low", "cer_gap_high")}
            row["cer_gap_reason"] = gap.get("no_interval", "")
            row |= {f"elderly_{name}": value for name, value in _cell(gap["elderly"]).items()}
            row |= {f"rest_{name}": value for name, value in _cell(gap["rest"]).items()}
            rows.append(row | {"below_minimum": gap["below_minimum"]})
    return pd.DataFrame(rows)


def terms_table(bench: BenchRecord) -> pd.DataFrame:
    """Return one row per run and category of medical terms: said, found, missed, and the share found."""
    columns = ["n_terms", "n_found", "n_missed", "recall", "recall_low", "recall_high"]
    rows = [
        {"run_id": run.run_id, "size": run.size, "seed": run.seed, "category": category}
        | {name: _number(row.get(name)) for name in columns}
        | {"recall_reason": row.get("no_interval", "")}
        for run, scores in scored_trains(bench)
        for category, row in scores.get("terms", {}).items()
    ]
    return pd.DataFrame(rows, columns=["run_id", "size", "seed", "category", *columns, "recall_reason"])


def numbers_table(bench: BenchRecord) -> pd.DataFrame:
    """Return one row per run: the numbers of the references, and how many are found, ambiguous, and unread."""
    columns = ["n_numbers", "n_found", "n_ambiguous", "n_unread"]
    rows = [
        {"run_id": run.run_id, "size": run.size, "seed": run.seed}
        | {name: _number(scores["numbers"].get(name)) for name in columns}
        for run, scores in scored_trains(bench)
        if "numbers" in scores
    ]
    return pd.DataFrame(rows, columns=["run_id", "size", "seed", *columns])


def terms_of_sizes(terms: pd.DataFrame, run_ids: Sequence[str]) -> pd.DataFrame:
    """Return one row per category with terms: how many were said, and each chosen run's share and misses."""
    chosen = terms[terms["run_id"].isin(run_ids) & (terms["n_terms"] > 0)]
    rows = []
    for category, cells in chosen.groupby("category", sort=False):
        row = {"category": category, "n_terms": cells.iloc[0]["n_terms"]}
        for cell in cells.to_dict("records"):
            row |= {f"{cell['size']}{end}": cell[f"recall{end}"] for end in ("", "_low", "_high", "_reason")}
            row[f"{cell['size']}_missed"] = cell["n_missed"]
        rows.append(row)
    return pd.DataFrame(rows)


def rates_table(bench: BenchRecord) -> pd.DataFrame:
    """Return every rate on the test part: run_id, size, seed, state (untouched, fine-tuned), measure, value, reason.

    ``reason`` says why a measure has no interval; of too few speakers it holds for both states.
    """
    rows = []
    for run in ordered_trains(bench):
        scores = bench.scores.get(run.run_id)
        tuned = cast(Mapping[str, float | None], scores["overall"]) if scores else {}
        reasons = scores["overall"].get("no_interval", {}) if scores else {}
        few = scores is not None and scores["overall"]["n_speakers"] < MIN_SPEAKERS
        states: dict[str, Mapping[str, float | None]] = {"untouched": _untouched_rates(run), "fine-tuned": tuned}
        for state, rates in states.items():
            for measure, value in rates.items():
                if measure not in _COUNTS and value is not None:
                    reason = reasons.get(measure, "") if state == "fine-tuned" or few else ""
                    rows.append((run.run_id, run.size, run.seed, state, measure, value, reason))
    return pd.DataFrame(rows, columns=["run_id", "size", "seed", "state", "measure", "value", "reason"])


def _untouched_rates(run: TrainRecord) -> dict[str, float]:
    return {key.removeprefix(_UNTOUCHED): value for key, value in run.metrics.items() if key.startswith(_UNTOUCHED)}


def rates_of_sizes(rates: pd.DataFrame, run_ids: Sequence[str]) -> pd.DataFrame:
    """Return one row per measure, one column per chosen run's size and state, such as ``base untouched``.

    Beside each are the bounds of its interval in ``<column>_low`` and ``<column>_high``, and ``NOT_MEANT`` in
    ``<column>_reason`` for measures without intervals. ``label`` and ``description`` are the measure's own; rates of
    scores.json that are no measure are left out.
    """
    chosen = rates[rates["run_id"].isin(run_ids)]
    keys = list(zip(chosen["size"] + " " + chosen["state"], chosen["measure"], strict=True))
    value, reason = (dict(zip(keys, chosen[name], strict=True)) for name in ("value", "reason"))
    columns = list(dict.fromkeys(column for column, _ in value))
    rows = []
    for name, measure in MEASURES.items():
        if any((column, name) in value for column in columns):
            row: dict[str, Any] = {"measure": name, "label": measure.label, "description": measure.description}
            for column in columns:
                ends = ("", "_low", "_high")
                row |= {f"{column}{end}": value.get((column, f"{name}{end}"), math.nan) for end in ends}
                row[f"{column}_reason"] = reason.get((column, name), "") if measure.interval else NOT_MEANT
            rows.append(row)
    return pd.DataFrame(rows)


def errors_by_kind(rates: pd.DataFrame, run_ids: Sequence[str]) -> pd.DataFrame:
    """Return the CER of each chosen run's size and state, split into its three kinds of errors.

    A kind's rate is the CER times its share of the errors; substitutions are what is neither inserted nor deleted.
    """
    rows = []
    chosen = rates[rates["run_id"].isin(run_ids)]
    for (size, state), group in chosen.groupby(["size", "state"], sort=False):
        value = dict(zip(group["measure"], group["value"], strict=True))
        if value.get("cer") == 0:  # without errors there are no shares of them
            value |= {"insertion_share": 0, "deletion_share": 0}
        if not {"cer", "insertion_share", "deletion_share"} <= set(value):
            continue
        inserted, deleted = (value["cer"] * value[f"{kind}_share"] for kind in ("insertion", "deletion"))
        kinds = {"substitutions": value["cer"] - inserted - deleted, "deletions": deleted, "insertions": inserted}
        rows.append({"size": size, "state": state, **kinds})
    return pd.DataFrame(rows, columns=["size", "state", "substitutions", "deletions", "insertions"])


def costs_table(bench: BenchRecord) -> pd.DataFrame:
    """Return one row per run and every ``speed/…`` metric as a column named without the prefix."""
    rows = []
    for run in ordered_trains(bench):
        speed = {key.removeprefix("speed/"): value for key, value in run.metrics.items() if key.startswith("speed/")}
        if speed:
            rows.append({"run_id": run.run_id, "size": run.size, "seed": run.seed, **speed})
    return pd.DataFrame(rows)


def comparisons_table(comparisons: Sequence[NamedComparison]) -> pd.DataFrame:
    """Return one row per comparison of `significance.compare_systems`."""
    columns = ["a_name", "b_name", "a", "b", "delta", "delta_low", "delta_high", "p_value", "p_holm"]
    columns += ["n_clips", "n_speakers"]
    rows = [
        {name: _number(row.get(name)) for name in columns} | {"delta_reason": row.get("no_interval", "")}
        for row in comparisons
    ]
    return pd.DataFrame(rows, columns=[*columns, "delta_reason"])


def beside_published(sizes: pd.DataFrame, *, test_set: str, rules: str) -> pd.DataFrame:
    """Return this benchmark's figures and the published ones in one table; ``ours`` is true for the former."""
    rows = []
    for row in sizes.to_dict("records"):
        shared = {
            "model": row["size"],
            "test_set": test_set,
            "rules": rules,
            "source": N_("this bench"),
            "comparable": True,
        }
        rows.append(shared | {"training": N_("zero-shot (untouched)"), "cer": row["untouched_test_cer"]})
        tuned = gettext("fine-tuned, epoch {epoch:.0f}", epoch=row["best_epoch"])
        rows.append(shared | {"training": tuned, "cer": row["test_cer"]})
    published = published_table()
    ours = pd.DataFrame(rows, columns=published.columns).assign(ours=True)
    if not len(ours):
        return published.assign(ours=False)
    return pd.concat([ours.astype({"cer_high": float}), published.assign(ours=False)], ignore_index=True)


def published_table() -> pd.DataFrame:
    """Return published CERs as fractions, with their conditions and sources.

    ``comparable`` is False for teacher-forced figures. ``cer_high`` is set where a range was published.
    """
    with (resources.files("kmed_bench.report") / "published.csv").open(encoding="utf-8") as stream:
        table = pd.read_csv(stream)
    return table.assign(comparable=table["comparable"] == "yes")

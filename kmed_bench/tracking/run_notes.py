"""Descriptions of experiments and runs that the MLflow UI shows, as Markdown."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from kmed_bench.core.quantities import percent
from kmed_bench.core.records import BenchRecord, TrainRecord
from kmed_bench.core.schema import SIZES
from kmed_bench.scoring.recommendation import recommend
from kmed_bench.scoring.verdict import VERDICT_TEXT_TAG
from kmed_bench.tracking.markdown import SYNTHETIC_NOTE, interval, table, whole_number
from kmed_bench.tracking.views import CURVES, TABLE, view_link


def charts_link(experiment_id: str, bench_id: str | None = None) -> str:
    """Return the fragment of an MLflow UI address that charts trainings side by side, lowest test CER first.

    By default the UI opens on its pages for language models. Sorted by time it also folds children under their
    parent, which has no metrics, so its charts are empty. The address therefore sets model training and another order.

    Parameters
    ----------
    bench_id : str, optional
        Only this benchmark's trainings; None: all of the experiment.
    """
    query = "tags.`kmed.kind` = 'train'"
    if bench_id is not None:
        query += f" and tags.`{MLFLOW_PARENT_RUN_ID}` = '{bench_id}'"
    view = {"workflowType": "machine_learning", "searchFilter": query, "orderByKey": "metrics.`test/cer`"}
    view |= {"orderByAsc": "true", "compareRunsMode": "CHART"}
    return f"#/experiments/{experiment_id}/runs?{urlencode(view, quote_via=quote)}"


def describe_experiment(experiment_id: str) -> str:
    """Return the description of an experiment: what its runs are, and a link to the charts that compare them."""
    return (
        f"**[Table]({view_link(experiment_id, TABLE)})** of all trainings by benchmark and size, with means over "
        f"seeds; **[curves]({view_link(experiment_id, CURVES)})**; "
        f"**[all charts]({charts_link(experiment_id)})**, lowest test CER first. Each `bench-…` run has "
        "its `split`, one `train-…` per size and seed, and its `report`; open it for the headline figures. Step 0 of "
        "a curve is the untouched model. "
        "`valid/cer` is the CER of transcripts, `train/cer_teacher_forced` is not.\n"
    )


def describe_bench(bench: BenchRecord, experiment_id: str) -> str:
    """Return the note of a benchmark's run: its sizes, what was skipped, its data, where the report is."""
    trains = sorted(bench.trains, key=lambda run: (SIZES.index(run.size) if run.size in SIZES else -1, run.seed))
    head = ("size", "seed", "untouched", "fine-tuned", "95 %", "best epoch", "valid CER", "status")
    verdict = recommend(bench)
    lines = [f"**{verdict.headline}**", "", verdict.reason, "", *(f"- {size.text}" for size in verdict.sizes), ""]
    if bench.trains:
        lines += ["**Test CER by size** (one row per seed; CER without spaces and punctuation)", ""]
        lines += table(head, map(_train_cells, trains))
    else:
        lines += ["No training has finished in this benchmark yet."]
    for size, reason in bench.skipped.items():
        lines += ["", f"Skipped **{size}**: {reason}"]
    if bench.absent:
        lines += ["", f"Not in the store yet: {'; '.join(bench.absent)}."]
    if bench.settings_origin:
        lines += ["", f"Settings of {bench.settings_origin}."]
    lines += ["", describe_split(bench.split)]
    if any("test/cer" in run.metrics for run in bench.trains):
        charts = charts_link(experiment_id, bench.run_id)
        lines += ["", f"[Charts of these trainings]({charts}). The report is among the artifacts: `report/index.html`."]
    if bench.synthetic:
        lines += ["", SYNTHETIC_NOTE]
    return "\n".join(lines) + "\n"


def describe_train(run: TrainRecord) -> str:
    """Return the note of a train run: its verdict, and its headline figures in a sentence."""
    cer = run.metrics.get("test/cer")
    if cer is None:
        return f"Whisper {run.size}, seed {run.seed}: {run.status.lower()} before the test part was scored.\n"
    verdict = f"{run.tags[VERDICT_TEXT_TAG]}\n\n" if VERDICT_TEXT_TAG in run.tags else ""
    untouched = run.metrics.get("untouched/test_cer")
    before = f" (untouched: {percent(untouched)})" if untouched is not None else ""
    bounds = interval(run.metrics, "test/")
    within = f" ({bounds})" if bounds else ""
    return (
        f"{verdict}Whisper **{run.size}**, seed {run.seed}: test CER **{percent(cer)}**{within}{before}, from "
        f"epoch {whole_number(run.metrics.get('best/epoch'))}, which was chosen by a valid CER of "
        f"{percent(run.metrics.get('best/valid_cer'))}. The test part was scored once, after that choice.\n"
    )


def _train_cells(run: TrainRecord) -> tuple[str, ...]:
    metrics = run.metrics
    return (
        run.size,
        str(run.seed),
        percent(metrics.get("untouched/test_cer")),
        f"**{percent(metrics.get('test/cer'))}**",
        interval(metrics, "test/"),
        whole_number(metrics.get("best/epoch")),
        percent(metrics.get("best/valid_cer")),
        run.status.lower(),
    )


def describe_ingest(quality: Mapping[str, Any]) -> str:
    """Return the results of an ingest in a sentence: labels, usable ones, rejected ones by reason."""
    rejected = ", ".join(f"{reason} {n}" for reason, n in quality["rejected"].items()) or "none"
    return (
        f"{quality['labels']} labels: **{quality['usable']} usable** ({quality['hours']:.1f} h of "
        f"{quality['speakers']} speakers). Rejected: {rejected}.\n"
    )


def describe_split(split: Mapping[str, Any]) -> str:
    """Return the parts of a split and what they share."""
    if not split:
        return "No split was made."
    counts = ", ".join(f"{part} {n}" for part, n in split.get("counts", {}).items())
    leakage = split.get("leakage") or {}
    shared = ", ".join(f"{n} {kind}" for kind, n in leakage.items() if isinstance(n, int))
    described = f"Split `{str(split.get('sha256', ''))[:12]}`: {counts}."
    return f"{described} Shared between parts: {shared}." if shared else described

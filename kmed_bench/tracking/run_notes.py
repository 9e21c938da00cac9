"""What people read in the MLflow UI: run notes and model cards, as Markdown made from records."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from kmed_bench.core.quantities import percent
from kmed_bench.core.records import BenchRecord, TrainRecord
from kmed_bench.core.schema import SIZES

_SYNTHETIC = (
    "The speech is the generated demo corpus, spoken by a synthesiser: the figures show that the program works, "
    "and say nothing about patients."
)


def charts_link(experiment_id: str, bench_id: str | None = None) -> str:
    """Return the fragment of the MLflow UI's address that shows trainings side by side, lowest test CER first.

    MLflow's UI opens on its pages for language models, and sorted by time it folds children under their parent,
    which has no metrics: its charts stay empty. The address says both, model training and another order.

    Parameters
    ----------
    bench_id : str, optional
        Show this benchmark's trainings alone; None: all of the experiment.
    """
    wanted = "tags.`kmed.kind` = 'train'"
    if bench_id is not None:
        wanted += f" and tags.`{MLFLOW_PARENT_RUN_ID}` = '{bench_id}'"
    view = {"workflowType": "machine_learning", "searchFilter": wanted, "orderByKey": "metrics.`test/cer`"}
    view |= {"orderByAsc": "true", "compareRunsMode": "CHART"}
    return f"#/experiments/{experiment_id}/runs?{urlencode(view, quote_via=quote)}"


def describe_experiment(experiment_id: str) -> str:
    """Return the description of an experiment: what its runs are, and the view that compares them."""
    return (
        f"**[Charts of all trainings]({charts_link(experiment_id)})**, lowest test CER first. Each `bench-…` run holds "
        "its `split`, one `train-…` per size and seed, and its `report`; open it for the headline figures. Step 0 of "
        "a curve is the untouched model; type `cer$|loss$` into the charts' search for the curves alone. "
        "`train/cer_teacher_forced` is no CER of transcripts, `valid/cer` is.\n"
    )


def describe_bench(bench: BenchRecord, experiment_id: str) -> str:
    """Return the note of a benchmark's run: its sizes, what was skipped, its data, where the report is."""
    lines = ["**Test CER by size** (one row a seed; CER without spaces and punctuation)", ""]
    lines += _table(
        ("size", "seed", "untouched", "fine-tuned", "95 %", "best epoch", "valid CER", "status"),
        (
            _train_cells(run)
            for run in sorted(
                bench.trains, key=lambda run: (SIZES.index(run.size) if run.size in SIZES else -1, run.seed)
            )
        ),
    )
    if not bench.trains:
        lines = ["No training has finished in this benchmark yet."]
    for size, reason in bench.skipped.items():
        lines += ["", f"Skipped **{size}**: {reason}"]
    lines += ["", _describe_split(bench.split)]
    if any("test/cer" in run.metrics for run in bench.trains):
        charts = charts_link(experiment_id, bench.run_id)
        lines += ["", f"[Charts of these trainings]({charts}). The report is among the artifacts: `report/index.html`."]
    if bench.synthetic:
        lines += ["", _SYNTHETIC]
    return "\n".join(lines) + "\n"


def describe_train(run: TrainRecord) -> str:
    """Return the note of a train run: its headline figures in one sentence."""
    cer = run.metrics.get("test/cer")
    if cer is None:
        return f"Whisper {run.size}, seed {run.seed}: {run.status.lower()} before the test part was scored.\n"
    untouched = run.metrics.get("untouched/test_cer")
    before = f" (untouched: {percent(untouched)})" if untouched is not None else ""
    return (
        f"Whisper **{run.size}**, seed {run.seed}: test CER **{percent(cer)}**{_interval(run.metrics)}{before}, from "
        f"epoch {_whole(run.metrics.get('best/epoch'))}, which was chosen by a valid CER of "
        f"{percent(run.metrics.get('best/valid_cer'))}. The test part was scored once, after that choice.\n"
    )


def _train_cells(run: TrainRecord) -> tuple[str, ...]:
    metrics = run.metrics
    return (
        run.size,
        str(run.seed),
        percent(metrics.get("untouched/test_cer")),
        f"**{percent(metrics.get('test/cer'))}**",
        _interval(metrics).strip(" ()"),
        _whole(metrics.get("best/epoch")),
        percent(metrics.get("best/valid_cer")),
        run.status.lower(),
    )


def _describe_split(split: Mapping[str, Any]) -> str:
    if not split:
        return "No split was made."
    counts = ", ".join(f"{part} {n}" for part, n in split.get("counts", {}).items())
    leakage = split.get("leakage") or {}
    shared = ", ".join(f"{n} {kind}" for kind, n in leakage.items() if isinstance(n, int))
    lines = f"Split `{str(split.get('sha256', ''))[:12]}`: {counts}."
    return f"{lines} Shared between parts: {shared}." if shared else lines


def _whole(value: float | None) -> str:
    return "–" if value is None else str(int(value))


def _interval(figures: Mapping[str, Any], prefix: str = "test/") -> str:
    low, high = figures.get(f"{prefix}cer_low"), figures.get(f"{prefix}cer_high")
    return "" if low is None or high is None else f" ({percent(low)} to {percent(high)})"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]

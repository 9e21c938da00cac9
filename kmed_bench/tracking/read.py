"""Runs read from the store as records; nothing here writes."""

import json
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, cast

import pandas as pd
from mlflow.entities import Metric, Run, ViewType
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from kmed_bench.core.addresses import without_password
from kmed_bench.core.contracts import COMPARISONS, SCORES, NamedComparison
from kmed_bench.core.corpus_contracts import QUALITY, SPLIT
from kmed_bench.core.errors import KmedError
from kmed_bench.core.formats import FileFormat
from kmed_bench.core.records import BenchRecord, TrainRecord
from kmed_bench.core.run_contracts import LEAK, VERDICT
from kmed_bench.scoring.verdict import VERDICT_FILE
from kmed_bench.tracking.deleted_runs import deleted_parts, restore_command
from kmed_bench.tracking.openings import read_openings
from kmed_bench.tracking.series import SERIES_TAG, absent_trainings, gather_trains, series_query
from kmed_bench.tracking.store import artifact_folder, find_run, read_artifact, search_runs

NOT_COMPARED_TAG = "kmed.not_compared"
log = logging.getLogger(__name__)
_BULK_RUNS = 500  # under the 999 variables that older SQLite allows in one query
_BULK_POINTS = 10_000_000
_NAMED_RUNS = 3
_HISTORY_COLUMNS = ("metric", "step", "value")
# Metrics whose step is an epoch; of all others, which are final figures, only the last value is needed.
_EPOCH_METRICS = ("train/", "valid/", "time/", "original/")


def read_bench(uri: str, run_id: str | None = None) -> BenchRecord:
    """Return a benchmark with its children, and with the trainings of its series that ran elsewhere.

    Parameters
    ----------
    uri : str
        The tracking URI that `open_store` returned.
    run_id : str, optional
        A bench run, or a training without one, which stands for its series; None: the bench that started last, or
        the last training where the store has no bench.

    Raises
    ------
    KmedError
        When the run is unknown or is not a benchmark, or when the store has none.
    """
    client = MlflowClient(tracking_uri=uri)
    bench = _latest_bench(client, uri) if run_id is None else _named_bench(client, uri, run_id)
    children = search_runs(client, f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{bench.info.run_id}'")
    if bench.data.tags.get("kmed.kind") == "train":
        children.append(bench)
    return _bench_record(client, bench, children[::-1])  # in the order of their start


def read_train(client: MlflowClient, run_id: str) -> TrainRecord:
    """Return a train run, also one without a benchmark; its curves are left out."""
    return _train_record(client.get_run(run_id), pd.DataFrame(columns=list(_HISTORY_COLUMNS)))


def _latest_bench(client: MlflowClient, uri: str) -> Run:
    benches = search_runs(client, "tags.`kmed.kind` = 'bench'", limit=1)
    benches = benches or search_runs(client, f"tags.`kmed.kind` = 'train' and tags.`{SERIES_TAG}` != ''", limit=1)
    deleted = search_runs(client, "tags.`kmed.kind` = 'bench'", view=ViewType.DELETED_ONLY)
    if not benches:
        gone = f" but {len(deleted)} deleted, {_name_first(deleted)}" if deleted else ""
        raise KmedError(
            f"The tracking store {without_password(uri)} has no benchmark{gone}; make one with `kmed-bench run`, or "
            "name the store that has one with tracking.uri or MLFLOW_TRACKING_URI."
        )
    if later := [run for run in deleted if run.info.start_time > benches[0].info.start_time]:
        log.warning("Passed over: %d later benchmarks that were deleted, %s.", len(later), _name_first(later))
    return benches[0]


def _name_first(deleted: Sequence[Run]) -> str:
    named = ", ".join(f"{run.info.run_name} ({restore_command(run)})" for run in deleted[:_NAMED_RUNS])
    return f"{named}{', …' if len(deleted) > _NAMED_RUNS else ''}"


def _named_bench(client: MlflowClient, uri: str, run_id: str) -> Run:
    run = find_run(client, run_id)
    if run is None:
        latest = search_runs(client, "tags.`kmed.kind` = 'bench'", limit=3)
        listed = ", ".join(f"{bench.info.run_id} ({bench.info.run_name})" for bench in latest)
        raise KmedError(
            f"Run {run_id!r} is not in the tracking store {without_password(uri)}, or its server does not show it to "
            f"this user; its latest benchmarks are: {listed or 'none'}."
        )
    kind = run.data.tags.get("kmed.kind")
    parent = run.data.tags.get(MLFLOW_PARENT_RUN_ID)
    if kind != "bench" and (kind != "train" or parent or SERIES_TAG not in run.data.tags):
        remedy = f"its parent is {parent}" if parent else "leave the id out for the latest one"
        raise KmedError(f"Run {run_id} is {f'a {kind} run' if kind else 'of another program'}, not a bench; {remedy}.")
    return run


def _bench_record(client: MlflowClient, bench: Run, children: Sequence[Run]) -> BenchRecord:
    _check_artifacts(bench)
    by_kind: dict[str, list[Run]] = defaultdict(list)
    for child in children:
        by_kind[child.data.tags.get("kmed.kind", "")].append(child)
    trains = gather_trains(client, bench, by_kind["train"])
    histories = _histories(client, trains)
    scores = {run.info.run_id: read_artifact(client, run, "scores.json", SCORES) for run in trains}
    leaks = {run.info.run_id: read_artifact(client, run, "leak.json", LEAK) for run in trains}
    verdicts = {run.info.run_id: read_artifact(client, run, VERDICT_FILE, VERDICT) for run in trains}
    compared = read_artifact(client, bench, "comparisons.json", COMPARISONS)
    params, profile = dict(bench.data.params), bench.data.tags.get("kmed.profile")
    if profile is not None:
        params["profile"] = profile  # `mlflow run` logs the value that it was given, such as auto
    present = {run.data.tags.get("kmed.size", "") for run in trains}
    skipped = json.loads(bench.data.tags.get("kmed.skipped", "{}"))
    skipped = {size: reason for size, reason in skipped.items() if size not in present}
    not_compared = json.loads(bench.data.tags.get(NOT_COMPARED_TAG, "{}"))
    return BenchRecord(
        run_id=bench.info.run_id,
        name=bench.info.run_name,
        status=bench.info.status,
        params=params,
        tags=dict(bench.data.tags),
        trains=tuple(_train_record(run, histories[run.info.run_id]) for run in trains),
        skipped=skipped,
        absent=absent_trainings(bench, trains, skipped),
        not_compared=not_compared,
        split=_latest_artifact(client, by_kind["split"], "split.json", SPLIT),
        quality=_latest_artifact(client, by_kind["split"], "quality.json", QUALITY),
        scores={run_id: content for run_id, content in scores.items() if content is not None},
        comparisons=tuple(cast(list[NamedComparison], compared["comparisons"])) if compared else (),
        gaps=tuple(compared.get("gaps", ())) if compared else (),
        benefits=tuple(compared.get("benefits", ())) if compared else (),
        seeds=tuple(compared.get("seeds", ())) if compared else (),
        verdicts={run_id: content for run_id, content in verdicts.items() if content is not None},
        leaks={run_id: content for run_id, content in leaks.items() if content is not None},
        deleted=deleted_parts(client, bench, series_query(bench)),
        openings=read_openings(str(client.tracking_uri), bench.data.tags.get("kmed.split_sha256", "")),
    )


def _latest_artifact(client: MlflowClient, runs: Sequence[Run], name: str, format: FileFormat[Any]) -> dict[str, Any]:
    """Return the JSON artifact of the latest run that has it; {} if none has."""
    contents = (read_artifact(client, run, name, format) for run in reversed(runs))
    return next((content for content in contents if content), {})


def _check_artifacts(bench: Run) -> None:
    """Raise KmedError for a store that was moved: MLflow keeps absolute paths, so its runs would lack all artifacts."""
    folder = artifact_folder(bench)
    root = folder and folder.parent.parent  # the experiment's; a run's own folder is created with its first file
    if root is not None and not root.is_dir():
        raise KmedError(
            f"The artifacts of run {bench.info.run_id} should be in {root}, which does not exist: the store was "
            "moved, or that folder deleted. Put both back where they were; MLflow's artifact paths are absolute."
        )


def _train_record(run: Run, history: pd.DataFrame) -> TrainRecord:
    tags = dict(run.data.tags)
    return TrainRecord(
        run_id=run.info.run_id,
        name=run.info.run_name,
        size=tags.get("kmed.size", ""),
        seed=int(tags.get("kmed.seed", "0")),
        status=run.info.status,
        params=dict(run.data.params),
        metrics=dict(run.data.metrics),
        tags=tags,
        history=history,
    )


def _histories(client: MlflowClient, runs: Sequence[Run]) -> dict[str, pd.DataFrame]:
    """Return each run's metric, step and value; where a resumed run logged a step again, the latest value."""
    rows = [
        (run_id, point.key, point.step, point.timestamp, point.value) for run_id, point in _epoch_points(client, runs)
    ]
    table = pd.DataFrame(rows, columns=["run_id", "metric", "step", "timestamp", "value"])
    table = table.sort_values(["metric", "step", "timestamp"], kind="stable")
    table = table.drop_duplicates(["run_id", "metric", "step"], keep="last")
    by_run = {
        run_id: part[list(_HISTORY_COLUMNS)].reset_index(drop=True)
        for run_id, part in table.groupby("run_id", sort=False)
    }
    empty = table[list(_HISTORY_COLUMNS)].iloc[:0]
    return {run.info.run_id: by_run.get(run.info.run_id, empty) for run in runs}


def _epoch_points(client: MlflowClient, runs: Sequence[Run]) -> Iterator[tuple[str, Metric]]:
    """Yield (run id, point) for every epoch metric: in bulk from a database, otherwise run by run."""
    having: dict[str, list[str]] = defaultdict(list)
    for run in runs:
        for name in run.data.metrics:
            if name.startswith(_EPOCH_METRICS):
                having[name].append(run.info.run_id)
    # The client has no bulk call, but the database store behind it has; for 1,000 runs it is 20 times faster.
    in_bulk = getattr(client._tracking_client.store, "get_metric_history_bulk", None)
    for name, run_ids in having.items():
        if in_bulk is None:
            yield from ((run_id, point) for run_id in run_ids for point in client.get_metric_history(run_id, name))
            continue
        for first in range(0, len(run_ids), _BULK_RUNS):
            for point in in_bulk(run_ids[first : first + _BULK_RUNS], name, _BULK_POINTS):
                yield point.run_id, point

"""Runs read back from the store as records; nothing here writes."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import pandas as pd
from mlflow.entities import Metric, Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from kmed_bench.core.contracts import COMPARISONS, SCORES, NamedComparison, Scores
from kmed_bench.core.errors import KmedError
from kmed_bench.core.records import BenchRecord, TrainRecord
from kmed_bench.tracking.store import artifact_folder, read_json_artifact, without_password

_PAGE = 1_000
_BULK_RUNS = 500  # under the 999 variables that older SQLite allows in one query
_BULK_POINTS = 10_000_000
_HISTORY_COLUMNS = ("metric", "step", "value")
# Metrics whose step is an epoch; all others are final figures, of which the run's last value is the whole story.
_EPOCH_METRICS = ("train/", "valid/", "time/", "original/")


def read_bench(uri: str, run_id: str | None = None) -> BenchRecord:
    """Return one benchmark with its children.

    Parameters
    ----------
    uri : str
        The tracking URI that `open_store` returned.
    run_id : str, optional
        A bench run; None: the one that started last.

    Raises
    ------
    KmedError
        When the run is unknown or is not a benchmark, or when the store holds none.
    """
    client = MlflowClient(tracking_uri=uri)
    bench = _latest_bench(client, uri) if run_id is None else _named_bench(client, uri, run_id)
    return _read_records(client, [bench])[0]


def read_benches(uri: str, experiment: str | None = None) -> list[BenchRecord]:
    """Return all benchmarks of the store, or of one experiment, the latest first; empty when there is none."""
    client = MlflowClient(tracking_uri=uri)
    return _read_records(client, search_runs(client, "tags.`kmed.kind` = 'bench'", experiment=experiment))


def _latest_bench(client: MlflowClient, uri: str) -> Run:
    found = search_runs(client, "tags.`kmed.kind` = 'bench'", limit=1)
    if not found:
        raise KmedError(
            f"The tracking store {without_password(uri)} holds no benchmark; make one with `kmed-bench run`, or name "
            "the store that has one with tracking.uri or MLFLOW_TRACKING_URI."
        )
    return found[0]


def _named_bench(client: MlflowClient, uri: str, run_id: str) -> Run:
    try:
        run = client.get_run(run_id)
    except MlflowException:
        known = [
            f"{r.info.run_id} ({r.info.run_name})" for r in search_runs(client, "tags.`kmed.kind` = 'bench'", limit=3)
        ]
        raise KmedError(
            f"Run {run_id!r} is not in the tracking store {without_password(uri)}; its latest benchmarks are: "
            f"{', '.join(known) or 'none'}."
        ) from None
    kind = run.data.tags.get("kmed.kind")
    if kind != "bench":
        parent = run.data.tags.get(MLFLOW_PARENT_RUN_ID)
        remedy = f"its parent is {parent}" if parent else "leave the id out for the latest one"
        raise KmedError(f"Run {run_id} is {f'a {kind} run' if kind else 'of another program'}, not a bench; {remedy}.")
    return run


def search_runs(
    client: MlflowClient, query: str, *, experiment: str | None = None, limit: int | None = None
) -> list[Run]:
    """Return the active runs that match, the latest first."""
    experiments = [e.experiment_id for e in client.search_experiments() if experiment in (None, e.name)]
    if not experiments:
        return []
    runs: list[Run] = []
    token: str | None = None
    while limit is None or len(runs) < limit:
        page = client.search_runs(
            experiments,
            query,
            max_results=min(_PAGE, limit or _PAGE),
            order_by=["attributes.start_time DESC"],
            page_token=token,
        )
        runs += page
        token = page.token
        if not token:
            break
    return runs


def _read_records(client: MlflowClient, benches: Sequence[Run]) -> list[BenchRecord]:
    if not benches:
        return []
    children = _children(client, benches)
    trains = [run for group in children.values() for run in group if run.data.tags.get("kmed.kind") == "train"]
    histories = _histories(client, trains)
    return [_bench_record(client, bench, children[bench.info.run_id], histories) for bench in benches]


def _children(client: MlflowClient, benches: Sequence[Run]) -> dict[str, list[Run]]:
    """Return each bench's children in the order of their start, with one query however many benches."""
    if len(benches) == 1:
        query = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{benches[0].info.run_id}'"
    else:
        query = "tags.`kmed.kind` != 'bench'"
    grouped: dict[str, list[Run]] = defaultdict(list)
    for run in reversed(search_runs(client, query)):
        grouped[run.data.tags.get(MLFLOW_PARENT_RUN_ID, "")].append(run)
    return grouped


def _bench_record(
    client: MlflowClient, bench: Run, children: Iterable[Run], histories: dict[str, pd.DataFrame]
) -> BenchRecord:
    _check_artifacts(bench)
    split: dict[str, Any] = {}
    quality: dict[str, Any] = {}
    trains: list[TrainRecord] = []
    scores: dict[str, Scores] = {}
    for child in children:
        kind, run_id = child.data.tags.get("kmed.kind"), child.info.run_id
        if kind == "split":
            split = read_json_artifact(client, child, "split.json") or split
            quality = read_json_artifact(client, child, "quality.json") or quality
        elif kind == "train":
            trains.append(_train_record(child, histories[run_id]))
            if content := read_json_artifact(client, child, "scores.json"):
                scores[run_id] = SCORES.check(content, f"scores.json of run {run_id}")
    params, profile = dict(bench.data.params), bench.data.tags.get("kmed.profile")
    if profile is not None:
        params["profile"] = profile  # `mlflow run` logs the word that it was given, such as auto
    return BenchRecord(
        run_id=bench.info.run_id,
        name=bench.info.run_name,
        status=bench.info.status,
        params=params,
        tags=dict(bench.data.tags),
        trains=tuple(trains),
        skipped=json.loads(bench.data.tags.get("kmed.skipped", "{}")),
        split=split,
        quality=quality,
        scores=scores,
        comparisons=_read_comparisons(client, bench),
    )


def _read_comparisons(client: MlflowClient, bench: Run) -> tuple[NamedComparison, ...]:
    content = read_json_artifact(client, bench, "comparisons.json")
    if not content:
        return ()
    where = f"comparisons.json of run {bench.info.run_id}"
    return tuple(cast(list[NamedComparison], COMPARISONS.check(content, where)["comparisons"]))


def _check_artifacts(bench: Run) -> None:
    """Refuse a store that was moved: MLflow keeps absolute paths, and would show its runs without any artifact."""
    folder = artifact_folder(bench)
    root = folder and folder.parent.parent  # the experiment's; a run's own folder is made with its first file
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
    """Return each run's metric, step, value; a resumed run logs steps again, of which the latest counts."""
    rows = [
        (run_id, point.key, point.step, point.timestamp, point.value) for run_id, point in _epoch_points(client, runs)
    ]
    table = pd.DataFrame(rows, columns=["run_id", "metric", "step", "timestamp", "value"])
    table = table.sort_values(["metric", "step", "timestamp"], kind="stable")
    table = table.drop_duplicates(["run_id", "metric", "step"], keep="last")
    found = {
        run_id: part[list(_HISTORY_COLUMNS)].reset_index(drop=True)
        for run_id, part in table.groupby("run_id", sort=False)
    }
    empty = table[list(_HISTORY_COLUMNS)].iloc[:0]
    return {run.info.run_id: found.get(run.info.run_id, empty) for run in runs}


def _epoch_points(client: MlflowClient, runs: Sequence[Run]) -> Iterator[tuple[str, Metric]]:
    """Yield (run id, metric) for every epoch metric: from a database in bulk, otherwise one by one."""
    having: dict[str, list[str]] = defaultdict(list)
    for run in runs:
        for name in run.data.metrics:
            if name.startswith(_EPOCH_METRICS):
                having[name].append(run.info.run_id)
    # The client has no bulk call, the database behind it has: 20 times faster, which 1,000 runs need.
    in_bulk = getattr(client._tracking_client.store, "get_metric_history_bulk", None)
    for name, run_ids in having.items():
        if in_bulk is None:
            yield from ((run_id, point) for run_id in run_ids for point in client.get_metric_history(run_id, name))
            continue
        for first in range(0, len(run_ids), _BULK_RUNS):
            for found in in_bulk(run_ids[first : first + _BULK_RUNS], name, _BULK_POINTS):
                yield found.run_id, found

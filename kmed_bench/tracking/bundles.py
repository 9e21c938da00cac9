"""Runs as plain records that may leave a closed network, and records as runs of another store.

What may leave is listed here by name; everything else stays: free texts, folders, addresses, accounts, logs.
"""

import json
import math
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, cast

from mlflow.entities import Metric, Param, Run, RunStatus
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NOTE

from kmed_bench.config.describe import setting_keys
from kmed_bench.core.contracts import COMPARISONS, SCORES
from kmed_bench.core.corpus_contracts import QUALITY, SPLIT
from kmed_bench.core.errors import KmedError
from kmed_bench.core.records import hash_settings
from kmed_bench.core.run_contracts import LEAK, PLAN, RunRecord
from kmed_bench.core.schema import SCORE_FIELDS
from kmed_bench.scoring.suppression import (
    Hidden,
    rows_of_shown,
    without_small_cells,
    without_small_counts,
    without_small_groups,
    without_small_shares,
)
from kmed_bench.tracking.metric_names import MAX_SHARE_DEVIATION, ascii_value, leak_metrics
from kmed_bench.tracking.openings import PLAN_TAG, VERIFIED_TAG
from kmed_bench.tracking.privacy import without_speech
from kmed_bench.tracking.read import read_bench
from kmed_bench.tracking.seal import PLAN_FILE
from kmed_bench.tracking.store import experiment_id, find_run, read_artifact, search_runs

ORIGIN_TAG = "kmed.bundled_run"
"""Of a run that a bundle brought: its id in the store that it was made in."""
_STAYS = ("data.source", "model.weights", "tune.storage", "gate.command", "gate.webhook", "tracking.uri")
_STAYS_ALL = ("tracking.",)
_OTHER_PARAMS = ("profile", "split.sha256", "split.content_sha256")
_TAGS = (
    "kind profile code_version split_sha256 manifest_sha256 split_label size seed weights_origin weights_sha256 device "
    "machine software processes train_precision train_context eval_context transcript_policy synthetic config_hash "
    "series only plan_sha256 plan_sealed_at plan_replaced plan_late opened_by opened_for opening_key model untouched "
    "skipped not_compared upstream_run_ids checkpoint_sha256 continued_by_code_version"
)
TAGS = (*(f"kmed.{name}" for name in _TAGS.split()), VERIFIED_TAG)
_TEXT_TAGS = ("kmed.skipped", "kmed.not_compared")
_MODEL = re.compile(r"(tiny|base|small)(, (untouched|seed \d+))?|models:/kmed-whisper-[a-z]+[/@]\w+")
_NAME = re.compile(r"(bench|train|hpo|trial|split|report|opening|confirm)(-[a-z0-9.]{1,20}){0,4}")
_POINTS = 1000
_GROUP_METRIC = re.compile(rf"(?:.*/)?cer/({'|'.join(SCORE_FIELDS)})/(.+)")


def describe_runs(uri: str, run_ids: Iterable[str], hidden: Hidden, minimum: int) -> tuple[list[RunRecord], int]:
    """Return the records of runs and of what belongs to them, and the number of groups left out for their size.

    Parameters
    ----------
    run_ids : iterable of str
        Benchmarks with their trainings, reports and openings; trainings; studies with their trials.
    hidden : mapping
        What is hidden of the corpus and the split; see `scoring.suppression.hidden_in_corpus`.
    minimum : int
        Fewest speakers of a group that is shown.

    Raises
    ------
    KmedError
        When a run is unknown, is of another program, or has not ended.
    """
    client = MlflowClient(tracking_uri=uri)
    records, left_out = [], 0
    for run in _gather(client, run_ids):
        record, n = _describe(client, run, hidden, minimum)
        records.append(record)
        left_out += n
    return records, left_out


def _gather(client: MlflowClient, run_ids: Iterable[str]) -> list[Run]:
    """Return the named runs with their children, the trainings of their series and the openings of their test parts.

    Parents come before their children.
    """
    found: dict[str, Run] = {}
    for run_id in run_ids:
        run = _named(client, run_id)
        members = [run, *search_runs(client, f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{run_id}'")[::-1]]
        if run.data.tags["kmed.kind"] == "bench":
            record = read_bench(str(client.tracking_uri), run_id)
            known = {member.info.run_id for member in members}
            members += [client.get_run(train.run_id) for train in record.trains if train.run_id not in known]
            members += [client.get_run(opening.run_id) for opening in record.openings if opening.settings]
        found |= {member.info.run_id: member for member in members}
    return list(found.values())


def _named(client: MlflowClient, run_id: str) -> Run:
    run = find_run(client, run_id)
    if run is None:
        raise KmedError(
            f"Run {run_id!r} is not in the tracking store, or its server does not show it to this user; "
            "`kmed-bench report` names the latest."
        )
    if "kmed.kind" not in run.data.tags:
        raise KmedError(f"Run {run_id} is of another program: it has no tag kmed.kind; name a run of kmed-bench.")
    if run.info.status == "RUNNING":
        raise KmedError(f"Run {run_id} is still RUNNING; bundle it when it has ended.")
    return run


def _describe(client: MlflowClient, run: Run, hidden: Hidden, minimum: int) -> tuple[RunRecord, int]:
    artifacts: dict[str, Any] = {}
    left_out, of_cells = 0, set[str]()
    shown: dict[str, Mapping[str, Any]] = {}
    for name in ("scores.json", "scores_untouched.json"):
        if (scores := read_artifact(client, run, name, SCORES)) is not None:
            artifacts[name], n = without_small_groups(scores, minimum)
            left_out += n
            shown[name] = artifacts[name]["groups"]
    if (quality := read_artifact(client, run, "quality.json", QUALITY)) is not None:
        artifacts["quality.json"] = without_small_counts(quality, hidden, minimum)
    if (split := read_artifact(client, run, "split.json", SPLIT)) is not None:
        artifacts["split.json"] = without_small_shares(split, hidden)
    if (leak := read_artifact(client, run, "leak.json", LEAK)) is not None:
        artifacts["leak.json"] = without_small_cells(leak, minimum)
        of_cells = set(leak_metrics(artifacts["leak.json"]))
    if (compared := read_artifact(client, run, "comparisons.json", COMPARISONS)) is not None:
        rows = {key: rows_of_shown(cast(Any, compared.get(key, ())), hidden, minimum) for key in ("gaps", "benefits")}
        artifacts["comparisons.json"] = {**compared, **rows}
    if (plan := read_artifact(client, run, PLAN_FILE, PLAN)) is not None:
        artifacts[PLAN_FILE] = {**plan, "settings": _params(plan["settings"])}
    tags = {name: _tag(name, run.data.tags[name]) for name in TAGS if name in run.data.tags}
    if run.data.tags.get("kmed.kind") == "opening" and PLAN_TAG in tags:
        # The settings that the plan's digest is of stay in part, so what it shows is written down before.
        tags[VERIFIED_TAG] = str(hash_settings(run.data.params) == tags[PLAN_TAG]).lower()
    record: RunRecord = {
        "id": run.info.run_id,
        "parent": run.data.tags.get(MLFLOW_PARENT_RUN_ID, ""),
        "name": run.info.run_name if _NAME.fullmatch(run.info.run_name or "") else tags.get("kmed.kind", "run"),
        "status": run.info.status,
        "start_ms": run.info.start_time,
        "end_ms": run.info.end_time or run.info.start_time,
        "params": _params(run.data.params),
        "tags": tags,
        "metrics": {
            name: [
                (point.step, None if math.isnan(point.value) else point.value, point.timestamp)
                for point in client.get_metric_history(run.info.run_id, name)
            ]
            for name in run.data.metrics
            if (name in of_cells if name.startswith("leak/") else _may_show(name, shown, hidden))
        },
        "artifacts": artifacts,
    }
    return record, left_out


def _params(params: Mapping[str, str]) -> dict[str, str]:
    known = {*setting_keys(), *_OTHER_PARAMS}
    return {
        key: value
        for key, value in params.items()
        if (key in known or re.fullmatch(r"weights\.\w+|split\.\w+|\w+_version", key))
        and key not in _STAYS
        and not key.startswith(_STAYS_ALL)
    }


def _tag(name: str, value: str) -> str:
    if name in _TEXT_TAGS:
        return without_speech(value)
    if name == "kmed.model" and not _MODEL.fullmatch(value):
        return "a model"  # the name of a user's file
    return value


def _may_show(metric: str, shown: Mapping[str, Mapping[str, Any]], hidden: Hidden) -> bool:
    """Tell whether a metric is of no group, or of one that the run's scores still show."""
    if metric == MAX_SHARE_DEVIATION:
        return not any(hidden.values())
    found = _GROUP_METRIC.fullmatch(metric)
    if found is None:
        return True
    name = "scores_untouched.json" if metric.startswith("untouched/") else "scores.json"
    return found[2] in {ascii_value(value) for value in shown.get(name, {}).get(found[1], {})}


def restore(
    uri: str, experiment: str, records: Sequence[RunRecord], fill: Callable[[str, Path], None] | None = None
) -> tuple[dict[str, str], int]:
    """Write records as runs; return each record's id with its run's id, and how many runs are new.

    A run is known by the id that it had where it was made. One that an interrupted attempt left without its end is
    deleted and written again.

    Parameters
    ----------
    fill : callable, optional
        Called with a record's id and an empty folder, whose files become artifacts.
    """
    client = MlflowClient(tracking_uri=uri)
    key = experiment_id(client, uri, experiment)
    made: dict[str, str] = {}
    new = 0
    for record in records:
        present = _present(client, record["id"])
        if present is not None:
            made[record["id"]] = present
            continue
        made[record["id"]] = _write(client, key, record, made, fill)
        new += 1
    return made, new


def add_file(uri: str, run_id: str, name: str, content: bytes) -> None:
    """Add a file, named by its path, to a run that does not have it."""
    client, path = MlflowClient(tracking_uri=uri), PurePosixPath(name)
    if name in (file.path for file in client.list_artifacts(run_id, str(path.parent))):
        return
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / path.name
        local.write_bytes(content)
        client.log_artifact(run_id, str(local), str(path.parent))


def _present(client: MlflowClient, origin: str) -> str | None:
    """Return the run that stands for a bundled one: itself in its own store, or a complete copy."""
    copies = search_runs(client, f"tags.`{ORIGIN_TAG}` = '{origin}'")
    for copy in copies:
        if copy.info.status != RunStatus.to_string(RunStatus.RUNNING):
            return str(copy.info.run_id)
        client.delete_run(copy.info.run_id)
    return origin if find_run(client, origin) else None


def _write(
    client: MlflowClient,
    experiment: str,
    record: RunRecord,
    made: Mapping[str, str],
    fill: Callable[[str, Path], None] | None,
) -> str:
    tags = {name: value for name, value in record["tags"].items() if name in TAGS} | {ORIGIN_TAG: record["id"]}
    if (keeper := tags.get("kmed.opened_for", "")) in made:
        tags["kmed.opened_for"] = made[keeper]
    if record["parent"] in made:
        tags[MLFLOW_PARENT_RUN_ID] = made[record["parent"]]
    tags[MLFLOW_RUN_NOTE] = f"Brought by a bundle; run `{record['id']}` where it was made."
    run = client.create_run(experiment, start_time=record["start_ms"], tags=tags, run_name=record["name"])
    run_id = str(run.info.run_id)
    client.log_batch(run_id, params=[Param(name, value) for name, value in record["params"].items()])
    points = [
        Metric(name, math.nan if value is None else value, int(time_ms), int(step))
        for name, series in record["metrics"].items()
        for step, value, time_ms in series
    ]
    for first in range(0, len(points), _POINTS):
        client.log_batch(run_id, metrics=points[first : first + _POINTS])
    for name, content in record["artifacts"].items():
        client.log_text(run_id, json.dumps(content, ensure_ascii=False, indent=2) + "\n", name)
    if fill is not None:
        with tempfile.TemporaryDirectory() as folder:
            fill(record["id"], Path(folder))
            client.log_artifacts(run_id, folder)
    client.set_terminated(run_id, record["status"], record["end_ms"])
    return run_id

"""How often a test part was opened, by any benchmark and command that the store knows; nothing here writes."""

from mlflow.entities import Run, ViewType
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from kmed_bench.core.records import Opening
from kmed_bench.tracking.store import search_runs

PLAN_TAG = "kmed.plan_sha256"
VERIFIED_TAG = "kmed.plan_verified"
"""Of a record that a bundle brought: whether its settings were those of its plan where it was made."""


def read_openings(uri: str, split_sha256: str) -> tuple[Opening, ...]:
    """Return all openings of a split's test part that the store knows, the first one first; none without a hash.

    Deleted records count. Trainings of earlier releases left no record; each counts as an opening without a plan.
    """
    if not split_sha256:
        return ()
    client = MlflowClient(tracking_uri=uri)
    split = f"tags.`kmed.split_sha256` = '{split_sha256}'"
    records = search_runs(client, f"tags.`kmed.kind` = 'opening' and {split}", view=ViewType.ALL)
    by_key: dict[str, Run] = {}
    for run in records:  # the latest first, so the earliest of equals stays
        by_key[run.data.tags.get("kmed.opening_key") or run.info.run_id] = run
    recorded = {(run.data.tags.get("kmed.opened_for"), run.data.tags.get("kmed.model")) for run in records}
    tested = search_runs(client, f"tags.`kmed.kind` = 'train' and {split} and metrics.`test/cer` >= 0")
    older = [run for run in tested if (_keeper(run), _name_training(run)) not in recorded]
    found = [_opening(run) for run in [*by_key.values(), *older]]
    return tuple(sorted(found, key=lambda opening: (opening.opened_ms, opening.run_id)))


def _keeper(train: Run) -> str:
    """Return the id of the run that keeps a training's plan: its benchmark, or itself."""
    return str(train.data.tags.get(MLFLOW_PARENT_RUN_ID, train.info.run_id))


def _name_training(train: Run) -> str:
    return f"{train.data.tags.get('kmed.size', '')}, seed {train.data.tags.get('kmed.seed', '')}"


def _opening(run: Run) -> Opening:
    tags = run.data.tags
    recorded = tags.get("kmed.kind") == "opening"
    return Opening(
        opened_ms=run.info.start_time if recorded else run.info.end_time or run.info.start_time,
        command=tags.get("kmed.opened_by", "train"),
        model=tags.get("kmed.model", "") if recorded else _name_training(run),
        untouched=tags.get("kmed.untouched") == "true",
        plan_sha256=tags.get(PLAN_TAG, "") if recorded else "",
        run_id=run.info.run_id,
        settings=dict(run.data.params) if recorded else {},
        verified={"true": True, "false": False}.get(tags.get(VERIFIED_TAG, "")),
    )

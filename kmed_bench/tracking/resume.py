"""Benchmarks that can be continued, found in the store by the settings that decide their results, not by paths."""

import dataclasses

from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from kmed_bench.config import Config, benchmark_digest
from kmed_bench.core.errors import KmedError
from kmed_bench.core.slurm_jobs import split_job_name
from kmed_bench.tracking.processes import PROCESS_TAG, is_gone
from kmed_bench.tracking.store import search_runs

HASH_TAG = "kmed.config_hash"
ONLY_TAG = "kmed.only"
"""The trainings of its plan that a `run` was limited to, as ``base:0,base:1``."""
FINISHED = "FINISHED"


@dataclasses.dataclass(frozen=True)
class EarlierRun:
    """A child of an earlier benchmark; size and seed of a training, else empty."""

    run_id: str
    status: str
    size: str = ""
    seed: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EarlierBench:
    """A benchmark with the same settings in the store.

    Attributes
    ----------
    code_version, split_sha256 : str
        Tags of its run; empty if it did not get that far.
    trains : dict
        `HASH_TAG` of a training to its run.
    stages : dict
        ``split`` and ``report`` to their runs.
    """

    run_id: str
    name: str
    status: str
    profile: str
    code_version: str
    split_sha256: str
    trains: dict[str, EarlierRun]
    stages: dict[str, EarlierRun]

    @property
    def n_finished(self) -> int:
        """Number of finished trainings."""
        return sum(run.status == FINISHED for run in self.trains.values())


def find_bench(config: Config, uri: str, only: str = "") -> EarlierBench | None:
    """Return the latest unfinished benchmark of the same settings, else the latest finished one, else None.

    Parameters
    ----------
    only : str
        Its `ONLY_TAG`: parts of one benchmark do not continue each other. Empty: a whole benchmark.
    """
    client = MlflowClient(tracking_uri=uri)
    benches = search_runs(client, f"tags.`kmed.kind` = 'bench' and tags.`{HASH_TAG}` = '{benchmark_digest(config)}'")
    benches = [run for run in benches if run.data.tags.get(ONLY_TAG, "") == only]
    chosen = next((run for run in benches if run.info.status != FINISHED), benches[0] if benches else None)
    return None if chosen is None else _describe(client, chosen)


def read_earlier(uri: str, run_id: str) -> EarlierBench:
    """Return what a benchmark has by now, of whatever status."""
    client = MlflowClient(tracking_uri=uri)
    return _describe(client, client.get_run(run_id))


def check_ended(bench: EarlierBench, uri: str) -> None:
    """Raise KmedError if a benchmark may still be running, here or on another machine."""
    if bench.status != "RUNNING":
        return
    process = MlflowClient(tracking_uri=uri).get_run(bench.run_id).data.tags.get(PROCESS_TAG, "")
    if is_gone(process):
        return
    if job := split_job_name(process):
        raise KmedError(
            f"{bench.name} ({bench.run_id}) is marked RUNNING and belongs to Slurm's job {job[1]}, which has not "
            "ended, or whose cluster can't be asked here. Wait for it, or cancel it with scancel, and continue again."
        )
    raise KmedError(
        f"{bench.name} ({bench.run_id}) is marked RUNNING, and its process is alive, or belongs to another machine "
        "or container and can't be checked. Wait for it; if it is gone, mark it with `python -c \"import mlflow; "
        f"mlflow.MlflowClient('STORE').set_terminated('{bench.run_id}', 'KILLED')\"` and continue again."
    )


def _describe(client: MlflowClient, run: Run) -> EarlierBench:
    trains: dict[str, EarlierRun] = {}
    stages: dict[str, EarlierRun] = {}
    children = search_runs(client, f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{run.info.run_id}'")
    for child in reversed(children):  # the latest of several wins, unless one is finished
        kind = child.data.tags.get("kmed.kind", "")
        group, key = (trains, child.data.tags.get(HASH_TAG, "")) if kind == "train" else (stages, kind)
        if key and not (key in group and group[key].status == FINISHED):
            about = (child.data.tags.get(f"kmed.{name}", "") for name in ("size", "seed"))
            group[key] = EarlierRun(child.info.run_id, child.info.status, *about)
    tags = run.data.tags
    return EarlierBench(
        run_id=run.info.run_id,
        name=run.info.run_name,
        status=run.info.status,
        profile=tags.get("kmed.profile", ""),
        code_version=tags.get("kmed.code_version", ""),
        split_sha256=tags.get("kmed.split_sha256", ""),
        trains=trains,
        stages=stages,
    )

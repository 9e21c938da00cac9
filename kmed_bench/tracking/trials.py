"""A study and its trials in MLflow: one parent run however many processes join, no trial left RUNNING."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

from mlflow.entities import Run, RunStatus
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from kmed_bench.config import Config, flatten, to_yaml
from kmed_bench.tracking.processes import PROCESS_TAG, is_gone, terminable
from kmed_bench.tracking.runs import ParentRun, TrackedRun, shareable
from kmed_bench.tracking.store import experiment_id

_RUNNING = RunStatus.to_string(RunStatus.RUNNING)
_FAILED = RunStatus.to_string(RunStatus.FAILED)


def open_study_run(
    config: Config, uri: str, *, name: str, known: str | None, tags: Mapping[str, str]
) -> tuple[ParentRun, bool]:
    """Return the parent run of a study, RUNNING, and whether it was made just now.

    It belongs to no process, so that it outlives whichever made it: nothing of MLflow's active run is touched.

    Parameters
    ----------
    known : str, optional
        Its id where the study has one already; a run that is gone from the store is replaced.
    """
    client = MlflowClient(tracking_uri=uri)
    if known is not None:
        with contextlib.suppress(MlflowException):
            found = client.get_run(known)
            if found.info.lifecycle_stage == "active":
                if found.info.status != _RUNNING:
                    client.update_run(known, status=_RUNNING)
                return ParentRun(client, known, found.info.experiment_id), False
    experiment = experiment_id(client, uri, config.tune.experiment)
    made = client.create_run(experiment, run_name=f"hpo-{name}", tags={"kmed.kind": "study", "kmed.study": name})
    run = ParentRun(client, made.info.run_id, experiment)
    shown = shareable(config)
    run.set_tags(tags)
    run.log_params(flatten(shown))
    client.log_text(run.run_id, to_yaml(shown), "config.yaml")
    return run, True


def trial_params(config: Config) -> dict[str, Any]:
    """Return what a trial's run logs as params: everything but the search itself, which its parent holds."""
    return {key: value for key, value in flatten(shareable(config)).items() if not key.startswith("tune.")}


def end_study(run: ParentRun, *, complete: bool) -> None:
    """End the parent: FINISHED, or KILLED when trials are left and nobody works on them."""
    status = RunStatus.FINISHED if complete else RunStatus.KILLED
    MlflowClient(tracking_uri=run.uri).set_terminated(run.run_id, RunStatus.to_string(status))


def close_lost(uri: str, run_id: str, reason: str) -> None:
    """Mark a trial's run FAILED because its process is gone or was interrupted, whatever it says now."""
    client = MlflowClient(tracking_uri=uri)
    with contextlib.suppress(MlflowException):  # someone may have deleted it
        client.set_tag(run_id, "kmed.ended", reason)
        client.set_terminated(run_id, _FAILED)


def close_orphans(uri: str, parent: str) -> None:
    """Mark runs of a study FAILED that died before their trial knew of them."""
    for kind in ("trial", "confirm"):
        for run in read_trial_runs(uri, parent, kind):
            if run.info.status == _RUNNING and is_gone(run.data.tags.get(PROCESS_TAG, "")):
                close_lost(uri, run.info.run_id, "its process was gone")


def link_retry(uri: str, lost: str, retry: TrackedRun) -> None:
    """Let a lost trial's run and the run that repeats it name one another."""
    retry.set_tags({"kmed.retry_of": lost})
    with contextlib.suppress(MlflowException):
        MlflowClient(tracking_uri=uri).set_tag(lost, "kmed.retried_as", retry.run_id)


def read_trial_runs(uri: str, parent: str, kind: str = "trial") -> list[Run]:
    """Return the runs of a study's trials, oldest first."""
    client = MlflowClient(tracking_uri=uri)
    wanted = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent}' and tags.`kmed.kind` = '{kind}'"
    experiment = client.get_run(parent).info.experiment_id
    found: list[Run] = []
    token: str | None = None
    while True:
        page = client.search_runs([experiment], wanted, max_results=1_000, page_token=token)
        found += page
        token = page.token
        if not token:
            return sorted(found, key=lambda run: int(run.info.start_time))


@contextlib.contextmanager
def study_process(parent: ParentRun) -> Iterator[None]:
    """Work on a study: SIGTERM interrupts, and the run that ``mlflow run`` made for this process points to the study.

    That run can't be the study's parent: MLflow ends it with this process, while others may still work.
    """
    with terminable():
        own_id = os.environ.pop("MLFLOW_RUN_ID", None)
        if not own_id:
            yield
            return
        client = MlflowClient(tracking_uri=parent.uri)
        own, status = TrackedRun(client, own_id), RunStatus.FAILED
        try:  # not made the active run: MLflow refuses children of any other run than the active one
            own.set_tags({"kmed.kind": "worker", "kmed.study_run_id": parent.run_id})
            own.set_note(f"Worked on a tuning study; its trials are under run `{parent.run_id}`.\n")
            yield
            status = RunStatus.FINISHED
        except KeyboardInterrupt:
            status = RunStatus.KILLED
            raise
        finally:
            client.set_terminated(own_id, RunStatus.to_string(status))

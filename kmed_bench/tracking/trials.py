"""A study and its trials in MLflow: one parent run however many processes join, and no trial left RUNNING."""

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

from mlflow.entities import Run, RunStatus
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from kmed_bench.config import Config, flatten, to_yaml
from kmed_bench.core.surroundings import sigterm_interrupts
from kmed_bench.tracking.endings import FAILURE_TAG, ending
from kmed_bench.tracking.own_run import own_run_id
from kmed_bench.tracking.params import shareable
from kmed_bench.tracking.processes import PROCESS_TAG, is_gone, owner_tag, this_process
from kmed_bench.tracking.run import TrackedRun, start_run
from kmed_bench.tracking.store import experiment_id, search_runs

_NOTE = (
    "One `hpo-…` run for each study of `kmed-bench tune`, with a `trial-…` for each trial below it. Trials are "
    "compared by the lowest `valid/cer`; none sees the test part. `run --from-study NAME` benchmarks the best.\n"
)
_RUNNING = RunStatus.to_string(RunStatus.RUNNING)
_FAILED = RunStatus.to_string(RunStatus.FAILED)
log = logging.getLogger(__name__)


def open_study_run(
    config: Config, uri: str, *, name: str, run_id: str | None, tags: Mapping[str, str]
) -> tuple[TrackedRun, bool]:
    """Return the parent run of a study, RUNNING, and whether it was created by this call.

    It may outlive the process that created it, so each process that joins is one of its owners.

    Parameters
    ----------
    run_id : str, optional
        The study's run if it has one; a run that was deleted from the store is replaced by a new one.
    """
    client = MlflowClient(tracking_uri=uri)
    if run_id is not None:
        with contextlib.suppress(MlflowException):
            info = client.get_run(run_id).info
            if info.lifecycle_stage == "active":
                study = TrackedRun(client, run_id)
                study.set_tags(owner_tag())
                if info.status != _RUNNING:
                    client.update_run(run_id, status=_RUNNING)
                return study, False
    named = os.environ.get("MLFLOW_EXPERIMENT_NAME", "")
    if named not in ("", config.tune.experiment):
        log.warning(
            "MLFLOW_EXPERIMENT_NAME=%s is for benchmarks; the study goes to %s (tune.experiment).",
            named,
            config.tune.experiment,
        )
    experiment = experiment_id(client, uri, config.tune.experiment, _NOTE)
    run = start_run(client, experiment, f"hpo-{name}", {"kmed.kind": "study", "kmed.study": name})
    shown = shareable(config)
    run.set_tags(tags)
    run.log_params(flatten(shown))
    client.log_text(run.run_id, to_yaml(shown), "config.yaml")
    return run, True


def trial_params(config: Config) -> dict[str, Any]:
    """Return the params of a trial's run: all settings except the search's own, which the parent run has."""
    return {key: value for key, value in flatten(shareable(config)).items() if not key.startswith("tune.")}


def end_study(run: TrackedRun, *, complete: bool, reason: str | None = None) -> None:
    """End the parent run: FINISHED, or KILLED, for this reason, if trials are left and no process works on them."""
    status = RunStatus.FINISHED if complete else RunStatus.KILLED
    if reason is not None and not complete:
        run.set_tags({"kmed.ended": reason})
    elif "kmed.ended" in run.client.get_run(run.run_id).data.tags:  # of an earlier end
        run.client.delete_tag(run.run_id, "kmed.ended")
    run.client.set_terminated(run.run_id, RunStatus.to_string(status))


def close_lost(client: MlflowClient, run_id: str, reason: str) -> None:
    """Mark a trial's run as FAILED, whatever its status, because its process is gone or was interrupted."""
    with contextlib.suppress(MlflowException):  # the run may have been deleted
        client.set_tag(run_id, "kmed.ended", reason)
        client.set_tag(run_id, FAILURE_TAG, reason)
        client.set_terminated(run_id, _FAILED)


def close_orphans(study: TrackedRun) -> None:
    """Mark a study's runs as FAILED whose process died before the trial recorded the run's id."""
    for kind in ("trial", "confirm"):
        for run in read_trial_runs(study.client, study.run_id, kind):
            if run.info.status == _RUNNING and is_gone(run.data.tags.get(PROCESS_TAG, "")):
                close_lost(study.client, run.info.run_id, "its process was gone")


def link_retry(lost_id: str, retry: TrackedRun) -> None:
    """Tag a lost trial's run and the run that repeats it with each other's ids."""
    retry.set_tags({"kmed.retry_of": lost_id})
    with contextlib.suppress(MlflowException):
        retry.client.set_tag(lost_id, "kmed.retried_as", retry.run_id)


def read_trial_runs(client: MlflowClient, parent_id: str, kind: str = "trial") -> list[Run]:
    """Return the runs of a study's trials, oldest first."""
    query = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent_id}' and tags.`kmed.kind` = '{kind}'"
    return sorted(search_runs(client, query), key=lambda run: int(run.info.start_time))


@contextlib.contextmanager
def study_process(study: TrackedRun) -> Iterator[None]:
    """Run the block as one process of a study: SIGTERM interrupts, and the run of ``mlflow run`` points to the study.

    That run can't be the study's parent: MLflow ends it with this process, while others may still be at work.
    """
    with sigterm_interrupts(), own_run_id(study.client) as own_id:
        if own_id is None:
            yield
            return
        own = TrackedRun(study.client, own_id)
        with ending(own):
            own.set_tags({"kmed.kind": "worker", PROCESS_TAG: this_process(), "kmed.study_run_id": study.run_id})
            own.set_note(f"Worked on a tuning study; its trials are under run `{study.run_id}`.\n")
            yield

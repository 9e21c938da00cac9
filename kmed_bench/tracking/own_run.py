"""The run that ``mlflow run`` made for this process, named by MLFLOW_RUN_ID, and which run may be taken for it."""

import contextlib
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

from mlflow.entities import LifecycleStage, Run, RunStatus
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PROJECT_ENTRY_POINT, MLFLOW_SOURCE_NAME

from kmed_bench.core.callers_folder import OWN_RUN, project_folder
from kmed_bench.tracking.origin import hide_origin
from kmed_bench.tracking.processes import PROCESS_TAG
from kmed_bench.tracking.refusals import refused
from kmed_bench.tracking.waiting import store_error

_PROJECT = re.compile(r"^name:\s*['\"]?kmed-bench\b", re.MULTILINE)
log = logging.getLogger(__name__)


@contextlib.contextmanager
def own_run_id(client: MlflowClient) -> Iterator[str | None]:
    """Yield the id of the run that ``mlflow run`` made for this process, or None; MLFLOW_RUN_ID is unset meanwhile.

    Otherwise programs that this process starts would take that run for theirs, and log into it and end it. A run that
    has ended or is another program's is left alone, with a warning: the variable is a leftover then.
    """
    run_id = os.environ.pop(OWN_RUN, None)
    try:
        reason = refuse_run(client, run_id) if run_id else None
        if reason is not None:
            log.warning("%s=%s is ignored: %s. Unset it; a run of its own is used.", OWN_RUN, run_id, reason)
        elif run_id:
            hide_origin(client, run_id)
        yield None if reason is not None else run_id or None
    finally:
        if run_id is not None:
            os.environ[OWN_RUN] = run_id


def refuse_run(client: MlflowClient, run_id: str) -> str | None:
    """Return why a run is not one that ``mlflow run`` just made for this project; None if it is."""
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if store_error(error) is not None or refused(error) is not None:
            raise
        return "the store has no such run"
    tags = run.data.tags
    if run.info.lifecycle_stage != LifecycleStage.ACTIVE:
        return "that run was deleted"
    if run.info.status != RunStatus.to_string(RunStatus.RUNNING):
        return f"that run is {run.info.status}, not RUNNING"
    if PROCESS_TAG in tags:
        return "another process of kmed-bench writes that run"
    if MLFLOW_PROJECT_ENTRY_POINT not in tags or not _is_ours(run):
        return "that run was not made by `mlflow run` for kmed-bench"
    return None


def has_random_name(run: Run) -> bool:
    """Return whether MLflow made up a run's name, such as nervous-fox-12, rather than a person."""
    return not run.info.run_name or re.fullmatch(r"[a-z]+-[a-z]+-\d+", run.info.run_name) is not None


def _is_ours(run: Run) -> bool:
    """Return whether no MLproject file says otherwise: that of the run's local source, or of the project's folder.

    ``mlflow run`` starts its command in the project's folder, also for a source that is a repository's address.
    """
    source = run.data.tags.get(MLFLOW_SOURCE_NAME, "").removeprefix("file://").partition("#")[0]
    for folder in (Path(source), project_folder()) if source.startswith("/") else (project_folder(),):
        with contextlib.suppress(OSError, ValueError):
            return _PROJECT.search((folder / "MLproject").read_text(encoding="utf-8")) is not None
    return True

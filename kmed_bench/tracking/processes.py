"""Which process a run belongs to, and how runs end when their process is terminated or killed.

Each run is tagged with its machine (hashed), process id and process start time. From these another process can tell
that the writer is gone, and end the runs that a killed process left RUNNING.
"""

import contextlib
import os
from collections.abc import Iterator

import psutil
from mlflow.entities import RunStatus
from mlflow.tracking import MlflowClient

from kmed_bench.core.surroundings import machine

PROCESS_TAG = "kmed.process"
_OWN_RUN = "MLFLOW_RUN_ID"
_SAME_START_S = 2.0


def this_process() -> str:
    """Return the value of `PROCESS_TAG` for runs that this process writes."""
    return f"{machine()}:{os.getpid()}:{psutil.Process().create_time():.0f}"


def is_gone(process: str) -> bool:
    """Return whether a tagged process has certainly ended; False for processes of other machines."""
    host, _, rest = process.partition(":")
    pid, _, started_s = rest.partition(":")
    if host != machine() or not pid.isdigit() or not started_s.isdigit():
        return False
    try:
        current = psutil.Process(int(pid))
        if current.status() == psutil.STATUS_ZOMBIE:  # killed, and not yet reaped by its parent
            return True
        return bool(abs(current.create_time() - float(started_s)) > _SAME_START_S)
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False


def end_abandoned(client: MlflowClient, experiment_id: str) -> list[str]:
    """Mark RUNNING runs of processes that are gone as KILLED and return their ids."""
    running = client.search_runs([experiment_id], "attributes.status = 'RUNNING'", max_results=1_000)
    abandoned = [run.info.run_id for run in running if is_gone(run.data.tags.get(PROCESS_TAG, ""))]
    for run_id in abandoned:
        client.set_tag(run_id, "kmed.ended", "its process was gone; a later run noticed")
        client.set_terminated(run_id, RunStatus.to_string(RunStatus.KILLED))
    return abandoned


@contextlib.contextmanager
def own_run_id() -> Iterator[str | None]:
    """Yield the id of the run that ``mlflow run`` made for this process, or None; MLFLOW_RUN_ID is unset meanwhile.

    Otherwise programs that this process starts would take that run for theirs, and log into it and end it.
    """
    run_id = os.environ.pop(_OWN_RUN, None)
    try:
        yield run_id or None
    finally:
        if run_id is not None:
            os.environ[_OWN_RUN] = run_id

"""Calls of an entry point of this project by ``mlflow run``, for a backend that starts them elsewhere."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import RunStatus, RunTag
from mlflow.projects.utils import (
    fetch_and_validate_project,
    get_entry_point_command,
    get_or_create_run,
    get_run_env_vars,
    load_project,
)
from mlflow.tracking import MlflowClient

from kmed_bench.core.callers_folder import OWN_RUN
from kmed_bench.core.errors import KmedError
from kmed_bench.tracking.endings import FAILURE_TAG
from kmed_bench.tracking.origin import hide_origin
from kmed_bench.tracking.processes import owner_tag


@dataclasses.dataclass(frozen=True)
class ProjectCall:
    """An entry point that ``mlflow run`` was asked for, and the run that was made for it.

    Attributes
    ----------
    folder : Path
        The project's.
    command : str
        The shell's command of the entry point.
    environment : dict
        What MLflow would add to the command's environment, without the run.
    """

    run_id: str
    folder: Path
    command: str
    environment: dict[str, str]


def begin_call(
    uri: str,
    entry_point: str,
    version: str | None,
    params: Mapping[str, Any],
    added: Mapping[str, Any],
    experiment: str,
) -> ProjectCall:
    """Make the run of a call, which is RUNNING, and return its command.

    Parameters
    ----------
    params, added : mapping
        Parameters of the entry point: those that the user gave, which the run shows, and those of the backend.

    Raises
    ------
    KmedError
        When the project is not a local folder: the nodes of a cluster would not find a clone in a temporary one.
    """
    if not Path(uri.removeprefix("file://")).is_dir():
        raise KmedError(
            f"The project {uri} is not a folder here; clone it into one that all nodes see, and give that folder."
        )
    folder = fetch_and_validate_project(uri, version, entry_point, params)  # type: ignore[no-untyped-call]
    run = get_or_create_run(None, uri, experiment, folder, version, entry_point, params)  # type: ignore[no-untyped-call]
    hide_origin(MlflowClient(), run.info.run_id)
    project = load_project(folder)  # type: ignore[no-untyped-call]
    (command,) = get_entry_point_command(project, entry_point, {**params, **added}, None)  # type: ignore[no-untyped-call]
    environment = get_run_env_vars(run.info.run_id, experiment)  # type: ignore[no-untyped-call]
    environment.pop(OWN_RUN)
    return ProjectCall(run.info.run_id, Path(folder), command, environment)


def give_call(run_id: str, owner: str) -> None:
    """Say which Slurm job the run of a call belongs to, so that a later run in the store ends it if the job is lost."""
    MlflowClient().log_batch(run_id, tags=[RunTag(name, value) for name, value in owner_tag(owner).items()])


def end_call(run_id: str, status: str, reason: str) -> None:
    """End the run of a call that will not end by itself, with the reason; one that has ended stays as it is.

    Of what kind it is, is said if no job has said it yet.

    Parameters
    ----------
    status : str
        FAILED or KILLED.
    """
    client = MlflowClient()
    run = client.get_run(run_id)
    if not RunStatus.is_terminated(RunStatus.from_string(run.info.status)):
        client.set_tag(run_id, "kmed.kind", run.data.tags.get("kmed.kind", "call"))
        client.set_tag(run_id, FAILURE_TAG if status == "FAILED" else "kmed.ended", reason)
        client.set_terminated(run_id, status)

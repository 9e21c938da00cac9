"""The backend `kmed-slurm` of `mlflow run`: the project's main jobs, submitted to Slurm.

MLflow finds it by the entry point of the group ``mlflow.project_backend``. `mlflow run` submits and returns;
`mlflow.projects.run(…, synchronous=True)` waits.
"""

import contextlib
import dataclasses
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kmed_bench.config.slurm import SlurmConfig
from kmed_bench.core.errors import KmedError
from kmed_bench.core.slurm_contract import JOBS
from kmed_bench.core.slurm_jobs import OVER, cancel_jobs, cluster_name, describe_end, job_name, job_states
from kmed_bench.pipeline.launch.slurm import FOLDER_SAID, JOBS_FILE, PROJECT_RUN, read_status
from kmed_bench.pipeline.launch.slurm_scripts import LAST
from kmed_bench.tracking.privacy import describe_failure
from kmed_bench.tracking.project_runs import begin_call, end_call, give_call

log = logging.getLogger(__name__)
ENTRY_POINTS = ("main", "tune", "evaluate")
_LOOK_AGAIN_S = 5.0
_AWAY_S = 900.0
"""How long Slurm's controller may give no answer while a run is waited for."""
_ENDED = ("FINISHED", "FAILED", "KILLED")


class SlurmBackend:
    """What MLflow calls a backend; its base class says nothing more (mlflow.projects.backend.abstract_backend)."""

    def run(
        self,
        project_uri: str,
        entry_point: str,
        params: Mapping[str, Any],
        version: str | None,
        backend_config: Mapping[str, Any],
        tracking_uri: str,  # noqa: ARG002 (the global one, which begin_call takes)
        experiment_id: str,
    ) -> "SlurmRun":
        """Submit the jobs of an entry point, and return the run that stands for them.

        Parameters
        ----------
        backend_config : mapping
            Settings of the group slurm without its name, such as ``{"partition": "gpu", "gpus": 1}``; MLflow adds
            its own keys.

        Raises
        ------
        KmedError
            For another entry point, environment manager or setting, and when nothing could be submitted.
        """
        if entry_point not in ENTRY_POINTS:
            raise KmedError(
                f"The backend kmed-slurm runs {', '.join(ENTRY_POINTS)}, and was asked for {entry_point!r}; leave "
                "--backend out for the others."
            )
        if (manager := backend_config.get("ENV_MANAGER")) not in (None, "local"):
            raise KmedError(
                f"--env-manager is {manager!r}, and Slurm's jobs run in this environment, or in the one that the "
                "setting `setup` activates; use local, or leave it out."
            )
        added = {"launcher": "slurm", **_settings(backend_config)}
        call = begin_call(project_uri, entry_point, version, params or {}, added, experiment_id)
        try:
            folder = _submit(call.command, call.environment, call.folder, call.run_id)
        except BaseException as error:
            end_call(call.run_id, "FAILED", f"nothing was submitted: {describe_failure(error)}")
            raise
        submitted = SlurmRun(call.run_id, folder)
        with contextlib.suppress(KmedError):  # the jobs are there, even if the controller is not right now
            give_call(call.run_id, submitted.owner)
        return submitted


def _settings(backend_config: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(SlurmConfig)}
    own = {name: value for name, value in backend_config.items() if name.islower() and not name.startswith("build_")}
    own = {name: value for name, value in own.items() if not name.startswith("docker_")}
    if unknown := sorted(own.keys() - names):
        raise KmedError(
            f"The backend's configuration has {', '.join(unknown)}, which kmed-slurm does not know; its settings are "
            f"{', '.join(sorted(names))}."
        )
    return {f"slurm.{name}": "none" if value is None else value for name, value in own.items()}


def _submit(command: str, environment: Mapping[str, str], project: Path, run_id: str) -> Path:
    """Run the command, which submits, in the caller's folder, and return the submission's folder."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    found_by = os.pathsep.join([str(project), *filter(None, [os.environ.get("PYTHONPATH")])])
    own = {**os.environ, **environment, "PATH": path, "PYTHONPATH": found_by, PROJECT_RUN: run_id}
    done = subprocess.run(["bash", "-c", command], env=own, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout, end="")
    said = re.search(rf"^{re.escape(FOLDER_SAID)}(.+)$", done.stdout, re.MULTILINE)
    if done.returncode != 0 or said is None:
        raise KmedError(f"The command that submits ended with status {done.returncode}; see its message above.")
    return Path(said[1])


class SlurmRun:
    """Jobs that stand for a run; what MLflow calls a SubmittedRun (mlflow.projects.submitted_run)."""

    def __init__(self, run_id: str, folder: Path) -> None:
        self._run_id = run_id
        self._folder = folder
        self._jobs = JOBS.read(folder / JOBS_FILE)["jobs"]

    @property
    def owner(self) -> str:
        """What names the last job as the owner of runs."""
        return job_name(cluster_name(), self._jobs[LAST])

    @property
    def run_id(self) -> str:
        """The run's id in the store."""
        return self._run_id

    def get_status(self) -> str:
        """Return the status of the run by its jobs; a job that has vanished without a result counts as FAILED.

        Raises
        ------
        KmedError
            When Slurm's controller gives no answer.
        """
        if (status := read_status(self._folder)) is not None:
            return "FINISHED" if status == 0 else "FAILED"
        states = job_states(self._jobs.values())
        last = states.get(self._jobs[LAST])
        if last is None or last in OVER:
            if (status := read_status(self._folder)) is not None:  # it ended between the two questions
                return "FINISHED" if status == 0 else "FAILED"
            ended = "KILLED" if last == "CANCELLED" else "FAILED"
            end_call(self._run_id, ended, describe_end(self._jobs[LAST], last))
            return ended
        return "SCHEDULED" if set(states.values()) - OVER == {"PENDING"} else "RUNNING"

    def wait(self) -> bool:
        """Wait for the end of the last job, and return whether all was done."""
        answered_s = time.monotonic()
        while True:
            try:
                status = self.get_status()
                answered_s = time.monotonic()
            except KmedError as error:
                if time.monotonic() - answered_s > _AWAY_S:
                    raise
                log.warning("%s Asking again.", error)
                status = "UNKNOWN"
            if status in _ENDED:
                return status == "FINISHED"
            time.sleep(_LOOK_AGAIN_S)

    def cancel(self) -> None:
        """Cancel all jobs, wait until they have ended, and end the run KILLED."""
        cancel_jobs(reversed(self._jobs.values()))
        while any(state not in OVER for state in job_states(self._jobs.values()).values()):
            time.sleep(1.0)
        end_call(self._run_id, "KILLED", "cancelled")

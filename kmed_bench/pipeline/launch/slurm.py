"""Submission to Slurm: scripts and what their jobs need in one folder, and jobs that depend on each other."""

import dataclasses
import datetime
import logging
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kmed_bench.config import SlurmConfig
from kmed_bench.core.addresses import without_password
from kmed_bench.core.callers_folder import OWN_RUN
from kmed_bench.core.console import console_level
from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import PRIVATE_FOLDER, write_json, write_text_atomically
from kmed_bench.core.slurm_contract import JOBS, SUBMISSION, Submission
from kmed_bench.core.slurm_jobs import cancel_jobs, tell_slurm
from kmed_bench.core.surroundings import interrupts_wait
from kmed_bench.pipeline.launch.slurm_scripts import LAST, PREPARE, TASKS, Stage, write_script

log = logging.getLogger(__name__)
FOLDER_SAID = "Logs and scripts: "
"""Begins the line that names a submission's folder."""
PROJECT_RUN = "KMED_PROJECT_RUN_ID"
"""Names the run that a backend of `mlflow run` has made for the jobs; MLFLOW_RUN_ID would be this process's own."""
SUBMISSION_FILE, JOBS_FILE, STATUS_FILE = "submission.json", "jobs.json", "status"


@dataclasses.dataclass(frozen=True)
class Submitted:
    """Jobs that were submitted.

    Attributes
    ----------
    jobs : dict
        What each does to its id, in the order in which they depend on each other.
    n_tasks : int
        Tasks of the array.
    """

    folder: Path
    jobs: dict[str, str]
    n_tasks: int

    def lines(self) -> list[str]:
        """Return what to tell the user."""
        first = f"job {self.jobs[PREPARE]} prepares, then " if PREPARE in self.jobs else ""
        ids = list(self.jobs.values())
        return [
            f"Submitted: {first}job {self.jobs[TASKS]} (tasks 0 to {self.n_tasks - 1}), then job {self.jobs[LAST]}.",
            f"{FOLDER_SAID}{self.folder}",
            f"Watch: squeue --jobs={','.join(ids)}",
            f"Cancel: scancel {' '.join(ids)}",
        ]


def stages_of(command: str, n_tasks: int, *, prepared: bool) -> list[Stage]:
    """Return the jobs of a command.

    Parameters
    ----------
    prepared : bool
        Whether a job of its own makes what the tasks share.
    """
    first = [Stage(PREPARE, f"kmed-{command}-prepare")] if prepared else []
    return [
        *first,
        Stage(TASKS, f"kmed-{command}", n_tasks, after="afterok" if prepared else ""),
        Stage(LAST, f"kmed-{command}-last", after="afterany"),
    ]


def new_folder(out: Path) -> Path:
    """Return the name of a new submission's folder."""
    now = datetime.datetime.now(datetime.UTC)
    return out.resolve() / f"slurm-{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def describe_submission(
    command: str,
    tasks: Sequence[Sequence[str]],
    settings: SlurmConfig,
    *,
    addresses: Mapping[str, str | None],
    last: Sequence[str] = (),
    bench: Mapping[str, Any] | None = None,
) -> Submission:
    """Return the content of submission.json.

    Parameters
    ----------
    addresses : mapping
        Settings that may hold a store's address, and their values.
    tasks, last, bench
        See `Submission`.

    Raises
    ------
    KmedError
        When an address has a password: the jobs read their settings from a file.
    """
    for key, address in addresses.items():
        if address and without_password(address) != address:
            remedy = "set MLFLOW_TRACKING_URI instead, which" if key == "tracking.uri" else "use a PGPASSFILE, which"
            raise KmedError(
                f"--{key} has a password, and Slurm's jobs read their settings from a file; {remedy} they inherit."
            )
    return {
        **SUBMISSION.head,
        "command": command,
        "tasks": [list(words) for words in tasks],
        "last": list(last),
        "bench": dict(bench or {}),
        "requeues": settings.requeues,
        "log_level": console_level(),
    }


def describe_scripts(stages: Sequence[Stage], settings: SlurmConfig, folder: Path) -> list[str]:
    """Return the scripts that would be submitted, each below the command that submits it."""
    lines: list[str] = []
    before = ""
    for stage in stages:
        depends = f" --dependency={stage.after}:{before} --kill-on-invalid-dep=yes" if stage.after else ""
        lines += [f"# sbatch{depends} {stage.does}.sh", write_script(stage, settings, folder)]
        before = f"$JOB_OF_{stage.does.upper()}"
    return lines


def submit(submission: Submission, stages: Sequence[Stage], settings: SlurmConfig, folder: Path) -> Submitted:
    """Write a submission's files, submit its jobs, and return their ids; nothing runs unless all are submitted.

    Raises
    ------
    KmedError
        When Slurm is not there or refuses a job; those before it are cancelled.
    """
    scripts = {stage.does: write_script(stage, settings, folder) for stage in stages}
    folder.mkdir(PRIVATE_FOLDER, parents=True)
    write_json(folder / SUBMISSION_FILE, submission, private=True)
    jobs: dict[str, str] = {}
    try:
        for stage in stages:
            script = folder / f"{stage.does}.sh"
            write_text_atomically(script, scripts[stage.does], private=True)
            with interrupts_wait(all_of_them=False):  # or a job could be submitted whose id nobody knows
                jobs[stage.does] = _sbatch(stage, script, list(jobs.values()))
        write_json(folder / JOBS_FILE, {**JOBS.head, "jobs": jobs}, private=True)
        tell_slurm("scontrol", "release", next(iter(jobs.values())))
    except BaseException:
        cancel_jobs(jobs.values())
        shutil.rmtree(folder)
        raise
    log.info("Submitted to Slurm: %s.", ", ".join(f"{does} {job}" for does, job in jobs.items()))
    return Submitted(folder, jobs, len(submission["tasks"]))


def _sbatch(stage: Stage, script: Path, before: Sequence[str]) -> str:
    """Submit one script and return its id; the first job is held until all are there."""
    how = ["--hold"]
    if before:
        how = [f"--dependency={stage.after}:{before[-1]}", "--kill-on-invalid-dep=yes"]
    inherited = {name: value for name, value in os.environ.items() if name not in (OWN_RUN, PROJECT_RUN)}
    if PROJECT_RUN in os.environ:
        inherited[OWN_RUN] = os.environ[PROJECT_RUN]
    answer = tell_slurm("sbatch", "--parsable", *how, str(script), env=inherited).strip().splitlines()[-1]
    job = answer.partition(";")[0]  # the cluster's name may follow
    if not job.isdecimal():
        raise KmedError(f"sbatch answered {answer!r:.100} and no job's id; look for it with squeue.")
    return job


def read_status(folder: Path) -> int | None:
    """Return the exit status of a submission's last job; None if it has not ended by itself."""
    try:
        return int((folder / STATUS_FILE).read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        return None

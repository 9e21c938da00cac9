"""Slurm's jobs by its own commands: their states, without accounting, and their end.

A job whose task has ended stays known to the controller for some minutes (MinJobAge) and is unknown afterwards, so
what a job has done must be read from what it wrote.
"""

import functools
import logging
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping

from kmed_bench.core.errors import KmedError, brief

JOB_VARIABLE = "KMED_SLURM_JOB"
"""Set in a job to `job_name` of it."""
OVER = frozenset(
    ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "REVOKED", "TIMEOUT")
)
"""States in which a job has ended for good. PREEMPTED is left out: such a job may go back into the queue."""
_PREFIX = "slurm:"
_UNKNOWN = "Invalid job id"
_ANSWER_S = 60.0
log = logging.getLogger(__name__)


def job_name(cluster: str, job: str) -> str:
    """Return what names a job, or the task of an array, on any machine: ``slurm:hal:17_3``."""
    return f"{_PREFIX}{cluster}:{job}"


def split_job_name(name: str) -> tuple[str, str] | None:
    """Return the cluster and the job that `job_name` has put into a name; None for a name of something else."""
    if not name.startswith(_PREFIX):
        return None
    cluster, _, job = name.removeprefix(_PREFIX).rpartition(":")
    return cluster, job


def ask_slurm(*words: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Return how a command of Slurm ended.

    It runs in a session of its own, so that a signal to this process's group does not end it.

    Raises
    ------
    KmedError
        When it is not installed or gives no answer.
    """
    try:
        return subprocess.run(
            words, env=env, capture_output=True, text=True, check=False, timeout=_ANSWER_S, start_new_session=True
        )
    except FileNotFoundError:
        raise KmedError(f"Slurm's command {words[0]} is not on this machine; submit from one that has it.") from None
    except subprocess.TimeoutExpired:
        raise KmedError(f"{words[0]} gives no answer within {_ANSWER_S:.0f} s; is Slurm's controller up?") from None


def tell_slurm(*words: str, env: Mapping[str, str] | None = None) -> str:
    """Return what a command of Slurm printed; ``env`` is its environment, if not this process's.

    Raises
    ------
    KmedError
        When it fails, with its message.
    """
    done = ask_slurm(*words, env=env)
    if done.returncode != 0:
        raise KmedError(f"{words[0]} failed: {brief(done.stderr.strip() or f'status {done.returncode}')}")
    return done.stdout


def job_states(jobs: Iterable[str]) -> dict[str, str]:
    """Return each job, or task of an array, that the controller knows, and its state: ``{"12_3": "RUNNING"}``.

    Raises
    ------
    KmedError
        When the controller can't be asked.
    """
    found: dict[str, str] = {}
    for job in jobs:  # one at a time: squeue gives nothing at all if it does not know one of several
        done = ask_slurm("squeue", "--noheader", "--all", "--array", "--states=all", f"--jobs={job}", "--format=%i %T")
        if done.returncode == 0:
            found |= dict(line.split() for line in done.stdout.splitlines())
        elif _UNKNOWN not in done.stderr:
            raise KmedError(f"squeue failed: {brief(done.stderr.strip())}")
    return found


def describe_end(job: str, state: str | None) -> str:
    """Return in words how a job ended; its state is None if the controller does not know it."""
    return f"Slurm's job {job} ended as {state}" if state else f"Slurm no longer knows its job {job}"


def is_over(job: str) -> bool:
    """Return whether a job, all tasks of an array included, has ended for good or is unknown.

    Raises
    ------
    KmedError
        When the controller can't be asked.
    """
    return all(state in OVER for state in job_states([job]).values())


@functools.cache
def cluster_name() -> str:
    """Return the cluster's name; empty where there is no Slurm.

    Raises
    ------
    KmedError
        When the controller can't be asked.
    """
    if shutil.which("scontrol") is None:
        return ""
    text = tell_slurm("scontrol", "show", "config")
    named = [line.partition("=")[2].strip() for line in text.splitlines() if line.startswith("ClusterName")]
    return named[0] if named else ""


def is_gone_job(name: str) -> bool | None:
    """Return whether a job named by `job_name` has certainly ended; None for a name of something else."""
    if (named := split_job_name(name)) is None:
        return None
    cluster, job = named
    if not job.replace("_", "").isdecimal():
        return False
    try:
        return cluster == cluster_name() and is_over(job)
    except KmedError as error:
        log.debug("%s: %s", name, error)
        return False


def cancel_jobs(jobs: Iterable[str]) -> None:
    """Cancel jobs; one that has ended is no error.

    Raises
    ------
    KmedError
        When the controller can't be asked.
    """
    for job in jobs:
        done = ask_slurm("scancel", job)
        if done.returncode != 0 and _UNKNOWN not in done.stderr:
            raise KmedError(f"scancel {job} failed: {brief(done.stderr.strip())}")


def own_job() -> str:
    """Return the job that this process is, as Slurm's commands take it; empty outside of jobs."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ.get("SLURM_JOB_ID", "")

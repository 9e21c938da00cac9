"""Which process a run belongs to, and how runs end when their process is terminated or killed.

Each run is tagged with its machine (hashed), process id and process start. From these another process can tell that the
writer is gone, and end the runs that a killed process left RUNNING.

A start is the boot's id and the clock ticks since boot (field 22 of ``/proc/PID/stat``, proc(5)): setting the wall
clock moves neither. Systems without ``/proc`` store the wall clock of the start once, in seconds; those of Linux's
earlier tags are derived from the present clock, so there only the process id counts.
"""

import hashlib
import os
import re
from pathlib import Path

import psutil
from mlflow.entities import RunStatus
from mlflow.tracking import MlflowClient

from kmed_bench.core.slurm_jobs import JOB_VARIABLE, is_gone_job
from kmed_bench.core.surroundings import machine
from kmed_bench.tracking.endings import FAILURE_TAG, Endable, forget_end, read_end
from kmed_bench.tracking.outbox import deliver_left
from kmed_bench.tracking.store import search_runs

PROCESS_TAG = "kmed.process"
"""Tag of the process that writes a run; a study that several processes join has one, with a suffix, for each."""
_PROCESS = re.compile(r"\d{1,10}:(?:\d+|[0-9a-f]{8}-\d+)", re.ASCII)
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_START_FIELD = 22
_SAME_START_S = 2.0


def this_process() -> str:
    """Return the value of `PROCESS_TAG` for runs that this process writes.

    In a Slurm job it names the job, which may go back into the queue and continue its runs on another machine.
    """
    if job := os.environ.get(JOB_VARIABLE):
        return job
    return f"{machine()}:{os.getpid()}:{_start(os.getpid())}"


def _start(pid: int) -> str:
    """Return what identifies the start of a living process."""
    if not _BOOT_ID.exists():
        return f"{psutil.Process(pid).create_time():.0f}"
    boot = hashlib.sha256(_BOOT_ID.read_bytes()).hexdigest()[:8]
    # The name, the second field, is in parentheses and may hold spaces and parentheses.
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    return f"{boot}-{fields[_START_FIELD - 3]}"


def is_gone(process: str) -> bool:
    """Return whether a tagged process, or Slurm job, has certainly ended; False for processes of other machines."""
    if (gone := is_gone_job(process)) is not None:
        return gone
    host, _, rest = process.partition(":")
    pid, _, started = rest.partition(":")
    if host != machine() or not _PROCESS.fullmatch(rest):
        return False
    try:
        if psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE:  # killed, and not yet reaped by its parent
            return True
        return _differs(started, _start(int(pid)))
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        return True
    except (psutil.AccessDenied, PermissionError):
        return False


def _differs(tagged: str, current: str) -> bool:
    """Return whether two starts are certainly those of two processes."""
    if tagged.isdigit() and current.isdigit():
        return abs(int(tagged) - int(current)) > _SAME_START_S
    return "-" in tagged and tagged != current


def owner_tag(owner: str | None = None) -> dict[str, str]:
    """Return the tag by which a run that several processes write belongs to this one as well, or to a Slurm job."""
    own = owner or this_process()
    return {f"{PROCESS_TAG}.{hashlib.sha256(own.encode()).hexdigest()[:8]}": own}


def end_abandoned(client: MlflowClient) -> list[str]:
    """End the store's RUNNING runs whose processes are all gone and return their ids.

    They end as `endings` kept them, else KILLED; runs without an owner are other programs' or earlier releases'.
    """
    abandoned = []
    for run in search_runs(client, "attributes.status = 'RUNNING'"):
        owners = [value for name, value in run.data.tags.items() if f"{name}.".startswith(f"{PROCESS_TAG}.")]
        if owners and all(map(is_gone, owners)):
            abandoned.append(run.info.run_id)
    for run_id in abandoned:
        known = read_end(run_id)
        status, ended_ms = known or (RunStatus.to_string(RunStatus.KILLED), None)
        why = (
            "its process was gone; a later run noticed"
            if known is None
            else "the store could not be told when it ended"
        )
        deliver_left(client, run_id)
        client.set_tag(run_id, "kmed.ended", why)
        client.set_terminated(run_id, status, ended_ms)
        forget_end(run_id)
    return abandoned


def hand_over(run: Endable, owner: str) -> None:
    """Leave a run RUNNING when its block ends; from then on it belongs to another process, or Slurm job."""
    run.set_tags({PROCESS_TAG: owner})
    run.ends_as = RunStatus.to_string(RunStatus.RUNNING)


def end_lost(client: MlflowClient, run_id: str, reason: str) -> None:
    """End a run FAILED whose process is known to be gone, with the reason; one that has ended stays as it is."""
    if client.get_run(run_id).info.status == RunStatus.to_string(RunStatus.RUNNING):
        client.set_tag(run_id, FAILURE_TAG, reason)
        client.set_terminated(run_id, RunStatus.to_string(RunStatus.FAILED))

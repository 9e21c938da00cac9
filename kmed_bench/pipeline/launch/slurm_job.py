"""The process of a Slurm job: does its part of a submission, and puts the job back into the queue when told to stop.

Slurm warns with USR2 before a time limit. The state is saved as on Ctrl-C, and the job requeues itself: what runs then
continues from the saved state. TERM saves the state as well. It comes when Slurm takes the job's node for another one,
and then requeues the job by itself (a time of grace before that is told to job steps alone, and here there are none),
and when a job is cancelled, which is final.
"""

import dataclasses
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from kmed_bench.core.addresses import without_password
from kmed_bench.core.callers_folder import OWN_RUN
from kmed_bench.core.console import configure_logging, hide_passwords_in_tracebacks, prepare_streams
from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import write_text_atomically
from kmed_bench.core.slurm_contract import JOBS, SUBMISSION, Jobs, Submission
from kmed_bench.core.slurm_jobs import (
    JOB_VARIABLE,
    cluster_name,
    describe_end,
    job_name,
    job_states,
    own_job,
    tell_slurm,
)
from kmed_bench.core.surroundings import prepare_user, sigterm_interrupts
from kmed_bench.core.system_errors import explain_os_error
from kmed_bench.pipeline.launch.slurm import JOBS_FILE, STATUS_FILE, SUBMISSION_FILE
from kmed_bench.pipeline.launch.slurm_scripts import LAST, PREPARE, TASKS

log = logging.getLogger(__name__)
BENCH_FILE, PREPARED_FILE = "bench", "prepared"
"""The id of the benchmark's run, and what says that it is prepared, both written by the job that prepares it."""
_INTERRUPTED = 130
Command = Callable[[Sequence[str]], int]


class _Warning:
    """Whether Slurm has sent USR2, which interrupts as TERM does."""

    received = False

    def listen(self) -> None:
        signal.signal(signal.SIGUSR2, self._note)

    def _note(self, _signal: int, _frame: FrameType | None) -> None:
        self.received = True
        signal.raise_signal(signal.SIGTERM)


@dataclasses.dataclass(frozen=True)
class _Part:
    """What this job does of a submission."""

    does: str
    folder: Path
    submission: Submission
    jobs: Jobs
    command: Command

    @property
    def index(self) -> int:
        return int(os.environ["SLURM_ARRAY_TASK_ID"])

    def run(self) -> int:
        """Do it, and return the exit status."""
        if self.submission["bench"]:
            os.environ[JOB_VARIABLE] = job_name(cluster_name(), own_job())
            return self._run_bench()
        if self.does == TASKS:
            os.environ.pop(OWN_RUN, None)  # the run that `mlflow run` made is that of the last command
            return self.command(self.submission["tasks"][self.index])
        return self.command(self.submission["last"])

    def _run_bench(self) -> int:
        # torch and MLflow are loaded here: a signal that comes meanwhile is not lost
        from kmed_bench.pipeline.bench_jobs import conclude_bench, give_up_bench, prepare_bench, train_one_of
        from kmed_bench.pipeline.launch.slurm_bench import read_bench_jobs

        jobs = read_bench_jobs(self.submission)
        before = self._bench()
        if before is not None:
            os.environ.pop(OWN_RUN, None)
        if self.does == PREPARE:
            owner = job_name(cluster_name(), self.jobs["jobs"][LAST])
            prepare_bench(jobs, before, owner, self._keep_bench)
            write_text_atomically(self.folder / PREPARED_FILE, "", private=True)
            return 0
        if before is None or not (self.folder / PREPARED_FILE).is_file():
            how = self._how_ended(self.jobs["jobs"][PREPARE])
            if before is not None:
                give_up_bench(jobs, before, f"it was not prepared: {how}")
            raise KmedError(f"The benchmark was not prepared: {how}; see {self.folder / PREPARE}.log.")
        if self.does == TASKS:
            train_one_of(jobs, self.index, before)
            return 0
        array = self.jobs["jobs"][TASKS]
        outcome = conclude_bench(jobs, before, lambda index: self._how_ended(f"{array}_{index}"))
        for line in outcome.lines():
            print(line)
        return 1 if outcome.failed else 0

    def _bench(self) -> str | None:
        path = self.folder / BENCH_FILE
        return path.read_text(encoding="ascii").strip() if path.is_file() else None

    def _keep_bench(self, run_id: str) -> None:
        write_text_atomically(self.folder / BENCH_FILE, run_id + "\n", private=True)

    def _how_ended(self, job: str) -> str:
        try:
            return describe_end(job, job_states([job]).get(job))
        except KmedError as error:  # the report is written all the same
            return f"Slurm could not say how its job {job} ended ({error})"


def main(command: Command) -> int:
    """Do the part of a submission that the command line names, and return the exit status.

    Parameters
    ----------
    command : callable
        Runs a command of the command line, given its words, and returns the exit status.
    """
    warnings.filterwarnings("ignore", category=FutureWarning)
    prepare_streams()
    hide_passwords_in_tracebacks()
    prepare_user()
    does, folder = sys.argv[1], Path(sys.argv[2])
    submission = SUBMISSION.read(folder / SUBMISSION_FILE)
    configure_logging(submission["log_level"])
    warning = _Warning()
    part = _Part(does, folder, submission, JOBS.read(folder / JOBS_FILE), command)
    status = _interruptible(part.run, warning)
    stopped = status == _INTERRUPTED and not warning.received
    if stopped:
        log.info("Stopped, with the state saved.")
    elif status == _INTERRUPTED and _requeue(submission["requeues"]):
        return 0
    if does == LAST and not stopped:  # a preempted job goes back into the queue, and a cancelled one has no result
        write_text_atomically(folder / STATUS_FILE, f"{status}\n", private=True)
    return status


def _interruptible(work: Callable[[], int], warning: _Warning) -> int:
    try:
        with sigterm_interrupts():
            warning.listen()
            return work()
    except KeyboardInterrupt:
        return _INTERRUPTED
    except (KmedError, OSError) as error:
        said = str(error) if isinstance(error, KmedError) else explain_os_error(error)
        print(f"kmed-bench: {without_password(said)}", file=sys.stderr)
        return 2
    except Exception:
        log.exception("This job failed:")
        return 1
    finally:
        for number in (signal.SIGUSR2, signal.SIGTERM):  # this process is about to end by itself
            signal.signal(number, signal.SIG_IGN)


def _requeue(limit: int) -> bool:
    """Put this job back into the queue, and return whether it is there."""
    job, n_before = own_job(), int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    if n_before >= limit:
        log.error("Job %s went back into the queue %d times, the most that slurm.requeues allows.", job, n_before)
        return False
    try:
        tell_slurm("scontrol", "requeue", job)
    except KmedError as error:
        log.error("Job %s does not go back into the queue: %s", job, error)
        return False
    log.info("Job %s goes back into the queue and continues from the saved state.", job)
    return True

"""What a submission to Slurm leaves for its jobs, as types."""

from typing import Any

from kmed_bench.core.formats import FileFormat, Head


class Submission(Head):
    """Content of submission.json, which holds no password.

    Attributes
    ----------
    tasks : list of list of str
        The words of each task's command; of `run`, size and seed of each training.
    last : list of str
        The words of the command that runs when all tasks have ended; of `run`, none.
    bench : dict
        What the jobs of `run` share; of other commands, empty.
    """

    command: str
    tasks: list[list[str]]
    last: list[str]
    bench: dict[str, Any]
    requeues: int
    log_level: str


class Jobs(Head):
    """Content of jobs.json: the ids of the jobs by what they do, in the order in which they depend on each other."""

    jobs: dict[str, str]


_REMEDY = "submit again with --launcher slurm"
SUBMISSION: FileFormat[Submission] = FileFormat(
    "kmed-slurm-submission",
    1,
    1,
    _REMEDY,
    {
        "command": str,
        "tasks": list[list[str]],
        "last": list[str],
        "bench": dict[str, Any],
        "requeues": int,
        "log_level": str,
    },
)
JOBS: FileFormat[Jobs] = FileFormat("kmed-slurm-jobs", 1, 1, _REMEDY, {"jobs": dict[str, str]})

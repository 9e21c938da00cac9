"""Settings of Slurm jobs."""

import shlex
from typing import Annotated

from pydantic import AfterValidator

from kmed_bench.config.fields import NONE, Count, Decides, Positive, Whole, group

OURS = ("array", "chdir", "dependency", "error", "hold", "job-name", "open-mode", "output", "requeue", "signal", "wrap")
"""Options of sbatch that a submission sets itself."""


def parse_directives(text: str | None) -> dict[str, str | bool]:
    """Return the options of sbatch that a text names: ``constraint=h200 exclusive`` is a value and True.

    Dashes before it may be left out: on a command line, a value that begins with one would be taken for an option.

    Raises
    ------
    ValueError
        For a word that is no long option, and for an option in `OURS`.
    """
    found: dict[str, str | bool] = {}
    for word in shlex.split(text or ""):
        name, given, value = word.removeprefix("--").partition("=")
        if name.startswith("-") or not name:
            raise ValueError(f"{word!r} is not a long option such as constraint=h200 or exclusive")
        if name in OURS:
            raise ValueError(f"{name} is set by the submission itself")
        found[name] = value if given else True
    return found


def _check_directives(text: str | None) -> str | None:
    parse_directives(text)
    return text


@group
class SlurmConfig:
    """Jobs of --launcher slurm. None of these settings decides a result, but for the last digits on a CPU (cpus)."""

    partition: Annotated[str | None, NONE, Decides.NOTHING] = None
    """Partition of all jobs. none: the cluster's default."""
    account: Annotated[str | None, NONE, Decides.NOTHING] = None
    """Account that is charged. none: the user's default."""
    time_min: Annotated[Count | None, NONE, Decides.NOTHING] = None
    """Time limit of each job, in minutes. none: the partition's. A training that reaches it is continued by the same
    job, which goes back into the queue."""
    gpus: Annotated[Whole, Decides.NOTHING] = 1
    """GPUs of each job. 0: none is asked for."""
    cpus: Annotated[Count, Decides.NOTHING] = 4
    """CPUs of each job, and the threads of its process. On a CPU their number decides how sums are rounded."""
    memory_gib: Annotated[Positive | None, NONE, Decides.NOTHING] = None
    """Memory of each job, in GiB. none: the partition's default."""
    workers: Annotated[Count, Decides.NOTHING] = 8
    """Jobs of an array that run at the same time. For `tune`: the number of processes that share the study."""
    setup: Annotated[str | None, NONE, Decides.NOTHING] = None
    """Shell lines that each job runs first, such as `. /shared/venv/bin/activate` or `conda activate kmed`."""
    python: Annotated[str | None, NONE, Decides.NOTHING] = None
    """Python that the jobs run. none: the one that submits them; `python` for that of the activated environment."""
    directives: Annotated[str | None, NONE, AfterValidator(_check_directives), Decides.NOTHING] = None
    """Further options of sbatch, such as `constraint=h200 qos=long exclusive`."""
    warning_s: Annotated[Count, Decides.NOTHING] = 120
    """Seconds before its time limit at which a job is told to save its state. Slurm may tell it a minute earlier."""
    requeues: Annotated[Whole, Decides.NOTHING] = 20
    """How often one job goes back into the queue before it fails."""

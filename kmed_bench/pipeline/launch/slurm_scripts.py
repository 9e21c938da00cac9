"""The batch scripts of Slurm jobs: submitit writes their directives, and each runs one command of this package.

submitit's own way would be a pickled function; see docs/decisions/026-slurm.md.
"""

import dataclasses
import shlex
from pathlib import Path
from typing import Any

from kmed_bench.config.slurm import SlurmConfig, parse_directives
from kmed_bench.core.errors import KmedError
from kmed_bench.pipeline.launch.slots import THREAD_VARIABLES, Task

PREPARE, TASKS, LAST = "prepare", "tasks", "last"
"""What a job does: prepares for the tasks, is one of them, or works on what they have left."""
_MIB = 1024
_PROGRAM = (
    "from kmed_bench.cli import main as command; from kmed_bench.pipeline.launch.slurm_job import main; "
    "sys.exit(main(command))"
)


@dataclasses.dataclass(frozen=True)
class Stage:
    """A job, or an array of them.

    Attributes
    ----------
    does : str
        `PREPARE`, `TASKS` or `LAST`.
    name : str
        What squeue shows.
    n_tasks : int or None
        Tasks of the array; None for a single job.
    after : str
        When it may begin, of the job before it: ``afterok`` or ``afterany``; empty for the first one.
    """

    does: str
    name: str
    n_tasks: int | None = None
    after: str = ""


def write_script(stage: Stage, settings: SlurmConfig, folder: Path) -> str:
    """Return the batch script of a stage.

    Parameters
    ----------
    folder : Path
        The submission's, on a file system that all nodes share; logs go there.

    Raises
    ------
    KmedError
        When submitit is not installed.
    """
    try:
        from submitit.slurm.slurm import _make_sbatch_string
    except ModuleNotFoundError as error:
        if error.name != "submitit":
            raise
        raise KmedError(
            "--launcher slurm needs submitit, which is not installed; run `pip install 'kmed-bench[slurm]'`."
        ) from None
    ours = {
        "output": str(folder / (f"{stage.does}-%a.log" if stage.n_tasks else f"{stage.does}.log")),
        "signal": f"B:USR2@{settings.warning_s}",
        "requeue": True,
    }
    parameters: dict[str, Any] = {
        "job_name": stage.name,
        "partition": settings.partition,
        "account": settings.account,
        "time": settings.time_min,
        "cpus_per_task": settings.cpus,
        "gpus_per_node": settings.gpus or None,
        "mem": f"{settings.memory_gib * _MIB:.0f}M" if settings.memory_gib else None,
        "map_count": stage.n_tasks,
        "array_parallelism": settings.workers,
        "setup": _setup(settings),
        "wckey": None,
        "stderr_to_stdout": True,
        "use_srun": False,
        "additional_parameters": parse_directives(settings.directives) | ours,
    }
    return _make_sbatch_string(command=_command(stage, settings, folder), folder=folder, **parameters)


def _setup(settings: SlurmConfig) -> list[str]:
    # Until Python has its handlers, the two signals would end it, and Slurm would take that for a failure.
    lines = ["trap '' USR2 TERM", f"export {' '.join(f'{name}={settings.cpus}' for name in THREAD_VARIABLES)}"]
    return lines + (settings.setup or "").splitlines()


def _command(stage: Stage, settings: SlurmConfig, folder: Path) -> str:
    """Return the line that replaces the shell by Python, so that Slurm's signals reach it."""
    python, *words = Task(_PROGRAM, (stage.does, str(folder))).command()
    return f"exec {shlex.join([settings.python or python, *words])}"

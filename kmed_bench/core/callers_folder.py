"""The folder that `mlflow run` was called in, which relative paths and results belong to.

MLflow starts a project's command in the project's folder. For a project from git that is a clone in a temporary folder
of its own, where results would be lost and a second call would find nothing to resume.
"""

import contextlib
import os
from pathlib import Path

import psutil

OWN_RUN = "MLFLOW_RUN_ID"
"""Names the run that `mlflow run` made for a process."""
_SHELLS = ("bash", "sh", "cmd.exe")
_project: Path | None = None


def project_folder() -> Path:
    """Return the folder that this process was started in by `mlflow run`; otherwise the working folder."""
    return _project or Path.cwd()


def started_by_mlflow_run() -> bool:
    """Return whether `mlflow run` started this process, as `enter_callers_folder` found."""
    return _project is not None


def enter_callers_folder() -> None:
    """Make the caller's folder the working folder if `mlflow run` started this process; else do nothing."""
    global _project
    if os.environ.get(OWN_RUN) and Path("MLproject").is_file() and (folder := _callers_folder()):
        _project = Path.cwd()
        os.chdir(folder)


def _callers_folder() -> str | None:
    """Return the working folder of the Python program, such as `mlflow run`, that started this one; None for others.

    Between the two there may be the shell of the project's command; a person's shell has no command to run.
    """
    with contextlib.suppress(psutil.Error, OSError):
        for parent in psutil.Process().parents():
            words = parent.cmdline()
            if "python" in Path(words[0]).name.lower():
                return parent.cwd()
            if parent.name() not in _SHELLS or not {"-c", "/c"} & set(words):
                return None
    return None

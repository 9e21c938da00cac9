"""The command line in a process of its own, in surroundings that a test makes: its limits, its mounts, its user."""

import functools
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import forked
import pytest
from small_bench import PROGRAM

_MOUNTED = """
set -e
mount -t tmpfs -o size="$2" none "$1"
mounted=$1 prepare=$3
shift 3
eval "$prepare"
set +e
"$@"
status=$?
find "$mounted" -type f -printf 'left %s %P\\n'
exit $status
"""
"""In namespaces of its own: mounts a small disk on $1, prepares it with $3, runs the rest, lists what is left."""

READ_LATE = {"SMALLER", "KMED_CACHE", "MLFLOW_TRACKING_URI"}  # variables that nothing reads as it is loaded
AS_A_MODULE = "import runpy; runpy.run_module('kmed_bench', run_name='__main__')"


def run(
    cwd: Path,
    *words: str,
    inside: Sequence[str] = (),
    before: Callable[[], object] | None = None,
    stdout: int = subprocess.PIPE,
    **environment: str,
) -> subprocess.CompletedProcess[bytes]:
    """Run a command; `inside` is the program that starts it, `before` is called in its process."""
    env = {name: value for name, value in (surroundings(cwd) | environment).items() if value != "-"}
    if not inside and not before and stdout == subprocess.PIPE and environment.keys() <= READ_LATE:
        return forked.run(PROGRAM if "SMALLER" in environment else AS_A_MODULE, words, cwd=cwd, env=env)
    return subprocess.run(
        [*inside, *command(words, environment)],
        cwd=cwd,
        env=env,
        stdout=stdout,
        stderr=subprocess.PIPE,
        preexec_fn=before,
        check=False,
        timeout=600,
    )


def command(words: Sequence[str], environment: dict[str, str]) -> list[str]:
    """Return a command's program and words; with SMALLER in the environment Whisper tiny is smaller still."""
    program = ["-c", PROGRAM] if "SMALLER" in environment else ["-m", "kmed_bench"]
    return [sys.executable, *program, *words]


def surroundings(cwd: Path) -> dict[str, str]:
    """Return the environment of a command that keeps to a folder."""
    own = {"KMED_CACHE": str(cwd / "cache"), "MLFLOW_TRACKING_URI": f"sqlite:///{cwd}/mlflow.db"}
    return os.environ | own | {"OMP_NUM_THREADS": "1"}


def said(done: subprocess.CompletedProcess[bytes]) -> list[str]:
    """Return the lines that the command itself says, without those of its progress; there is no traceback."""
    assert b"Traceback" not in done.stderr, done.stderr
    return [line for line in done.stderr.decode().splitlines() if line.startswith("kmed-bench: ")]


def small_disk(folder: Path, size: str, prepare: str = "") -> list[str]:
    """Return what starts a command with a disk of its own, mounted on a folder; what it left is in the output."""
    start = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", _MOUNTED, "sh", str(folder)]
    _need(*start[:4], "sh", "-c", "mount -t tmpfs none /mnt")
    folder.mkdir(parents=True, exist_ok=True)
    return [*start, size, prepare]


def left_on_disk(done: subprocess.CompletedProcess[bytes]) -> dict[str, int]:
    """Return the names and sizes of the files that a command left on its small disk."""
    lines = [line.split(" ", 2)[1:] for line in done.stdout.decode().splitlines() if line.startswith("left ")]
    return {name: int(size) for size, name in lines}


def other_user() -> list[str]:
    """Return what starts a command as a user without account and rights of root, in a namespace of its own."""
    start = ["unshare", "--user", "--map-user=12345"]
    _need(*start, "true")
    return start


@functools.cache
def _works(*words: str) -> bool:
    try:
        return subprocess.run(words, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _need(*words: str) -> None:
    if not _works(*words):
        pytest.skip(f"this system does not allow `{' '.join(words[:-1])}`")

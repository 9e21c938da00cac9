"""Programs in processes of their own, forked from one that has loaded torch and MLflow: each starts in a moment."""

import atexit
import functools
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import types
import weakref
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

# What a benchmark imports sooner or later; torch imports _dynamo for the first optimizer.
LOADED = [
    "torch._dynamo",
    "mlflow.pyfunc",
    "mlflow.store.tracking.sqlalchemy_store",
    "kmed_bench.cli",
    "kmed_bench.pipeline.benchmark",
    "kmed_bench.pipeline.train_one",
    "kmed_bench.report.page",
]


@functools.cache
def server() -> ForkServerContext:
    """Return the context of processes that are forked from one with `LOADED`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LOADED)
    with pytest.MonkeyPatch.context() as changed:
        changed.setenv("OMP_NUM_THREADS", "1")  # OpenMP reads it once, when torch is loaded
        forkserver.ensure_running()
    return context


class Forked:
    """A program's source that runs with these words as `python -c` runs it, but for the start of Python itself.

    Whatever Python or a library reads as it is loaded (the locale, PYTHON* variables, closed streams) needs an
    interpreter of its own.
    """

    def __init__(self, program: str, words: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> None:
        self.args = [program, *words]
        folder = tempfile.mkdtemp()
        weakref.finalize(self, shutil.rmtree, folder)
        self._streams = Path(folder, "stdout"), Path(folder, "stderr")
        umask = os.umask(0)
        os.umask(umask)
        self._child = server().Process(target=_enter, args=(program, list(words), cwd, dict(env), umask, self._streams))
        self._child.start()
        self.pid = self._child.pid or 0

    @property
    def returncode(self) -> int | None:
        return self._child.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self._child.kill()

    def wait(self, timeout: float | None = None) -> int:
        self._child.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[bytes, bytes]:
        """Return what the program wrote to its two streams, after its end."""
        self.wait(timeout)
        out, err = (path.read_bytes() for path in self._streams)
        return out, err


def run(
    program: str, words: Sequence[str], *, cwd: Path, env: Mapping[str, str], timeout_s: float = 600
) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end; see `Forked`."""
    process = Forked(program, words, cwd=cwd, env=env)
    try:
        written = process.communicate(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise
    return subprocess.CompletedProcess(process.args, process.wait(), *written)


def _enter(
    program: str, words: list[str], cwd: Path, env: dict[str, str], umask: int, streams: tuple[Path, Path]
) -> None:
    for number, path in enumerate(streams, start=1):
        stream = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(stream, number)
        os.close(stream)
    os.umask(umask)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv = ["-c", *words]
    sys.modules["__main__"] = main = types.ModuleType("__main__")  # spawned workers would import the tests' own
    try:
        exec(compile(program, "<string>", "exec"), vars(main))
    finally:
        atexit._run_exitfuncs()  # multiprocessing leaves them out

"""Programs in processes of their own, forked from one that has loaded torch and MLflow: each starts in a moment."""

import atexit
import functools
import multiprocessing
import os
import subprocess
import sys
import tempfile
import types
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerContext
from pathlib import Path

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
    os.environ["OMP_NUM_THREADS"] = "1"  # OpenMP reads it once, when torch is loaded
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LOADED)
    return context


def run(
    program: str, words: Sequence[str], *, cwd: Path, env: Mapping[str, str], timeout_s: float = 600
) -> subprocess.CompletedProcess[bytes]:
    """Run a program's source with these words as `python -c` does, but for the start of Python itself.

    Whatever Python or a library reads as it is loaded (the locale, PYTHON* variables, closed streams) needs an
    interpreter of its own.
    """
    with tempfile.TemporaryDirectory() as folder:
        streams = Path(folder, "stdout"), Path(folder, "stderr")
        umask = os.umask(0)
        os.umask(umask)
        child = server().Process(target=_enter, args=(program, list(words), cwd, dict(env), umask, streams))
        child.start()
        child.join(timeout_s)
        if child.exitcode is None:
            child.kill()
            raise subprocess.TimeoutExpired([program, *words], timeout_s)
        return subprocess.CompletedProcess([program, *words], child.exitcode, *(path.read_bytes() for path in streams))


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

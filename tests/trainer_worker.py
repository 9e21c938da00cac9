"""One process of `train`, run by torchrun: ``trainer_worker.py FOLDER SPLIT CHECKPOINT FATE``; notes its exchanges.

FATE: ``stop`` sends SIGTERM to all but the process that writes, twice, as a launcher that was signalled too does;
``die`` kills the process of node 2 and, once that is replaced, node 2 as a whole; anything else is no fate.
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from killed_training import settings

from kmed_bench.asr.model.weights import Weights
from kmed_bench.config import load_config
from kmed_bench.pipeline import trainer
from kmed_bench.pipeline.train_one import train_from
from kmed_bench.training.parallel import Parallel

EXCHANGES = ("total", "gather", "main_first", "wrap", "synchronized", "from_main")


def note(name: str, calls: list[str]) -> None:
    original = getattr(Parallel, name)

    def noted(parallel: Parallel, *args: Any, **options: Any) -> Any:
        if parallel.world > 1:  # the test part is decoded by one process on its own
            calls.append(name)
        return original(parallel, *args, **options)

    setattr(Parallel, name, noted)


@contextmanager
def stopped(_label: str) -> Iterator[Callable[[int, int], None]]:
    """Stand in for ``track``: ask this process to stop at the third step."""

    def tick(done: int, _total: int) -> None:
        if done == 3:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGTERM)

    yield tick


@contextmanager
def dying(_label: str) -> Iterator[Callable[[int, int], None]]:
    """Stand in for ``track``: kill this process at the third step, and its agent with it at the fifth, once each."""
    folder = Path(sys.argv[1])

    def tick(done: int, _total: int) -> None:
        for step, name, victims in ((3, "killed", ()), (5, "lost", (os.getppid(),))):
            if done == step and not (folder / name).exists():
                (folder / name).touch()
                for pid in (*victims, os.getpid()):
                    os.kill(pid, signal.SIGKILL)

    yield tick


def main() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # where an agent forks it, it begins as any other process does
    folder, split, checkpoint = map(Path, sys.argv[1:4])
    calls: list[str] = []
    for name in EXCHANGES:
        note(name, calls)
    parallel = Parallel.from_environment()
    if sys.argv[4] == "stop" and not parallel.is_main:  # one process is asked to stop, and not the one that writes
        trainer.track = stopped
    if sys.argv[4] == "die" and os.environ["NODE"] == "2":
        trainer.track = dying
    config = load_config("sound", settings(folder / "mlflow.db", **{"train.batch_size": 3}))
    weights = Weights("base", checkpoint, "path", "0" * 64)
    try:
        train_from(weights, config, split, folder / "out", resume=sys.argv[4] != "die", parallel=parallel)
    except KeyboardInterrupt as interrupt:
        (folder / f"stopped{parallel.rank}").write_text(str(interrupt))
    (folder / f"calls{parallel.rank}.json").write_text(json.dumps(calls))


if __name__ == "__main__":
    main()

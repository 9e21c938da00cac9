"""The process of a slot: reads one training of a benchmark from standard input and runs it."""

import dataclasses
import json
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kmed_bench.asr.model.weights import Weights
from kmed_bench.config import Config, config_from_tree
from kmed_bench.core.console import console_level, log_file
from kmed_bench.core.files import cache_folder
from kmed_bench.core.relay import Relay
from kmed_bench.core.surroundings import sigterm_interrupts
from kmed_bench.corpus.splitting.split import read_split
from kmed_bench.pipeline.bench_training import describe_failure, train_in_bench
from kmed_bench.pipeline.continuation import EarlierTraining
from kmed_bench.pipeline.leak_cells import with_left_out
from kmed_bench.pipeline.trainer import Trainer
from kmed_bench.tracking.resume import EarlierRun
from kmed_bench.tracking.run import TrackedRun, run_of_another
from kmed_bench.tracking.seal import reopen_seal
from kmed_bench.training.epochs import featurize_split


def describe_task(
    *,
    config: Config,
    weights: Weights,
    seed: int,
    folder: Path,
    bench: TrackedRun,
    before: EarlierTraining,
    resume: bool,
) -> dict[str, Any]:
    """Return what a worker is told: plain values, which go through a pipe and into no file.

    Parameters
    ----------
    folder : Path
        The benchmark's.
    """
    return {
        "settings": dataclasses.asdict(config),
        "weights": [weights.size, str(weights.path), weights.origin, weights.sha256],
        "seed": seed,
        "folder": str(folder),
        "uri": bench.uri,
        "bench": bench.run_id,
        "identity": before.identity,
        "run": [before.run.run_id, before.run.status] if before.run else None,
        "resume": resume,
        "log_level": console_level(),
    }


def main() -> int:
    """Run the task that standard input names and return the exit status: 0 done, 1 failed, 130 interrupted."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    relay = Relay()
    task = json.loads(sys.stdin.readline())
    relay.start(task["log_level"])
    try:
        with sigterm_interrupts():
            _train(task)
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # the parent counts it; the other trainings go on
        relay.send({"failed": describe_failure(error, task["uri"])[0]})
        return 1
    return 0


def _train(task: Mapping[str, Any]) -> None:
    config = config_from_tree(task["settings"])
    (size, path, origin, sha256), run = task["weights"], task["run"]
    folder = Path(task["folder"])
    with log_file(folder / size / f"seed{task['seed']}"):
        split = with_left_out(read_split(folder / "split"), folder / "split", config)
        speech = featurize_split(split, cache_folder() / "features", config)
        trainer = Trainer(config, Weights(size, Path(path), origin, sha256), speech, folder / size)
        bench = run_of_another(task["uri"], task["bench"])
        trainer.seal = reopen_seal(bench, folder, command="run")
        before = EarlierTraining(task["identity"], EarlierRun(run_id=run[0], status=run[1]) if run else None)
        train_in_bench(trainer, task["seed"], bench, before, resume=task["resume"])

"""A benchmark as jobs of Slurm: one prepares it, an array trains, one compares and reports."""

import dataclasses
import itertools
from pathlib import Path

from kmed_bench.asr.model.weights import Weights
from kmed_bench.config import Config, config_from_tree
from kmed_bench.core.schema import SIZES
from kmed_bench.core.slurm_contract import Submission
from kmed_bench.pipeline.bench_jobs import BenchJobs
from kmed_bench.pipeline.continuation import Only, find_earlier
from kmed_bench.pipeline.launch.slurm import (
    Submitted,
    describe_scripts,
    describe_submission,
    new_folder,
    stages_of,
    submit,
)
from kmed_bench.pipeline.preparation import check_sign_key, check_source, collect_weights
from kmed_bench.tracking.store import open_store


def submit_bench(config: Config, out: Path, *, only: Only = (), study: str = "", resume: bool = False) -> Submitted:
    """Submit the jobs of a benchmark, and return them.

    Weights are fetched here: nodes of a cluster often have no connection.

    Parameters
    ----------
    study : str
        Name of the study whose best trial the settings come from; empty for none.

    Raises
    ------
    KmedError
        When no size has weights, the source is missing, the store can't be used, the benchmark to continue is
        running, or Slurm refuses a job.
    """
    check_source(config)
    check_sign_key(config)
    weights, skipped = collect_weights(config, needed=[size for size, _ in only])
    find_earlier(config, open_store(config.tracking), out, resume=resume, only=only)
    out = out.resolve()
    bench = {
        "settings": dataclasses.asdict(config),
        "out": str(out),
        "weights": {size: [str(found.path.resolve()), found.origin, found.sha256] for size, found in weights.items()},
        "skipped": skipped,
        "only": [[size, str(seed)] for size, seed in only],
        "study": study,
        "resume": resume,
    }
    tasks = [
        [size, str(seed)] for size, seed in _in_order(only or tuple(itertools.product(weights, config.train.seeds)))
    ]
    addresses = {"tracking.uri": config.tracking.uri}
    submission = describe_submission("run", tasks, config.slurm, addresses=addresses, bench=bench)
    return submit(submission, stages_of("run", len(tasks), prepared=True), config.slurm, new_folder(out))


def describe_bench_scripts(config: Config, out: Path, only: Only) -> list[str]:
    """Return the scripts that `submit_bench` would submit, as lines; for sizes without weights too."""
    n_tasks = len(only) or len(config.model.sizes) * len(config.train.seeds)
    return describe_scripts(stages_of("run", n_tasks, prepared=True), config.slurm, new_folder(out))


def _in_order(trainings: Only) -> Only:
    """Return trainings with those of large sizes first, so that the last ones are short."""
    return tuple(sorted(trainings, key=lambda key: -SIZES.index(key[0])))


def read_bench_jobs(submission: Submission) -> BenchJobs:
    """Return what the jobs of `run` share."""
    bench = submission["bench"]
    weights = {size: Weights(size, Path(path), *rest) for size, (path, *rest) in bench["weights"].items()}
    return BenchJobs(
        config=config_from_tree(bench["settings"]),
        out=Path(bench["out"]),
        weights=weights,
        skipped=bench["skipped"],
        trainings=tuple((size, int(seed)) for size, seed in submission["tasks"]),
        only=tuple((size, int(seed)) for size, seed in bench["only"]),
        study=bench["study"],
        resume=bench["resume"],
    )

"""A benchmark in jobs: one prepares it, one runs each training, and one concludes it, each in its own time."""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from kmed_bench.asr.model.weights import Weights
from kmed_bench.config import Config
from kmed_bench.core.console import log_file
from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import cache_folder
from kmed_bench.core.version import code_version
from kmed_bench.corpus.splitting.split import read_split
from kmed_bench.pipeline.bench_training import describe_failure, train_in_bench, training_name
from kmed_bench.pipeline.benchmark import BenchOutcome, begun_benchmark, conclude_benchmark
from kmed_bench.pipeline.continuation import Only, find_earlier, find_training, results_folder
from kmed_bench.pipeline.leak_cells import with_left_out
from kmed_bench.pipeline.trainer import Trainer
from kmed_bench.pipeline.training_record import TrainOutcome, read_training_record
from kmed_bench.tracking.endings import FAILURE_TAG
from kmed_bench.tracking.processes import end_lost, hand_over
from kmed_bench.tracking.resume import FINISHED, EarlierBench, EarlierRun, read_earlier
from kmed_bench.tracking.run import TrackedRun, run_of_another
from kmed_bench.tracking.runs import bench_run
from kmed_bench.tracking.seal import reopen_seal
from kmed_bench.tracking.store import open_store
from kmed_bench.tracking.studies import find_best
from kmed_bench.training.epochs import featurize_split

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class BenchJobs:
    """What the jobs of one benchmark share.

    Attributes
    ----------
    trainings : tuple of (str, int)
        Size and seed of each training, in the order of their jobs.
    study : str
        Name of the study whose best trial the settings come from; empty for none.
    """

    config: Config
    out: Path
    weights: Mapping[str, Weights]
    skipped: Mapping[str, str]
    trainings: Only
    only: Only
    study: str
    resume: bool

    def folder(self, run_id: str) -> Path:
        """Return the folder of the benchmark's results."""
        return results_folder(self.out, self.config.profile, run_id)


def prepare_bench(jobs: BenchJobs, begun_before: str | None, owner: str, began: Callable[[str], None]) -> None:
    """Make the split and the features of a benchmark, and leave its run RUNNING for another job.

    Parameters
    ----------
    begun_before : str or None
        The benchmark's run, if this job was interrupted and goes on.
    owner : str
        The job that concludes it, as `core.slurm_jobs.job_name` names it.
    began : callable
        Gets the id of the benchmark's run as soon as that is there.
    """
    config, uri = jobs.config, open_store(jobs.config.tracking)
    if begun_before is not None:
        earlier: EarlierBench | None = read_earlier(uri, begun_before)
    else:
        earlier = find_earlier(config, uri, jobs.out, resume=jobs.resume, only=jobs.only)
    study = find_best(uri, jobs.study) if jobs.study else None
    with begun_benchmark(
        config, jobs.out, jobs.weights, jobs.skipped, earlier, only=jobs.only, study=study, began=began
    ) as begun:
        featurize_split(begun.split, cache_folder() / "features", config)
        hand_over(begun.bench, owner)


def train_one_of(jobs: BenchJobs, index: int, run_id: str) -> None:
    """Run one training of a prepared benchmark, or continue it; a finished one stays.

    Parameters
    ----------
    run_id : str
        The benchmark's run.
    """
    config, (size, seed) = jobs.config, jobs.trainings[index]
    folder, name = jobs.folder(run_id), training_name(size, seed)
    uri = open_store(config.tracking)
    with log_file(folder / size / f"seed{seed}"):
        split = with_left_out(read_split(folder / "split"), folder / "split", config)
        speech = featurize_split(split, cache_folder() / "features", config)
        trainer = Trainer(config, jobs.weights[size], speech, folder / size)
        bench = run_of_another(uri, run_id)
        trainer.seal = reopen_seal(bench, folder, command="run")
        before = find_training(trainer, seed, name, read_earlier(uri, run_id))
        if before.outcome is None:
            train_in_bench(trainer, seed, bench, before, resume=True)


def conclude_bench(jobs: BenchJobs, run_id: str, ended: Callable[[int], str]) -> BenchOutcome:
    """Compare a benchmark's trainings, write its report and end its run, once their jobs have ended.

    A training without an outcome is named as failed with its error, or as lost where its job left none.

    Parameters
    ----------
    ended : callable
        Returns in words how the job of a training, given by its place among them, ended.
    """
    config, uri = jobs.config, open_store(jobs.config.tracking)
    folder, earlier = jobs.folder(run_id), read_earlier(uri, run_id)
    # First: the benchmark's run, when it is opened, ends those that lost their process, without knowing why.
    trained, failed = _gather(jobs, folder, run_of_another(uri, run_id), earlier, ended)
    with bench_run(config, code_version=code_version(), run_id=run_id) as bench, log_file(folder):
        for name, reason in failed.items():
            log.error("%s failed: %s", name, reason)
        report, verdict = conclude_benchmark(config, jobs.out, bench, folder, earlier, trained, failed)
    return BenchOutcome(run_id, report, uri, tuple(trained), dict(jobs.skipped), failed, verdict)


def give_up_bench(jobs: BenchJobs, run_id: str, reason: str) -> None:
    """End the run of a benchmark whose preparation has left it RUNNING and will not go on."""
    end_lost(run_of_another(open_store(jobs.config.tracking), run_id).client, run_id, reason)


def _gather(
    jobs: BenchJobs, folder: Path, bench: TrackedRun, earlier: EarlierBench, ended: Callable[[int], str]
) -> tuple[list[TrainOutcome], dict[str, str]]:
    """Return the outcomes of trainings, and for each training without one the reason."""
    trained: list[TrainOutcome] = []
    failed: dict[str, str] = {}
    begun = {(run.size, run.seed): run for run in earlier.trains.values()}
    for index, (size, seed) in enumerate(jobs.trainings):
        name, run = training_name(size, seed), begun.get((size, str(seed)))
        try:
            record = read_training_record(folder / size / f"seed{seed}")
            if run is not None and run.status == FINISHED and record is not None and record.outcome is not None:
                trained.append(record.outcome)
            else:
                failed[name] = _why_not(bench, run, ended(index))
        except KmedError as error:  # a damaged record, say, concerns this training alone
            failed[name] = describe_failure(error, bench.uri)[0]
    return trained, failed


def _why_not(bench: TrackedRun, run: EarlierRun | None, how: str) -> str:
    """Return why a training has no outcome; the run of a lost job is ended."""
    if run is None:
        return f"it was not begun: {how}"
    if run.status == "RUNNING":
        reason = f"its job was lost: {how}"
        end_lost(bench.client, run.run_id, reason)
        return reason
    said = bench.client.get_run(run.run_id).data.tags.get(FAILURE_TAG)
    return said or f"it was stopped, with its state saved: {how}"

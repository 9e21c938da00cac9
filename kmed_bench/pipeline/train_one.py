"""`train`: one size and seed on a split that exists, by one process or by several together."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from kmed_bench.asr.model.weights import Weights
from kmed_bench.config import Config
from kmed_bench.core.console import configure_logging, log_file
from kmed_bench.core.corpus_contracts import SPLIT
from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import PRIVATE_FOLDER, cache_folder
from kmed_bench.core.locks import locked
from kmed_bench.core.version import code_version
from kmed_bench.corpus.splitting.split import read_split
from kmed_bench.pipeline.estimates import Outlook, foresee
from kmed_bench.pipeline.leak_cells import with_left_out
from kmed_bench.pipeline.plan import TRAINED, identify_split, make_plan, series_of
from kmed_bench.pipeline.preparation import check_sign_key, collect_weights, log_split
from kmed_bench.pipeline.trainer import Trainer
from kmed_bench.pipeline.training_record import TRAINING_LOCK, TrainOutcome, read_training_record
from kmed_bench.tracking.resume import HASH_TAG
from kmed_bench.tracking.runs import standalone_run
from kmed_bench.tracking.seal import seal_plan
from kmed_bench.tracking.series import SERIES_TAG
from kmed_bench.tracking.store import open_store
from kmed_bench.training.epochs import FeaturizedSplit, featurize_split
from kmed_bench.training.parallel import Parallel

log = logging.getLogger(__name__)
_LOCK_WAIT_S = 120.0
"""The file server of a machine that is gone frees its locks after a while, such as 90 s with NFS."""


def train_one(
    config: Config, split_folder: Path, out: Path, *, resume: bool = False
) -> tuple[TrainOutcome, str] | None:
    """Fine-tune the one size and seed of a config; return the outcome and the tracking URI.

    A training that the same settings finished in ``out`` is not repeated: its outcome is returned.

    Under `accelerate launch` or `torchrun` the processes train together; the first one logs and writes, and the
    others return None. What a `torchrun` began, it continues when it starts its processes again, as with ``resume``.

    Parameters
    ----------
    resume : bool
        Resume from the state in ``out``, in the MLflow run that started there.

    Raises
    ------
    KmedError
        When the size has no weights, the split can't be read, the store can't be used, or ``out`` holds a training
        with other settings, or an unfinished one without ``resume``.
    """
    (size,) = config.model.sizes
    SPLIT.read(split_folder / "split.json")  # a wrong folder is named before weights are fetched
    parallel = Parallel.from_environment()
    if not parallel.is_main:
        configure_logging("warning")
    with parallel.main_first():
        weights, _ = collect_weights(config)
    return train_from(weights[size], config, split_folder, out, resume=resume, parallel=parallel)


def train_from(
    weights: Weights,
    config: Config,
    split_folder: Path,
    out: Path,
    *,
    resume: bool = False,
    parallel: Parallel | None = None,
) -> tuple[TrainOutcome, str] | None:
    """Do what `train_one` does, with the weights that are passed in."""
    check_sign_key(config)
    parallel, seed = parallel or Parallel(), config.train.seeds[0]
    restarted, resume = parallel.from_main(_how_to_begin(out / f"seed{seed}", parallel, resume))
    with parallel.main_first():
        split = with_left_out(read_split(split_folder), split_folder, config)
        outlook = _foresee(Trainer(config, weights, FeaturizedSplit(split, {}), out, parallel), seed, resume)
        speech = featurize_split(split, cache_folder() / "features", config)
    trainer = Trainer(config, weights, speech, out, parallel)
    trainer.outlook = outlook
    finished = parallel.from_main(trainer.done(seed, trainer.fingerprint(seed)))
    if finished is not None and not resume:
        log.info("%s holds this training, finished in run %s.", trainer.folder(seed), finished.run_id)
        return (finished, open_store(config.tracking)) if parallel.is_main else None
    if not parallel.is_main:
        with parallel.naming_lost_peers():
            trainer.train(seed, None, resume)
            parallel.from_main(None)
        return None
    with only_process_in(trainer.folder(seed), wait_s=_LOCK_WAIT_S if restarted else 0), log_file(out):
        if not resume:
            trainer.check_fresh(seed)
        uri = open_store(config.tracking)
        run_id = _run_to_continue(trainer, seed) if resume else None
        name = f"train-{weights.size}-seed{seed}"
        tags = {**trainer.describe(seed), SERIES_TAG: series_of(config, split), HASH_TAG: trainer.fingerprint(seed)}
        with standalone_run(
            config,
            kind="train",
            name=name,
            code_version=code_version(),
            tags=tags,
            params=trainer.params(seed),
            run_id=run_id,
        ) as run:
            if run_id is None:
                trainer.record(seed, run)  # first of all: a training killed at once must be found again
            log_split(run, split, "training")
            plan = make_plan(config, TRAINED, identify_split(split), {weights.size: weights})
            trainer.seal = seal_plan(run, plan, trainer.folder(seed), command="train", begun=run_id is not None)
            with parallel.naming_lost_peers():
                outcome = trainer.train(seed, run, resume)
        assert outcome is not None  # this is the process that writes
    parallel.from_main(None)  # the others stay until the outcome is written, so that a restart finds all of them
    return outcome, uri


def _foresee(trainer: Trainer, seed: int, resume: bool) -> Outlook | None:
    """Return and log what a training will take; None in further processes, and where there is little or nothing to do.

    Parameters
    ----------
    trainer : Trainer
        Without features, which are part of the estimate.
    """
    if not trainer.parallel.is_main or trainer.done(seed, trainer.fingerprint(seed)) is not None:
        return None
    if not resume:
        trainer.check_fresh(seed)
    weights, world = {trainer.weights.size: trainer.weights}, trainer.parallel.world
    key = (trainer.weights.size, seed)
    return foresee(trainer.config, trainer.speech.split, weights, [key], n_processes=world, report=False)


def _how_to_begin(folder: Path, parallel: Parallel, resume: bool) -> tuple[bool, bool]:
    """Return whether the launcher's job began the training in a folder itself, and whether to resume.

    How often the launcher has restarted its processes does not decide it: that number differs between machines, and a
    folder with someone else's unfinished training would be refused at first and then taken.
    """
    record = read_training_record(folder) if parallel.is_main and parallel.launch else None
    restarted = record is not None and record.launch == parallel.launch
    if record is not None and restarted and record.outcome is None and not resume:
        log.warning("The processes were started again: the training in %s continues from its saved state.", folder)
    return restarted, resume or restarted


@contextlib.contextmanager
def only_process_in(folder: Path, wait_s: float = 0.0) -> Iterator[None]:
    """Keep a second process from training in the folder; the system frees the lock of a killed one.

    Parameters
    ----------
    wait_s : float
        Time for the one before to end.

    Raises
    ------
    KmedError
        When another process trains there for longer.
    """
    folder.mkdir(PRIVATE_FOLDER, parents=True, exist_ok=True)
    with locked(folder / TRAINING_LOCK, f"the training in {folder}", wait_s=wait_s):
        yield


def _run_to_continue(trainer: Trainer, seed: int) -> str | None:
    record = read_training_record(trainer.folder(seed))
    if record is None:
        log.info("Nothing to continue in %s: a new training starts.", trainer.folder(seed))
        return None
    if record.fingerprint != trainer.fingerprint(seed):
        raise KmedError(
            f"{trainer.folder(seed)} holds a training with other settings, data, weights or arithmetic; continue it "
            "with what it was started with, or choose another folder to start over."
        )
    return record.run_id

"""Which earlier benchmark `run --resume` continues, and what it already has."""

import dataclasses
import logging
from pathlib import Path

from kmed_bench.config import Config
from kmed_bench.core.errors import KmedError
from kmed_bench.core.version import code_version
from kmed_bench.pipeline.trainer import Trainer
from kmed_bench.pipeline.training_record import TRAINING_FILE, TrainOutcome, read_training_record
from kmed_bench.tracking.resume import FINISHED, EarlierBench, EarlierRun, check_ended, find_bench

log = logging.getLogger(__name__)
Only = tuple[tuple[str, int], ...]
"""Size and seed of the trainings that a `run` is limited to; empty: all."""


def parse_only(text: str, config: Config) -> Only:
    """Return (size, seed) of each training that ``--only`` names, as in ``base:0,base:1``; none for no text.

    Raises
    ------
    KmedError
        When the plan has no such training.
    """
    planned = [(size, seed) for size in config.model.sizes for seed in config.train.seeds]
    named = {f"{size}:{seed}": (size, seed) for size, seed in planned}
    words = [word.strip() for word in text.split(",") if word.strip()]
    for word in words:
        if word not in named:
            raise KmedError(f"--only names {word!r}, which is not in the plan; its trainings are: {', '.join(named)}.")
    return tuple(key for key in planned if f"{key[0]}:{key[1]}" in words)


def describe_only(only: Only) -> str:
    """Return the text that `parse_only` reads, in the plan's order."""
    return ",".join(f"{size}:{seed}" for size, seed in only)


def results_folder(out: Path, profile: str, run_id: str) -> Path:
    """Return the folder of a benchmark's results, named after its run so that ``--resume`` finds it."""
    return out / f"bench-{profile}-{run_id[:8]}"


def find_earlier(config: Config, uri: str, out: Path, *, resume: bool, only: Only = ()) -> EarlierBench | None:
    """Return the benchmark to continue; without ``resume`` None, after a message about one that could be continued.

    Raises
    ------
    KmedError
        When the benchmark to continue may still be running, or its folder is gone.
    """
    earlier = find_bench(config, uri, describe_only(only))
    if earlier is None:
        if resume:
            log.warning("The store holds no benchmark of these settings to continue: a new one starts.")
        return None
    n_trainings = len(only) or len(config.model.sizes) * len(config.train.seeds)
    described = f"{earlier.name} ({earlier.n_finished} of {n_trainings} trainings done)"
    if not resume:
        if earlier.status not in (FINISHED, "RUNNING"):
            log.info(
                f"The store holds an unfinished benchmark of the same settings: {described}. This is a new one; to "
                "continue that one, stop and add --resume (with mlflow run: -P resume=true)."
            )
        return None
    check_ended(earlier, uri)
    folder = results_folder(out, earlier.profile, earlier.run_id)
    if earlier.n_finished and not folder.is_dir():
        raise KmedError(
            f"The results of {earlier.name} should be in {folder}, which does not exist; use the --out it was started "
            "with, put the folder back, or leave --resume out to start over."
        )
    log.info("Continuing %s in %s", described, folder)
    if earlier.code_version != code_version():
        log.warning(f"It was started by version {earlier.code_version}; this is {code_version()}.")
    return earlier


@dataclasses.dataclass(frozen=True)
class EarlierTraining:
    """What an earlier benchmark has of one training.

    Attributes
    ----------
    identity : str
        Digest by which the training's run is found again.
    run : EarlierRun or None
        None if it was not started.
    outcome : TrainOutcome or None
        None unless it is finished.
    """

    identity: str
    run: EarlierRun | None = None
    outcome: TrainOutcome | None = None


def find_training(trainer: Trainer, seed: int, name: str, earlier: EarlierBench | None) -> EarlierTraining:
    """Return what the earlier benchmark has of a training.

    Raises
    ------
    KmedError
        When it was started with other weights or arithmetic, or is finished and its files are gone.
    """
    # Within one benchmark, which fixes sizes and epochs, the fingerprint identifies a training.
    fingerprint, folder = trainer.fingerprint(seed), trainer.folder(seed)
    if earlier is None:
        return EarlierTraining(fingerprint)
    run, record = earlier.trains.get(fingerprint), read_training_record(folder)
    if run is None:
        if record is not None and record.fingerprint != fingerprint:
            raise KmedError(
                f"{name} was started with other weights or arithmetic ({trainer.precision} here); continue it on the "
                "machine where it started, or leave --resume out to start over."
            )
        return EarlierTraining(fingerprint)
    if run.status != FINISHED:
        log.info(f"{name}: was begun before ({run.status.lower()}) and is continued.")
        return EarlierTraining(fingerprint, run)
    log.info(f"{name}: done before, not run again.")
    outcome = record.outcome if record else None
    missing = [name for name in ("predictions.jsonl", "predictions_untouched.jsonl") if not (folder / name).is_file()]
    if outcome is None or missing:
        raise KmedError(
            f"The store says that the training in {folder} is finished, but {', '.join(missing) or TRAINING_FILE} is "
            "not there; put the folder back, or leave --resume out to start over."
        )
    return EarlierTraining(fingerprint, run, outcome)

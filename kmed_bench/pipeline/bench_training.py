"""One training of a benchmark, in whichever process it runs."""

from kmed_bench.core.addresses import without_password
from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import PRIVATE_FOLDER
from kmed_bench.core.locks import locked
from kmed_bench.core.system_errors import explain_os_error
from kmed_bench.core.version import code_version
from kmed_bench.pipeline.continuation import EarlierTraining
from kmed_bench.pipeline.plan import series_of
from kmed_bench.pipeline.preparation import log_split
from kmed_bench.pipeline.trainer import Trainer
from kmed_bench.pipeline.training_record import TRAINING_LOCK, TrainOutcome
from kmed_bench.tracking.refusals import refused
from kmed_bench.tracking.resume import HASH_TAG
from kmed_bench.tracking.run import TrackedRun
from kmed_bench.tracking.series import SERIES_TAG

_LOCK_WAIT_S = 120.0
"""A process whose parent was killed has that long to save its state and leave the folder."""


def training_name(size: str, seed: int) -> str:
    """Return the name of a training's run."""
    return f"train-{size}-seed{seed}"


def train_in_bench(
    trainer: Trainer, seed: int, bench: TrackedRun, before: EarlierTraining, *, resume: bool
) -> TrainOutcome:
    """Return the outcome of one training, which runs or continues in a child run of the benchmark's.

    Parameters
    ----------
    before : EarlierTraining
        What the benchmark already has of it; no outcome.
    resume : bool
        Whether the benchmark is continued.
    """
    bench.settle()
    series = series_of(trainer.config, trainer.speech.split)
    name_tag = {"kmed.bench_name": bench.client.get_run(bench.run_id).info.run_name}
    tags = {**trainer.describe(seed), **name_tag, HASH_TAG: before.identity, SERIES_TAG: series}
    run_id = before.run.run_id if before.run else None
    if run_id is None:
        tags |= {"kmed.profile": trainer.config.profile, "kmed.code_version": code_version()}
    name = training_name(trainer.weights.size, seed)
    trainer.folder(seed).mkdir(PRIVATE_FOLDER, parents=True, exist_ok=True)
    with (
        locked(trainer.folder(seed) / TRAINING_LOCK, name, wait_s=_LOCK_WAIT_S),
        bench.child("train", name, tags=tags, params=trainer.params(seed), run_id=run_id) as run,
    ):
        log_split(run, trainer.speech.split, "training")
        outcome = trainer.train(seed, run, resume=resume)
    assert outcome is not None  # only further processes of one training have none
    return outcome


def describe_failure(error: Exception, uri: str) -> tuple[str, bool]:
    """Return what ended a training, without passwords, and whether it is an error that users can act on."""
    refusal = refused(error, uri)
    expected = isinstance(refusal or error, (KmedError, OSError))
    said = str(refusal or (explain_os_error(error) if isinstance(error, OSError) else error))
    return without_password(said if expected else f"{type(error).__name__}: {error}"), expected

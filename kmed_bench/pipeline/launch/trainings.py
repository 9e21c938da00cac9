"""Trainings of a benchmark in slots, from the side of the process that started them."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from kmed_bench.asr.features.threads import count_cores
from kmed_bench.asr.model.weights import Weights
from kmed_bench.config import Config
from kmed_bench.core.errors import KmedError
from kmed_bench.core.schema import SIZES
from kmed_bench.corpus.splitting.split import Split
from kmed_bench.pipeline.bench_training import training_name
from kmed_bench.pipeline.continuation import find_training
from kmed_bench.pipeline.launch.slots import Slot, Task, make_slots, run_in_slots, visible_gpus
from kmed_bench.pipeline.launch.watch import Watch
from kmed_bench.pipeline.launch.worker import describe_task
from kmed_bench.pipeline.trainer import Trainer
from kmed_bench.pipeline.training_record import TrainOutcome, read_training_record
from kmed_bench.tracking.processes import end_abandoned
from kmed_bench.tracking.resume import EarlierBench
from kmed_bench.tracking.run import TrackedRun
from kmed_bench.training.epochs import FeaturizedSplit

log = logging.getLogger(__name__)


def find_slots(wanted: str, threads: int | None) -> list[Slot]:
    """Return the slots of this machine; none where one process does it all: one slot, with threads as usual.

    Raises
    ------
    KmedError
        See `make_slots`.
    """
    gpus = visible_gpus(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    slots = make_slots(wanted, threads, gpus, count_cores())
    return [] if len(slots) == 1 and threads is None else slots


def train_in_slots(
    config: Config,
    chosen: Mapping[tuple[str, int], Weights],
    split: Split,
    folder: Path,
    bench: TrackedRun,
    earlier: EarlierBench | None,
    slots: Sequence[Slot],
) -> tuple[list[TrainOutcome], dict[str, str]]:
    """Return the outcomes of these sizes and seeds, and for each train run that failed the error.

    The split and its features are there already. Large sizes begin first, so that the last ones are short.
    """
    outcomes: dict[tuple[str, int], TrainOutcome] = {}
    failed: dict[str, str] = {}
    tasks: dict[str, Task] = {}
    keys = {training_name(size, seed): (size, seed) for size, seed in chosen}
    for size, seed in sorted(chosen, key=lambda key: -SIZES.index(key[0])):
        name = training_name(size, seed)
        trainer = Trainer(config, chosen[size, seed], FeaturizedSplit(split, {}), folder / size)
        try:
            before = find_training(trainer, seed, name, earlier)
        except KmedError as error:
            failed[name] = str(error)
            log.error("%s failed: %s", name, error)
            continue
        if before.outcome is not None:
            outcomes[size, seed] = before.outcome
            continue
        told = describe_task(
            config=config,
            weights=trainer.weights,
            seed=seed,
            folder=folder,
            bench=bench,
            before=before,
            resume=earlier is not None,
        )
        tasks[name] = Task("from kmed_bench.pipeline.launch.worker import main; sys.exit(main())", told=told)
    if tasks:
        log.info(f"{len(tasks)} trainings in {min(len(slots), len(tasks))} slots ({_describe(slots)}).")
        torch.cuda.empty_cache()  # what the estimate has used on the first GPU
        with Watch("Trainings", len(tasks)) as watch:
            run_in_slots(tasks, slots, watch)
        if watch.failed:
            end_abandoned(bench.client)
        failed |= watch.failed
        for name in tasks.keys() - watch.failed.keys():
            outcomes[keys[name]] = _read_outcome(folder, *keys[name])
    return [outcomes[key] for key in chosen if key in outcomes], failed


def _read_outcome(folder: Path, size: str, seed: int) -> TrainOutcome:
    record = read_training_record(folder / size / f"seed{seed}")
    outcome = record.outcome if record else None
    assert outcome is not None  # written before the process ended with 0
    return outcome


def _describe(slots: Sequence[Slot]) -> str:
    threads = f"{slots[0].n_threads} {'thread' if slots[0].n_threads == 1 else 'threads'} each"
    gpus = [slot.gpu for slot in slots if slot.gpu is not None]
    return f"GPU {', '.join(gpus)}; {threads}" if gpus else threads

"""The checkpoints and the history that a training keeps in its folder, and the checkpoints in its run."""

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from whisper.model import Whisper

from kmed_bench.asr.model.weights import save_weights
from kmed_bench.config import Config
from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import PRIVATE_FOLDER, replacing, write_text_atomically
from kmed_bench.core.quantities import gib
from kmed_bench.tracking.away import is_away
from kmed_bench.tracking.registry.checkpoints import keep_checkpoints, log_checkpoint
from kmed_bench.tracking.run import TrackedRun
from kmed_bench.training.adapt import merged_state
from kmed_bench.training.epochs import ScoredEpoch, best_of

log = logging.getLogger(__name__)
HISTORY_FILE = "history.csv"
STATE_COPIES = 9
"""Times the weights that a training's state takes: weights and two moments of AdamW, the state before it, and a
temporary file, which replaces the last one."""


def check_room(model: Whisper, folder: Path, size: str) -> None:
    """Raise KmedError if the disk can't hold a training's state and checkpoints."""
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    needed = weights * (STATE_COPIES + 2)
    folder.mkdir(PRIVATE_FOLDER, parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise KmedError(
            f"Training {size} needs {gib(needed)} in {folder} for its state and checkpoints, and "
            f"{gib(free)} are free; make room or choose another --out."
        )


def write_history(folder: Path, untouched: Mapping[str, float], epochs: Sequence[ScoredEpoch]) -> None:
    """Write one row of metrics per epoch; epoch 0 is the model before training."""
    rows = [{"epoch": 0, **untouched}, *({"epoch": epoch.epoch, **epoch.metrics()} for epoch in epochs)]
    write_text_atomically(folder / HISTORY_FILE, pd.DataFrame(rows).to_csv(index=False))


def keep_weights(
    model: Whisper, epochs: Sequence[ScoredEpoch], run: TrackedRun, folder: Path, config: Config, split_sha256: str
) -> None:
    """Write the last epoch's weights if they are to be kept; delete superseded ones in the folder and the store.

    ``best.pt`` is the best epoch's; ``epochNN.pt`` are the latest ``train.keep_checkpoints`` others. Each step can be
    repeated after a crash.
    """
    keep, last, best = config.train.keep_checkpoints, epochs[-1], best_of(epochs)
    if last is not best and not keep:
        return
    path = _epoch_file(folder, last.epoch)
    save_weights(model, path, merged_state(model))
    if last is best:
        with replacing(folder / "best.pt") as link:
            try:
                link.hardlink_to(path)
            except OSError:  # a file system without links
                shutil.copyfile(path, link)
    store_weights(epochs, run, folder, config, split_sha256)
    kept = {_epoch_file(folder, epoch.epoch) for epoch in _kept(epochs, keep)} if keep else set()
    for file in set(folder.glob("epoch*.pt")) - kept:
        file.unlink()


def store_weights(
    epochs: Sequence[ScoredEpoch], run: TrackedRun, folder: Path, config: Config, split_sha256: str
) -> None:
    """Store the last epoch's weights and, where the store was away or the run was continued, those that it may lack.

    If the store is away, the next call does it: see `TrackedRun.behind`.
    """
    if not config.tracking.log_checkpoints:
        return
    last, best = epochs[-1], best_of(epochs)
    wanted = [epoch for epoch in _kept(epochs, config.train.keep_checkpoints) if run.behind or epoch is last]
    run.behind = True
    if run.is_away:
        return
    try:
        for epoch in wanted:
            file = _epoch_file(folder, epoch.epoch)
            if epoch is best and not file.exists():
                file = folder / "best.pt"
            if not file.exists():  # the training was continued with a larger train.keep_checkpoints
                continue
            metrics = {name: value for name, value in epoch.metrics().items() if "/cer" in name}
            log_checkpoint(
                run,
                file,
                epoch=epoch.epoch,
                metrics=metrics,
                split_sha256=split_sha256,
                best=epoch is best,
            )
        keep_checkpoints(run, config.train.keep_checkpoints)
    except Exception as error:
        if not is_away(error):
            raise
        log.warning("The tracking store does not answer; checkpoint %d is stored when it does.", last.epoch)
    else:
        run.behind = False


def _kept(epochs: Sequence[ScoredEpoch], keep: int) -> list[ScoredEpoch]:
    """Return the best epoch and the latest others."""
    best = best_of(epochs)
    others = [epoch for epoch in epochs if epoch is not best]
    return [epoch for epoch in epochs if epoch is best or epoch in others[len(others) - keep :]]


def _epoch_file(folder: Path, epoch: int) -> Path:
    return folder / f"epoch{epoch:02d}.pt"

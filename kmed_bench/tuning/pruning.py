"""The hooks: an epoch's result goes to a trial and pruning comes back; usable with any objective and study."""

import contextlib
from collections.abc import Generator, Iterator
from typing import Protocol, TypeVar

import optuna


class Scored(Protocol):
    """What the hooks read of an epoch's result; ``stages.train_epochs`` yields more."""

    @property
    def epoch(self) -> int:
        """1 for the first."""

    @property
    def valid_cer(self) -> float:
        """CER of decoded transcripts of the valid part."""


Result = TypeVar("Result", bound=Scored)


def report_epochs(
    trial: optuna.Trial, epochs: Generator[Result, None, None] | Iterator[Result], *, spare_epoch: int | None = None
) -> Iterator[Result]:
    """Yield each epoch's result and report the lowest valid CER so far, which is what the trial is worth by then.

    The consumer has an epoch before Optuna does, so that it can log it. Leaving the loop in any way closes
    ``epochs``, which ends the training.

    Parameters
    ----------
    spare_epoch : int, optional
        From this epoch on nothing is pruned: at the last one there is nothing left to save. 1 never prunes.

    Raises
    ------
    optuna.TrialPruned
        When the study's pruner gives the trial up.
    """
    best = float("inf")
    with contextlib.ExitStack() as stack:
        if isinstance(epochs, Generator):
            stack.callback(epochs.close)
        for result in epochs:
            yield result
            best = min(best, result.valid_cer)
            trial.report(best, result.epoch)
            if (spare_epoch is None or result.epoch < spare_epoch) and trial.should_prune():
                raise optuna.TrialPruned(f"given up after epoch {result.epoch}")

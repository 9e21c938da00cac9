"""The pruning callback: reports each epoch to an Optuna trial, and ends the training if the trial is pruned."""

import contextlib
from collections.abc import Generator, Iterator
from typing import Protocol, TypeVar

import optuna


class Scored(Protocol):
    """The fields that `report_epochs` reads of an epoch's result; ``training.epochs.train_epochs`` yields more."""

    @property
    def epoch(self) -> int:
        """The epoch's number, 1 for the first."""

    @property
    def valid_cer(self) -> float:
        """CER of the decoded transcripts of the valid part, as a fraction."""


Result = TypeVar("Result", bound=Scored)


def report_epochs(
    trial: optuna.Trial, epochs: Generator[Result, None, None] | Iterator[Result], *, spare_epoch: int | None = None
) -> Iterator[Result]:
    """Yield each epoch's result, then report the lowest valid CER so far, which is the trial's value at that epoch.

    The consumer gets each result before Optuna does and can log it. Leaving the loop in any way closes ``epochs``,
    which ends the training. The callback works with any study and objective.

    Parameters
    ----------
    spare_epoch : int, optional
        No pruning from this epoch on: at the last epoch there is nothing left to save. 1 never prunes.

    Raises
    ------
    optuna.TrialPruned
        When the study's pruner stops the trial.
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

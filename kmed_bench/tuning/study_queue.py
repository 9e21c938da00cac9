"""The trials of a study as a queue that processes share: N slots, none lost, none run twice."""

import copy
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState

from kmed_bench.config import Config
from kmed_bench.core.errors import KmedError
from kmed_bench.tracking.processes import is_gone
from kmed_bench.tuning.samplers import directions, make_pruner, make_sampler
from kmed_bench.tuning.space import find_published
from kmed_bench.tuning.storage import StudyLock, open_storage

# User attributes of trials.
PROCESS, RUN, ERROR, PUBLISHED = "kmed.process", "kmed.run_id", "kmed.error", "kmed.published"
INTERRUPTED = "kmed.interrupted"
_SETUP = "kmed.setup"
_OPEN = (TrialState.WAITING, TrialState.RUNNING)
_POLL_S = 2.0

Objective = Callable[[optuna.Trial, StudyLock], float | tuple[float, ...]]


class StudyQueue:
    """A study whose trials wait in the storage before anyone runs them.

    Slots are made once, under a lock, and processes take them one by one, so the total is exact. A trial whose
    process died comes back as another trial with the same parameters.

    Parameters
    ----------
    setup : dict
        What makes trials comparable; a study that was made with another one is refused.
    on_lost : callable
        Called with each trial that was lost with its process, at least once.

    Raises
    ------
    KmedError
        When the storage can't be used, or holds a study of this name with another setup.
    """

    def __init__(
        self, config: Config, name: str, *, setup: dict[str, Any], on_lost: Callable[[FrozenTrial], None]
    ) -> None:
        self._config, self._on_lost = config, on_lost
        self._url = config.tune.storage
        self._told: set[int] = set()
        with self.lock():
            self._storage = open_storage(config.tune)
            self.study = optuna.create_study(
                storage=self._storage,
                study_name=name,
                directions=directions(config.tune),
                pruner=make_pruner(config),
                load_if_exists=True,
            )
            self._check_setup(name, setup)
            self._top_up()

    def close(self) -> None:
        """Close the connections to the storage."""
        if isinstance(self._storage, RDBStorage):
            self._storage.remove_session()
            self._storage.engine.dispose()

    def lock(self) -> StudyLock:
        """Return the lock that every change of the queue needs."""
        return StudyLock(self._url)

    def _check_setup(self, name: str, setup: dict[str, Any]) -> None:
        known = self.study.user_attrs.get(_SETUP)
        if known is None:
            self.study.set_user_attr(_SETUP, setup)
        elif known != setup:
            differing = [key for key in {**known, **setup} if known.get(key) != setup.get(key)]
            raise KmedError(
                f"Study {name!r} was made with another {', '.join(differing)}; its trials would not be comparable. "
                "Give those settings as they were, or another --study NAME."
            )

    def _top_up(self) -> None:
        """Make the slots that are missing; the first holds the published settings."""
        originals = [trial for trial in self.trials() if not retry_history(trial)]
        if not originals:
            self.study.enqueue_trial(find_published(self._config), user_attrs={PUBLISHED: True})
        for _ in range(self._config.tune.trials - max(1, len(originals))):
            self.study.enqueue_trial({})  # parameters are drawn when it starts, from what is known by then

    def trials(self) -> list[FrozenTrial]:
        """Return all trials, retries included, by number."""
        return self.study.get_trials(deepcopy=False)

    def work(self, objective: Objective, catch: tuple[type[Exception], ...]) -> None:
        """Run trials until none is left to run and none is running anywhere.

        Parameters
        ----------
        objective : callable
            Gets the trial and the lock, which it must release when it has noted who runs the trial.
        catch : tuple of exception types
            Errors that end a trial and not the study.
        """
        while True:
            with self.lock() as lock:
                self.settle()
                states = [trial.state for trial in self.trials()]
                if TrialState.WAITING in states:
                    # Only a holder of the lock takes trials, so the first that waits is the one Optuna takes.
                    self.study.sampler = make_sampler(self._config.tune, states.index(TrialState.WAITING))
                    self._run_one(objective, lock, catch)
                    continue
            if TrialState.RUNNING not in states:
                return
            time.sleep(_POLL_S)  # another process may die, and then its trial is ours

    def _run_one(self, objective: Objective, lock: StudyLock, catch: tuple[type[Exception], ...]) -> None:
        try:
            self.study.optimize(lambda trial: objective(trial, lock), n_trials=1, catch=catch)
        except (UpdateFinishedTrialError, ValueError) as error:
            # This process was silent for so long that its trial was failed and given to another.
            if isinstance(error, ValueError) and not str(error).startswith("Cannot tell a"):
                raise
        except BaseException:  # interrupted, or the store is out of reach: no fault of the trial, which waits again
            lock.release()
            with self.lock():
                self.settle()
            raise

    def settle(self) -> None:
        """Fail trials whose process is gone and queue each of them again; call it while holding the lock."""
        with _experimental():
            fail_stale_trials(self.study)  # by heartbeat: other machines
        for trial in self.trials():
            # Who runs a trial is noted before the lock is given back, so one that nobody signed was left in the claim.
            process = trial.user_attrs.get(PROCESS)
            if trial.state == TrialState.RUNNING and (process is None or is_gone(process)):
                self.study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
        trials = self.trials()
        repeated = {number for trial in trials for number in retry_history(trial)}
        for trial in trials:
            lost = trial.state == TrialState.FAIL and ERROR not in trial.user_attrs
            if not lost or trial.number in repeated:
                continue
            if trial.number not in self._told:
                self._told.add(trial.number)
                self._on_lost(trial)
            # After so many deaths something is wrong with the trial; an interrupt is a wish and not counted.
            deaths = [n for n in (*retry_history(trial), trial.number) if not trials[n].user_attrs.get(INTERRUPTED)]
            if len(deaths) <= self._config.tune.retries:
                with _experimental():
                    RetryHeartbeatStaleTrialCallback()(self.study, copy.deepcopy(trial))

    def is_complete(self) -> bool:
        """Tell whether every slot has come to an end."""
        return not any(trial.state in _OPEN for trial in self.trials())

    def is_running(self) -> bool:
        """Tell whether any process works on a trial."""
        return any(trial.state == TrialState.RUNNING for trial in self.trials())


def retry_history(trial: FrozenTrial) -> list[int]:
    """Return the numbers of the lost trials that a trial repeats, the first one first."""
    with _experimental():
        return RetryHeartbeatStaleTrialCallback.retry_history(trial)


@contextmanager
def _experimental() -> Iterator[None]:
    """Optuna calls heartbeats experimental since 2021; a warning at every call helps nobody."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield

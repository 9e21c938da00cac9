"""The trials of a study as a queue shared by processes: N slots, none lost, none run twice."""

import copy
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState

from kmed_bench.config import Config
from kmed_bench.core.errors import KmedError
from kmed_bench.tracking.processes import is_gone
from kmed_bench.tuning.callbacks import Callback
from kmed_bench.tuning.samplers import directions, make_pruner, make_sampler
from kmed_bench.tuning.space import find_default
from kmed_bench.tuning.storage import StudyLock, open_storage

# User attributes of trials.
PROCESS, RUN, ERROR, DEFAULT = "kmed.process", "kmed.run_id", "kmed.error", "kmed.default"
INTERRUPTED = "kmed.interrupted"
_SETUP = "kmed.setup"
_STOPS = "kmed.stops"
_SHOWN = {"cer": "valid CER", "seconds_per_clip": "seconds per clip"}
_OPEN = (TrialState.WAITING, TrialState.RUNNING)
_POLL_S = 2.0

Objective = Callable[[optuna.Trial, StudyLock], float | tuple[float, ...]]


class StudyQueue:
    """A study whose trials wait in the storage until a process runs them.

    Slots are created once, under a lock, and processes claim them one by one, so the total is exact. A trial whose
    process died is queued again as a new trial with the same parameters.

    Parameters
    ----------
    setup : dict
        What makes trials comparable; a study created with another setup is refused.
    on_lost : callable
        Called at least once with each trial that was lost with its process.

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
        self._reported: set[int] = set()
        with self.lock():
            self._storage = open_storage(config.tune)
            self.study = optuna.create_study(
                storage=self._storage,
                study_name=name,
                directions=directions(config.tune),
                pruner=make_pruner(config),
                load_if_exists=True,
            )
            with _experimental():  # what the dashboard calls the objectives
                self.study.set_metric_names([_SHOWN[objective] for objective in config.tune.objectives])
            self._check_setup(name, setup)
            self._top_up()
            self._stops = self._count_stops()

    def close(self) -> None:
        """Close the connections to the storage."""
        self._storage.remove_session()
        self._storage.engine.dispose()

    def lock(self) -> StudyLock:
        """Return the lock that must be held for every change of the queue."""
        return StudyLock(self._url)

    def _check_setup(self, name: str, setup: dict[str, Any]) -> None:
        before = self.study.user_attrs.get(_SETUP)
        if before is None:
            self.study.set_user_attr(_SETUP, setup)
        elif before != setup:
            differing = [key for key in {**before, **setup} if before.get(key) != setup.get(key)]
            raise KmedError(
                f"Study {name!r} was made with another {', '.join(differing)}; its trials would not be comparable. "
                "Give those settings as they were, or another --study NAME."
            )

    def _top_up(self) -> None:
        """Create the missing slots; the first has the default settings."""
        originals = [trial for trial in self.trials() if not retry_history(trial)]
        if not originals:
            self.study.enqueue_trial(find_default(self._config), user_attrs={DEFAULT: True})
        for _ in range(self._config.tune.trials - max(1, len(originals))):
            self.study.enqueue_trial({})  # parameters are drawn when it starts, from the results there are by then

    def trials(self) -> list[FrozenTrial]:
        """Return all trials, retries included, by number."""
        return self.study.get_trials(deepcopy=False)

    def work(
        self, objective: Objective, catch: tuple[type[Exception], ...], callbacks: Sequence[Callback] = ()
    ) -> None:
        """Run trials until none is waiting and none is running in any process, or any process stops the study.

        Parameters
        ----------
        objective : callable
            Takes the trial and the lock, which it must release once it has recorded which process runs the trial.
        catch : tuple of exception types
            Errors that end a trial but not the study.
        callbacks : sequence of callable
            Called after each trial of this process with the study and the trial; ``study.stop()`` in one of them keeps
            all processes now at work from starting another trial.
        """
        while True:
            with self.lock() as lock:
                self.settle()
                if self.is_stopped():
                    return
                states = [trial.state for trial in self.trials()]
                if TrialState.WAITING in states:
                    # Only the lock's holder claims trials, so Optuna will claim the first waiting one.
                    self.study.sampler = make_sampler(self._config.tune, states.index(TrialState.WAITING))
                    self._run_one(objective, lock, catch, callbacks)
                    continue
            if TrialState.RUNNING not in states:
                return
            time.sleep(_POLL_S)  # another process may die, and its trial be queued again

    def _run_one(
        self,
        objective: Objective,
        lock: StudyLock,
        catch: tuple[type[Exception], ...],
        callbacks: Sequence[Callback],
    ) -> None:
        # A trial may end before the objective releases the lock, which no callback may hold: it may take long.
        after = [lambda *_: lock.release(), *callbacks]
        try:
            self.study.optimize(lambda trial: objective(trial, lock), n_trials=1, catch=catch, callbacks=after)
            if self.study._stop_flag:  # Optuna has no public attribute for it; `optimize` resets it when it starts
                with self.lock():
                    self.study.set_user_attr(_STOPS, self._count_stops() + 1)
        except (UpdateFinishedTrialError, ValueError) as error:
            # This process missed so many heartbeats that its trial was marked as failed and queued again.
            if isinstance(error, ValueError) and not str(error).startswith("Cannot tell a"):
                raise
        except BaseException:  # interrupted, or the store can't be reached: the trial itself is queued again
            lock.release()
            with self.lock():
                self.settle()
            raise

    def settle(self) -> None:
        """Mark trials whose process is gone as failed and queue them again; call it while holding the lock."""
        with _experimental():
            fail_stale_trials(self.study)  # by heartbeat, for processes of other machines
        for trial in self.trials():
            # The process is recorded before the lock is released: without one, it died while claiming the trial.
            process = trial.user_attrs.get(PROCESS)
            if trial.state == TrialState.RUNNING and (process is None or is_gone(process)):
                self.study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
        trials = self.trials()
        repeated = {number for trial in trials for number in retry_history(trial)}
        for trial in trials:
            lost = trial.state == TrialState.FAIL and ERROR not in trial.user_attrs
            if not lost or trial.number in repeated:
                continue
            if trial.number not in self._reported:
                self._reported.add(trial.number)
                self._on_lost(trial)
            # A trial that keeps killing its process is not retried forever; a user's interrupts do not count.
            deaths = [n for n in (*retry_history(trial), trial.number) if not trials[n].user_attrs.get(INTERRUPTED)]
            if len(deaths) <= self._config.tune.retries:
                with _experimental():
                    RetryHeartbeatStaleTrialCallback()(self.study, copy.deepcopy(trial))

    def _count_stops(self) -> int:
        return int(self.study.user_attrs.get(_STOPS, 0))

    def is_stopped(self) -> bool:
        """Return whether a callback of any process has stopped the study since this process joined it."""
        return self._count_stops() > self._stops

    def is_complete(self) -> bool:
        """Return whether no trial is waiting or running."""
        return not any(trial.state in _OPEN for trial in self.trials())

    def is_running(self) -> bool:
        """Return whether any process is running a trial."""
        return any(trial.state == TrialState.RUNNING for trial in self.trials())


def retry_history(trial: FrozenTrial) -> list[int]:
    """Return the numbers of the lost trials that a trial repeats, in order."""
    with _experimental():
        return RetryHeartbeatStaleTrialCallback.retry_history(trial)


@contextmanager
def _experimental() -> Iterator[None]:
    """Suppress the warning that Optuna gives at each call of a heartbeat function, experimental since 2021."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield

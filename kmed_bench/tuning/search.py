"""One process's part in a study: it claims trials, trains them, and records them in Optuna and MLflow alike."""

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial

from kmed_bench.asr.model.device import describe_machine, pick_device
from kmed_bench.asr.model.weights import Weights, load_weights
from kmed_bench.config import Config, Range, adjust, digest, study_setup
from kmed_bench.config.tune import Choice
from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import cache_folder
from kmed_bench.core.progress import track
from kmed_bench.core.quantities import percent
from kmed_bench.core.records import StudyRecord
from kmed_bench.corpus.demo.sentences import corpus_name, is_synthetic
from kmed_bench.corpus.splitting.split import read_split
from kmed_bench.report.study import refuse_another_study
from kmed_bench.tracking import trials as tracked
from kmed_bench.tracking.privacy import describe_failure
from kmed_bench.tracking.processes import this_process
from kmed_bench.tracking.run import TrackedRun
from kmed_bench.tracking.store import open_store
from kmed_bench.training.epochs import FeaturizedSplit, ScoredEpoch, featurize_split, train_epochs
from kmed_bench.tuning.callbacks import Callback, guard, load_callbacks
from kmed_bench.tuning.pruning import report_epochs
from kmed_bench.tuning.space import check_space, fit_warmup, suggest
from kmed_bench.tuning.storage import StudyLock, check_storage
from kmed_bench.tuning.study_queue import DEFAULT, ERROR, INTERRUPTED, PROCESS, RUN, StudyQueue, retry_history
from kmed_bench.tuning.study_record import EPOCHS, read_study

log = logging.getLogger(__name__)

_PARENT = "kmed.mlflow_run"
# Errors that end a trial but not the study: settings that diverge, are incompatible, or run out of memory.
_TRIAL_ERRORS = (KmedError, RuntimeError)


class Search:
    """One process's part in a study.

    Parameters
    ----------
    callbacks : sequence of callable
        Called after each trial, after those that ``tune.callbacks`` names.
    out : Path, optional
        Folder for the results, which must not hold those of another study.

    Raises
    ------
    KmedError
        Before any training: for a faulty space or callback, a split, storage or store that can't be used, a folder
        with another study's results, or a study of this name that was made with other settings.
    """

    def __init__(
        self,
        config: Config,
        weights: Weights,
        split_folder: Path,
        *,
        name: str | None,
        code_version: str,
        callbacks: Sequence[Callback] = (),
        out: Path | None = None,
    ) -> None:
        check_space(config)
        self._callbacks = [*load_callbacks(config.tune.callbacks), *callbacks]
        self.weights = weights
        self.split = read_split(split_folder)
        config = self.config = fit_warmup(config, len(self.split.parts["train"]))
        self.uri = open_store(config.tracking)
        check_storage(config.tune.storage, self.uri)
        self.device = pick_device()
        setup = study_setup(
            config, size=weights.size, weights=weights.sha256, split=self.split.sha256, seed=config.train.seeds[0]
        )
        self.name = name or f"{weights.size}-{digest(setup)[:8]}"
        if out is not None:
            refuse_another_study(out, self.name)
        self._speeches: dict[tuple[float, ...], FeaturizedSplit] = {}
        self._tags = {
            "kmed.study": self.name,
            "kmed.size": weights.size,
            "kmed.seed": str(config.train.seeds[0]),
            "kmed.split_sha256": self.split.sha256,
            "kmed.weights_origin": self.weights.origin,
            "kmed.weights_sha256": self.weights.sha256,
            "kmed.code_version": code_version,
            "kmed.profile": config.profile,
        }
        self.queue = StudyQueue(config, self.name, setup=setup, on_lost=self._close_lost)
        self.parent = self._join()

    def _join(self) -> TrackedRun:
        with self.queue.lock():
            run_id = self.queue.study.user_attrs.get(_PARENT)
            parent, is_new = tracked.open_study_run(
                self.config, self.uri, name=self.name, run_id=run_id, tags=self._tags
            )
            if is_new:
                self.queue.study.set_user_attr(_PARENT, parent.run_id)
                counts, name = self.split.report["counts"], corpus_name(self.split.parts["train"])
                parent.log_dataset(sha256=self.split.sha256, counts=counts, context="tuning", part="valid", name=name)
        return parent

    def run(self) -> None:
        """Work on the study until no trial is left, here or elsewhere, or a callback stops it.

        Raises
        ------
        KeyboardInterrupt
            When interrupted or terminated; by then the trial is queued again.
        """
        if len(self.config.tune.objectives) > 1 and self.config.tune.pruner != "none":
            log.warning("With two objectives Optuna can't prune: every trial trains all its epochs.")
        self._log_start()
        self.speech(self.config)  # before any trial, which must not fail for what this machine lacks
        try:
            guarded = [guard(callback, self._note_failure) for callback in self._callbacks]
            self.queue.work(self._objective, _TRIAL_ERRORS, guarded)
            if self.queue.is_stopped():
                log.info(f"Study {self.name} was stopped by a callback; the same command continues it.")
        except KeyboardInterrupt:
            log.info(f"Study {self.name}: the interrupted trial is queued again; the same command continues the study.")
            raise

    def _note_failure(self, failure: str) -> None:
        self.parent.set_tags({"kmed.callback_failure": failure})

    def _log_start(self) -> None:
        record = self.record()
        ended = sum(trial.state in ("complete", "pruned", "failed") for trial in record.slots())
        # Reported because it may be less than the settings ask for, if the training part is small.
        warmup = self.config.tune.space.get("train.warmup_steps")
        upto = f" (warm-up to {warmup.high} steps)" if isinstance(warmup, Range) else ""
        log.info(
            f"Study {self.name}: {ended} of {record.n_trials} trials are done; {self.config.tune.sampler} sampler, "
            f"pruner {self.config.tune.pruner}, searched: {', '.join(self.config.tune.space)}{upto}. Run the same "
            "command anywhere to share the rest."
        )

    def record(self) -> StudyRecord:
        """Return the study in its current state."""
        return read_study(
            self.queue.study, self.config, self.weights.size, synthetic=is_synthetic(self.split.parts["train"])
        )

    def leave(self) -> None:
        """End the study's run unless another process is still running a trial."""
        with self.queue.lock():
            tracked.close_orphans(self.parent)
            complete = self.queue.is_complete()
            if complete or not self.queue.is_running():
                stopped = "stopped by a callback" if self.queue.is_stopped() else None
                tracked.end_study(self.parent, complete=complete, reason=stopped)

    def _close_lost(self, trial: FrozenTrial) -> None:
        run_id = trial.user_attrs.get(RUN)
        if run_id:
            tracked.close_lost(
                self.parent.client, run_id, "its process died or was interrupted; the trial was queued again"
            )
        log.warning(f"Trial {trial.number} was lost with its process after {_epochs(trial)} epochs.")

    def _objective(self, trial: optuna.Trial, lock: StudyLock) -> float | tuple[float, ...]:
        try:
            chosen = suggest(trial, self.config)
            trial.set_user_attr(RUN, "")  # a retry starts with its predecessor's attributes
            trial.set_user_attr(EPOCHS, 0)
            trial.set_user_attr(INTERRUPTED, False)
            trial.set_user_attr(PROCESS, this_process())
            lock.release()
            return self._train(trial, chosen)
        except optuna.TrialPruned as pruned:
            log.info(f"Trial {trial.number} {pruned}; {_settings_text(trial.params)}")
            raise
        except UpdateFinishedTrialError:
            log.warning(
                f"Trial {trial.number} was given to another process, because this one missed too many heartbeats."
            )
            raise
        except KeyboardInterrupt:
            trial.set_user_attr(INTERRUPTED, True)
            raise
        except _TRIAL_ERRORS as error:
            trial.set_user_attr(ERROR, describe_failure(error))  # storage and page are read by others; no utterance ids
            log.error("Trial %d failed: %s", trial.number, error)
            raise

    def _train(self, trial: optuna.Trial, chosen: dict[str, Choice]) -> float | tuple[float, ...]:
        config = adjust(self.config, chosen)
        with self.parent.child("trial", f"trial-{trial.number:03d}") as run:
            trial.set_user_attr(RUN, run.run_id)
            self._describe(run, trial, config)
            with _matching_status(run):
                best = self.train(run, config, config.train.seeds[0], trial=trial)
        log.info(
            f"Trial {trial.number}: valid CER {percent(best.valid_cer, 2)} at epoch {best.epoch}; "
            f"{_settings_text(chosen)}"
        )
        return (best.valid_cer, best.decode_s) if len(config.tune.objectives) > 1 else best.valid_cer

    def _describe(self, run: TrackedRun, trial: optuna.Trial, config: Config) -> None:
        run.set_tags({**self._tags, "kmed.trial": trial.number, "kmed.machine": describe_machine(self.device)})
        run.log_params(tracked.trial_params(config))
        if trial.user_attrs.get(DEFAULT):
            run.set_tags({"kmed.default": "true"})
        frozen = self.queue.trials()
        lost = [frozen[number].user_attrs.get(RUN) for number in retry_history(frozen[trial.number])]
        for run_id in [run_id for run_id in lost if run_id][-1:]:
            tracked.link_retry(run_id, run)

    def train(self, run: TrackedRun, config: Config, seed: int, trial: optuna.Trial | None = None) -> ScoredEpoch:
        """Train once, log each epoch, and return the best one; with a trial, also report to it, and stop if pruned.

        Raises
        ------
        KmedError
            When training can't go on.
        optuna.TrialPruned
            When the trial is pruned.
        """
        model = load_weights(self.weights.path, str(self.device))
        label = f"Seed {seed}" if trial is None else f"Trial {trial.number}"
        with track(label) as tick:
            epochs = train_epochs(model, self.speech(config), config, seed=seed, progress=tick)
            if trial is not None and len(config.tune.objectives) == 1:
                # The default settings are what the others are compared to, so they are never pruned.
                spared = 1 if trial.user_attrs.get(DEFAULT) else config.train.epochs
                epochs = report_epochs(trial, epochs, spare_epoch=spared)
            best: ScoredEpoch | None = None
            try:
                for scored in epochs:
                    run.log_epoch(scored.epoch, scored.metrics())
                    if trial is not None:
                        trial.set_user_attr(EPOCHS, scored.epoch)
                    if best is None or scored.valid_cer < best.valid_cer:
                        best = scored
            finally:
                if best is not None:
                    metrics = {"best/epoch": best.epoch, "best/valid_cer": best.valid_cer}
                    run.log_metrics({**metrics, "speed/valid_decode_s": best.decode_s})
                    run.set_note(f"Lowest valid CER **{percent(best.valid_cer, 2)}**, after epoch {best.epoch}.\n")
        if best is None:
            raise KmedError(
                f"Training of {self.name} finished no epoch; train.epochs is {config.train.epochs}, the least is 1."
            )
        return best

    def speech(self, config: Config) -> FeaturizedSplit:
        """Return the features of the train and valid parts; the test part is never opened."""
        speeds = config.train.speed_factors
        if speeds not in self._speeches:
            self._speeches[speeds] = featurize_split(
                self.split, cache_folder() / "features", config, parts=("train", "valid")
            )
        return self._speeches[speeds]


@contextlib.contextmanager
def _matching_status(run: TrackedRun) -> Iterator[None]:
    """Set the MLflow status that matches Optuna's state: KILLED for pruned, FAILED for every other early end."""
    try:
        yield
    except optuna.TrialPruned as pruned:
        run.ends_as = "KILLED"
        run.set_tags({"kmed.pruned": "true", "kmed.ended": str(pruned)})
        raise
    except KeyboardInterrupt:
        run.ends_as = "FAILED"
        run.set_tags({"kmed.ended": "interrupted; the trial was queued again"})
        raise
    except Exception as error:
        # The message may name files and utterances: it is shown here and does not leave this machine.
        run.set_tags({"kmed.ended": type(error).__name__})
        raise


def _epochs(trial: FrozenTrial) -> int:
    return int(trial.user_attrs.get(EPOCHS, 0))


def _settings_text(chosen: Mapping[str, Any]) -> str:
    shown = {name.removeprefix("train."): value for name, value in chosen.items()}
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in shown.items()
    )

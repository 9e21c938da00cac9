"""One size trained with one seed, by one process or several: logged, resumable, tested once, registered."""

import functools
import logging
from pathlib import Path
from typing import Any

from kmed_bench.asr.model.device import describe_machine, pick_device, resolve_precision, thread_params
from kmed_bench.asr.model.weights import Weights, load_weights, save_weights
from kmed_bench.asr.model.whisper import Whisper
from kmed_bench.config import Config, training_digest
from kmed_bench.core.errors import KmedError
from kmed_bench.core.predictions import Prediction
from kmed_bench.core.progress import track
from kmed_bench.core.quantities import percent
from kmed_bench.core.version import code_version, software_versions
from kmed_bench.corpus.demo.sentences import is_synthetic
from kmed_bench.corpus.splitting.cells import LEFT_OUT
from kmed_bench.corpus.splitting.leakage import count_leaks, name_leaks
from kmed_bench.pipeline.estimates import EpochListener
from kmed_bench.pipeline.final_test import score_test
from kmed_bench.pipeline.kept_checkpoints import (
    HISTORY_FILE,
    check_room,
    keep_weights,
    store_weights,
    write_history,
)
from kmed_bench.pipeline.recording import recording
from kmed_bench.pipeline.training_record import (
    TrainingRecord,
    TrainOutcome,
    read_training_record,
    write_training_record,
)
from kmed_bench.pipeline.untouched import UNTOUCHED_FOLDER, Untouched, computed_once
from kmed_bench.scoring.verdict import verdict_tags
from kmed_bench.tracking.params import training_params
from kmed_bench.tracking.registry.checkpoints import replace_by_registered
from kmed_bench.tracking.registry.models import log_model
from kmed_bench.tracking.run import TrackedRun
from kmed_bench.tracking.seal import Seal
from kmed_bench.training.adapt import merged_state
from kmed_bench.training.epochs import (
    FeaturizedSplit,
    ScoredEpoch,
    best_of,
    decode_part,
    earlier_epochs,
    part_rates,
    train_epochs,
    training_examples,
)
from kmed_bench.training.fit import mean_loss
from kmed_bench.training.original_recipe import original_losses
from kmed_bench.training.parallel import Parallel
from kmed_bench.training.shared_state import read_alike
from kmed_bench.training.state import PREVIOUS_NAME, STATE_NAME, StateKeeper

log = logging.getLogger(__name__)


class Trainer:
    """Trains one size on one split, a seed at a time.

    Parameters
    ----------
    out : Path
        Folder of this size; each seed gets ``seed<N>/`` in it.
    parallel : Parallel, optional
        The processes that train together, each with its own Trainer; None: this process.

    Attributes
    ----------
    seal : Seal or None
        Records when the test part is opened; None in the processes that write nothing.
    outlook : EpochListener or None
        Is corrected by the first epoch; None: no estimate was made.
    """

    def __init__(
        self, config: Config, weights: Weights, speech: FeaturizedSplit, out: Path, parallel: Parallel | None = None
    ) -> None:
        self.config, self.weights, self.speech, self.out = config, weights, speech, out
        self.parallel = parallel or Parallel()
        self.seal: Seal | None = None
        self.outlook: EpochListener | None = None
        self.device = pick_device()
        self.precision = resolve_precision(config.train.precision, self.device)

    def describe(self, seed: int) -> dict[str, str]:
        """Return the tags of a train run."""
        return {
            "kmed.size": self.weights.size,
            "kmed.seed": str(seed),
            "kmed.split_sha256": self.speech.split.sha256,
            "kmed.weights_origin": self.weights.origin,
            "kmed.weights_sha256": self.weights.sha256,
            "kmed.device": self.device.type,
            "kmed.split_label": name_leaks(count_leaks(self.speech.split.parts)),
            "kmed.synthetic": str(is_synthetic(self.speech.split.parts["train"])).lower(),
            "kmed.processes": str(self.parallel.world),
            "kmed.machine": describe_machine(self.device),
            "kmed.software": software_versions(),
            "kmed.train_precision": self.precision,
            "kmed.train_context": self.config.train.audio_context,
            "kmed.eval_context": self.config.eval.audio_context,
            "kmed.transcript_policy": self.config.data.transcript_side,
        }

    def params(self, seed: int) -> dict[str, Any]:
        """Return the params of a train run: the settings that decide it, and the threads it runs with."""
        drawn = self.speech.split.report.get("config", {})
        params = training_params(self.config, size=self.weights.size, seed=seed, split=drawn)
        return params | thread_params(self.device)

    def name(self, seed: int) -> str:
        """Return what the training is called in messages."""
        return f"{self.weights.size}, seed {seed}"

    def folder(self, seed: int) -> Path:
        """Return the folder of a seed's files."""
        return self.out / f"seed{seed}"

    def fingerprint(self, seed: int) -> str:
        """Return the digest of what decides a seed's result."""
        return training_digest(
            self.config,
            seed=seed,
            weights=self.weights.sha256,
            split=self.speech.split.sha256,
            precision=self.precision,
        )

    def done(self, seed: int, fingerprint: str) -> TrainOutcome | None:
        """Return the outcome of a seed that was finished under the settings of this fingerprint, or None.

        Raises
        ------
        KmedError
            When it was finished after another number of epochs: its state is gone, so it can't continue.
        """
        record = read_training_record(self.folder(seed))
        if record is None or record.outcome is None or record.fingerprint != fingerprint:
            return None
        if record.epochs != self.config.train.epochs:
            raise KmedError(
                f"{self.folder(seed)} holds a finished training of {record.epochs} epochs, whose state is gone; "
                f"choose another folder to train for {self.config.train.epochs}."
            )
        return record.outcome

    def check_fresh(self, seed: int) -> None:
        """Raise KmedError if the seed's folder holds a training, finished or not, which a new one would overwrite."""
        folder = self.folder(seed)
        record = read_training_record(folder)
        if record.outcome is not None if record else (folder / "best.pt").exists():
            raise KmedError(
                f"{folder} holds a finished training with other settings, data, weights or arithmetic, and it is not "
                "overwritten; choose another folder."
            )
        if any((folder / name).exists() for name in (STATE_NAME, PREVIOUS_NAME)):
            raise KmedError(
                f"{folder} holds an unfinished training; continue it with --resume, or choose another folder "
                "(or delete this one) to start over."
            )

    def record(self, seed: int, run: TrackedRun, outcome: TrainOutcome | None = None) -> None:
        """Record in the seed's folder which run its training belongs to, and its outcome if it is finished."""
        record = TrainingRecord(
            fingerprint=self.fingerprint(seed),
            epochs=self.config.train.epochs,
            run_id=run.run_id,
            outcome=outcome,
            launch=self.parallel.launch,
        )
        write_training_record(self.folder(seed), record)

    def train(self, seed: int, run: TrackedRun | None, resume: bool = False) -> TrainOutcome | None:
        """Train, test and register one seed, and return its outcome; every process of ``parallel`` calls this.

        Parameters
        ----------
        run : TrackedRun or None
            Where everything is logged. None in the processes that write nothing; they return None.
        resume : bool
            Resume from the state in the seed's folder, or return its outcome if it is finished.

        Raises
        ------
        KmedError
            When the folder holds an unfinished training and ``resume`` is not asked for, or one with other settings.
        """
        folder, fingerprint = self.folder(seed), self.fingerprint(seed)
        if resume and (outcome := self.parallel.from_main(self.done(seed, fingerprint))) is not None:
            if run is not None:  # killed between outcome and removal
                StateKeeper(folder, fingerprint, resume=False).remove()
            return outcome
        if not resume:
            self.check_fresh(seed)
        states = read_alike(self.parallel, lambda: StateKeeper(folder, fingerprint, resume=resume), folder)
        model = load_weights(self.weights.path, str(self.device))
        if resume and not states.resumed and read_training_record(folder) is not None:
            log.warning(f"{folder} holds no saved state of the training begun there; training starts at epoch 1.")
        if not states.resumed:
            check_room(model, folder, self.weights.size)
        if run is not None:
            self.record(seed, run)
            self._log_examples(run)
        epochs = self._train_epochs(model, seed, run, states)
        if run is None:
            return None
        outcome = self._finish(run, seed, best_of(epochs))
        self.record(seed, run, outcome)
        states.remove()
        return outcome

    @functools.cached_property
    def untouched(self) -> Untouched:
        """The model before training, the same for all seeds; processes that train together share the work."""
        if self.parallel.world > 1:  # a file that only some of them see would leave the others waiting
            return self._score_untouched()
        facts = {"weights": self.weights.sha256, "split": self.speech.split.sha256, "precision": self.precision}
        identity = training_digest(
            self.config, untouched=True, **facts, leak_clips=self.config.eval.leak_clips, code_version=code_version()
        )
        folder = self.out / UNTOUCHED_FOLDER
        return computed_once(folder, identity, self._score_untouched, what=f"the untouched {self.weights.size}")

    def _score_untouched(self) -> Untouched:
        metrics, decoded = self.score_parts()
        return Untouched(metrics, decoded["test"], decoded.get(LEFT_OUT, []))

    def score_parts(self) -> tuple[dict[str, float], dict[str, list[Prediction]]]:
        """Return the untouched model's metrics of the valid part, and its transcripts of each part with features."""
        log.info("%s: scoring the untouched model", self.weights.size)
        if "test" in self.speech.stores:
            self._record_opening(f"{self.weights.size}, untouched", identity=self.weights.sha256, untouched=True)
        model, store = load_weights(self.weights.path, str(self.device)), self.speech.stores["valid"]
        wanted = [part for part in ("valid", "test", LEFT_OUT) if part in self.speech.stores]
        decoded = {part: decode_part(model, self.speech, part, self.config.eval, self.parallel) for part in wanted}
        valid = decoded["valid"]
        rates = part_rates(valid, self.config.data.transcript_side)
        examples, _ = training_examples(self.speech, "valid", self.config)
        loss = mean_loss(model, examples, store, self.config.train, self.precision, parallel=self.parallel)
        metrics = {"valid/loss": loss, "valid/cer": rates["cer"], "valid/wer": rates["wer"]}
        log.info(f"{self.weights.size}, untouched: valid loss {loss:.3f}, valid CER {percent(rates['cer'])}")
        return metrics, decoded

    def _record_opening(self, model: str, *, identity: str, untouched: bool = False) -> None:
        if self.seal is not None:
            self.seal.record_opening(model, identity=identity, untouched=untouched)

    def _train_epochs(
        self, model: Whisper, seed: int, run: TrackedRun | None, states: StateKeeper
    ) -> list[ScoredEpoch]:
        """Train; write and log each epoch; return all epochs, those before a resume included."""
        label, n_epochs, folder = self.name(seed), self.config.train.epochs, self.folder(seed)
        untouched, epochs = self.untouched, earlier_epochs(states)
        if run is not None:
            run.log_epoch(0, untouched.valid)
        if states.resumed:
            log.info(f"{label}: continued after {len(epochs)} whole epochs.")
        with track(f"Training {label}") as tick, recording(run, self.config.tracking) as curve:
            for epoch in train_epochs(
                model,
                self.speech,
                self.config,
                seed=seed,
                progress=tick,
                states=states,
                parallel=self.parallel,
                curve=curve,
            ):
                epochs.append(epoch)
                if run is not None:
                    run.log_epoch(epoch.epoch, {**epoch.metrics(), **self._original_figures(model)})
                    keep_weights(model, epochs, run, folder, self.config, self.speech.split.sha256)
                    write_history(folder, untouched.valid, epochs)
                if self.outlook is not None:
                    self.outlook.correct(self.weights.size, epoch)
                log.info(
                    f"{label}: epoch {epoch.epoch} of {n_epochs}, train loss {epoch.train_loss:.3f}, "
                    f"valid loss {epoch.valid_loss:.3f}, valid CER {percent(epoch.valid_cer)}, {epoch.epoch_s:.0f} s"
                )
        if run is not None:
            save_weights(model, folder / "last.pt", merged_state(model))
            run.settle()
            if run.behind:
                store_weights(epochs, run, folder, self.config, self.speech.split.sha256)
            run.log_file(folder / HISTORY_FILE)
        return epochs

    def _original_figures(self, model: Whisper) -> dict[str, float]:
        """Return what the original benchmark called its validation, under names that say what it is.

        Only its own profile has them: they are another pass over the training part.
        """
        if self.config.profile != "original":
            return {}
        examples, _ = training_examples(self.speech, "train", self.config)
        loss, cer = original_losses(model, examples, self.speech.stores["train"], self.config.train)
        return {"original/valid_loss": loss, "original/valid_cer_teacher_forced": cer}

    def _log_examples(self, run: TrackedRun) -> None:
        for part in ("train", "valid"):
            examples, too_long = training_examples(self.speech, part, self.config)
            run.log_metrics({f"data/{part}_examples": len(examples), f"data/{part}_label_too_long": len(too_long)})
            if too_long:
                log.warning(
                    f"{len(too_long)} labels of {part} have more than {self.config.train.max_len} tokens and are left "
                    "out of its loss (label_too_long)."
                )

    def _finish(self, run: TrackedRun, seed: int, best: ScoredEpoch) -> TrainOutcome:
        """Score the test part once, with the selected checkpoint, and register that."""
        checkpoint, untouched = self.folder(seed) / "best.pt", self.untouched
        self._record_opening(self.name(seed), identity=self.fingerprint(seed))
        decoded, valid = (untouched.test, untouched.left_out), (untouched.valid["valid/cer"], best.valid_cer)
        scored = score_test(run, checkpoint, self.config, self.speech, decoded, self.device, valid=valid)
        verdict = verdict_tags(scored.verdict, self.name(seed))
        run.set_tags(verdict)
        metrics = {"best/epoch": best.epoch, "best/valid_cer": best.valid_cer, **scored.metrics}
        run.log_metrics(metrics)
        if self.config.tracking.register:
            run.settle()  # the store may have gone while the test part was decoded
            with track(f"Registering {self.name(seed)}"):
                info = log_model(
                    run,
                    checkpoint,
                    size=self.weights.size,
                    split_sha256=self.speech.split.sha256,
                    metrics={name: value for name, value in metrics.items() if name.startswith(("test/cer", "best/"))},
                    tags={**self.describe(seed), **verdict},
                    step=best.epoch,
                    sign_key=self.config.tracking.sign_key,
                )
            replace_by_registered(run, info.model_id)
            log.info("Registered %s version %s.", info.name, info.version)
        return TrainOutcome(
            run.run_id,
            self.weights.size,
            seed,
            checkpoint,
            best.epoch,
            best.valid_cer,
            scored.untouched_cer,
            scored.cer,
        )

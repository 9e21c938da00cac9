"""The train stage: one size, several seeds, each logged, resumable, and handed over."""

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from kmed_bench.asr.model.device import describe_machine, pick_device, resolve_precision
from kmed_bench.asr.model.weights import Weights, load_weights, save_weights
from kmed_bench.asr.model.whisper import Whisper
from kmed_bench.config import Config
from kmed_bench.core.console import Narrator
from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import read_json, replacing, write_json, write_text_atomically
from kmed_bench.core.predictions import Prediction
from kmed_bench.corpus.demo.demo import is_demo
from kmed_bench.pipeline.final_test import register, score_test
from kmed_bench.tracking.registry.checkpoints import keep_checkpoints, log_checkpoint
from kmed_bench.tracking.runs import TrackedRun
from kmed_bench.training.adapt import merged_state
from kmed_bench.training.epochs import (
    FeaturizedSplit,
    ScoredEpoch,
    best_of,
    decode_shared,
    part_rates,
    train_epochs,
    training_examples,
)
from kmed_bench.training.fit import mean_loss
from kmed_bench.training.original_recipe import original_losses
from kmed_bench.training.parallel import Parallel
from kmed_bench.training.state import PREVIOUS_NAME, STATE_NAME, StateKeeper, fingerprint

TRAINING_FILE = "training.json"
# Weights, two moments of AdamW, and the state before, each written aside before it replaces the last.
_STATE_COPIES = 3


@dataclasses.dataclass(frozen=True)
class TrainOutcome:
    """What a train run left behind."""

    run_id: str
    size: str
    seed: int
    checkpoint: Path
    best_epoch: int
    best_valid_cer: float
    untouched_test_cer: float
    test_cer: float


def read_training_record(folder: Path) -> dict[str, Any]:
    """Return what a training wrote about itself: ``fingerprint``, ``run_id``, and ``outcome`` once it is done.

    Empty where none was begun in the folder.
    """
    path = folder / TRAINING_FILE
    return dict(read_json(path)) if path.is_file() else {}


def read_outcome(folder: Path) -> TrainOutcome | None:
    """Return the outcome of a training that was finished in the folder, or None."""
    outcome = read_training_record(folder).get("outcome")
    return TrainOutcome(**{**outcome, "checkpoint": folder / outcome["checkpoint"]}) if outcome else None


class Trainer:
    """Trains one size with several seeds; the untouched model is decoded once for all of them.

    Parameters
    ----------
    out : Path
        Folder of this size; each seed gets ``seed<N>/`` in it.
    parallel : Parallel, optional
        The processes that train together; those that don't write call `follow`.
    """

    def __init__(
        self,
        config: Config,
        weights: Weights,
        speech: FeaturizedSplit,
        out: Path,
        narrator: Narrator,
        parallel: Parallel | None = None,
    ) -> None:
        self.config, self.weights, self.speech, self.out, self.narrator = config, weights, speech, out, narrator
        self.parallel = parallel or Parallel()
        self.device = pick_device()
        self.precision = resolve_precision(config.train.precision, self.device)
        self._untouched: dict[str, list[Prediction]] = {}
        self._best_of_seeds = float("inf")

    def describe(self, seed: int) -> dict[str, str]:
        """Return the tags of a train run."""
        return {
            "kmed.size": self.weights.size,
            "kmed.seed": str(seed),
            "kmed.split_sha256": self.speech.split.sha256,
            "kmed.weights_origin": self.weights.origin,
            "kmed.weights_sha256": self.weights.sha256,
            "kmed.device": self.device.type,
            "kmed.synthetic": str(is_demo(self.speech.split.parts["train"])).lower(),
            "kmed.processes": str(self.parallel.world),
            "kmed.machine": describe_machine(self.device),
            "kmed.train_precision": self.precision,
            "kmed.train_context": self.config.train.audio_context,
            "kmed.eval_context": self.config.eval.audio_context,
            "kmed.transcript_policy": self.config.eval.policy,
        }

    def folder(self, seed: int) -> Path:
        """Return where a seed's files lie."""
        return self.out / f"seed{seed}"

    def fingerprint(self, seed: int) -> str:
        """Return the digest of what decides a seed's result."""
        decoding = {key: value for key, value in dataclasses.asdict(self.config.eval).items() if "bootstrap" not in key}
        return fingerprint(
            self.config.train,
            seed=seed,
            eval=decoding,
            weights=self.weights.sha256,
            split=self.speech.split.sha256,
            precision=self.precision,
        )

    def train(self, seed: int, run: TrackedRun, resume: bool = False) -> TrainOutcome:
        """Return the outcome of one seed, everything of it logged to the run.

        Parameters
        ----------
        resume : bool
            Go on from the state in the seed's folder, or return its outcome where it was finished.

        Raises
        ------
        KmedError
            When the folder holds an unfinished training and ``resume`` is not asked for, or one of other settings.
        """
        folder = self.folder(seed)
        if resume and (done := self.done(seed)) is not None:
            StateKeeper(folder, self.fingerprint(seed), resume=False).remove()  # killed between outcome and removal
            return done
        if not resume:
            self.check_fresh(seed)
        states = StateKeeper(folder, self.fingerprint(seed), resume=resume)
        started = self.begin(seed, run)
        model = load_weights(self.weights.path, str(self.device))
        if not states.resumed:
            self._check_room(model, folder)
        self._log_examples(run)
        untouched = self._score_untouched(model, run)
        rows = self._epochs(model, seed, run, states, untouched)
        outcome = self._finish(run, seed, best_of(rows))
        written = dataclasses.asdict(outcome) | {"checkpoint": outcome.checkpoint.name}
        write_json(folder / TRAINING_FILE, {**started, "outcome": written})
        states.remove()
        return outcome

    def done(self, seed: int) -> TrainOutcome | None:
        """Return the outcome of a seed that was finished under these settings, or None.

        Raises
        ------
        KmedError
            When it was finished after another number of epochs: its state is gone, so that it can't go on.
        """
        account = read_training_record(self.folder(seed))
        outcome = read_outcome(self.folder(seed))
        if outcome is None or account["fingerprint"] != self.fingerprint(seed):
            return None
        if account["epochs"] != self.config.train.epochs:
            raise KmedError(
                f"{self.folder(seed)} holds a finished training of {account['epochs']} epochs, whose state is gone; "
                f"choose another folder to train for {self.config.train.epochs}."
            )
        return outcome

    def check_fresh(self, seed: int) -> None:
        """Refuse to start anew over an unfinished training."""
        folder = self.folder(seed)
        if any((folder / name).exists() for name in (STATE_NAME, PREVIOUS_NAME)):
            raise KmedError(
                f"{folder} holds an unfinished training; continue it with --resume, or choose another folder "
                "(or delete this one) to start anew."
            )

    def begin(self, seed: int, run: TrackedRun) -> dict[str, Any]:
        """Note in the seed's folder which run its training belongs to; return the note."""
        started = {
            "fingerprint": self.fingerprint(seed),
            "epochs": self.config.train.epochs,
            "run_id": run.run_id,
            "outcome": None,
        }
        write_json(self.folder(seed) / TRAINING_FILE, started)
        return started

    def follow(self, seed: int, resume: bool = False) -> None:
        """Compute a further process's share of what ``train`` does in the process that writes."""
        if resume and self.done(seed) is not None:
            return
        states = StateKeeper(self.folder(seed), self.fingerprint(seed), resume=resume)
        model = load_weights(self.weights.path, str(self.device))
        for part in ("valid", "test"):
            self.predict(model, part)
        examples = training_examples(self.speech, "valid", self.config)[0]
        self._valid_loss(model, examples)
        for _ in train_epochs(model, self.speech, self.config, seed=seed, states=states, parallel=self.parallel):
            pass

    def predict(self, model: Whisper, part: str) -> list[Prediction]:
        """Return a part's decoded transcripts, the processes sharing the work."""
        return decode_shared(model, self.speech, part, self.config.eval, self.parallel)

    def _epochs(
        self, model: Whisper, seed: int, run: TrackedRun, states: StateKeeper, untouched: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """Train, log and keep the best weights; return every epoch's row, those before a resume included."""
        label, epochs = f"{self.weights.size}, seed {seed}", self.config.train.epochs
        folder = states.folder
        if states.resumed:
            self.narrator.say(f"{label}: continued after {len(states.account['epochs'])} whole epochs.")
        with self.narrator.track(f"Training {label}") as tick:
            results = train_epochs(
                model,
                self.speech,
                self.config,
                seed=seed,
                progress=lambda _epoch, step, steps: tick(step, steps),
                states=states,
                parallel=self.parallel,
                say=self.narrator.say,
            )
            for epoch in results:
                rows = [*states.account["epochs"], dataclasses.asdict(epoch)]
                run.log_epoch(epoch.epoch, {**epoch.metrics(), **self._original_figures(model)})
                self._keep_weights(model, rows, run, folder)
                self._write_history(rows, untouched, folder / "history.csv")
                self.narrator.say(
                    f"{label}: epoch {epoch.epoch} of {epochs}, train loss {epoch.train_loss:.3f}, "
                    f"valid loss {epoch.valid_loss:.3f}, valid CER {epoch.valid_cer:.1%}, {epoch.epoch_s:.0f} s"
                )
        save_weights(model, folder / "last.pt", merged_state(model))
        run.log_file(folder / "history.csv")
        return list(states.account["epochs"])

    def _original_figures(self, model: Whisper) -> dict[str, float]:
        """Return what the original benchmark called its validation, under names that say what it is.

        Only its own profile has them: they are another pass over the training part.
        """
        if self.config.profile != "original":
            return {}
        examples = training_examples(self.speech, "train", self.config)[0]
        loss, cer = original_losses(model, examples, self.speech.stores["train"], self.config.train)
        return {"original/valid_loss": loss, "original/valid_cer_teacher_forced": cer}

    def _keep_weights(self, model: Whisper, rows: list[dict[str, Any]], run: TrackedRun, folder: Path) -> None:
        """Write the last epoch's weights where they are wanted, and delete superseded ones, here and in the store.

        ``best.pt`` is the best epoch's; ``epochNN.pt`` are the latest ``train.keep_checkpoints`` others. Each step
        can be done again after a crash.
        """
        keep, epoch, best = self.config.train.keep_checkpoints, rows[-1]["epoch"], best_of(rows)["epoch"]
        if epoch != best and not keep:
            return
        path = folder / f"epoch{epoch:02d}.pt"
        save_weights(model, path, merged_state(model))
        if epoch == best:
            with replacing(folder / "best.pt") as link:
                try:
                    link.hardlink_to(path)
                except OSError:  # a file system without links
                    shutil.copyfile(path, link)
        if self.config.tracking.log_checkpoints:
            metrics = {name: value for name, value in _scored(rows[-1]).metrics().items() if "/cer" in name}
            sha256 = self.speech.split.sha256
            log_checkpoint(run, path, epoch=epoch, metrics=metrics, split_sha256=sha256, best=epoch == best)
            keep_checkpoints(run, keep)
        others = [row["epoch"] for row in rows if row["epoch"] != best]
        kept = {f"epoch{one:02d}.pt" for one in (best, *others[-keep:])} if keep else set()
        for file in folder.glob("epoch*.pt"):
            if file.name not in kept:
                file.unlink()

    def _write_history(self, epochs: list[dict[str, Any]], untouched: dict[str, Any], path: Path) -> None:
        rows = [{"epoch": 0, **untouched}, *({"epoch": e["epoch"], **_scored(e).metrics()} for e in epochs)]
        write_text_atomically(path, pd.DataFrame(rows).to_csv(index=False))

    def _check_room(self, model: Whisper, folder: Path) -> None:
        """Refuse to start where the disk can't hold the training's state."""
        weights = sum(p.numel() * p.element_size() for p in model.parameters())
        needed = weights * (3 * _STATE_COPIES + 2)
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise KmedError(
                f"Training {self.weights.size} needs {needed / 2**30:.1f} GiB in {folder} for its state and "
                f"checkpoints, and {free / 2**30:.1f} GiB are free; make room or choose another --out."
            )

    def _log_examples(self, run: TrackedRun) -> None:
        for part in ("train", "valid"):
            built, too_long = training_examples(self.speech, part, self.config)
            run.log_metrics({f"data/{part}_examples": len(built), f"data/{part}_label_too_long": len(too_long)})
            if too_long:
                self.narrator.say(
                    f"{len(too_long)} labels of {part} have more than {self.config.train.max_len} tokens and are left "
                    "out of its loss (label_too_long)."
                )

    def _score_untouched(self, model: Whisper, run: TrackedRun) -> dict[str, Any]:
        """Log the model's scores before training as step 0 and return them; the test part is decoded as well."""
        if not self._untouched:
            self.narrator.say(f"{self.weights.size}: scoring the untouched model")
            self._untouched = {part: self.predict(model, part) for part in ("valid", "test")}
        found = part_rates(self._untouched["valid"], self.config.eval)
        loss = self._valid_loss(model, training_examples(self.speech, "valid", self.config)[0])
        row = {"valid/loss": loss, "valid/cer": found["cer"], "valid/wer": found["wer"]}
        run.log_epoch(0, row)
        return row

    def _valid_loss(self, model: Whisper, examples: list[Any]) -> float:
        store, train = self.speech.stores["valid"], self.config.train
        loss: float = mean_loss(model, examples, store, train, self.precision, parallel=self.parallel)
        return loss

    def _finish(self, run: TrackedRun, seed: int, best: Mapping[str, Any]) -> TrainOutcome:
        """Score the test part once, with the selected checkpoint, and hand it over."""
        checkpoint = self.folder(seed) / "best.pt"
        scored = score_test(run, checkpoint, self.config, self.speech, self._untouched["test"], self.device)
        metrics = {"best/epoch": best["epoch"], "best/valid_cer": best["valid_cer"], **scored.metrics}
        run.log_metrics(metrics)
        if self.config.tracking.register:
            challenger = best["valid_cer"] < self._best_of_seeds
            self._best_of_seeds = min(self._best_of_seeds, best["valid_cer"])
            info = register(
                run, checkpoint, metrics, size=self.weights.size, tags=self.describe(seed), challenger=challenger
            )
            self.narrator.say(f"Registered {info.name} version {info.version}.")
        return TrainOutcome(
            run.run_id,
            self.weights.size,
            seed,
            checkpoint,
            best["epoch"],
            best["valid_cer"],
            scored.untouched_cer,
            scored.cer,
        )


def describe_outcome(outcome: TrainOutcome) -> str:
    """Return a line on what training changed, in plain words, also when it made things worse."""
    before, after = outcome.untouched_test_cer, outcome.test_cer
    verb = "lowered" if after < before else "did not lower"
    return (
        f"{outcome.size}, seed {outcome.seed}: fine-tuning {verb} the decoded test CER "
        f"({before:.1%} untouched, {after:.1%} after epoch {outcome.best_epoch})."
    )


def _scored(row: Mapping[str, Any]) -> ScoredEpoch:
    return ScoredEpoch(**row)

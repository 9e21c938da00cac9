"""Stages that need the model and the tracking store: train one size and seed, score a part."""

import dataclasses
import resource
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from whisper.model import Whisper

from kmed_bench.asr.batches import Example, build_examples, korean_tokenizer
from kmed_bench.asr.decode import predict_part
from kmed_bench.asr.device import describe_machine, pick_device, resolve_precision
from kmed_bench.asr.features import FrameStore, build_frames
from kmed_bench.asr.weights import Weights, load_weights, save_weights
from kmed_bench.config import Config, EvalConfig
from kmed_bench.corpus.split import Split
from kmed_bench.progress import Narrator, Tick
from kmed_bench.records import GROUP_FIELDS, PARTS, Prediction, write_json, write_predictions
from kmed_bench.scoring import score_predictions
from kmed_bench.scoring.groups import score_counts
from kmed_bench.scoring.measures import count_utterances, rates
from kmed_bench.tracking.gate import EVIDENCE_NAME, summarise_speakers
from kmed_bench.tracking.registry import log_model
from kmed_bench.tracking.runs import ChildRun
from kmed_bench.training.fit import fit, mean_loss

# Metric keys must be ASCII in some tracking backends; these are the romanised values of 208.
ASCII_VALUES = {
    "경기/서울": "gyeonggi-seoul",
    "경상": "gyeongsang",
    "충청": "chungcheong",
    "전라": "jeolla",
    "강원": "gangwon",
    "제주": "jeju",
    "기타(외국)": "other-foreign",
}


@dataclasses.dataclass(frozen=True)
class Speech:
    """A split with its features, shared by every size and seed.

    Attributes
    ----------
    stores : dict
        Part to frame store.
    """

    split: Split
    stores: dict[str, FrameStore]


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


def prepare_speech(split: Split, cache: Path, narrator: Narrator, parts: Sequence[str] = PARTS) -> Speech:
    """Return a split with the features of its parts, made or found in the cache folder."""
    stores = {}
    for part in parts:
        with narrator.track(f"Features of {part}") as tick:
            stores[part] = build_frames(split.parts[part], cache, progress=tick)
    return Speech(split, stores)


def decode_part(
    model: Whisper, speech: Speech, part: str, config: EvalConfig, progress: Tick | None = None
) -> list[Prediction]:
    """Return a part's decoded transcripts under the settings of evaluation."""
    return predict_part(
        model,
        speech.split.parts[part],
        speech.stores[part],
        batch_size=config.batch_size,
        context=config.audio_context,
        precision=config.precision,
        max_new_tokens=config.max_new_tokens,
        progress=progress,
    )


class Trainer:
    """Trains one size with several seeds; the untouched model is decoded once for all of them.

    Parameters
    ----------
    out : Path
        Folder of this size; each seed gets ``seed<N>/`` in it.
    """

    def __init__(self, config: Config, weights: Weights, speech: Speech, out: Path, narrator: Narrator) -> None:
        self.config, self.weights, self.speech, self.out, self.narrator = config, weights, speech, out, narrator
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
            "kmed.machine": describe_machine(self.device),
            "kmed.train_precision": self.precision,
            "kmed.train_context": self.config.train.audio_context,
            "kmed.eval_context": self.config.eval.audio_context,
            "kmed.transcript_policy": self.config.eval.policy,
        }

    def train(self, seed: int, run: ChildRun) -> TrainOutcome:
        """Return the outcome of one seed, everything of it logged to the run."""
        folder = self.out / f"seed{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        model = load_weights(self.weights.path, str(self.device))
        examples = self._examples(run)
        history = [self._score_untouched(model, examples["valid"], run)]
        best_epoch, best_cer = 0, float("inf")
        checkpoint = folder / "best.pt"
        label = f"{self.weights.size}, seed {seed}"
        with self.narrator.track(f"Training {label}") as tick:
            results = fit(
                model,
                examples["train"],
                self.speech.stores["train"],
                examples["valid"],
                self.speech.stores["valid"],
                self.config.train,
                seed=seed,
                progress=lambda _epoch, step, steps: tick(step, steps),
            )
            for result in results:
                valid = self._rates(self.predict(model, "valid"))
                row = {
                    "train/loss": result.train_loss,
                    "train/cer_teacher_forced": result.train_cer_teacher_forced,
                    "valid/loss": result.valid_loss,
                    "valid/cer": valid["cer"],
                    "valid/wer": valid["wer"],
                    "time/epoch_s": result.epoch_s,
                }
                run.log_epoch(result.epoch, row)
                history.append({"epoch": result.epoch, **row})
                if valid["cer"] < best_cer:
                    best_epoch, best_cer = result.epoch, valid["cer"]
                    save_weights(model, checkpoint)
                self.narrator.say(
                    f"{label}: epoch {result.epoch} of {self.config.train.epochs}, train loss {result.train_loss:.3f}, "
                    f"valid loss {result.valid_loss:.3f}, valid CER {valid['cer']:.1%}, {result.epoch_s:.0f} s"
                )
        pd.DataFrame(history).to_csv(folder / "history.csv", index=False)
        run.log_file(folder / "history.csv")
        return self._finish(run, seed, checkpoint, best_epoch, best_cer)

    def predict(self, model: Whisper, part: str) -> list[Prediction]:
        """Return a part's decoded transcripts."""
        return decode_part(model, self.speech, part, self.config.eval)

    def _examples(self, run: ChildRun) -> dict[str, list[Example]]:
        built = {}
        for part in ("train", "valid"):
            built[part], too_long = build_examples(
                self.speech.split.parts[part],
                self.speech.stores[part],
                policy=self.config.eval.policy,
                max_len=self.config.train.max_len,
                tokenizer=korean_tokenizer(),
            )
            run.log_metrics({f"data/{part}_examples": len(built[part]), f"data/{part}_label_too_long": len(too_long)})
            if too_long:
                self.narrator.say(
                    f"{len(too_long)} labels of {part} have more than {self.config.train.max_len} tokens and are left "
                    "out of its loss (label_too_long)."
                )
        return built

    def _score_untouched(self, model: Whisper, valid: list[Example], run: ChildRun) -> dict[str, Any]:
        """Log the model's scores before training as step 0, test included, and return the history's row."""
        if not self._untouched:
            self.narrator.say(f"{self.weights.size}: scoring the untouched model")
            self._untouched = {part: self.predict(model, part) for part in ("valid", "test")}
        rates_valid = self._rates(self._untouched["valid"])
        loss = mean_loss(model, valid, self.speech.stores["valid"], self.config.train, self.precision)
        row = {"valid/loss": loss, "valid/cer": rates_valid["cer"], "valid/wer": rates_valid["wer"]}
        run.log_epoch(0, row)
        return {"epoch": 0, **row}

    def _rates(self, predictions: list[Prediction]) -> dict[str, float]:
        found = rates(count_utterances(predictions, self.config.eval.policy))
        return {name: value for name, value in found.items() if value is not None}

    def _finish(self, run: ChildRun, seed: int, checkpoint: Path, best_epoch: int, best_cer: float) -> TrainOutcome:
        """Score the test part once, with the selected checkpoint, and hand it over."""
        folder = checkpoint.parent
        model = load_weights(checkpoint, str(self.device))
        predictions = self.predict(model, "test")
        counts = count_utterances(predictions, self.config.eval.policy)
        scores = score_counts(counts, self.config.eval, split_sha256=self.speech.split.sha256)
        untouched = score_predictions(self._untouched["test"], self.config.eval, split_sha256=self.speech.split.sha256)
        write_predictions(folder / "predictions.jsonl", predictions)
        write_predictions(folder / "predictions_untouched.jsonl", self._untouched["test"])
        write_json(folder / "scores.json", scores)
        write_json(folder / "scores_untouched.json", untouched)
        summary = {
            "best/epoch": best_epoch,
            "best/valid_cer": best_cer,
            **test_metrics(scores),
            **overall_metrics(untouched, "untouched/test_"),
            **self._costs(model, checkpoint, scores),
        }
        run.log_metrics(summary)
        for name in ("scores.json", "scores_untouched.json"):
            run.log_file(folder / name)
        # What a later promotion compares with: error sums by speaker, no ids and no texts.
        evidence = summarise_speakers(counts, split_sha256=self.speech.split.sha256, scoring=scores)
        run.log_json(evidence, EVIDENCE_NAME)
        if self.config.tracking.log_predictions:
            run.log_file(folder / "predictions.jsonl")
        if self.config.tracking.register:
            self._register(run, seed, checkpoint, summary)
        return TrainOutcome(
            run.run_id,
            self.weights.size,
            seed,
            checkpoint,
            best_epoch,
            best_cer,
            untouched["overall"]["cer"],
            scores["overall"]["cer"],
        )

    def _register(self, run: ChildRun, seed: int, checkpoint: Path, summary: Mapping[str, float]) -> None:
        """Register the checkpoint; the seed with the lowest valid CER so far is the challenger."""
        challenger = summary["best/valid_cer"] < self._best_of_seeds
        self._best_of_seeds = min(self._best_of_seeds, summary["best/valid_cer"])
        info = log_model(
            run,
            checkpoint,
            size=self.weights.size,
            split_sha256=self.speech.split.sha256,
            metrics={name: value for name, value in summary.items() if name.startswith(("test/cer", "best/"))},
            tags=self.describe(seed),
            step=int(summary["best/epoch"]),
            challenger=challenger,
        )
        alias = ", alias challenger" if challenger else ""
        self.narrator.say(f"Registered {info.name} version {info.version}{alias}.")

    def _costs(self, model: Whisper, checkpoint: Path, scores: Mapping[str, Any]) -> dict[str, float]:
        """Return what the model takes: seconds, memory, parameters, bytes."""
        memory = (
            torch.cuda.max_memory_allocated()
            if self.device.type == "cuda"
            else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        )
        timed = {f"speed/test_{name}": scores["decode"][name] for name in ("rtfx", "decode_s_p50", "decode_s_p95")}
        return {
            **{name: value for name, value in timed.items() if value is not None},
            "speed/parameters": sum(p.numel() for p in model.parameters()),
            "speed/checkpoint_bytes": checkpoint.stat().st_size,
            "speed/peak_memory_bytes": memory,
        }


def overall_metrics(scores: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """Return every numeric figure of the scores' overall part under a prefix; figures that are None are left out."""
    return {
        f"{prefix}{name}": float(value)
        for name, value in scores["overall"].items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def test_metrics(scores: Mapping[str, Any]) -> dict[str, float]:
    """Return ``test/…`` metrics: overall, and CER by group as ``test/cer/<field>/<ascii value>``."""
    metrics = overall_metrics(scores, "test/")
    for field in GROUP_FIELDS:
        for value, cell in scores["groups"].get(field, {}).items():
            if cell["cer"] is not None:
                metrics[f"test/cer/{field}/{ascii_value(value)}"] = cell["cer"]
    return metrics


def ascii_value(value: str) -> str:
    """Return a group's value as MLflow metric names may hold it."""
    known = ASCII_VALUES.get(value, value)
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "-" for c in known) or "unknown"


def list_notes(outcome: TrainOutcome) -> str:
    """Return a line on what training changed, in plain words, also when it made things worse."""
    before, after = outcome.untouched_test_cer, outcome.test_cer
    verb = "lowered" if after < before else "did not lower"
    return (
        f"{outcome.size}, seed {outcome.seed}: fine-tuning {verb} the decoded test CER "
        f"({before:.1%} untouched, {after:.1%} after epoch {outcome.best_epoch})."
    )

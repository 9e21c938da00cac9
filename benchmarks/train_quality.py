"""What the same number of epochs teaches: decoded test CER of ours, of the original's recipe and of transformers'."""

import dataclasses
import functools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from peers_train import prepare_transformers, train_original, train_transformers, write_recordings

from kmed_bench.asr.decoding.decode import predict_part
from kmed_bench.asr.decoding.options import DecodingOptions
from kmed_bench.asr.features.store import build_features
from kmed_bench.asr.model.device import describe_machine, pick_device, resolve_precision
from kmed_bench.asr.model.tokenizer import korean_tokenizer
from kmed_bench.asr.model.weights import load_weights
from kmed_bench.asr.model.whisper import Whisper
from kmed_bench.config import Context, DataConfig, EvalConfig, SplitConfig, TrainConfig
from kmed_bench.core.schema import read_manifest
from kmed_bench.corpus.ingest.manifest import ingest
from kmed_bench.corpus.splitting.split import split_manifest
from kmed_bench.scoring.measures import count_utterances, rates
from kmed_bench.training.batches import Example, build_examples, epoch_order
from kmed_bench.training.fit import fit, seed_everything
from kmed_bench.training.sources import LogMelSource

DECODING = EvalConfig()
SIDE = DataConfig.transcript_side
PEERS = ("original", "transformers")
Train = Callable[[Whisper, int], Iterator[object]]


class Comparison:
    """One split of the shared recordings, no speaker and no sentence in two parts, and its competitors.

    Parameters
    ----------
    parts : sequence of int
        Clips of train, valid and test.
    """

    def __init__(self, source: Path, config: TrainConfig, parts: Sequence[int], folder: Path) -> None:
        self.config = config
        ingest([source], folder / "manifest", DataConfig())
        train, valid, test = parts
        wanted = SplitConfig(train=train, valid=valid, test=test, by=("gender",), tolerance=0.1)
        self.split = split_manifest(read_manifest(folder / "manifest" / "manifest.parquet"), wanted)
        self.stores = {name: build_features(part, folder / "features") for name, part in self.split.parts.items()}
        self.train, self.valid = self._examples("train"), self._examples("valid")
        self.paths = write_recordings(self.split.parts["train"], folder / "wav")
        self.rows = prepare_transformers(self.train, self.paths)

    def _examples(self, part: str) -> list[Example]:
        made, _ = build_examples(
            self.split.parts[part],
            self.stores[part],
            policy=SIDE,
            max_len=self.config.max_len,
            tokenizer=korean_tokenizer(),
        )
        # transformers' trainer cuts its batches itself, so none may be short.
        return made[: len(made) - len(made) % self.config.batch_size]

    def competitors(self) -> dict[str, Train]:
        """Return the ways to train, each given a model and a seed; ours go on after each epoch."""
        return {
            "full": lambda model, seed: self._ours(model, seed, "full"),
            "dynamic": lambda model, seed: self._ours(model, seed, "dynamic"),
            "original": self._original,
            "transformers": self._transformers,
        }

    def _ours(self, model: Whisper, seed: int, context: Context) -> Iterator[object]:
        config = dataclasses.replace(self.config, audio_context=context)
        source = LogMelSource(self.stores["train"])
        return fit(model, self.train, source, self.valid, self.stores["valid"], config, seed=seed)

    def _original(self, model: Whisper, seed: int) -> Iterator[object]:
        settings = {"lr": self.config.lr, "max_len": self.config.max_len}
        yield train_original(model, self._batches(seed), self.paths, **settings, pace=lambda: None)

    def _transformers(self, model: Whisper, seed: int) -> Iterator[object]:
        bf16 = resolve_precision("auto", model.device) == "bf16"
        yield train_transformers(model, self._batches(seed), self.rows, lr=self.config.lr, bf16=bf16, pace=lambda: None)

    def _batches(self, seed: int) -> list[list[Example]]:
        orders = (
            epoch_order(self.train, self.config.batch_size, seed=seed, epoch=epoch)
            for epoch in range(1, self.config.epochs + 1)
        )
        return [batch for order in orders for batch in order]

    def test_cer(self, model: Whisper, context: Context = "full") -> float:
        """Return the CER of the test part's transcripts, decoded greedily in a window; for all in one arithmetic."""
        options = DecodingOptions(
            batch_size=DECODING.batch_size,
            context=context,
            precision="bf16" if resolve_precision("auto", model.device) == "bf16" else "fp32",
            max_new_tokens=DECODING.max_new_tokens,
        )
        predictions = predict_part(model, self.split.parts["test"], self.stores["test"], options)
        cer = rates(count_utterances(predictions, SIDE))["cer"]
        assert cer is not None
        return cer


def measure_quality(
    source: Path,
    config: TrainConfig,
    seeds: Sequence[int],
    parts: Sequence[int],
    weights: Path,
    *,
    only: Sequence[str] | None = None,
    curve: bool = False,
) -> dict[str, Any]:
    """Return each competitor's decoded test CER by seed, with its spread, and the seconds of training.

    Parameters
    ----------
    only : sequence of str, optional
        The competitors that are wanted; None: all.
    curve : bool
        Whether ours is decoded after each epoch; the peers are at the end alone.
    """
    with tempfile.TemporaryDirectory() as folder:
        comparison = Comparison(source, config, parts, Path(folder))
        competitors = comparison.competitors()
        if unknown := set(only or ()) - set(competitors):
            raise SystemExit(f"No competitor is called {', '.join(unknown)}; there are {'; '.join(competitors)}.")
        fresh = functools.partial(load_weights, weights, str(pick_device()))
        untouched = comparison.test_cer(fresh())
        print(f"untouched: {untouched:.4f}", file=sys.stderr, flush=True)
        runs: dict[str, dict[str, list[Any]]] = {}
        for seed in seeds:
            for name in only or competitors:
                model = fresh()
                seed_everything(seed)
                seconds, by_epoch = 0.0, []
                started = time.perf_counter()
                for _ in competitors[name](model, seed):
                    seconds += time.perf_counter() - started
                    if curve:
                        by_epoch.append(comparison.test_cer(model))
                    started = time.perf_counter()
                found = runs.setdefault(name, {"test_cer": [], "train_s": []})
                found["train_s"].append(seconds)
                found["test_cer"].append(by_epoch[-1] if curve else comparison.test_cer(model))
                if curve:
                    found.setdefault("test_cer_by_epoch", []).append(by_epoch)
                if name == "dynamic":
                    found.setdefault("test_cer_dynamic", []).append(comparison.test_cer(model, "dynamic"))
                # Hours may pass before the end; what is known is said at once.
                print(f"{name}, seed {seed}: { {k: v[-1] for k, v in found.items()} }", file=sys.stderr, flush=True)
        counts = {name: len(part) for name, part in comparison.split.parts.items()}
    results = {name: {**found, **_spread(found["test_cer"])} for name, found in runs.items()}
    return {
        "ours": {name: found for name, found in results.items() if name not in PEERS},
        "peers": {name: found for name, found in results.items() if name in PEERS},
        "ratios": {},
        "untouched_test_cer": untouched,
        "settings": {
            "device": describe_machine(pick_device()),
            "epochs": config.epochs,
            "lr": config.lr,
            "seeds": list(seeds),
            "clips": counts,
            "train_examples": len(comparison.train),
            "leakage": comparison.split.report["leakage"],
        },
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"mean": statistics.fmean(values), "low": min(values), "high": max(values)}

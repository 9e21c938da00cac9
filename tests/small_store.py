"""A small benchmark in a real store with its results folder, made without a model: what the notebooks open."""

import dataclasses
import functools
from pathlib import Path

import numpy as np

from kmed_bench.config import Config, DataConfig, EvalConfig, SplitConfig, TrackingConfig
from kmed_bench.core.files import write_json
from kmed_bench.core.predictions import Prediction, write_predictions
from kmed_bench.core.schema import read_manifest
from kmed_bench.corpus.demo.demo import make_demo_corpus
from kmed_bench.corpus.ingest.manifest import ingest
from kmed_bench.corpus.splitting.split import Split, split_manifest, write_split
from kmed_bench.pipeline.planning import plan_split
from kmed_bench.scoring import ScoringOptions, score_predictions
from kmed_bench.scoring.significance import compare_benchmark
from kmed_bench.text.marks import resolve_marks
from kmed_bench.tracking.metric_names import overall_metrics, split_metrics
from kmed_bench.tracking.run import TrackedRun
from kmed_bench.tracking.runs import bench_run, log_skipped

CONFIG = Config(
    profile="demo",
    split=SplitConfig(train=48, valid=6, test=24),
    eval=EvalConfig(bootstrap_draws=200, min_group_clips=4, min_group_speakers=2),
)
OPTIONS = ScoringOptions.from_config(CONFIG)
WRONG = {"tiny": (0.4, 0.2), "base": (0.2, 0.05)}  # shares of characters misheard, untouched and fine-tuned
RTFX = {"tiny": 9.5, "base": 5.5}
EPOCHS = 3


@dataclasses.dataclass(frozen=True)
class SmallStore:
    """Where a small benchmark's runs and results are."""

    uri: str
    run_id: str
    out: Path


@functools.cache
def shared_store(base: Path) -> SmallStore:
    """Return one small benchmark for all tests of a session, in its folder of temporary files."""
    return make_store(base / "small-store")


def make_store(folder: Path) -> SmallStore:
    """Return a finished benchmark of two sizes with two seeds each on a small demo corpus."""
    make_demo_corpus(folder / "corpus", speakers=20, sentences=60, seed=1, layout="zips")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    config = dataclasses.replace(CONFIG, tracking=TrackingConfig(uri=uri))
    with bench_run(config, code_version="0") as bench:
        results = folder / "kmed-output" / f"bench-demo-{bench.run_id[:8]}"
        quality = ingest([folder / "corpus"], results / "manifest", DataConfig(workers=1))
        split = split_manifest(read_manifest(results / "manifest" / "manifest.parquet"), config.split)
        write_split(plan_split(split, OPTIONS.transcript_side), results / "split")
        with bench.child("split", "split-demo") as run:
            run.log_json(quality, "quality.json")
            run.log_file(results / "split" / "split.json")
            run.log_summary(split_metrics(split.report))
        chosen, seeds = {}, {}
        for size in WRONG:
            for seed in (1, 0):
                chosen[size] = _train(bench, split, results / size / f"seed{seed}", size, seed)
                seeds.setdefault(size, {})[seed] = chosen[size][1]
        bench.log_json(compare_benchmark(chosen, seeds, OPTIONS), "comparisons.json")
        log_skipped(bench, {"small": "no weights; give --weights"})
    return SmallStore(uri, bench.run_id, folder / "kmed-output")


def _train(
    bench: TrackedRun, split: Split, folder: Path, size: str, seed: int
) -> tuple[list[Prediction], list[Prediction]]:
    """Log a train run whose transcripts are the labels misheard; seed 0 has the lower valid CER."""
    predictions = [_mishear(split, share, seed) for share in WRONG[size]]
    scores = [score_predictions(made, OPTIONS, split_sha256=split.sha256) for made in predictions]
    write_predictions(folder / "predictions.jsonl", predictions[1])
    write_json(folder / "scores.json", scores[1])
    with bench.child("train", f"{size}-s{seed}", tags={"kmed.size": size, "kmed.seed": str(seed)}) as run:
        run.log_epoch(0, {"valid/loss": 2.0, "valid/cer": WRONG[size][0]})
        for epoch in range(1, EPOCHS + 1):
            left = (1 + 0.1 * seed) / epoch
            row = {"train/loss": left, "valid/loss": 1.2 * left, "time/epoch_s": 2.0}
            run.log_epoch(epoch, row | {"train/cer_teacher_forced": 0.1 * left, "valid/cer": WRONG[size][0] * left})
        for prefix, found in zip(("untouched/test_", "test/"), scores, strict=True):
            run.log_metrics(overall_metrics(found, prefix))
        run.log_metrics({"best/epoch": EPOCHS, "best/valid_cer": WRONG[size][0] * (1 + 0.1 * seed) / EPOCHS})
        run.log_metrics({"speed/parameters": 4e7 * (2 if size == "base" else 1), "speed/test_rtfx": RTFX[size] + seed})
        run.log_file(folder / "scores.json")
    return predictions[0], predictions[1]


def _mishear(split: Split, share: float, seed: int) -> list[Prediction]:
    noise = np.random.default_rng(seed)
    names = ("utterance_id", "speaker_id", "sentence_id", "gender", "age", "dialect", "region", "role", "duration_s")
    made = []
    for row in split.parts["test"].to_dict("records"):
        said = resolve_marks(row["text"], "pronunciation")
        heard = "".join("허" if noise.random() < share else sign for sign in said)
        shared = {name: row[name] for name in names}
        made.append(Prediction(**shared, reference=row["text"], hypothesis=heard, decode_s=0.1))
    return made

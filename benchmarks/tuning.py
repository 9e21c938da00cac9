"""What pruning saves: one search with and without it, on a part of the demo corpus.

    python benchmarks/tuning.py [--quick] [--json FILE] [--pruner NAME]

Whisper base, learning rate from 1e-6 to 1e-3 with the default one first, decoded valid CER. Both sides draw with the
same seeds and alternate: 8 trials of 4 epochs for one seed (--quick), 12 of 6 for three. A ratio over 1 means that
pruning took less. `no_worse` says whether the pruned study's best trial is at least as good as the default settings.
"""

import argparse
import dataclasses
import importlib.metadata
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from demo_split import prepare

from kmed_bench.asr.model.device import describe_machine, pick_device
from kmed_bench.asr.model.weights import find_weights
from kmed_bench.config import Config, load_config
from kmed_bench.core.console import configure_logging
from kmed_bench.tuning.tune import tune


def settings(folder: Path, *, quick: bool, seed: int, pruner: str) -> Config:
    """Return the settings of one study; its stores lie in the folder."""
    return load_config(
        "demo",
        {
            "model.sizes": "base",
            "split.train": 24,
            "split.valid": 8,
            "split.test": 8,
            "train.epochs": 4 if quick else 6,
            "eval.audio_context": "dynamic",
            "tune.trials": 8 if quick else 12,
            "tune.seed": seed,
            "tune.pruner": pruner,
            "tune.startup_trials": 3,
            "tune.space": "{train.lr: {low: 1.0e-6, high: 1.0e-3, log: true}}",
            "tune.storage": f"sqlite:///{folder}/optuna.db",
            "tracking.uri": f"sqlite:///{folder}/mlflow.db",
        },
    )


def measure(config: Config, split: Path, out: Path) -> dict[str, Any]:
    """Return what one study took and found."""
    started = time.perf_counter()
    record = tune(config, find_weights("base"), split, out, code_version="benchmark").record
    best, default = record.best(), record.default()
    assert best is not None
    assert default is not None
    return {
        "seed": config.tune.seed,
        "epochs": sum(trial.epochs for trial in record.trials),
        "seconds": time.perf_counter() - started,
        "pruned": sum(trial.state == "pruned" for trial in record.trials),
        "failed": sum(trial.state == "failed" for trial in record.trials),
        "best_cer": best.cer,
        "best_lr": best.params["train.lr"],
        "default_cer": default.cer,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, 8 trials of 4 epochs")
    parser.add_argument("--json", type=Path, help="where the result is written")
    parser.add_argument("--pruner", default="median", help="median, successive_halving or hyperband")
    args = parser.parse_args()
    configure_logging()
    taken = {args.pruner: [], "none": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        split = prepare(settings(folder, quick=args.quick, seed=0, pruner="none"), folder)
        for seed in range(1 if args.quick else 3):
            for pruner, rows in taken.items():
                config = settings(folder, quick=args.quick, seed=seed, pruner=pruner)
                rows.append(measure(config, split, folder / f"{pruner}-{seed}"))
    ours, peer = taken[args.pruner], taken["none"]
    ratios = {}
    for what in ("epochs", "seconds"):
        each = [b[what] / a[what] for a, b in zip(ours, peer, strict=True)]
        ratios[f"none, {what}"] = {"median": statistics.median(each), "low": min(each), "high": max(each)}
    result = {
        "machine": {"device": describe_machine(pick_device()), "system": platform.platform()},
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "optuna": importlib.metadata.version("optuna"),
        },
        "settings": dataclasses.asdict(settings(Path(), quick=args.quick, seed=0, pruner=args.pruner).tune),
        "ours": {"studies": ours, "no_worse": all(row["best_cer"] <= row["default_cer"] for row in ours)},
        "peers": {"none": {"studies": peer}},
        "epochs_saved": [1 - a["epochs"] / b["epochs"] for a, b in zip(ours, peer, strict=True)],
        "ratios": ratios,
    }
    text = json.dumps(result, indent=2)
    print(text)
    if args.json:
        args.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

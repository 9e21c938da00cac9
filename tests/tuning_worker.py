"""One process of a study: ``python tuning_worker.py FOLDER [setting=value …]``; FOLDER holds split/ and tiny.pt."""

import json
import sys
from pathlib import Path

from kmed_bench.asr.model.weights import Weights
from kmed_bench.config import Config, load_config
from kmed_bench.core.console import configure_logging
from kmed_bench.tuning.tune import tune

SETTINGS = {
    "model.sizes": "tiny",
    "train.epochs": "3",
    "train.precision": "fp32",
    "eval.max_new_tokens": "8",
    "eval.audio_context": "dynamic",
    "tune.space": "{train.lr: {low: 1.0e-6, high: 0.1, log: true}}",
    "tune.startup_trials": "2",
    "tune.trials": "4",
    "tracking.uri": "sqlite:///mlflow.db",
}


def settings(folder: Path, **more: str) -> Config:
    """Return a study's settings with its files in a folder; double underscores stand for dots."""
    stores = {"tune.storage": f"sqlite:///{folder}/optuna.db", "tracking.uri": f"sqlite:///{folder}/mlflow.db"}
    return load_config("demo", {**SETTINGS, **stores, **{key.replace("__", "."): value for key, value in more.items()}})


def weights(folder: Path) -> Weights:
    return Weights("tiny", folder / "tiny.pt", "file", "0" * 64)


if __name__ == "__main__":
    configure_logging()
    place = Path(sys.argv[1])
    given = dict(word.split("=", 1) for word in sys.argv[2:])
    outcome = tune(
        settings(place, **given),
        weights(place),
        place / "split",
        place / "out",
        name="shared",
        code_version="test",
    )
    print(json.dumps([trial.state for trial in outcome.record.trials]))

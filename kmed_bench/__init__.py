"""kmed-bench: Whisper tiny, base and small on Korean medical speech, tracked in MLflow.

The package is a chain of stages, each a command that can run alone:
labels, manifest, split, features, fine-tune, evaluate, track, report, registry.

What ``import kmed_bench`` offers is listed in ``PUBLIC``, loaded on first use, and shown in docs/api.md. Everything
else may change between releases.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

PUBLIC = {
    "KmedError": "core.errors",
    "load_config": "config",
    "ingest": "corpus.ingest.manifest",
    "read_manifest": "core.schema",
    "split_manifest": "corpus.splitting.split",
    "write_split": "corpus.splitting.split",
    "read_split": "corpus.splitting.split",
    "find_weights": "asr.model.weights",
    "load_weights": "asr.model.weights",
    "save_weights": "asr.model.weights",
    "featurize_split": "training.epochs",
    "train_epochs": "training.epochs",
    "decode_part": "training.epochs",
    "transcribe_arrays": "asr.decoding.arrays",
    "SampleBackend": "asr.runtimes.backend",
    "open_folder": "asr.runtimes.formats",
    "Prediction": "core.predictions",
    "read_predictions": "core.predictions",
    "write_predictions": "core.predictions",
    "ScoringOptions": "scoring",
    "score_predictions": "scoring",
    "compare_predictions": "scoring",
    "score_metrics": "tracking.metric_names",
    "read_bench": "tracking.read",
    "runs_table": "report.tables",
    "sizes_table": "report.tables",
    "history_table": "report.tables",
    "plot_style": "report.fonts",
    "plot_curves": "report.plots",
    "plot_test_cer": "report.score_plots",
}
"""Each public name and the module that defines it."""

__all__ = ["PUBLIC", "__version__", *PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *PUBLIC})

"""kmed-bench: Whisper tiny, base and small on Korean medical speech, tracked in MLflow.

The package is a chain of stages, each a command that can run alone:
labels, manifest, split, features, fine-tune, evaluate, track, report, registry.
"""

__version__ = "0.1.0"

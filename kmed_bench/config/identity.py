"""What makes two runs the same: every digest, derived from the marks that the settings carry (`fields.Decides`).

The callers add what no setting says: hashes of weights and split, the size, the seed, the arithmetic of the device.
"""

import dataclasses
import hashlib
import json
from pathlib import PurePath
from typing import Any

from kmed_bench.config.fields import Decides, marks
from kmed_bench.config.settings import Config


def digest(value: Any) -> str:
    """Return a 16-digit SHA-256 of plain values and settings, equal for equal values on every machine."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=dataclasses.asdict)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def decisive(config: Config, kinds: Decides) -> dict[str, Any]:
    """Return the settings that decide any of the given kinds, by dotted key."""
    chosen: dict[str, Any] = {}
    for name, node in vars(config).items():
        if dataclasses.is_dataclass(node):
            decided = marks(type(node)).items()
            chosen |= {f"{name}.{field}": getattr(node, field) for field, mark in decided if mark & kinds}
    return chosen


def training_digest(config: Config, **facts: Any) -> str:
    """Return the digest of an unfinished training: only one of the same digest may continue it.

    Decoding decides as well, since epochs are selected by their decoded CER.

    Parameters
    ----------
    **facts
        What else decides the result: seed, hashes of the weights and of the split, arithmetic.
    """
    settings = decisive(config, Decides.TRAINING | Decides.DECODING)
    if config.train.schedule == "constant":
        del settings["train.epochs"]  # no step depends on how many follow, so such a training may be extended
    return digest({"settings": settings, **facts})


def benchmark_digest(config: Config) -> str:
    """Return the digest of all settings that decide a benchmark's results; a path counts by its last name only."""
    settings = decisive(
        config, Decides.DATA | Decides.BENCHMARK | Decides.TRAINING | Decides.DECODING | Decides.SCORING
    )
    source = config.data.source
    return digest({**settings, "data.source": PurePath(source).name if source else None})


def study_setup(config: Config, **facts: Any) -> dict[str, Any]:
    """Return what makes the trials of a study comparable, as digests by kind beside the facts.

    Parameters
    ----------
    **facts
        What is the same for all trials: size, hashes of the weights and of the split, seed.
    """
    training = decisive(config, Decides.TRAINING)
    return {
        **facts,
        "training": digest({key: value for key, value in training.items() if key not in config.tune.space}),
        "decoding": digest(decisive(config, Decides.DECODING)),
        "search": digest(decisive(config, Decides.SEARCH)),
    }


def curve_digest(config: Config, **facts: Any) -> str:
    """Return the digest of a learning curve: its points are comparable, and nested, only under the same one.

    Parameters
    ----------
    **facts
        What is the same for all points: size, hashes of the weights and of the split, part, arithmetic.
    """
    kinds = Decides.TRAINING | Decides.DECODING | Decides.SCORING | Decides.CURVE
    return digest({"settings": decisive(config, kinds), **facts})


def confirmation_digest(config: Config, seed: int) -> str:
    """Return the digest of a finished training within a study, whose weights and split are the same for all."""
    return digest({"settings": decisive(config, Decides.TRAINING | Decides.DECODING), "seed": seed})

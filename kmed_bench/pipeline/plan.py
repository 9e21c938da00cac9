"""The plan of a benchmark: everything that decides its figures, written down and hashed before it trains."""

import datetime
from collections.abc import Mapping
from pathlib import Path, PurePath

from kmed_bench.asr.model.weights import Weights
from kmed_bench.config import Config, Decides
from kmed_bench.config.gate import GATE_LIMITS
from kmed_bench.config.identity import decisive
from kmed_bench.core.records import hash_settings
from kmed_bench.core.run_contracts import PLAN, Plan
from kmed_bench.core.schema import SIZES
from kmed_bench.core.version import code_version
from kmed_bench.corpus.splitting.split import Split
from kmed_bench.scoring.measures import versions
from kmed_bench.tracking.seal import Seal
from kmed_bench.tracking.store import open_store

HEADLINE = "cer"
SCORED = Decides.DECODING | Decides.SCORING
"""What decides the figures of a finished model."""
TRAINED = Decides.BENCHMARK | Decides.TRAINING | SCORED
"""What decides the figures of a training on an existing split."""


def identify_split(split: Split) -> dict[str, str]:
    """Return the two digests of a split by name: of its utterance ids, and of all that its parts hold."""
    return {"split.sha256": split.sha256, "split.content_sha256": split.report.get("content_sha256", "none")}


def decisive_settings(config: Config, kinds: Decides, split: Mapping[str, str]) -> dict[str, str]:
    """Return what decides the figures as text by name: settings, split, metric, versions of the rules.

    Parameters
    ----------
    split : mapping
        As `identify_split` returns it.
    """
    settings = {key: _text(value) for key, value in decisive(config, kinds).items()}
    if "data.source" in settings and config.data.source is not None:
        settings["data.source"] = PurePath(config.data.source).name  # the download may be moved
    return settings | {**split, "metric": HEADLINE, **{k: str(v) for k, v in versions().items()}}


def series_of(config: Config, split: Split) -> str:
    """Return the digest that the trainings of one benchmark share wherever they run (``tracking/series.py``)."""
    return hash_settings(decisive_settings(config, Decides.TRAINING | SCORED, identify_split(split)))


def make_plan(config: Config, kinds: Decides, split: Mapping[str, str], weights: Mapping[str, Weights]) -> Plan:
    """Return the plan of a benchmark, or of a single training, as of now.

    Parameters
    ----------
    kinds : Decides
        Which settings decide; for a whole benchmark these include the settings of the data.
    split : mapping
        As `identify_split` returns it.
    weights : mapping
        Size to the weights that its trainings start from.
    """
    settings = decisive_settings(config, kinds, split)
    settings |= {f"weights.{size}": found.sha256 for size, found in weights.items()}
    settings |= {key: _text(getattr(config.gate, key.removeprefix("gate."))) for key in GATE_LIMITS}
    return {
        **PLAN.head,
        "sha256": hash_settings(settings),
        "sealed_at": datetime.datetime.now(datetime.UTC).isoformat(),
        "code_version": code_version(),
        "settings": settings,
    }


def record_opening(config: Config, kinds: Decides, command: str, model: str, split: Split) -> None:
    """Record that a command outside any plan is about to open a test part.

    Parameters
    ----------
    kinds : Decides
        Which settings are recorded: those that the command reads.
    model : str
        A MODEL argument; a size is an untouched model, and of a path only the last name is kept.

    Raises
    ------
    KmedError
        When the tracking store can't be used.
    """
    uri, settings = open_store(config.tracking), decisive_settings(config, kinds, identify_split(split))
    seal = Seal(uri, command=command, split_sha256=split.sha256, settings=settings)
    name = Path(model).name if Path(model).exists() else model
    seal.record_opening(f"{name}, untouched" if model in SIZES else name, untouched=model in SIZES)


def _text(value: object) -> str:
    if isinstance(value, tuple):
        value = ",".join(map(str, value))
    return "none" if value is None or value == "" else str(value)

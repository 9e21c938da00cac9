"""The settings of a run as its params: without folders and passwords, and those of the training they belong to."""

import dataclasses
import shlex
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from kmed_bench.config import Config, flatten
from kmed_bench.core.addresses import without_password
from kmed_bench.tracking.store import sqlite_file

_TRAINED_WITH = ("model.", "features.", "train.", "eval.", "tracking.")


def shareable(config: Config) -> Config:
    """Return the settings with folders reduced to their last name and passwords masked.

    Paths may contain the name of a person or an institution, a database URI its password, and the address or the
    arguments by which a promotion is told a token. What a cluster is told besides numbers may hold any of these.
    """
    data, model, tracking, gate, slurm = config.data, config.model, config.tracking, config.gate, config.slurm
    return dataclasses.replace(
        config,
        data=dataclasses.replace(data, source=data.source and PurePath(data.source).name),
        model=dataclasses.replace(model, weights=model.weights and PurePath(model.weights).name),
        tracking=dataclasses.replace(
            tracking,
            uri=tracking.uri and _shareable_uri(tracking.uri),
            sign_key=tracking.sign_key and PurePath(tracking.sign_key).name,
        ),
        gate=dataclasses.replace(
            gate,
            command=gate.command and PurePath(shlex.split(gate.command)[0]).name,
            webhook=gate.webhook and "https://***",
        ),
        tune=dataclasses.replace(config.tune, storage=_shareable_uri(config.tune.storage)),
        slurm=dataclasses.replace(
            slurm,
            account=slurm.account and "***",
            setup=slurm.setup and "***",
            python=slurm.python and PurePath(slurm.python).name,
            directives=slurm.directives and "***",
        ),
    )


def _shareable_uri(uri: str) -> str:
    path = sqlite_file(uri)
    return without_password(uri) if path is None else f"sqlite:///{path.name}"


def training_params(config: Config, *, size: str, seed: int, split: Mapping[str, Any]) -> dict[str, Any]:
    """Return the params of one training: every setting that training reads, and those its split was drawn with.

    They are the same for a training of a benchmark and one alone. Settings that chose the recordings belong to the
    run that ingested them.

    Parameters
    ----------
    split : mapping
        ``config`` of its split.json, which may differ from the settings of this process.
    """
    flat = {key: value for key, value in flatten(shareable(config)).items() if key.startswith(_TRAINED_WITH)}
    del flat["model.skip_unavailable"]  # concerns the other sizes of a benchmark
    drawn = {f"split.{key}": _text(value) for key, value in split.items()}
    own = {"data.transcript_side": config.data.transcript_side, "model.sizes": size, "train.seeds": seed}
    return flat | drawn | own


def _text(value: Any) -> Any:
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else value

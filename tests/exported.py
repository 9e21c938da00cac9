"""Clips and decodings that the tests of export, runtimes and evaluation share."""

from pathlib import Path
from typing import get_args

import pandas as pd

from kmed_bench.asr.model.weights import load_weights
from kmed_bench.asr.runtimes.formats import Format
from kmed_bench.config import EvalConfig
from kmed_bench.core.schema import PARTS
from kmed_bench.corpus.splitting.split import build_split, sort_manifest, write_split
from kmed_bench.pipeline.export import export_model

_made: dict[Path, dict[str, Path]] = {}


def export_all(checkpoint: Path) -> dict[str, Path]:
    """Return a folder of a checkpoint in each format, made once a test session beside the checkpoint."""
    if checkpoint not in _made:
        model, beside = load_weights(checkpoint), checkpoint.parent
        for fmt in get_args(Format):
            export_model(model, beside / fmt, fmt, EvalConfig())
        _made[checkpoint] = {fmt: beside / fmt for fmt in get_args(Format)}
    return _made[checkpoint]


def write_thirds(part: pd.DataFrame, out: Path) -> Path:
    """Write a split whose three parts are thirds of these rows, and return its folder."""
    table = sort_manifest(part)
    n = len(table) // 3
    parts = {name: table.iloc[i * n : (i + 1) * n].reset_index(drop=True) for i, name in enumerate(PARTS)}
    config = {"train": n, "valid": n, "test": n, "by": ("gender",), "disjoint": (), "seed": 0, "tolerance": 0.005}
    write_split(build_split(table, parts, config, {"method": "thirds"}), out)
    return out

"""Clips and decodings that the tests of export, runtimes and evaluation share."""

from pathlib import Path
from typing import cast

import pandas as pd

from kmed_bench.asr.model.weights import load_weights
from kmed_bench.asr.runtimes.formats import Format
from kmed_bench.config import EvalConfig
from kmed_bench.core.schema import PARTS
from kmed_bench.corpus.splitting.split import build_split, sort_manifest, write_split
from kmed_bench.pipeline.export import export_model


class Exports(dict[str, Path]):
    """Folders of one checkpoint by format, each made beside the checkpoint when it is first asked for."""

    def __init__(self, checkpoint: Path) -> None:
        super().__init__()
        self.checkpoint = checkpoint

    def __missing__(self, fmt: str) -> Path:
        self[fmt] = self.checkpoint.parent / fmt
        export_model(load_weights(self.checkpoint), self[fmt], cast(Format, fmt), EvalConfig())
        return self[fmt]


_made: dict[Path, Exports] = {}


def export_all(checkpoint: Path) -> Exports:
    """Return a checkpoint's folders, shared by the tests of a session."""
    return _made.setdefault(checkpoint, Exports(checkpoint))


def write_thirds(part: pd.DataFrame, out: Path) -> Path:
    """Write a split whose three parts are thirds of these rows, and return its folder."""
    table = sort_manifest(part)
    n = len(table) // 3
    parts = {name: table.iloc[i * n : (i + 1) * n].reset_index(drop=True) for i, name in enumerate(PARTS)}
    config = {"train": n, "valid": n, "test": n, "by": ("gender",), "disjoint": (), "seed": 0, "tolerance": 0.005}
    write_split(build_split(table, parts, config, {"method": "thirds"}), out)
    return out

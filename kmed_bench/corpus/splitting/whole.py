"""A whole manifest in place of a split: recordings that are only decoded and scored, not trained on."""

import dataclasses
from pathlib import Path

from kmed_bench.config import SplitConfig
from kmed_bench.core.schema import PARTS, read_manifest
from kmed_bench.corpus.splitting.split import Split, build_split, read_split, sort_manifest

WHOLE = "whole corpus, no split"


def read_speech(path: Path) -> Split:
    """Return the split in a folder, or a manifest (the file, or the folder that holds it) as one with a test part only.

    Raises
    ------
    KmedError
        When neither is there, or it can't be read.
    """
    manifest = manifest_in(path)
    if manifest is None:
        return read_split(path)
    table = sort_manifest(read_manifest(manifest))
    parts = {part: table if part == "test" else table.iloc[:0] for part in PARTS}
    config = SplitConfig(by=(), disjoint=())
    split = build_split(table, parts, dataclasses.asdict(config), {"method": WHOLE})
    return dataclasses.replace(split, report={**split.report, "label": WHOLE})


def manifest_in(path: Path) -> Path | None:
    """Return the manifest that a path means, itself or the file in the folder; None if it is that of a split."""
    manifest = path / "manifest.parquet" if path.is_dir() else path
    return None if (path / "split.json").exists() or not manifest.is_file() else manifest

"""A split of the demo corpus, for benchmarks that need no real speech."""

from pathlib import Path

from kmed_bench.config import Config
from kmed_bench.core.schema import read_manifest
from kmed_bench.corpus.ingest.manifest import ingest
from kmed_bench.corpus.splitting.split import split_manifest, write_split
from kmed_bench.pipeline.preparation import demo_corpus


def prepare(config: Config, folder: Path) -> Path:
    """Return the folder of a split of the demo corpus."""
    ingest([demo_corpus(config, folder)], folder / "manifest", config.data)
    write_split(split_manifest(read_manifest(folder / "manifest" / "manifest.parquet"), config.split), folder / "split")
    return folder / "split"

"""What a benchmark needs before it trains: weights, corpus, split."""

import dataclasses
import logging
from pathlib import Path

from kmed_bench import __version__
from kmed_bench.asr.model.weights import Weights, WeightsError, find_weights
from kmed_bench.config import Config, digest
from kmed_bench.core.errors import KmedError
from kmed_bench.core.schema import read_manifest
from kmed_bench.corpus.demo.demo import make_demo_corpus
from kmed_bench.corpus.ingest.manifest import ingest
from kmed_bench.corpus.splitting.split import Split, read_split, split_manifest, write_split

log = logging.getLogger(__name__)


def collect_weights(config: Config) -> tuple[dict[str, Weights], dict[str, str]]:
    """Return each size's weights, and for sizes that are left out the reason with its remedy.

    Raises
    ------
    KmedError
        When a size that was asked for by name, or every size, has none.
    """
    found: dict[str, Weights] = {}
    skipped: dict[str, str] = {}
    for size in config.model.sizes:
        try:
            found[size] = find_weights(size, config.model.weights)
            log.info("Whisper %s: %s (%s)", size, found[size].path, found[size].origin)
        except WeightsError as error:
            if not config.model.skip_unavailable:
                raise
            skipped[size] = str(error)
            log.warning("Skipped: %s", error)
    if not found:
        raise WeightsError(" ".join(skipped.values()))
    return found, skipped


def check_source(config: Config) -> None:
    """Raise KmedError when a source is named that is not there; called before a run is opened."""
    if config.data.source is not None and not Path(config.data.source).exists():
        raise KmedError(
            f"Source {config.data.source} does not exist; give the folder that holds Training/ and Validation/ "
            "of the AI Hub download, or leave it out for the generated demo corpus."
        )


def demo_corpus(config: Config, out: Path) -> Path:
    """Return the folder of the generated corpus, made once for its settings."""
    data = config.data
    made_of = {"speakers": data.demo_speakers, "sentences": data.demo_sentences, "seed": data.demo_seed}
    folder = out / f"demo-corpus-{digest({**made_of, 'version': __version__})[:8]}"
    if not folder.is_dir():
        log.info("Generating the demo corpus in %s", folder)
        make_demo_corpus(folder, **made_of, layout="zips")  # it appears whole or not at all
    return folder


def _whole_split(folder: Path) -> Split | None:
    try:
        return read_split(folder)
    except KmedError:
        return None  # killed while it was written; it is made anew


def _split_source(source: Path, folder: Path, config: Config) -> Split:
    log.info("Reading %s", source)
    quality = ingest([source], folder / "manifest", config.data)
    log.info(
        f"{quality['labels']} labels: {quality['usable']} usable, {sum(quality['rejected'].values())} rejected "
        f"({', '.join(f'{reason} {n}' for reason, n in quality['rejected'].items() if n) or 'none'})."
    )
    split = split_manifest(read_manifest(folder / "manifest" / "manifest.parquet"), config.split)
    report = write_split(split, folder / "split")
    counts, leakage = report["counts"], report["leakage"]
    log.info(
        f"Split {counts['train']}/{counts['valid']}/{counts['test']}, left out {report['discarded']}; shared "
        f"by parts: {leakage['speakers']} speakers, {leakage['sentences']} sentences."
    )
    return dataclasses.replace(split, report=report)

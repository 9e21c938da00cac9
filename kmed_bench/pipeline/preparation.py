"""The preparation of a training: weights, corpus, split."""

import dataclasses
import logging
from collections.abc import Collection
from pathlib import Path

from kmed_bench import __version__
from kmed_bench.asr.model.weights import Weights, WeightsError, find_weights
from kmed_bench.config import Config, digest
from kmed_bench.core.corpus_contracts import QUALITY, QualityReport
from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import write_bytes_atomically
from kmed_bench.core.progress import track
from kmed_bench.core.schema import read_manifest
from kmed_bench.core.signatures import read_private_key
from kmed_bench.corpus.demo.demo import make_demo_corpus
from kmed_bench.corpus.demo.sentences import corpus_name
from kmed_bench.corpus.ingest.manifest import ingest
from kmed_bench.corpus.splitting.split import Split, read_split, split_manifest, write_split
from kmed_bench.pipeline.planning import describe_plan, plan_split
from kmed_bench.tracking.run import TrackedRun

log = logging.getLogger(__name__)
_LISTS = (".csv", ".tsv", ".xlsx", ".jsonl")


def collect_weights(config: Config, needed: Collection[str] = ()) -> tuple[dict[str, Weights], dict[str, str]]:
    """Return each size's weights, and for each size left out the reason and the remedy.

    Parameters
    ----------
    needed : collection of str
        The sizes that will be trained here, if not all: only they must have weights.

    Raises
    ------
    KmedError
        When a size that was asked for by name, or every size, has none.
    """
    available: dict[str, Weights] = {}
    skipped: dict[str, str] = {}
    for size in config.model.sizes:
        try:
            weights = available[size] = find_weights(size, config.model.weights)
            log.info("Whisper %s: %s (%s)", size, weights.path, weights.origin)
        except WeightsError as error:
            if size in needed or not (needed or config.model.skip_unavailable):
                raise
            skipped[size] = str(error)
            log.warning("Skipped: %s", error)
    if not available:
        raise WeightsError(" ".join(skipped.values()))
    return available, skipped


def check_sign_key(config: Config) -> None:
    """Raise KmedError if passports shall be signed with a key that can't be read; called before hours of training."""
    if config.tracking.register and config.tracking.sign_key is not None:
        read_private_key(Path(config.tracking.sign_key))


def check_source(config: Config) -> None:
    """Raise KmedError if the settings name a source that does not exist; called before a run is opened."""
    if config.data.source is not None and not Path(config.data.source).exists():
        raise KmedError(
            f"Source {config.data.source} does not exist; give the folder that holds Training/ and Validation/ "
            "of the AI Hub download, or one that `import-corpus` wrote, or leave it out for the generated demo corpus."
        )
    if config.data.source is not None:
        find_manifest(Path(config.data.source))


def find_manifest(source: Path) -> Path | None:
    """Return the manifest that a source is, or holds, as `import-corpus` and `ingest` leave it; None for a download.

    Raises
    ------
    KmedError
        When the source is a list that was not imported, or a manifest without its quality.json.
    """
    manifest = source / "manifest.parquet" if source.is_dir() else source
    if source.suffix.lower() in _LISTS and source.is_file():
        raise KmedError(
            f"Source {source} is a list; import it first (`kmed-bench import-corpus {source} OUT`), and give OUT."
        )
    if not manifest.is_file() or manifest.suffix != ".parquet":
        return None
    if not manifest.with_name("quality.json").is_file():
        raise KmedError(
            f"{manifest} has no quality.json beside it, which `import-corpus` and `ingest` write; import again."
        )
    return manifest


def demo_folder(config: Config, out: Path) -> Path:
    """Return the folder of the generated corpus of these settings, which need not be there."""
    return out / f"demo-corpus-{digest({**_demo_settings(config), 'version': __version__})[:8]}"


def _demo_settings(config: Config) -> dict[str, int]:
    data = config.data
    return {"speakers": data.demo_speakers, "sentences": data.demo_sentences, "seed": data.demo_seed}


def demo_corpus(config: Config, out: Path) -> Path:
    """Return the folder of the generated corpus, made once for its settings.

    Of several processes that make it at the same time the first one to finish wins; their corpora are equal.
    """
    folder = demo_folder(config, out)
    if not folder.is_dir():
        log.info("Generating the demo corpus in %s", folder)
        try:
            with track("Generating the demo corpus"):
                make_demo_corpus(folder, **_demo_settings(config), layout="zips")  # it appears whole or not at all
        except KmedError:
            if not folder.is_dir():
                raise
            log.info("Another process was faster: its demo corpus is used.")
    return folder


def read_whole_split(folder: Path) -> Split | None:
    """Return the split in a folder; None if there is none, or half of one because its writer was killed."""
    try:
        return read_split(folder)
    except KmedError:
        return None


def split_source(source: Path, folder: Path, config: Config) -> Split:
    """Read a corpus into ``manifest/`` of a folder, draw the split, write it into ``split/`` and return it."""
    log.info("Reading %s", source)
    quality = _take_manifest(source, folder / "manifest") or ingest([source], folder / "manifest", config.data)
    log.info(
        f"{quality['labels']} labels: {quality['usable']} usable, {sum(quality['rejected'].values())} rejected "
        f"({', '.join(f'{reason} {n}' for reason, n in quality['rejected'].items() if n) or 'none'})."
    )
    split = split_manifest(read_manifest(folder / "manifest" / "manifest.parquet"), config.split)
    split = plan_split(split, config.data.transcript_side)
    report = write_split(split, folder / "split")
    counts, leakage = report["counts"], report["leakage"]
    log.info(
        f"Split {counts['train']}/{counts['valid']}/{counts['test']}, left out {report['discarded']}; shared "
        f"by parts: {leakage['speakers']} speakers, {leakage['sentences']} sentences."
    )
    log.info(describe_plan(split))
    return dataclasses.replace(split, report=report)


def _take_manifest(source: Path, folder: Path) -> QualityReport | None:
    """Copy the files of an imported corpus into a folder and return its quality.json; None for a download."""
    manifest = find_manifest(source)
    if manifest is None:
        return None
    quality = QUALITY.read(manifest.with_name("quality.json"))
    read_manifest(manifest)  # says what is wrong with it
    for name in ("manifest.parquet", "rejects.csv", "quality.json"):
        one = manifest if name == "manifest.parquet" else manifest.with_name(name)
        if one.is_file():
            write_bytes_atomically(folder / name, one.read_bytes(), private=True)
    return quality


def log_split(run: TrackedRun, split: Split, context: str) -> None:
    """Link a run to its data; a generated corpus has a name of its own."""
    name = corpus_name(split.parts["train"])
    run.log_dataset(sha256=split.sha256, counts=split.report["counts"], context=context, name=name)

"""The whole benchmark: weights, corpus, split, training of each size and seed, report."""

import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path

from kmed_bench import __version__
from kmed_bench.asr.weights import Weights, WeightsError, cache_folder, find_weights
from kmed_bench.config import Config, digest
from kmed_bench.corpus.demo import make_demo_corpus
from kmed_bench.corpus.manifest import ingest
from kmed_bench.corpus.split import Split, read_split, split_manifest, write_split
from kmed_bench.progress import Narrator
from kmed_bench.records import KmedError, read_manifest, read_predictions
from kmed_bench.report.page import write_report
from kmed_bench.report.significance import compare_sizes
from kmed_bench.stages import prepare_speech
from kmed_bench.tracking.readback import read_bench
from kmed_bench.tracking.runs import BenchRun, bench_run, lone_run
from kmed_bench.tracking.store import open_store
from kmed_bench.trainer import Trainer, TrainOutcome, list_notes


@dataclasses.dataclass(frozen=True)
class BenchOutcome:
    """Where a benchmark's results are.

    Attributes
    ----------
    failed : dict
        Name of a train run to the error that ended it.
    """

    run_id: str
    report: Path
    tracking_uri: str
    trained: tuple[TrainOutcome, ...]
    skipped: dict[str, str]
    failed: dict[str, str]


def run_benchmark(config: Config, out: Path, *, narrator: Narrator) -> BenchOutcome:
    """Return the outcome of a benchmark; everything it makes lies in a new folder under out.

    Raises
    ------
    KmedError
        Before any work when no size has weights, the source is missing or the store can't be used;
        later when the corpus can't be split as asked.
    """
    weights, skipped = collect_weights(config, narrator)
    check_source(config)
    uri = open_store(config.tracking)
    with bench_run(config, code_version=code_version()) as bench:
        folder = out / f"bench-{config.profile}-{bench.run_id[:8]}"
        bench.log_skipped(skipped)
        split = _make_split(config, folder, out, bench, narrator)
        speech = prepare_speech(split, cache_folder() / "features", narrator)
        trained: list[TrainOutcome] = []
        failed: dict[str, str] = {}
        for size, found in weights.items():
            trainer = Trainer(config, found, speech, folder / size, narrator)
            for seed in config.train.seeds:
                name = f"train-{size}-seed{seed}"
                try:
                    with bench.child("train", name, tags=trainer.describe(seed)) as run:
                        run.log_dataset(sha256=split.sha256, counts=split.report["counts"], context="training")
                        trained.append(trainer.train(seed, run))
                except (KmedError, RuntimeError) as error:
                    # One failing size or seed does not take the others' hours with it.
                    failed[name] = str(error)
                    narrator.say(f"{name} failed: {error}")
        _compare(trained, config, bench)
        report = _make_report(uri, bench, folder, narrator)
        for outcome in trained:
            narrator.say(list_notes(outcome))
        if failed:
            bench.ends_as = "FAILED"
            bench.set_tags({"kmed.failed": ", ".join(sorted(failed))})
    return BenchOutcome(bench.run_id, report, uri, tuple(trained), skipped, failed)


def train_alone(config: Config, split_folder: Path, out: Path, *, narrator: Narrator) -> tuple[TrainOutcome, str]:
    """Fine-tune the one size and seed of a config; return the outcome and the tracking URI.

    Raises
    ------
    KmedError
        When the size has no weights, the split can't be read or the store can't be used.
    """
    (size,), seed = config.model.sizes, config.train.seeds[0]
    weights, _ = collect_weights(config, narrator)
    split = read_split(split_folder)
    uri = open_store(config.tracking)
    speech = prepare_speech(split, cache_folder() / "features", narrator)
    trainer = Trainer(config, weights[size], speech, out, narrator)
    name = f"train-{size}-seed{seed}"
    with lone_run(config, kind="train", name=name, code_version=code_version(), tags=trainer.describe(seed)) as run:
        run.log_dataset(sha256=split.sha256, counts=split.report["counts"], context="training")
        outcome = trainer.train(seed, run)
    narrator.say(list_notes(outcome))
    return outcome, uri


def collect_weights(config: Config, narrator: Narrator) -> tuple[dict[str, Weights], dict[str, str]]:
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
            narrator.say(f"Whisper {size}: {found[size].path} ({found[size].origin})")
        except WeightsError as error:
            if not config.model.skip_unavailable:
                raise
            skipped[size] = str(error)
            narrator.say(f"Skipped: {error}")
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


def ui_command(uri: str) -> str:
    """Return what opens the MLflow UI on this store, ready to paste."""
    if uri.startswith(("http://", "https://")):
        return uri
    program = Path(sys.executable).with_name("mlflow")
    name = str(program) if program.exists() else "mlflow"
    return f"MLFLOW_DISABLE_TELEMETRY=true {name} ui --host 127.0.0.1 --port 5000 --backend-store-uri {uri}"


def code_version() -> str:
    """Return the package version, with the commit where the package runs from a checkout."""
    root = Path(__file__).resolve().parents[1]
    if (root / ".git").exists():
        command = ["git", "-C", str(root), "describe", "--always", "--dirty"]
        try:
            described = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return __version__
        return f"{__version__}+{described}"
    return __version__


def demo_corpus(config: Config, out: Path, narrator: Narrator) -> Path:
    """Return the folder of the generated corpus, made once for its settings."""
    made_of = (config.data.demo_speakers, config.data.demo_sentences, config.data.demo_seed, __version__)
    folder = out / f"demo-corpus-{digest(made_of)[:8]}"
    if not folder.is_dir():
        narrator.say(f"Generating the demo corpus in {folder}")
        aside = folder.with_name(f".{folder.name}.{os.getpid()}")
        make_demo_corpus(
            aside,
            speakers=config.data.demo_speakers,
            sentences=config.data.demo_sentences,
            seed=config.data.demo_seed,
            layout="zips",
        )
        aside.rename(folder)  # half a corpus never stands under the final name
    return folder


def _make_split(config: Config, folder: Path, out: Path, bench: BenchRun, narrator: Narrator) -> Split:
    """Ingest and split within the `split` child run, whose artifacts are the two accounts."""
    source = Path(config.data.source) if config.data.source else demo_corpus(config, out, narrator)
    with bench.child("split", f"split-{config.profile}") as run:
        narrator.say(f"Reading {source}")
        quality = ingest([source], folder / "manifest", config.data, progress=narrator.say)
        narrator.say(
            f"{quality['labels']} labels: {quality['usable']} usable, {sum(quality['rejected'].values())} rejected "
            f"({', '.join(f'{reason} {n}' for reason, n in quality['rejected'].items() if n) or 'none'})."
        )
        split = split_manifest(read_manifest(folder / "manifest" / "manifest.parquet"), config.split)
        report = write_split(split, folder / "split")
        run.set_tags({"kmed.split_sha256": split.sha256})
        bench.set_tags({"kmed.split_sha256": split.sha256})
        run.log_dataset(sha256=split.sha256, counts=report["counts"], context="split")
        for name in ("manifest/quality.json", "split/split.json"):
            run.log_file(folder / name)
    counts, leakage = report["counts"], report["leakage"]
    narrator.say(
        f"Split {counts['train']}/{counts['valid']}/{counts['test']}, left out {report['discarded']}; shared "
        f"by parts: {leakage['speakers']} speakers, {leakage['sentences']} sentences."
    )
    return split


def _compare(trained: list[TrainOutcome], config: Config, bench: BenchRun) -> None:
    """Log paired differences on the test part: each size untouched and fine-tuned, and the sizes among them."""
    best: dict[str, TrainOutcome] = {}
    for outcome in trained:
        if outcome.size not in best or outcome.best_valid_cer < best[outcome.size].best_valid_cer:
            best[outcome.size] = outcome
    chosen = {}
    for size, outcome in best.items():
        folder = outcome.checkpoint.parent
        chosen[size] = (
            read_predictions(folder / "predictions_untouched.jsonl"),
            read_predictions(folder / "predictions.jsonl"),
        )
    if chosen:
        bench.log_json({"comparisons": compare_sizes(chosen, config.eval)}, "comparisons.json")


def _make_report(uri: str, bench: BenchRun, folder: Path, narrator: Narrator) -> Path:
    with bench.child("report", "report"):
        started = time.perf_counter()
        record = read_bench(uri, bench.run_id)
        page = write_report(record, folder / "report", comparisons=record.comparisons)
        for path in sorted(page.parent.iterdir()):
            bench.log_file(path, "report")
        narrator.say(f"Report written in {time.perf_counter() - started:.0f} s")
    return page

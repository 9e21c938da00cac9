"""The whole benchmark: weights, corpus, split, training of each size and seed, report."""

import dataclasses
import logging
import time
from pathlib import Path

from kmed_bench.asr.model.weights import cache_folder
from kmed_bench.config import Config, benchmark_digest
from kmed_bench.core.console import log_file
from kmed_bench.core.errors import KmedError
from kmed_bench.core.predictions import read_predictions
from kmed_bench.core.version import code_version
from kmed_bench.corpus.demo.demo import corpus_name
from kmed_bench.corpus.splitting.split import Split
from kmed_bench.pipeline.preparation import _split_source, _whole_split, check_source, collect_weights, demo_corpus
from kmed_bench.pipeline.trainer import (
    TRAINING_FILE,
    Trainer,
    TrainOutcome,
    describe_outcome,
    read_outcome,
    read_training_record,
)
from kmed_bench.report.page import write_report
from kmed_bench.scoring.significance import compare_sizes
from kmed_bench.tracking.original.log_format import write_original_log
from kmed_bench.tracking.read import read_bench
from kmed_bench.tracking.resume import FINISHED, HASH_TAG, EarlierBench, check_ended, find_bench
from kmed_bench.tracking.runs import ParentRun, TrackedRun, bench_run
from kmed_bench.tracking.store import open_store
from kmed_bench.training.epochs import featurize_split

log = logging.getLogger(__name__)


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


def run_benchmark(config: Config, out: Path, *, resume: bool = False) -> BenchOutcome:
    """Return the outcome of a benchmark; everything it makes lies in one folder under out.

    Parameters
    ----------
    resume : bool
        Continue the latest unfinished benchmark of the same settings, in its run and its folder: trainings that are
        done are not run again. Where the store has none, a new one starts.

    Raises
    ------
    KmedError
        Before any work when no size has weights, the source is missing, the store can't be used, or the benchmark to
        continue is at work or has lost its folder; later when the corpus can't be split as asked.
    """
    weights, skipped = collect_weights(config)
    check_source(config)
    uri = open_store(config.tracking)
    earlier = _earlier_bench(config, uri, out, resume)
    tags, run_id = {HASH_TAG: benchmark_digest(config)}, earlier.run_id if earlier else None
    with (
        bench_run(config, code_version=code_version(), tags=tags, run_id=run_id) as bench,
        log_file(folder := results_folder(out, config.profile, bench.run_id)),
    ):
        bench.log_skipped(skipped)
        split = _make_split(config, folder, out, bench, earlier)
        speech = featurize_split(split, cache_folder() / "features", config)
        trained: list[TrainOutcome] = []
        failed: dict[str, str] = {}
        for size, found in weights.items():
            trainer = Trainer(config, found, speech, folder / size)
            for seed in config.train.seeds:
                name = f"train-{size}-seed{seed}"
                try:
                    trained.append(_train(trainer, seed, name, bench, earlier))
                except Exception as error:  # one failing size or seed does not take the others' hours with it
                    expected = isinstance(error, KmedError)
                    failed[name] = str(error) if expected else f"{type(error).__name__}: {error}"
                    log.error("%s failed: %s", name, error, exc_info=not expected)
        _compare(trained, config, bench)
        if failed:
            bench.ends_as = "FAILED"
            bench.set_tags({"kmed.failed": ", ".join(sorted(failed))})
        report = _make_report(uri, bench, folder, earlier)
        if config.profile == "original":
            _write_original_logs(uri, bench, folder)
        for outcome in trained:
            log.info(describe_outcome(outcome))
    return BenchOutcome(bench.run_id, report, uri, tuple(trained), skipped, failed)


def results_folder(out: Path, profile: str, run_id: str) -> Path:
    """Return where a benchmark's results lie: its name says which run it is, so that it is found again."""
    return out / f"bench-{profile}-{run_id[:8]}"


def _earlier_bench(config: Config, uri: str, out: Path, resume: bool) -> EarlierBench | None:
    """Return the benchmark to continue; without ``resume`` None, after a word on one that could be continued."""
    found = find_bench(config, uri)
    if found is None:
        if resume:
            log.info("The store holds no benchmark of these settings to continue: a new one starts.")
        return None
    done = f"{found.name} ({found.n_finished} of {len(config.model.sizes) * len(config.train.seeds)} trainings done)"
    if not resume:
        if found.status not in ("FINISHED", "RUNNING"):
            log.info(
                f"An unfinished benchmark of the same settings is in the store: {done}. This is a new one; to continue "
                "that one, stop and give --resume (with mlflow run: -P resume=true)."
            )
        return None
    check_ended(found, uri)
    folder = results_folder(out, found.profile, found.run_id)
    if found.n_finished and not folder.is_dir():
        raise KmedError(
            f"The results of {found.name} should be in {folder}, which does not exist; give the --out that it was "
            "started with, put the folder back, or leave --resume out to start anew."
        )
    log.info("Continuing %s in %s", done, folder)
    if found.code_version != code_version():
        log.info(f"It was begun by version {found.code_version}; this is {code_version()}.")
    return found


def _train(trainer: Trainer, seed: int, name: str, bench: ParentRun, earlier: EarlierBench | None) -> TrainOutcome:
    """Return a training's outcome: found where it is done, continued where it was begun, else run."""
    fingerprint = trainer.fingerprint(seed)  # within one benchmark, which holds sizes and epochs, it names one training
    before = earlier.trains.get(fingerprint) if earlier else None
    held = read_training_record(trainer.folder(seed)) if earlier and before is None else {}
    if held and held["fingerprint"] != fingerprint:
        raise KmedError(
            f"{name} was begun with other weights or arithmetic ({trainer.precision} here); continue where it began, "
            "set train.precision to what it was, or leave --resume out to start anew."
        )
    if before and before.status == FINISHED:
        log.info(f"{name}: done before, not run again.")
        return _read_outcome(trainer.folder(seed))
    if before:
        log.info(f"{name}: was begun before ({before.status.lower()}) and is continued.")
    tags = {**trainer.describe(seed), HASH_TAG: fingerprint}
    with bench.child("train", name, tags=tags, run_id=before.run_id if before else None) as run:
        _log_data(run, trainer.speech.split, "training")
        return trainer.train(seed, run, resume=earlier is not None)


def _log_data(run: TrackedRun, split: Split, context: str) -> None:
    """Link a run to its data; generated speech is not called by the recordings' name."""
    name = corpus_name(split.parts["train"])
    run.log_dataset(sha256=split.sha256, counts=split.report["counts"], context=context, name=name)


def _read_outcome(folder: Path) -> TrainOutcome:
    """Return what a training that is done left in its folder.

    Raises
    ------
    KmedError
        When files of it are gone.
    """
    outcome = read_outcome(folder)
    missing = [name for name in ("predictions.jsonl", "predictions_untouched.jsonl") if not (folder / name).is_file()]
    if outcome is None or missing:
        raise KmedError(
            f"The store says that the training in {folder} is done, but {', '.join(missing) or TRAINING_FILE} is not "
            "there; put the folder back, or leave --resume out to start anew."
        )
    return outcome


def _make_split(config: Config, folder: Path, out: Path, bench: ParentRun, earlier: EarlierBench | None) -> Split:
    """Ingest and split within the `split` child run, whose artifacts are the two accounts."""
    before, known = (earlier.stages.get("split"), earlier.split_sha256) if earlier else (None, "")
    if before and before.status == FINISHED and (whole := _whole_split(folder / "split")) and whole.sha256 == known:
        log.info("The split is whole and stays.")
        return whole
    source = Path(config.data.source) if config.data.source else demo_corpus(config, out)
    with bench.child("split", f"split-{config.profile}", run_id=before.run_id if before else None) as run:
        split = _split_source(source, folder, config)
        if known not in ("", split.sha256):
            raise KmedError(
                f"{source} gives the split {split.sha256[:12]} now and gave {known[:12]} when the benchmark began; its "
                "trainings can't be continued. Put the recordings back, or leave --resume out to start anew."
            )
        run.set_tags({"kmed.split_sha256": split.sha256})
        bench.set_tags({"kmed.split_sha256": split.sha256})
        _log_data(run, split, "split")
        for name in ("manifest/quality.json", "split/split.json"):
            run.log_file(folder / name)
    return split


def _compare(trained: list[TrainOutcome], config: Config, bench: ParentRun) -> None:
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


def _write_original_logs(uri: str, bench: ParentRun, folder: Path) -> None:
    """Write each size's curves in the original benchmark's format, which its plotting code reads."""
    files, left_out = write_original_log(read_bench(uri, bench.run_id), folder)
    for path in files.values():
        bench.log_file(path)
        log.info("The original's format: %s", path)
    for name, reason in left_out.items():
        log.info(f"Not in the original's format: {name} ({reason})")


def _make_report(uri: str, bench: ParentRun, folder: Path, earlier: EarlierBench | None) -> Path:
    before = earlier.stages.get("report") if earlier else None
    with bench.child("report", "report", run_id=before.run_id if before else None):
        started = time.perf_counter()
        record = read_bench(uri, bench.run_id)
        page = write_report(record, folder / "report", comparisons=record.comparisons)
        for path in sorted(page.parent.iterdir()):
            bench.log_file(path, "report")
        log.info(f"Report written in {time.perf_counter() - started:.0f} s")
    return page

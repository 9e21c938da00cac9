"""The whole benchmark: weights, corpus, split, training of each size and seed, report."""

import contextlib
import dataclasses
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from kmed_bench.asr.model.weights import Weights
from kmed_bench.config import Config, Decides, benchmark_digest
from kmed_bench.core.console import log_file
from kmed_bench.core.corpus_contracts import QUALITY
from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import cache_folder
from kmed_bench.core.language import use_language
from kmed_bench.core.progress import track
from kmed_bench.core.version import code_version
from kmed_bench.corpus.splitting.split import Split
from kmed_bench.pipeline.bench_training import describe_failure, train_in_bench, training_name
from kmed_bench.pipeline.comparing import compare_trainings
from kmed_bench.pipeline.continuation import Only, describe_only, find_earlier, find_training, results_folder
from kmed_bench.pipeline.estimates import Outlook, foresee
from kmed_bench.pipeline.launch.slots import Slot
from kmed_bench.pipeline.launch.trainings import train_in_slots
from kmed_bench.pipeline.leak_cells import with_left_out
from kmed_bench.pipeline.plan import TRAINED, identify_split, make_plan, series_of
from kmed_bench.pipeline.preparation import (
    check_sign_key,
    check_source,
    collect_weights,
    demo_corpus,
    log_split,
    read_whole_split,
    split_source,
)
from kmed_bench.pipeline.trainer import Trainer
from kmed_bench.pipeline.training_record import TrainOutcome
from kmed_bench.report.page import write_report
from kmed_bench.scoring.recommendation import Recommendation, recommend
from kmed_bench.tracking.endings import FAILURE_TAG
from kmed_bench.tracking.metric_names import ingest_metrics, split_metrics
from kmed_bench.tracking.original.log_export import export_logs
from kmed_bench.tracking.privacy import without_ids
from kmed_bench.tracking.read import read_bench
from kmed_bench.tracking.resume import FINISHED, HASH_TAG, ONLY_TAG, EarlierBench
from kmed_bench.tracking.run import TrackedRun
from kmed_bench.tracking.run_notes import describe_ingest, describe_split
from kmed_bench.tracking.runs import bench_run, log_skipped
from kmed_bench.tracking.seal import Seal, seal_plan
from kmed_bench.tracking.series import SERIES_TAG
from kmed_bench.tracking.store import open_store, ui_command
from kmed_bench.tracking.studies import BestOfStudy, link_study
from kmed_bench.training.epochs import FeaturizedSplit, featurize_split

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class BenchOutcome:
    """Where a benchmark's results are.

    Attributes
    ----------
    failed : dict
        Name of a train run to the error that ended it.
    verdict : Recommendation
        Which model to use, and what the trainings of the whole benchmark changed.
    """

    run_id: str
    report: Path
    tracking_uri: str
    trained: tuple[TrainOutcome, ...]
    skipped: dict[str, str]
    failed: dict[str, str]
    verdict: Recommendation

    def lines(self) -> list[str]:
        """Return what to tell the user."""
        return [
            *(f"Skipped {size}: {reason}" for size, reason in self.skipped.items()),
            *(f"Failed {name}: {reason}" for name, reason in self.failed.items()),
            *self.verdict.lines(),
            f"Report: {self.report.resolve()}",
            f"MLflow UI: {ui_command(self.tracking_uri)}",
        ]


def run_benchmark(
    config: Config,
    out: Path,
    *,
    resume: bool = False,
    only: Only = (),
    study: BestOfStudy | None = None,
    slots: Sequence[Slot] = (),
) -> BenchOutcome:
    """Run a benchmark, with all its files in one folder under ``out``, and return its outcome.

    Trainings that ran elsewhere against the same store, and belong to it by its plan, are compared and reported too.

    Parameters
    ----------
    resume : bool
        Continue the latest unfinished benchmark of the same settings, in its run and its folder: finished trainings
        are not run again. If the store has none, a new one starts.
    only : tuple of (str, int)
        Size and seed of the trainings to run here; the plan, and so the benchmark, is that of all. Empty: all.
    study : BestOfStudy, optional
        The trial that the settings come from; the two runs are tagged with each other's ids.
    slots : sequence of Slot
        Where trainings run, as many at a time, each in a process of its own; none: one after the other in this one.

    Raises
    ------
    KmedError
        Before any work when no size has weights, the source is missing, the store can't be used, or the benchmark to
        continue is running or has lost its folder; later when the corpus can't be split as asked.
    """
    check_source(config)
    check_sign_key(config)
    weights, skipped = collect_weights(config, needed=[size for size, _ in only])
    earlier = find_earlier(config, open_store(config.tracking), out, resume=resume, only=only)
    with begun_benchmark(config, out, weights, skipped, earlier, only=only, study=study) as begun:
        chosen, split, folder = begun.chosen, begun.split, begun.folder
        outlook = foresee(config, split, weights, _unfinished(config, chosen, split, folder), n_slots=len(slots) or 1)
        speech = featurize_split(split, cache_folder() / "features", config)
        if slots:
            trained, failed = train_in_slots(config, chosen, split, folder, begun.bench, earlier, slots)
        else:
            trained, failed = _train_all(config, begun, speech, outlook)
        report, verdict = conclude_benchmark(config, out, begun.bench, folder, earlier, trained, failed)
    return BenchOutcome(begun.bench.run_id, report, begun.bench.uri, tuple(trained), skipped, failed, verdict)


@dataclasses.dataclass(frozen=True)
class BegunBench:
    """A benchmark whose split is drawn and whose plan is sealed.

    Attributes
    ----------
    chosen : dict
        Size and seed of each training to run, and the weights that it starts from.
    """

    bench: TrackedRun
    folder: Path
    split: Split
    seal: Seal
    chosen: dict[tuple[str, int], Weights]
    earlier: EarlierBench | None


@contextlib.contextmanager
def begun_benchmark(
    config: Config,
    out: Path,
    weights: Mapping[str, Weights],
    skipped: Mapping[str, str],
    earlier: EarlierBench | None,
    *,
    only: Only = (),
    study: BestOfStudy | None = None,
    began: Callable[[str], None] = lambda _: None,
) -> Iterator[BegunBench]:
    """Yield a benchmark, begun or continued, whose run and log file are open during the block.

    Parameters
    ----------
    began : callable
        Gets the id of its run before the split is drawn.

    Raises
    ------
    KmedError
        When the tracking store can't be used, or the corpus can't be split as asked.
    """
    tags = {HASH_TAG: benchmark_digest(config), ONLY_TAG: describe_only(only)}
    run_id = earlier.run_id if earlier else None
    with (
        bench_run(config, code_version=code_version(), tags=tags, run_id=run_id) as bench,
        log_file(folder := results_folder(out, config.profile, bench.run_id)),
    ):
        began(bench.run_id)
        log_skipped(bench, skipped)
        split = with_left_out(_make_split(config, folder, out, bench, earlier), folder / "split", config)
        bench.set_tags({SERIES_TAG: series_of(config, split)})
        if study is not None:
            link_study(bench, study, split.sha256)
        plan = make_plan(config, Decides.DATA | TRAINED, identify_split(split), weights)
        seal = seal_plan(bench, plan, folder, command="run", begun=bool(earlier and earlier.trains))
        chosen = {key: weights[key[0]] for key in only or itertools.product(weights, config.train.seeds)}
        yield BegunBench(bench, folder, split, seal, chosen, earlier)


def conclude_benchmark(
    config: Config,
    out: Path,
    bench: TrackedRun,
    folder: Path,
    earlier: EarlierBench | None,
    trained: Sequence[TrainOutcome],
    failed: Mapping[str, str],
) -> tuple[Path, Recommendation]:
    """Compare the trainings, write the report, and return its page and what it recommends.

    Parameters
    ----------
    failed : mapping
        Name of each train run that failed to the error that ended it; with any, the benchmark's run ends FAILED.
    """
    if trained:
        with track("Comparing trainings"):
            compare_trainings(trained, config, out, bench)
    if failed:
        bench.ends_as = "FAILED"
        reason = f"{len(failed)} of {len(failed) + len(trained)} trainings failed; their runs say why."
        bench.set_tags({"kmed.failed": ", ".join(sorted(failed)), FAILURE_TAG: reason})
    report, verdict = _make_report(config, bench.uri, bench, folder, earlier)
    if config.profile == "original":
        _write_original_logs(bench.uri, bench, folder)
    return report, verdict


def _make_split(config: Config, folder: Path, out: Path, bench: TrackedRun, earlier: EarlierBench | None) -> Split:
    """Ingest and split within the `split` child run, whose artifacts are the reports on both."""
    before, sha256 = (earlier.stages.get("split"), earlier.split_sha256) if earlier else (None, "")
    if before and before.status == FINISHED:
        split = read_whole_split(folder / "split")
        if split is not None and split.sha256 == sha256:
            log.info("The split is whole and stays.")
            return split
    source = Path(config.data.source) if config.data.source else demo_corpus(config, out)
    with bench.child("split", f"split-{config.profile}", run_id=before.run_id if before else None) as run:
        split = split_source(source, folder, config)
        if sha256 not in ("", split.sha256):
            raise KmedError(
                f"{source} gives the split {split.sha256[:12]} now and gave {sha256[:12]} when the benchmark started; "
                "its trainings can't be continued. Put the recordings back, or leave --resume out to start over."
            )
        run.set_tags({"kmed.split_sha256": split.sha256})
        bench.set_tags({"kmed.split_sha256": split.sha256})
        log_split(run, split, "split")
        quality = QUALITY.read(folder / "manifest" / "quality.json")
        run.log_summary(ingest_metrics(quality) | split_metrics(split.report))
        run.set_note(describe_ingest(quality) + "\n" + describe_split(split.report))
        run.log_json(quality if config.tracking.log_predictions else without_ids(quality), "quality.json")
        run.log_file(folder / "split/split.json")
    return split


def _unfinished(
    config: Config, chosen: Mapping[tuple[str, int], Weights], split: Split, folder: Path
) -> list[tuple[str, int]]:
    """Return the sizes and seeds whose training this folder does not hold finished."""
    found = []
    for (size, seed), weights in chosen.items():
        trainer = Trainer(config, weights, FeaturizedSplit(split, {}), folder / size)
        with contextlib.suppress(KmedError):  # a damaged record is said when that is trained, and stops no other
            if trainer.done(seed, trainer.fingerprint(seed)) is None:
                found.append((size, seed))
    return found


def _train_all(
    config: Config, begun: BegunBench, speech: FeaturizedSplit, outlook: Outlook | None
) -> tuple[list[TrainOutcome], dict[str, str]]:
    """Return the outcomes of a benchmark's trainings, and for each train run that failed the error."""
    bench, chosen, earlier = begun.bench, begun.chosen, begun.earlier
    trained: list[TrainOutcome] = []
    failed: dict[str, str] = {}
    for size, group in itertools.groupby(chosen, key=lambda key: key[0]):
        members = list(group)
        trainer = Trainer(config, chosen[members[0]], speech, begun.folder / size)
        trainer.seal, trainer.outlook = begun.seal, outlook
        for _, seed in members:
            name = training_name(size, seed)
            try:
                before = find_training(trainer, seed, name, earlier)
                done = before.outcome or train_in_bench(trainer, seed, bench, before, resume=earlier is not None)
                trained.append(done)
            except Exception as error:  # one failing size or seed does not take the others' hours with it
                failed[name], expected = describe_failure(error, bench.uri)
                log.error("%s failed: %s", name, failed[name], exc_info=not expected)
    return trained, failed


def _make_report(
    config: Config, uri: str, bench: TrackedRun, folder: Path, earlier: EarlierBench | None
) -> tuple[Path, Recommendation]:
    before = earlier.stages.get("report") if earlier else None
    with bench.child("report", "report", run_id=before.run_id if before else None) as run:
        started = time.perf_counter()
        record = read_bench(uri, bench.run_id)
        with track("Writing the report"), use_language(config.report.lang):
            page = write_report(record, folder / "report", comparisons=record.comparisons)
        for path in sorted(page.parent.iterdir()):
            bench.log_file(path, "report")
        run.set_note("Wrote the report, which is among the artifacts of the benchmark's run: `report/index.html`.\n")
        run.log_summary({"report/trainings": len(record.trains), "time/report_s": time.perf_counter() - started})
        log.info(f"Report written in {time.perf_counter() - started:.0f} s")
    return page, recommend(record)


def _write_original_logs(uri: str, bench: TrackedRun, folder: Path) -> None:
    """Write each size's curves in the original benchmark's format, which its plotting code reads."""
    files, left_out = export_logs(read_bench(uri, bench.run_id), folder)
    for path in files.values():
        bench.log_file(path)
        log.info("In the original's format: %s", path)
    for name, reason in left_out.items():
        log.warning(f"Not in the original's format: {name} ({reason})")

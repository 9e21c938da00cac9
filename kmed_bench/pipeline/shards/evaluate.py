"""`evaluate --shards`: the results of `evaluate`, of more clips than memory holds, by several processes or machines."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

from kmed_bench.config import Config
from kmed_bench.core.console import log_file
from kmed_bench.core.contracts import EvaluatedScores
from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import PRIVATE_FOLDER, write_json, write_text_atomically
from kmed_bench.core.finished import MADE_OF, is_finished
from kmed_bench.core.locks import locked
from kmed_bench.core.predictions import read_predictions
from kmed_bench.core.schema import read_manifest
from kmed_bench.core.sharding import name_shards, read_chosen_shards, read_shard_count
from kmed_bench.corpus.splitting.long_part import LongPart, find_long_part
from kmed_bench.pipeline.evaluate import identify_evaluation, read_finished, refuse_own_baseline, remove_stale
from kmed_bench.pipeline.models import located, open_located, tell_stage
from kmed_bench.pipeline.plan import SCORED, record_opening
from kmed_bench.pipeline.shards.decode import decode_shards
from kmed_bench.pipeline.shards.files import LOCKS, OPENED, ShardFile
from kmed_bench.pipeline.shards.job import ShardJob, make_job
from kmed_bench.pipeline.shards.merge import check_shards, merge_shards, remove_shards, summarise_heads
from kmed_bench.scoring import ScoringOptions
from kmed_bench.scoring.baselines import Baseline, check_same_speech, compare_with, read_baseline
from kmed_bench.scoring.external_predictions import read_references
from kmed_bench.scoring.groups import score_counts
from kmed_bench.scoring.significance import comparisons_file
from kmed_bench.tracking.stages import StageRun

log = logging.getLogger(__name__)

Fill = Callable[[Sequence[int]], None]
"""Has shards decoded by other processes, or raises KmedError with why it could not."""


def decode_chosen(
    config: Config,
    model: str,
    speech: Path,
    part: str,
    out: Path,
    *,
    shards: str,
    chosen: str,
    against: Path | None = None,
) -> str:
    """Decode some of the shards of an evaluation, and neither join nor score them; return what there is to say.

    Shards that are there are kept. Any number of processes may do this in one folder at the same time.

    Parameters
    ----------
    shards, chosen : str
        As ``--shards`` and ``--shard`` give them.
    against : Path, optional
        The baseline that the joined results are compared with; here it only tells whether they are there.

    Raises
    ------
    KmedError
        When the model or the part can't be read, the folder holds shards of another evaluation, or a shard could not be
        decoded; the others of ``chosen`` then were.
    """
    _refuse_leak(config)
    found = find_long_part(speech, part)
    n_shards = read_shard_count(shards, len(found))
    wanted = read_chosen_shards(chosen, n_shards)
    out.mkdir(PRIVATE_FOLDER, parents=True, exist_ok=True)
    with located(config, model) as path, log_file(out):
        if (out / "scores.json").exists() and is_finished(
            out / "scores.json", identify_evaluation(config, found.identify(), part, model, path, against)
        ):
            return f"{out} holds this evaluation already; nothing is decoded."
        job = make_job(config, model, path, found, out, n_shards)
        missing = set(job.missing())
        todo = [shard for shard in wanted if shard in missing]
        _decode(config, model, path, job, todo)
    counts = f"{len(todo)} decoded, {len(wanted) - len(todo)} kept"
    return f"Shards {name_shards(wanted)} of {n_shards}: {counts}: {job.folder}"


def evaluate_in_shards(
    config: Config,
    model: str,
    speech: Path,
    part: str,
    out: Path,
    *,
    shards: str,
    merge_only: bool = False,
    fill: Fill | None = None,
    against: Path | None = None,
    stage: StageRun | None = None,
) -> EvaluatedScores:
    """Return what `evaluate_model` returns and write what it writes, by way of shards.

    Those that are not there are decoded first. However many there are, texts and scores are the same; memory does not
    grow with the part, but for some hundred bytes of counts a clip, and for a baseline, which is read whole.

    Parameters
    ----------
    merge_only : bool
        Decode nothing: a shard that is not there is an error.
    fill : callable, optional
        Has the shards decoded by other processes; None: this one decodes them, one after the other.
    against, stage
        As in `evaluate_model`.

    Raises
    ------
    KmedError
        As `evaluate_model`; and when a shard could not be decoded, or the shards can't be joined.
    """
    refuse_own_baseline(against, out)
    _refuse_leak(config)
    found = find_long_part(speech, part)
    n_shards = read_shard_count(shards, len(found))
    split = found.identify()
    if stage is not None:
        stage.read_split(split.report, part, found.corpus())
    options = ScoringOptions.from_config(config)
    baseline = None if against is None else _read_baseline(against, found, options)
    out.mkdir(PRIVATE_FOLDER, parents=True, exist_ok=True)
    with located(config, model) as path, log_file(out):
        tell_stage(stage, model, path)
        made_of = identify_evaluation(config, split, part, model, path, against)
        job = make_job(config, model, path, found, out, n_shards)
        if is_finished(out / "scores.json", made_of):
            log.info("%s holds this evaluation already; nothing is decoded.", out)
            remove_shards(job)
            return read_finished(out, part, stage)
        missing = job.missing()
        if missing and not merge_only:
            log.info(f"{job.describe(missing)} are to be decoded.")
            if fill is None:
                _decode(config, model, path, job, missing)
            else:
                fill(missing)
        with _only_joiner(out):
            if not is_finished(out / "scores.json", made_of):
                files = _join(job, options, split.sha256, baseline, made_of)
                if stage is not None:
                    stage.log_shards([file.head["wall_s"] for file in files])
            remove_shards(job)
        return read_finished(out, part, stage)


@contextlib.contextmanager
def _only_joiner(out: Path) -> Iterator[None]:
    """Keep other processes from joining the shards of a folder; who waited finds them joined."""
    lock = out / ".joining.lock"  # not with the other locks, which are removed with the shards
    with locked(lock, "the shards, which are joined"):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _join(
    job: ShardJob, options: ScoringOptions, split_sha256: str, baseline: Baseline | None, made_of: str
) -> list[ShardFile]:
    """Write the results of an evaluation whose shards are all there, and return these."""
    files, out = check_shards(job), job.out
    log.info(f"Joining {job.n_shards} shards of {len(job.part)} clips.")
    remove_stale(out)
    counts = merge_shards(files, out / "predictions.jsonl", options.transcript_side)
    scores = cast(EvaluatedScores, score_counts(counts, options, split_sha256=split_sha256))
    del counts
    summary = summarise_heads(files)
    scores["part"] = job.part.part
    scores["audio_context"], scores["runtime"] = summary.pop("audio_context"), summary.pop("runtime")
    times = scores["decode"]
    speed = {"rtfx": times["rtfx"], "decode_s_p50": times["decode_s_p50"], "decode_s_p95": times["decode_s_p95"]}
    scores["speed"] = speed | summary
    if baseline is not None:
        compared = compare_with(baseline, read_predictions(out / "predictions.jsonl"), options)
        write_json(out / "comparisons.json", comparisons_file(compared))
    write_json(out / "scores.json", scores | {MADE_OF: made_of})  # last: it says that all the others are there
    return files


def _refuse_leak(config: Config) -> None:
    if config.eval.leak_clips is not None:
        raise KmedError(
            f"eval.leak_clips is {config.eval.leak_clips}, and cells of the split are compared by `evaluate` without "
            "shards only; leave one of the two out."
        )


def _read_baseline(against: Path, found: LongPart, options: ScoringOptions) -> Baseline:
    """Return a baseline of the same speech; both are held in memory."""
    baseline = read_baseline(against, options)
    check_same_speech(baseline, read_references(read_manifest(found.path)), options)
    return baseline


def _decode(config: Config, model: str, path: Path, job: ShardJob, shards: Sequence[int]) -> None:
    """Decode shards in this process; raise KmedError for those that could not be, once the others are there."""
    if not shards:
        return
    if job.part.part == "test":
        _record_opening(config, model, job)
    if failed := decode_shards(job, shards, lambda: open_located(config, model, path)):
        raise KmedError(
            f"{job.describe(list(failed))} could not be decoded, the first because: {next(iter(failed.values()))} "
            "The same command goes on with what is missing."
        )


def _record_opening(config: Config, model: str, job: ShardJob) -> None:
    """Record once for all shards that the test part is opened, whichever process is the first."""
    job.folder.mkdir(PRIVATE_FOLDER, parents=True, exist_ok=True)
    with locked(job.folder / LOCKS / "opening.lock", "the record of the opening"):
        if (job.folder / OPENED).exists():
            return
        record_opening(config, SCORED, "evaluate", model, job.part.identify())
        write_text_atomically(job.folder / OPENED, "", private=True)

"""The comparisons of a benchmark: its own trainings, and those of its series whose transcripts can be had here."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from kmed_bench.config import Config
from kmed_bench.core.language import N_
from kmed_bench.core.predictions import Prediction, read_predictions
from kmed_bench.core.records import TrainRecord
from kmed_bench.core.scratch import scratch_folder
from kmed_bench.pipeline.continuation import results_folder
from kmed_bench.pipeline.training_record import TrainOutcome
from kmed_bench.scoring import ScoringOptions
from kmed_bench.scoring.significance import compare_benchmark
from kmed_bench.tracking.read import NOT_COMPARED_TAG, read_bench
from kmed_bench.tracking.resume import FINISHED
from kmed_bench.tracking.run import TrackedRun
from kmed_bench.tracking.series import fetch_files, name_training, parent_of

_NAMES = ("predictions_untouched.jsonl", "predictions.jsonl")
_NOT_HERE = N_(
    "its transcripts are not on this machine; set tracking.log_predictions where it trains, or share the folder"
)
Pair = tuple[list[Prediction], list[Prediction]]
log = logging.getLogger(__name__)


def compare_trainings(trained: Sequence[TrainOutcome], config: Config, out: Path, bench: TrackedRun) -> None:
    """Log comparisons on the test part: of each size untouched and fine-tuned, of sizes, of groups, and over seeds.

    Each size is compared by its seed of the lowest valid CER. Trainings whose transcripts are elsewhere, and deleted
    runs, are left out, with a warning and in the report.
    """
    own = {(outcome.size, outcome.seed): outcome.checkpoint.parent for outcome in trained}
    pairs: dict[str, dict[int, Pair]] = {}
    cers: dict[tuple[str, int], float] = {}
    record = read_bench(bench.uri, bench.run_id)
    left_out = dict(record.deleted)
    for name, reason in left_out.items():
        log.warning("Not compared: %s (%s).", name, reason)
    for train in record.trains:
        if train.status != FINISHED or "best/valid_cer" not in train.metrics:
            continue
        pair = _read_pair(train, own.get((train.size, train.seed)), out, config, bench)
        if pair is None:
            left_out[name_training(train.size, train.seed)] = _NOT_HERE
            log.warning("Not compared: %s (%s).", name_training(train.size, train.seed), _NOT_HERE)
            continue
        cers[train.size, train.seed] = train.metrics["best/valid_cer"]
        pairs.setdefault(train.size, {})[train.seed] = pair
    order = [size for size in config.model.sizes if size in pairs]
    best = {size: pairs[size][min((cers[size, seed], seed) for seed in pairs[size])[1]] for size in order}
    seeds = {size: {seed: tuned for seed, (_, tuned) in sorted(pairs[size].items())} for size in order}
    bench.set_tags({NOT_COMPARED_TAG: json.dumps(left_out)})
    bench.log_json(compare_benchmark(best, seeds, ScoringOptions.from_config(config)), "comparisons.json")


def _read_pair(train: TrainRecord, own: Path | None, out: Path, config: Config, bench: TrackedRun) -> Pair | None:
    """Return the test part by the untouched and the trained model, from a folder here or from the run; or None."""
    if own is None and (parent := parent_of(train)) is not None:
        own = results_folder(out, config.profile, parent) / train.size / f"seed{train.seed}"
    with scratch_folder() as folder:
        paths: list[Path] | None = [own / name for name in _NAMES] if own is not None else None
        if paths is None or not all(path.is_file() for path in paths):
            paths = fetch_files(bench.client, train.run_id, _NAMES, folder)
        if paths is None:
            return None
        untouched, tuned = (read_predictions(path) for path in paths)
    return untouched, tuned

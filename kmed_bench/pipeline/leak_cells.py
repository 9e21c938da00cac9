"""Left-out utterances as a further part of a split, decoded like the test part and scored by cell."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

from kmed_bench.config import Config
from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import write_json
from kmed_bench.core.predictions import Prediction, read_predictions, write_predictions
from kmed_bench.core.run_contracts import Leak
from kmed_bench.corpus.splitting.cells import CELL, LEFT_OUT, count_cells, name_cells, sample_cells
from kmed_bench.corpus.splitting.split import Split, read_left_out
from kmed_bench.scoring import ScoringOptions
from kmed_bench.scoring.baselines import predictions_beside
from kmed_bench.scoring.leak import score_leak

LEAK_FILE = "leak.json"
LEFT_OUT_PREDICTIONS = "predictions_left_out.jsonl"
log = logging.getLogger(__name__)


def with_left_out(split: Split, folder: Path, config: Config) -> Split:
    """Return the split with a sample of the left-out utterances as the part ``left_out``; unchanged where that is off.

    Parameters
    ----------
    folder : Path
        Where the split was written.

    Raises
    ------
    KmedError
        When the parts share speakers or sentences, the left-out utterances are not there, or no cell but the test
        part's has any.
    """
    limit = config.eval.leak_clips
    if limit is None:
        return split
    shared = [what for what in ("speakers", "sentences") if split.report["leakage"][what]]
    if shared:
        raise KmedError(
            f"eval.leak_clips is {limit}, but the parts of {folder} share {' and '.join(shared)}, so no disjoint test "
            "part is there to compare with; split with --split.disjoint speaker,sentence, or set eval.leak_clips to "
            "none."
        )
    left_out = read_left_out(folder, split)
    sample = sample_cells(left_out, limit, _seed(split))
    counts, drawn = count_cells(left_out), count_cells(sample)
    described = ", ".join(f"{drawn[cell]} of {n} {cell}" for cell, n in counts.items())
    if not len(sample):
        raise KmedError(
            f"The split in {folder} left out no utterance of a speaker or a sentence in train ({described}), so no "
            "cell can be compared with the test part; use fewer utterances in its parts, or leave eval.leak_clips out."
        )
    log.info(f"Left-out utterances to decode: {described} (at most {limit} a cell, seed {_seed(split)}).")
    return dataclasses.replace(split, parts={**split.parts, LEFT_OUT: sample}, left_out=left_out)


def write_leak(
    folder: Path,
    split: Split,
    tuned: tuple[Sequence[Prediction], Sequence[Prediction]],
    untouched: tuple[Sequence[Prediction], Sequence[Prediction]] | None,
    config: Config,
) -> Leak:
    """Write the left-out predictions and ``leak.json`` into a folder and return the latter.

    Parameters
    ----------
    split : Split
        As `with_left_out` returned it.
    tuned, untouched : tuple
        Each model's predictions of the test part, and of the left-out sample.
    """
    assert split.left_out is not None  # as `with_left_out` made it
    assert config.eval.leak_clips is not None
    test, sample = split.parts["test"], split.parts[LEFT_OUT]
    cells = dict(zip(test["utterance_id"], name_cells(test, split.parts), strict=True))
    cells |= dict(zip(sample["utterance_id"], sample[CELL], strict=True))
    leak = score_leak(
        cells,
        [*tuned[0], *tuned[1]],
        None if untouched is None else [*untouched[0], *untouched[1]],
        ScoringOptions.from_config(config),
        left_out=count_cells(split.left_out),
        limit=config.eval.leak_clips,
        seed=_seed(split),
        split_sha256=split.sha256,
    )
    write_predictions(folder / LEFT_OUT_PREDICTIONS, tuned[1])
    if untouched is not None:
        write_predictions(folder / LEFT_OUT_PREDICTIONS.replace(".jsonl", "_untouched.jsonl"), untouched[1])
    write_json(folder / LEAK_FILE, leak)
    return leak


def read_baseline_cells(against: Path | None, split: Split) -> tuple[list[Prediction], list[Prediction]] | None:
    """Return a baseline's predictions of the test part and of the left-out sample; None if it has none of the latter.

    Raises
    ------
    KmedError
        When they are of another sample.
    """
    tested = None if against is None else predictions_beside(against)
    path = None if tested is None else tested.with_name(LEFT_OUT_PREDICTIONS)
    if tested is None or path is None or not path.is_file():
        log.warning(
            "The left-out utterances are decoded by this model alone, so they show its CER by cell and no gain; for "
            "gains, evaluate the untouched model with the same eval.leak_clips first and name its folder by --against."
        )
        return None
    predictions = read_predictions(path)
    if {p.utterance_id for p in predictions} != set(split.parts[LEFT_OUT]["utterance_id"]):
        raise KmedError(
            f"{path} has another sample of left-out utterances; evaluate the baseline again on this split with the "
            "same eval.leak_clips."
        )
    return read_predictions(tested), predictions


def _seed(split: Split) -> int:
    return int(split.report["config"]["seed"])

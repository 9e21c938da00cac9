"""``training.json``: what a training records about itself in its folder."""

import dataclasses
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from kmed_bench.core.errors import KmedError
from kmed_bench.core.fields import describe_fault
from kmed_bench.core.files import parse_json, read_json_text, write_json
from kmed_bench.core.quantities import percent
from kmed_bench.core.run_contracts import VERDICT
from kmed_bench.scoring.verdict import VERDICT_FILE, say_verdict

TRAINING_FILE = "training.json"
TRAINING_LOCK = ".training.lock"
"""Held by a process that trains in the folder; the file stays."""


@dataclasses.dataclass(frozen=True)
class TrainOutcome:
    """The result of a finished training; CERs are fractions, those of a test part that stayed closed None."""

    run_id: str
    size: str
    seed: int
    checkpoint: Path
    best_epoch: int
    best_valid_cer: float
    untouched_test_cer: float | None
    test_cer: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingRecord:
    """What identifies a training, and its outcome.

    Attributes
    ----------
    fingerprint : str
        Digest of what decides its result.
    epochs : int
        The number it was started for.
    run_id : str
        Its MLflow run.
    outcome : TrainOutcome or None
        None until it is finished.
    launch : str
        Identity of the launcher's job that trains, see `Parallel.launch`; empty for a single process.
    """

    fingerprint: str
    epochs: int
    run_id: str
    outcome: TrainOutcome | None = None
    launch: str = ""


def write_training_record(folder: Path, record: TrainingRecord) -> None:
    """Write the record into a training's folder; the checkpoint is named relative to that."""
    value: dict[str, Any] = dataclasses.asdict(record)
    if record.outcome is not None:
        value["outcome"]["checkpoint"] = record.outcome.checkpoint.name
    write_json(folder / TRAINING_FILE, value)


def read_training_record(folder: Path) -> TrainingRecord | None:
    """Return the record of the training in a folder; None if none was started there."""
    path = folder / TRAINING_FILE
    if not path.is_file():
        return None
    text = read_json_text(path)
    parse_json(text, path)
    try:
        record = TypeAdapter(TrainingRecord).validate_json(text, strict=True)
    except ValidationError as error:
        raise KmedError(
            f"{path}{describe_fault(error, text=text)}; restore it, or start over in another folder without --resume."
        ) from None
    if record.outcome is None:
        return record
    outcome = dataclasses.replace(record.outcome, checkpoint=folder / record.outcome.checkpoint.name)
    return dataclasses.replace(record, outcome=outcome)


def describe_outcome(outcome: TrainOutcome) -> str:
    """Return what a training changed in plain words: the verdict in its folder."""
    name, path = f"{outcome.size}, seed {outcome.seed}", outcome.checkpoint.parent / VERDICT_FILE
    if path.is_file():
        return say_verdict(VERDICT.read(path), name)
    before, after = percent(outcome.untouched_test_cer), percent(outcome.test_cer)
    return f"{name}: trained by a release without verdicts; test CER {before} untouched, {after} fine-tuned."

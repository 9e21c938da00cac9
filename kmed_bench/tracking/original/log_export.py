"""Benchmarks exported in the original benchmark's log format, for its plotting code."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import pandas as pd

from kmed_bench.core.records import BenchRecord, TrainRecord
from kmed_bench.tracking.original.log_format import OWN_KEY, OriginalEpoch, OriginalLog, OriginalVersion, write_log

# The metric that fills each of the format's columns: our own, or what only the `original` profile logs.
_OURS = {
    "train_loss": "train/loss",
    "train_cer": "train/cer_teacher_forced",
    "valid_loss": "valid/loss",
    "valid_cer": "valid/cer",
}
_AS_ORIGINAL = _OURS | {"valid_loss": "original/valid_loss", "valid_cer": "original/valid_cer_teacher_forced"}
_MEANING = {
    "train/loss": "cross-entropy per token, without padding, mean over the epoch's steps",
    "train/cer_teacher_forced": "CER x 100 of the most likely tokens given the true ones before them: no transcripts",
    "valid/loss": "cross-entropy per token on the valid part, without padding",
    "valid/cer": "CER x 100 of decoded transcripts of the valid part; not what the original logged under this name",
    "original/valid_loss": "cross-entropy per position of the training data, with padding, as the original did",
    "original/valid_cer_teacher_forced": "teacher-forced CER x 100 of the training data, as the original did",
}


class SeedNote(TypedDict):
    """Which of our runs a version of the log is."""

    run_id: str
    seed: int
    status: str


def export_logs(bench: BenchRecord, out: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """Write ``logging_<size>.json`` for each size of a benchmark; its versions are the seeds in order.

    If every seed of a size has the figures of the `original` profile, the columns hold those; otherwise they hold
    ours, with valid_cer from decoded transcripts. The file's key ``kmed`` says which. The untouched model (step 0)
    has no training figures and therefore no row.

    Returns
    -------
    tuple of dict
        Size to the file, and name of a train run to the reason why it, or its last epochs, are left out; also the
        planned trainings that are not in the store, and the runs that were deleted there.
    """
    files: dict[str, Path] = {}
    left_out = {**bench.absent, **bench.deleted}
    for size in dict.fromkeys(train.size for train in bench.trains):
        trains = sorted((t for t in bench.trains if t.size == size), key=lambda t: (t.seed, t.name))
        log = _log_of(bench, size, trains, left_out)
        if log is not None:
            files[size] = out / f"logging_{size}.json"
            write_log(files[size], log)
    return files, left_out


def _log_of(
    bench: BenchRecord, size: str, trains: Sequence[TrainRecord], left_out: dict[str, str]
) -> OriginalLog | None:
    tables = {train.run_id: train.history.pivot(index="step", columns="metric", values="value") for train in trains}
    logged = set.intersection(*(set(table.columns) for table in tables.values()))
    columns = _AS_ORIGINAL if _AS_ORIGINAL["valid_cer"] in logged else _OURS
    versions: dict[str, OriginalVersion] = {}
    seeds: dict[str, SeedNote] = {}
    for train in trains:
        table = tables[train.run_id].reindex(columns=list(columns.values()))
        epochs, missing = _epochs(table.loc[table.index > 0], columns)
        if missing:
            left_out[train.name] = missing
        if epochs:
            number = str(len(versions))
            versions[number] = OriginalVersion(time=_clock(train, len(epochs)), epochs=epochs)
            seeds[number] = {"run_id": train.run_id, "seed": train.seed, "status": train.status}
    if not versions:
        return None
    notes = {
        "note": "Written by kmed-bench in the original benchmark's format, for its plotting code.",
        "figures": {figure: f"{metric}: {_MEANING[metric]}" for figure, metric in columns.items()},
        "time": "training only, without validation",
        "bench": bench.run_id,
        "split_sha256": bench.tags.get("kmed.split_sha256", ""),
        "versions": seeds,
    }
    return OriginalLog(metadata=_metadata(bench, size, trains[0]), versions=versions, notes={OWN_KEY: notes})


def _epochs(table: pd.DataFrame, columns: Mapping[str, str]) -> tuple[tuple[OriginalEpoch, ...], str]:
    """Return the epochs before the first that lacks a figure, and the reason why the others are left out."""
    epochs: list[OriginalEpoch] = []
    for step, row in table.sort_index().iterrows():
        missing = [metric for metric in columns.values() if math.isnan(row[metric])]
        if step != len(epochs) + 1:
            missing = [f"epoch {len(epochs) + 1}"]
        if missing:
            return tuple(epochs), f"epoch {step} and later: {', '.join(missing)} was not logged"
        figures = {figure: float(row[metric]) for figure, metric in columns.items()}
        figures |= {figure: 100 * figures[figure] for figure in ("train_cer", "valid_cer")}
        epochs.append(OriginalEpoch(epoch=len(epochs), **figures))
    return tuple(epochs), "" if epochs else "no epoch has finished"


def _clock(train: TrainRecord, n_epochs: int) -> str | None:
    """Return the duration of training as ``HH:MM:SS``; None if an epoch's time is not known."""
    times = train.history[train.history["metric"] == "time/epoch_s"]
    if len(times) < n_epochs:
        return None
    seconds = round(float(times["value"].sum()))
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def _metadata(bench: BenchRecord, size: str, train: TrainRecord) -> dict[str, str | int | float]:
    params = bench.params
    return {
        "model_name": f"whisper-{size}",
        "path": params.get("data.source", "none"),
        "save_model_name": f"kmed-whisper-{size}",
        "save_logging_file_name": f"logging_{size}.json",
        "batch_size": int(params.get("train.batch_size", 0)),
        "epochs": int(params.get("train.epochs", 0)),
        "start_epoch": 0,
        "ver_start": 0,
        "lr": float(params.get("train.lr", 0)),
        "max_len": int(params.get("train.max_len", 0)),
        "device": train.tags.get("kmed.device", "unknown"),
    }

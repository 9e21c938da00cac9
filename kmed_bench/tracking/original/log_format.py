"""The original benchmark's log ``logging_*.json``: read with every fault named, written from our own records.

Its epochs count from 0 and its CER is in per cent; in our records epochs count from 1 and rates are fractions.
"""

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import write_text_atomically
from kmed_bench.core.records import BenchRecord, TrainRecord

FIGURES = ("train_loss", "train_cer", "valid_loss", "valid_cer")
OWN_KEY = "kmed"
"""Beside the original's two keys in a log that we wrote: what its figures are."""

_COUNTS = ("batch_size", "epochs", "start_epoch", "ver_start", "max_len")
_NAMES = ("model_name", "path", "save_model_name", "save_logging_file_name", "device")

# What fills the four columns: our own figures, or those that the `original` profile computes the original's way.
_OURS = {
    "train_loss": "train/loss",
    "train_cer": "train/cer_teacher_forced",
    "valid_loss": "valid/loss",
    "valid_cer": "valid/cer",
}
_AS_ORIGINAL = {
    "train_loss": "original/train_loss_padded",
    "valid_loss": "original/valid_loss",
    "valid_cer": "original/valid_cer_teacher_forced",
}
_MEANING = {
    "train/loss": "cross-entropy per token, padding left out, mean over the epoch's steps",
    "train/cer_teacher_forced": "CER x 100 of the most likely tokens given the true ones before them: no transcripts",
    "valid/loss": "cross-entropy per token on the valid part, padding left out",
    "valid/cer": "CER x 100 of decoded transcripts of the valid part; not what the original logged under this name",
    "original/train_loss_padded": "cross-entropy per position, padding included, as the original computed it",
    "original/valid_loss": "cross-entropy per position of the training data, padding included, as the original did",
    "original/valid_cer_teacher_forced": "teacher-forced CER x 100 of the training data, as the original did",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class OriginalEpoch:
    """One row of a version's result.

    Attributes
    ----------
    epoch : int
        0 for the first.
    train_cer, valid_cer : float
        Per cent. In the original's own logs both are teacher-forced, and both over its training data.
    """

    epoch: int
    train_loss: float
    train_cer: float
    valid_loss: float
    valid_cer: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class OriginalVersion:
    """One repetition.

    Attributes
    ----------
    time : str or None
        ``HH:MM:SS``; None where the original wrote none.
    """

    time: str | None
    epochs: tuple[OriginalEpoch, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OriginalLog:
    """A whole log file.

    Attributes
    ----------
    metadata : dict
        The file's ``mata_data``, as it stands.
    versions : dict
        "0", "1", … to their epochs.
    notes : dict
        Keys of the file beside the original's two; ours has ``kmed``.
    """

    metadata: dict[str, Any]
    versions: dict[str, OriginalVersion]
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)


def read_log(path: Path) -> OriginalLog:
    """Return a log file, checked.

    Raises
    ------
    KmedError
        When the file is missing, is not JSON, lacks a key, or holds what the original could not have written;
        names the file, the place and the value.
    """
    tree = _object(_load(path), str(path))
    _need(tree, ("mata_data", "result_ver"), str(path))
    metadata = _object(tree["mata_data"], f"mata_data of {path}")
    _check_metadata(metadata, path)
    versions = {}
    for name, value in _object(tree["result_ver"], f"result_ver of {path}").items():
        if not re.fullmatch(r"\d+", name):
            raise KmedError(f"result_ver of {path} has the version {name!r}; versions are counted 0, 1, 2: rename it.")
        versions[name] = _version(value, metadata, f"version {name} of {path}")
    if not any(version.epochs for version in versions.values()):
        raise KmedError(f"{path} holds no epoch in its {len(versions)} versions; give a log of a training that ran.")
    notes = {key: value for key, value in tree.items() if key not in ("mata_data", "result_ver")}
    return OriginalLog(metadata=metadata, versions=versions, notes=notes)


def to_tree(log: OriginalLog) -> dict[str, Any]:
    """Return a log as the JSON value that the original's plotting code reads."""
    versions = {
        name: {"time": version.time, "result": [list(dataclasses.astuple(epoch)) for epoch in version.epochs]}
        for name, version in log.versions.items()
    }
    return {"mata_data": log.metadata, "result_ver": versions, **log.notes}


def write_log(path: Path, log: OriginalLog) -> None:
    """Write a log atomically, laid out as the original lays it out: indented by 4, no last newline."""
    write_text_atomically(path, json.dumps(to_tree(log), ensure_ascii=False, indent=4))


def write_original_log(bench: BenchRecord, out: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """Write ``logging_<size>.json`` for each size of a benchmark, its versions the seeds in order.

    Where every seed of a size has the figures of the `original` profile, these stand in the columns; otherwise ours
    do, valid_cer from decoded transcripts. The file's key ``kmed`` says which. The untouched model (step 0) has no
    training figures and so no row.

    Returns
    -------
    tuple of dict
        Size to the file, and name of a train run to the reason why it, or its last epochs, are left out.
    """
    files: dict[str, Path] = {}
    left_out: dict[str, str] = {}
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
    columns = _OURS
    if _AS_ORIGINAL["valid_cer"] in logged:
        columns = {figure: _AS_ORIGINAL.get(figure, _OURS[figure]) for figure in FIGURES}
        if columns["train_loss"] not in logged:  # computed only where training itself is the original's
            columns["train_loss"] = _OURS["train_loss"]
    versions: dict[str, OriginalVersion] = {}
    about: dict[str, dict[str, Any]] = {}
    for train in trains:
        table = tables[train.run_id].reindex(columns=list(columns.values()))
        epochs, missing = _epochs(table.loc[table.index > 0], columns)
        if missing:
            left_out[train.name] = missing
        if epochs:
            number = str(len(versions))
            versions[number] = OriginalVersion(time=_clock(train, len(epochs)), epochs=epochs)
            about[number] = {"run_id": train.run_id, "seed": train.seed, "status": train.status}
    if not versions:
        return None
    notes = {
        "note": "Written by kmed-bench in the original benchmark's format, for its plotting code.",
        "figures": {figure: f"{metric}: {_MEANING[metric]}" for figure, metric in columns.items()},
        "time": "training alone, without validation",
        "bench": bench.run_id,
        "split_sha256": bench.tags.get("kmed.split_sha256", ""),
        "versions": about,
    }
    return OriginalLog(metadata=_metadata(bench, size, trains[0]), versions=versions, notes={OWN_KEY: notes})


def _epochs(table: Any, columns: Mapping[str, str]) -> tuple[tuple[OriginalEpoch, ...], str]:
    """Return the epochs up to the first that lacks a figure, and what is left out with the reason."""
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
    """Return the hours, minutes and seconds of training; None where an epoch's time is not known."""
    times = train.history[train.history["metric"] == "time/epoch_s"]
    if len(times) < n_epochs:
        return None
    seconds = round(float(times["value"].sum()))
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def _metadata(bench: BenchRecord, size: str, train: TrainRecord) -> dict[str, Any]:
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


def _load(path: Path) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise KmedError(f"{path} has the key {twice[0]!r} twice in one object; JSON would drop one: keep one.")
        return dict(pairs)

    try:
        return json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=unique)
    except OSError as error:
        raise KmedError(f"{path} can't be read ({error.strerror}); give the original's logging_*.json.") from None
    except ValueError as error:  # JSON's and UTF-8's errors are kinds of it
        raise KmedError(f"{path} is not valid JSON ({error}); give the file as the original wrote it.") from None


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise KmedError(f"{where} is a {type(value).__name__}, not an object; give the original's logging_*.json.")
    return value


def _need(tree: Mapping[str, Any], names: Sequence[str], where: str) -> None:
    missing = [name for name in names if name not in tree]
    if missing:
        raise KmedError(f"{where} lacks {', '.join(missing)}; the original's log has: {', '.join(names)}.")


def _check_metadata(metadata: Mapping[str, Any], path: Path) -> None:
    _need(metadata, (*_NAMES, *_COUNTS, "lr"), f"mata_data of {path}")
    for name in _COUNTS:
        value = metadata[name]
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise KmedError(f"{name} in mata_data of {path} is {value!r}; it must be a whole number from 0 on.")
    if not isinstance(metadata["lr"], (int, float)) or not 0 < metadata["lr"] < 1:
        raise KmedError(f"lr in mata_data of {path} is {metadata['lr']!r}; it must be a number between 0 and 1.")
    for name in _NAMES:
        if not isinstance(metadata[name], str):
            raise KmedError(f"{name} in mata_data of {path} is {metadata[name]!r}; it must be a text.")


def _version(value: Any, metadata: Mapping[str, Any], where: str) -> OriginalVersion:
    version = _object(value, where)
    _need(version, ("time", "result"), where)
    unknown = sorted(set(version) - {"time", "result"})
    if unknown:
        raise KmedError(f"{where} has the unknown key {unknown[0]!r}; the original's versions have time and result.")
    time, rows = version["time"], version["result"]
    if time is not None and not (isinstance(time, str) and re.fullmatch(r"\d+:[0-5]\d:[0-5]\d", time)):
        raise KmedError(f"The time of {where} is {time!r}; it must be HH:MM:SS or null.")
    if not isinstance(rows, list):
        raise KmedError(f"The result of {where} is a {type(rows).__name__}; it must be a list of epochs.")
    epochs = tuple(_row(row, f"row {number} of {where}") for number, row in enumerate(rows))
    for number, epoch in enumerate(epochs):
        expected = epochs[0].epoch + number
        if epoch.epoch != expected or epochs[0].epoch not in (0, metadata["start_epoch"]):
            raise KmedError(
                f"Row {number} of {where} is epoch {epoch.epoch}; epochs follow one another from 0, or from "
                f"start_epoch ({metadata['start_epoch']}): put the rows in order, each epoch once."
            )
    return OriginalVersion(time=time, epochs=epochs)


def _row(row: Any, where: str) -> OriginalEpoch:
    if not isinstance(row, list) or len(row) != 1 + len(FIGURES):
        found = f"{len(row)} values" if isinstance(row, list) else f"a {type(row).__name__}"
        raise KmedError(f"{where} has {found}; it must be the five of [epoch, {', '.join(FIGURES)}].")
    epoch, *figures = row
    if not isinstance(epoch, int) or isinstance(epoch, bool) or epoch < 0:
        raise KmedError(f"{where} has the epoch {epoch!r}; it must be a whole number from 0 on.")
    for name, value in zip(FIGURES, figures, strict=True):
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < math.inf:
            raise KmedError(f"{where} has {name} = {value!r}; it must be a finite number from 0 on.")
    return OriginalEpoch(epoch=epoch, **dict(zip(FIGURES, map(float, figures), strict=True)))

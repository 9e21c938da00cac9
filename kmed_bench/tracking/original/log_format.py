"""The original benchmark's log ``logging_*.json``: read and checked, so every fault is named, and written.

Its epochs count from 0 and its CER is in per cent; in our records epochs count from 1 and rates are fractions.
"""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import read_json, write_text_atomically

FIGURES = ("train_loss", "train_cer", "valid_loss", "valid_cer")
OWN_KEY = "kmed"
"""Key that a log written by kmed-bench has beside the original's two; it describes the figures."""

_LARGEST = 1e300
_COUNTS = ("batch_size", "epochs", "start_epoch", "ver_start", "max_len")
_NAMES = ("model_name", "path", "save_model_name", "save_logging_file_name", "device")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OriginalEpoch:
    """One row of a version's result.

    Attributes
    ----------
    epoch : int
        0 for the first.
    train_cer, valid_cer : float
        Per cent. In the original's own logs both are teacher-forced, and both on its training data.
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
        The file's ``mata_data``, unchanged.
    versions : dict
        "0", "1", … to their epochs.
    notes : dict
        All other keys of the file; a log written by kmed-bench has ``kmed``.
    """

    metadata: dict[str, Any]
    versions: dict[str, OriginalVersion]
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)


def read_log(path: Path) -> OriginalLog:
    """Return a log file, checked.

    Raises
    ------
    KmedError
        When the file is missing, is not JSON, lacks a key, or has a value that the original could not have written;
        names the file, the location and the value.
    """
    tree = _object(_load(path), str(path))
    _need(tree, ("mata_data", "result_ver"), str(path))
    metadata = _object(tree["mata_data"], f"mata_data of {path}")
    _check_metadata(metadata, path)
    versions = {}
    for name, value in _object(tree["result_ver"], f"result_ver of {path}").items():
        if not re.fullmatch(r"\d+", name):
            raise KmedError(
                f"result_ver of {path} has the version {name!r:.80}; versions are counted 0, 1, 2: rename it."
            )
        versions[name] = _version(value, metadata, f"version {name} of {path}")
    if not any(version.epochs for version in versions.values()):
        raise KmedError(f"{path} has no epoch in its {len(versions)} versions; give a log of a training that ran.")
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
    """Write a log atomically in the original's layout: indented by 4, no final newline."""
    write_text_atomically(path, json.dumps(to_tree(log), ensure_ascii=False, indent=4))


def _load(path: Path) -> Any:
    try:
        return read_json(path)
    except OSError as error:
        raise KmedError(f"{path} can't be read ({error.strerror}); give the original's logging_*.json.") from None


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
            raise KmedError(f"{name} in mata_data of {path} is {value!r:.80}; it must be a whole number, 0 or more.")
    if not isinstance(metadata["lr"], (int, float)) or not 0 < metadata["lr"] < 1:
        raise KmedError(f"lr in mata_data of {path} is {metadata['lr']!r:.80}; it must be a number between 0 and 1.")
    for name in _NAMES:
        if not isinstance(metadata[name], str):
            raise KmedError(f"{name} in mata_data of {path} is {metadata[name]!r:.80}; it must be text.")


def _version(value: Any, metadata: Mapping[str, Any], where: str) -> OriginalVersion:
    version = _object(value, where)
    _need(version, ("time", "result"), where)
    unknown = sorted(set(version) - {"time", "result"})
    if unknown:
        raise KmedError(
            f"{where} has the unknown key {unknown[0]!r:.80}; the original's versions have time and result."
        )
    time, rows = version["time"], version["result"]
    if time is not None and not (isinstance(time, str) and re.fullmatch(r"\d+:[0-5]\d:[0-5]\d", time)):
        raise KmedError(f"The time of {where} is {time!r:.80}; it must be HH:MM:SS or null.")
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
        content = f"{len(row)} values" if isinstance(row, list) else f"a {type(row).__name__}"
        raise KmedError(f"{where} has {content}; it must be the five of [epoch, {', '.join(FIGURES)}].")
    epoch, *figures = row
    if not isinstance(epoch, int) or isinstance(epoch, bool) or epoch < 0:
        raise KmedError(f"{where} has the epoch {epoch!r:.80}; it must be a whole number, 0 or more.")
    for name, value in zip(FIGURES, figures, strict=True):
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= _LARGEST:
            raise KmedError(f"{where} has {name} = {value!r:.80}; it must be a finite number, 0 or more.")
    return OriginalEpoch(epoch=epoch, **dict(zip(FIGURES, map(float, figures), strict=True)))

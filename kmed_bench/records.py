"""What the stages hand to one another: columns, reasons, records, errors, small file helpers."""

import contextlib
import dataclasses
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

import pandas as pd

SIZES = ("tiny", "base", "small")

MANIFEST_COLUMNS = (
    "utterance_id",
    "audio",  # a path, or archive.zip::member
    "speaker_id",
    "sentence_id",  # equal for equal text after dropping marks, fillers, spaces, punctuation
    "text",  # the label as written
    "gender",
    "age",
    "dialect",
    "region",
    "role",
    "duration_s",
    "rate_hz",
    "quality",
    "release",
)

REJECT_REASONS = (
    "audio_missing",
    "audio_unreadable",
    "audio_truncated",
    "audio_too_long",
    "audio_too_short",
    "label_unreadable",
    "label_incomplete",
    "transcript_empty",
    "transcript_masked",
    "quality_excluded",
    "duplicate_utterance",
    "label_too_long",
)

WARNING_KINDS = (
    "audio_without_label",
    "rate_differs",
    "silent_audio",
    "archive_piece_missing",
    "archive_unreadable",
    "clipped_audio",
    "duplicate_audio",
    "format_differs",
    "length_differs",
    "metadata_differs",
)

PARTS = ("train", "valid", "test")

GROUP_FIELDS = ("dialect", "gender", "age", "role")


class KmedError(Exception):
    """A fault that the user can mend.

    The message is one paragraph that names the thing, its value, the limit and the remedy;
    the command line prints it without a traceback and exits with 2.
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction:
    """One decoded utterance, raw on both sides; normalisation belongs to scoring.

    Attributes
    ----------
    duration_s : float
        Length of the audio in seconds.
    decode_s : float
        Seconds spent on this clip; in a batch, the batch's time divided by its clips.
    guarded : bool
        Whether a repetition guard changed what the search saw; other systems' files need not say.
    """

    utterance_id: str
    speaker_id: str
    sentence_id: str
    reference: str
    hypothesis: str
    duration_s: float
    decode_s: float
    gender: str
    age: str
    dialect: str
    region: str
    role: str
    guarded: bool = False


def _umask() -> int:
    """Return the umask; the only way to read it is to set it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def write_text_atomically(path: Path, text: str) -> None:
    """Write a whole file or none of it: temporary file in the same folder, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        # mkstemp makes the file for its owner alone; results are for whoever the umask lets in.
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write UTF-8 JSON, indented, Hangul readable, atomically."""
    write_text_atomically(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Return a JSON file's value.

    Raises
    ------
    KmedError
        When the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise KmedError(f"{path} does not exist; check the path, or run the stage that writes it.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise KmedError(f"{path} is not valid JSON ({error}); write it anew with the stage that makes it.") from None


def write_predictions(path: Path, predictions: Iterable[Prediction]) -> None:
    """Write one JSON object a line, in the order given, atomically."""
    lines = (json.dumps(dataclasses.asdict(p), ensure_ascii=False) + "\n" for p in predictions)
    write_text_atomically(path, "".join(lines))


def read_predictions(path: Path) -> list[Prediction]:
    """Return the predictions of a ``predictions.jsonl``, in file order.

    Raises
    ------
    KmedError
        When the file is missing, or a line is not JSON, lacks a field or repeats an utterance.
    """
    return list(_parse_predictions(path))


@contextlib.contextmanager
def open_lines(path: Path) -> Iterator[TextIO]:
    """Give a file's lines, read as UTF-8.

    Raises
    ------
    KmedError
        When it is in another encoding, such as the cp949 of Korean Windows.
    """
    try:
        with path.open(encoding="utf-8-sig") as stream:
            yield stream
    except UnicodeDecodeError as error:
        raise KmedError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8.") from None


def _parse_predictions(path: Path) -> Iterator[Prediction]:
    if not path.is_file():
        raise KmedError(f"Predictions {path} do not exist; give the predictions.jsonl that `evaluate` wrote.")
    names = {field.name for field in dataclasses.fields(Prediction)} - {"guarded"}
    seen: set[str] = set()
    with open_lines(path) as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                given = {name: row[name] for name in names}
                prediction = Prediction(**given, guarded=bool(row.get("guarded", False)))
            except json.JSONDecodeError as error:
                raise KmedError(f"{path}, line {number} is not JSON: {error}.") from None
            except (KeyError, TypeError) as error:
                raise KmedError(
                    f"{path}, line {number} lacks the field {error}; each line needs: {', '.join(sorted(names))}."
                ) from None
            if prediction.utterance_id in seen:
                raise KmedError(f"{path}, line {number} repeats utterance {prediction.utterance_id!r}; keep one.")
            seen.add(prediction.utterance_id)
            yield prediction


def read_manifest(path: Path) -> pd.DataFrame:
    """Return a manifest or one part of a split with the columns of ``MANIFEST_COLUMNS``.

    Raises
    ------
    KmedError
        When the file is missing, is not parquet, or lacks a column.
    """
    if not path.is_file():
        raise KmedError(f"{path} does not exist; `kmed-bench ingest` writes manifests, `kmed-bench split` splits.")
    try:
        table = pd.read_parquet(path)
    except Exception as error:  # pyarrow raises several unrelated types here
        raise KmedError(f"{path} is not a readable parquet file ({error}); write it anew with `ingest`.") from None
    missing = [name for name in MANIFEST_COLUMNS if name not in table.columns]
    if missing:
        raise KmedError(f"{path} lacks the columns {', '.join(missing)}; write it anew with `kmed-bench ingest`.")
    return table


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainRecord:
    """One `train` run as read back from the store.

    Attributes
    ----------
    params, metrics, tags : dict
        As logged; metrics holds each metric's last value.
    history : pandas.DataFrame
        Columns ``metric``, ``step`` (epoch; 0 is the untouched model), ``value``;
        one row per metric and step, the latest where a resumed run logged a step twice.
    """

    run_id: str
    name: str
    size: str
    seed: int
    status: str
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]
    history: pd.DataFrame


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchRecord:
    """One `bench` run with its children as read back from the store.

    Attributes
    ----------
    skipped : dict
        Size to the reason why it was left out, remedy included.
    split, quality : dict
        Contents of split.json and quality.json; empty when the run has none.
    scores : dict
        Run id of a train run to the scores.json of its best checkpoint on the test part.
    comparisons : tuple of dict
        Paired differences on the test part; what ``report.significance.compare_systems`` returned.
    """

    run_id: str
    name: str
    status: str
    params: dict[str, str]
    tags: dict[str, str]
    trains: tuple[TrainRecord, ...]
    skipped: dict[str, str]
    split: dict[str, Any]
    quality: dict[str, Any]
    scores: dict[str, dict[str, Any]]
    comparisons: tuple[dict[str, Any], ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportedRecord:
    """One repetition of an original benchmark's log, as imported into the store.

    Its figures are teacher-forced and over the training data: shown beside ours, never compared with decoded CER.

    Attributes
    ----------
    version : int
        The repetition's number in the log; no seed.
    sha256 : str
        Of the log's content; equal for the versions of one log.
    file : str
        The log's file name.
    params : dict
        The log's ``mata_data``, paths reduced to their last name.
    time_s : float or None
        Seconds that the log states for the repetition.
    history : pandas.DataFrame
        Columns ``metric``, ``step`` (epoch, 1 for the first), ``value``; CER as fractions. The metrics are
        ``train/loss``, ``train/cer_teacher_forced``, ``imported/valid_loss``, ``imported/valid_cer_teacher_forced``.
    """

    run_id: str
    name: str
    size: str
    version: int
    sha256: str
    file: str
    params: dict[str, str]
    time_s: float | None
    history: pd.DataFrame

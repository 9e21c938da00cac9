"""What the stages hand to one another: names of columns, reasons and parts, and the layout of files."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import check_format

if TYPE_CHECKING:
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

RejectReason = Literal[
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
    "label_too_long",  # found by training, whose train.max_len decides
]

WarningKind = Literal[
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
]

PARTS = ("train", "valid", "test")

GROUP_FIELDS = ("dialect", "gender", "age", "role")

MANIFEST_FORMAT, MANIFEST_VERSION = "kmed-bench manifest", 1
SPLIT_FORMAT, SPLIT_VERSION = "kmed-bench split", 1
QUALITY_FORMAT, QUALITY_VERSION = "kmed-bench quality report", 1


class SplitDetails(TypedDict, total=False):
    """Entries of split.json that depend on how the split was made."""

    method: str
    discarded_because: dict[str, int]
    merged_strata: list[str]
    frozen_sha256: str
    missing: dict[str, list[str]]
    changed: dict[str, list[str]]


class SplitReport(SplitDetails):
    """The contents of split.json; docs/formats.md describes each key."""

    format: str
    version: int
    sha256: str
    label: str
    synthetic: bool
    corpus: int
    counts: dict[str, int]
    parts: dict[str, dict[str, float]]
    discarded: int
    leakage: dict[str, int]
    max_share_deviation: float
    share_deviation: dict[str, float]
    shares: dict[str, dict[str, dict[str, float]]]
    distance: dict[str, dict[str, dict[str, float]]]
    config: dict[str, Any]


class QualityReport(TypedDict):
    """The contents of quality.json; docs/formats.md describes each key."""

    format: str
    version: int
    labels: int
    usable: int
    rejected: dict[str, int]
    warnings: dict[str, int]
    speakers: int
    sentences: int
    hours: float
    by: dict[str, dict[str, int]]
    hours_by: dict[str, dict[str, float]]
    pairs: dict[str, dict[str, dict[str, dict[str, float]]]]
    unknown_values: dict[str, dict[str, int]]
    stated: dict[str, int]
    reject_examples: dict[str, list[str]]
    warning_examples: dict[str, list[str]]
    histograms: dict[str, dict[str, list[float]]]
    marks_version: str
    roles_left_out: dict[str, int]
    files_ignored: dict[str, int]


def check_split_report(value: Any, source: Path | str) -> SplitReport:
    """Return the contents of a split.json, or raise KmedError when they are something else or newer."""
    remedy = "make the split again with `kmed-bench split`"
    report: SplitReport = check_format(value, source, SPLIT_FORMAT, SPLIT_VERSION, remedy, unmarked=True)
    return report


def check_quality_report(value: Any, source: Path | str) -> QualityReport:
    """Return the contents of a quality.json, or raise KmedError when they are something else or newer."""
    remedy = "write it again with `kmed-bench ingest`"
    report: QualityReport = check_format(value, source, QUALITY_FORMAT, QUALITY_VERSION, remedy, unmarked=True)
    return report


def write_manifest(table: "pd.DataFrame", path: Path) -> None:
    """Write a manifest or one part of a split as parquet, its format and version in the file's metadata.

    Not atomic: write to the path that `replacing` yields.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    whole = pa.Table.from_pandas(table, preserve_index=False)
    marks = {"format": MANIFEST_FORMAT, "version": str(MANIFEST_VERSION)}
    pq.write_table(whole.replace_schema_metadata({**whole.schema.metadata, **marks}), path, compression="zstd")


def read_manifest(path: Path) -> "pd.DataFrame":
    """Return a manifest or one part of a split with the columns of ``MANIFEST_COLUMNS``.

    Raises
    ------
    KmedError
        When the file is missing, is not parquet, is of another format or a newer version, or lacks a column.
    """
    # Imported here: the command line needs the names above and starts four times faster without these.
    import pandas as pd
    import pyarrow.parquet as pq

    if not path.is_file():
        raise KmedError(f"{path} does not exist; `kmed-bench ingest` writes manifests, `kmed-bench split` splits.")
    remedy = "write it again with `kmed-bench ingest`"
    try:
        metadata = pq.read_metadata(path).metadata or {}
        table = pd.read_parquet(path)
    except Exception as error:  # pyarrow raises several unrelated types here
        raise KmedError(f"{path} is not a readable parquet file ({error}); {remedy}.") from None
    marks: dict[str, Any] = {k.decode(): v.decode() for k, v in metadata.items() if k in (b"format", b"version")}
    if marks.get("version", "").isdecimal():
        marks["version"] = int(marks["version"])
    check_format(marks, path, MANIFEST_FORMAT, MANIFEST_VERSION, remedy, unmarked=True)
    missing = [name for name in MANIFEST_COLUMNS if name not in table.columns]
    if missing:
        raise KmedError(f"{path} lacks the columns {', '.join(missing)}; {remedy}.")
    return table

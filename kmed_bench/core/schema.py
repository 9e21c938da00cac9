"""What the stages hand to one another: columns, reasons, records, errors, small file helpers."""

from pathlib import Path
from typing import TYPE_CHECKING

from kmed_bench.core.errors import KmedError

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


def read_manifest(path: Path) -> "pd.DataFrame":
    """Return a manifest or one part of a split with the columns of ``MANIFEST_COLUMNS``.

    Raises
    ------
    KmedError
        When the file is missing, is not parquet, or lacks a column.
    """
    import pandas as pd  # here, since the command line needs the names above and starts four times faster without it

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

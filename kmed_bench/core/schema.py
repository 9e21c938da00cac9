"""What the stages hand to one another: names of columns, reasons and parts, and manifests."""

import contextlib
import re
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kmed_bench.core.errors import KmedError
from kmed_bench.core.formats import FileFormat
from kmed_bench.core.language import N_

if TYPE_CHECKING:
    import pandas as pd

SIZE_SHAPES = {"tiny": (384, 6, 4), "base": (512, 8, 6), "small": (768, 12, 12)}
"""Each Whisper size's n_state, n_head and n_layer, from openai/whisper's model card."""
SIZES = tuple(SIZE_SHAPES)

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

AUDIO_DIGEST = "audio_digest"
"""Column of a manifest, absent from older ones: equal for one recording under two ids, different otherwise."""

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
    "opposite_channels",
    "rate_differs",
    "same_recording",
    "silent_audio",
    "archive_piece_missing",
    "archive_unreadable",
    "clipped_audio",
    "folder_unreadable",
    "duplicate_audio",
    "format_differs",
    "length_differs",
    "metadata_differs",
]

PARTS = ("train", "valid", "test")

CELLS = ("seen_seen", "seen_unseen", "unseen_seen", "unseen_unseen")
"""Whether an utterance's speaker, and then its sentence, was seen in training."""
UNSEEN = "unseen_unseen"
"""The cell of a disjoint test part."""
SELECTION = "selection"
"""In place of a cell: the speaker or the sentence is in the valid part only, or the recording is in a part."""

UNKNOWN = ("", "N/A")
"""What a manifest's text columns hold where a value is unknown."""
AIHUB_RELEASES = frozenset(("Training", "Validation", *UNKNOWN))
"""Values of ``release`` in a manifest of a download of AI Hub."""
OWN_RECORDINGS = N_("own recordings")
"""What an imported corpus is called that has no other name."""

GROUP_FIELDS = ("dialect", "gender", "age", "role")
SCORE_FIELDS = (*GROUP_FIELDS, "code_switching")
"""Fields by which scores are grouped: those of the manifest, and how the reference writes foreign words."""

_NUMBERS = {"duration_s": 1e9, "rate_hz": 1e9}
_HEAD_KEYS = (b"format", b"version")
_ROWS_A_GROUP = 1 << 16
"""Rows that a reader needs to hold at a time: some 20 MB."""

MANIFEST = FileFormat[dict[str, Any]](
    "kmed-manifest", version=1, oldest=0, remedy="write it again with `kmed-bench ingest`"
)


def write_manifest(table: "pd.DataFrame", path: Path) -> None:
    """Write a manifest or one part of a split as parquet, its format and version in the file's metadata.

    Not atomic: write to the path that `replacing` yields.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    whole = pa.Table.from_pandas(table, preserve_index=False)
    head = {key: str(value) for key, value in MANIFEST.head.items()}
    whole = whole.replace_schema_metadata({**whole.schema.metadata, **head})
    pq.write_table(whole, path, compression="zstd", row_group_size=_ROWS_A_GROUP)


def read_manifest(path: Path) -> "pd.DataFrame":
    """Return a manifest or one part of a split with the columns of ``MANIFEST_COLUMNS``.

    Raises
    ------
    KmedError
        When the file is missing, is not parquet, is of another format or a newer version, or lacks a column.
    """
    import pandas as pd  # here, since the command line needs the names above and starts four times faster without it
    import pyarrow.parquet as pq

    with reading_manifest(path):
        about = pq.read_metadata(path)
        # Every row has an id of its own, so a file of more rows than bytes would only fill the memory.
        n_rows, n_bytes = about.num_rows, path.stat().st_size
        if n_rows > n_bytes:
            raise ValueError(f"it states {n_rows} rows in {n_bytes} bytes")
        table = pd.read_parquet(path)
    check_manifest_head(about.metadata or {}, table.columns, path)
    check_cells(table, path)
    return table


@contextlib.contextmanager
def reading_manifest(path: Path) -> Iterator[None]:
    """Raise KmedError for a manifest that is not there, or that pyarrow can't read in the block."""
    if not path.is_file():
        raise KmedError(f"{path} does not exist; `kmed-bench ingest` writes manifests, `kmed-bench split` splits.")
    try:
        yield
    except Exception as error:  # pyarrow raises several unrelated types here
        fault = " ".join(str(error).split())[:200]
        raise KmedError(f"{path} is not a readable parquet file ({fault}); {MANIFEST.remedy}.") from None


def check_manifest_head(metadata: Mapping[bytes, bytes], columns: Container[str], path: Path) -> None:
    """Raise KmedError for another format, a newer version, or a missing column."""
    head: dict[str, Any] = {
        key.decode(): value.decode(errors="backslashreplace") for key, value in metadata.items() if key in _HEAD_KEYS
    }
    if re.fullmatch("[0-9]{1,9}", head.get("version", "")):
        head["version"] = int(head["version"])
    MANIFEST.check(head, path)
    missing = [name for name in MANIFEST_COLUMNS if name not in columns]
    if missing:
        raise KmedError(f"{path} lacks the columns {', '.join(missing)}; {MANIFEST.remedy}.")


def check_cells(table: "pd.DataFrame", path: Path) -> None:
    """Raise KmedError for the first cell that is not of its column's kind; the index has the rows' numbers from 0."""
    import pandas as pd

    for name in MANIFEST_COLUMNS:
        column = table[name]
        if name in _NUMBERS:
            numbers = pd.to_numeric(column, errors="coerce") if column.dtype == object else column
            right = numbers.between(0, _NUMBERS[name]) if pd.api.types.is_numeric_dtype(numbers) else numbers.isin(())
            kind = f"a number from 0 to {_NUMBERS[name]:g}"
        else:
            right, kind = _are_texts(column, path), "text"
        if len(wrong := column[~right.to_numpy()]):
            row, value = 1 + int(wrong.index[0]), wrong.tolist()[0]
            raise KmedError(f"{path}, row {row} has {name} {value!r:.80}, which is not {kind}; {MANIFEST.remedy}.")
    if (twice := table["utterance_id"].duplicated()).any():
        name = table["utterance_id"][twice].iloc[0]
        raise KmedError(f"{path} has the utterance {name!r:.80} twice; {MANIFEST.remedy}.")


def _are_texts(column: "pd.Series[Any]", path: Path) -> "pd.Series[bool]":
    """Return which cells are text; pandas leaves texts as bytes until they are needed, so these are checked here."""
    import pandas as pd
    import pyarrow as pa

    if not isinstance(column.dtype, pd.StringDtype):
        return column.map(lambda value: isinstance(value, str)).astype(bool)
    try:
        pa.array(column).validate(full=True)
    except pa.ArrowException:
        raise KmedError(f"{path} has a {column.name} that is not UTF-8; {MANIFEST.remedy}.") from None
    return column.notna()

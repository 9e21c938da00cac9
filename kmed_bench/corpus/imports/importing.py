"""`import-corpus`: other people's recordings become a manifest like that of `ingest`, one verdict for each."""

import dataclasses
import itertools
import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from kmed_bench.config import DataConfig
from kmed_bench.core.corpus_contracts import QualityReport
from kmed_bench.core.errors import KmedError
from kmed_bench.core.progress import track
from kmed_bench.core.schema import AUDIO_DIGEST, OWN_RECORDINGS, UNKNOWN, WarningKind
from kmed_bench.corpus.archives.media import MEDIA_SUFFIXES
from kmed_bench.corpus.imports.audio import Measured, prepare_audio
from kmed_bench.corpus.imports.layouts import read_layout
from kmed_bench.corpus.imports.lists import ListOptions, read_list
from kmed_bench.corpus.imports.records import Record
from kmed_bench.corpus.ingest.aihub import NOT_STATED, judge_text
from kmed_bench.corpus.ingest.checks import judge_audio, judge_labels
from kmed_bench.corpus.ingest.manifest import make_manifest
from kmed_bench.corpus.ingest.quality import describe
from kmed_bench.corpus.ingest.recordings import identify_recordings
from kmed_bench.corpus.ingest.results import keep_rejects, output_folder, write_corpus

log = logging.getLogger(__name__)

AUDIO_FOLDER = "audio"
_AUDIO_FILES = MEDIA_SUFFIXES | {".pcm"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Imported:
    """What an import came to.

    Attributes
    ----------
    layout : str
        What was read: ``list``, or a name of ``layouts.LAYOUTS``.
    name : str
        What the corpus is called: the manifest's ``release``.
    n_copies, copied_bytes : int
        Audio files under ``audio/`` of the output folder.
    absent : dict
        Of ``speaker_id``, ``gender``, ``age`` and ``dialect`` the number of usable utterances without one, if any.
    """

    quality: QualityReport
    layout: str
    name: str
    n_copies: int
    copied_bytes: int
    absent: dict[str, int]


def import_corpus(
    source: Path,
    out: Path,
    config: DataConfig,
    options: ListOptions | None = None,
    *,
    layout: str | None = None,
    name: str | None = None,
) -> Imported:
    """Write ``manifest.parquet``, ``rejects.csv`` and ``quality.json`` of a list or of a corpus's folder.

    Audio that later steps could not read in place is copied to ``audio/`` in the output folder. Nothing is changed in
    the source. The roles that `ingest` selects play no part.

    Parameters
    ----------
    source : Path
        A table, or a folder in one of the layouts of ``layouts.LAYOUTS``.
    options : ListOptions, optional
        How a table is read.
    layout : str, optional
        The folder's layout; otherwise it is found by what is in it.
    name : str, optional
        What the corpus is called.

    Raises
    ------
    KmedError
        When the source is missing or not understood, nothing in it is usable (the message names the file of the
        rejects), or `out` can't be written.
    """
    if not source.exists():
        raise KmedError(f"{source} does not exist; give a list (CSV, TSV, JSON lines, .xlsx) or a corpus's folder.")
    if source.is_dir():
        found, title, records = read_layout(source, layout)
    elif layout is not None:
        raise KmedError(f"--layout {layout} is of folders, and {source} is a file; leave it out.")
    else:
        found, title, records = "list", OWN_RECORDINGS, read_list(source, options or ListOptions())
    log.info(f"{source}: {len(records):,} utterances listed ({found})")
    audio = out / AUDIO_FOLDER
    is_first = not audio.exists()
    with output_folder(out), output_folder(audio):
        rows = _judge(records, audio, config, name or title)
        manifest = make_manifest(rows)
        quality = describe(manifest, rows, config, _strays(records), {}, {})
        if manifest.empty:
            if is_first:  # else there may be copies of an earlier import in it
                shutil.rmtree(audio)
            raise KmedError(_nothing_usable(source, rows) + keep_rejects(out, rows))
        write_corpus(out, manifest, rows, quality)
    copies = rows["audio_copied_bytes"].fillna(0)
    absent = {field: int(manifest[field].isin(UNKNOWN).sum()) for field in ("speaker_id", "gender", "age", "dialect")}
    return Imported(
        quality=quality,
        layout=found,
        name=name or title,
        n_copies=int((copies > 0).sum()),
        copied_bytes=int(copies.sum()),
        absent={field: n for field, n in absent.items() if n},
    )


def _judge(records: Sequence[Record], audio: Path, config: DataConfig, name: str) -> pd.DataFrame:
    """Return one row per record with its verdict, as `ingest` judges its labels."""
    rows = _as_labels(records, name)
    judge_labels(rows, config)
    chosen = rows.loc[rows["reason"] == "", "record"].sort_values(key=lambda at: at.map(_turns(records)))
    measured: dict[int, Measured] = {}
    with track("Reading audio") as tick:
        found = prepare_audio([records[at] for at in chosen], audio, config.max_duration_s)
        for n_done, (at, one) in enumerate(zip(chosen, found, strict=True), start=1):
            measured[at] = one
            tick(n_done, len(chosen))
    names = [field.name for field in dataclasses.fields(Measured)]
    values = [dataclasses.astuple(measured[at]) if at in measured else None for at in rows["record"]]
    empty = (np.nan,) * len(names)
    table = pd.DataFrame([value or empty for value in values], rows.index, names).add_prefix("audio_")
    table[["audio_path", "audio_fault"]] = (
        table[["audio_path", "audio_fault"]].astype("str").where(table["audio_fault"].notna())
    )
    rows = pd.concat([rows, table], axis=1)
    judge_audio(rows, config)
    rows[AUDIO_DIGEST] = identify_recordings(rows)
    return rows


def _turns(records: Sequence[Record]) -> dict[int, int]:
    """Return each record's turn: those of one recording follow one another, recordings in the list's order."""
    first: dict[object, int] = {}
    for at, record in enumerate(records):
        first.setdefault(record.audio, at)
    order = sorted(range(len(records)), key=lambda at: (first[records[at].audio], at))
    return {at: turn for turn, at in enumerate(order)}


def _as_labels(records: Sequence[Record], name: str) -> pd.DataFrame:
    """Return the records as rows of labels, with the verdicts that the texts alone give."""
    rows = []
    for at, record in enumerate(records):
        sentence, reason, detail = judge_text(record.text)
        detail = detail.replace("LabelText", "the transcript")
        if record.reason and not (reason and record.reason == "audio_missing"):  # as `ingest`: the label comes first
            reason, detail = record.reason, record.detail
        rows.append(
            {
                "record": at,
                "stem": record.utterance_id,
                "path": record.place,
                "release": name,
                **{field: getattr(record, field) for field in ("speaker_id", "role", "text", "gender", "age")},
                **{field: getattr(record, field) for field in ("dialect", "region")},
                "sentence_id": sentence,
                "quality": NOT_STATED,
                "stated_s": record.end_s - (0.0 if math.isnan(record.start_s) else record.start_s),
                **dict.fromkeys(("stated_hz", "stated_channels", "stated_bits"), math.nan),
                "differs": "",
                "reason": reason,
                "detail": detail,
            }
        )
    table = pd.DataFrame(rows).sort_values(["stem", "record"], kind="stable", ignore_index=True)
    texts = [column for column in table if column != "record" and not str(column).startswith("stated")]
    return table.astype(dict.fromkeys(texts, "str"))


def _strays(records: Sequence[Record]) -> Mapping[WarningKind, list[str]]:
    """Return the names of audio files beside listed ones that the list does not name."""
    listed = {record.audio.path for record in records if record.audio and record.audio.kind in ("file", "pcm")}
    folders = sorted({path.parent for path in listed})
    beside = itertools.chain.from_iterable(folder.iterdir() for folder in folders)
    strays = [path.stem for path in beside if path.suffix.lower() in _AUDIO_FILES and path not in listed]
    return {"audio_without_label": sorted(strays)}


def _nothing_usable(source: Path, rows: pd.DataFrame) -> str:
    counts = ", ".join(f"{reason} {n:,}" for reason, n in rows["reason"].value_counts().items())
    first = rows.iloc[0]
    return (
        f"No utterance in {source} is usable: {counts}. The first one, {first['stem']} ({first['path']}): "
        f"{first['detail']}. Check the columns and --audio-root."
    )

"""The manifest: one row per usable utterance, one verdict per label.

`ingest` lists the sources, reads the labels of the selected roles, finds each label's audio by
name, reads the audio's header, and gives every label exactly one verdict: usable, or one reject
reason. What is checked first wins: the label itself, then its quality status, then whether its
utterance is there twice, then its audio.
"""

import os
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from kmed_bench.config import DataConfig
from kmed_bench.corpus.aihub import ROLES, parse_name
from kmed_bench.corpus.archives import Container
from kmed_bench.corpus.listing import Listing, list_sources
from kmed_bench.corpus.quality import describe
from kmed_bench.corpus.scan import Chunk, read_chunk
from kmed_bench.records import MANIFEST_COLUMNS, KmedError, write_json, write_text_atomically

Progress = Callable[[str], None]
_RELEASES = (
    ("Training", re.compile(r"(\d+[._ -]*)?train(ing)?|\[T.*|T[SL]_.*", re.IGNORECASE)),
    ("Validation", re.compile(r"(\d+[._ -]*)?valid(ation)?|\[V.*|V[SL]_.*", re.IGNORECASE)),
)
_CHUNK_FILES = 8192


def ingest(
    sources: Sequence[Path], out: Path, config: DataConfig, *, progress: Progress | None = None
) -> dict[str, Any]:
    """Write ``manifest.parquet``, ``rejects.csv`` and ``quality.json``; return the latter's value.

    Parameters
    ----------
    sources : sequence of Path
        Folders of a download in any layout, or single zips and tars; see `archives` for the forms.
    out : Path
        Folder for the results, made if needed.
    config : DataConfig
        Roles, thresholds, whether to decode.
    progress : callable, optional
        Is given a line of text now and then.

    Raises
    ------
    KmedError
        When a source is missing or holds no labels, when there are labels and no audio, when
        nothing is usable, or a role is unknown.
    """
    say = progress or (lambda _: None)
    unknown = [role for role in config.roles if role not in ROLES]
    if unknown or not config.roles:
        raise KmedError(f"data.roles names {', '.join(unknown) or '(none)'}; choose from {', '.join(ROLES)}.")
    listing = list_sources(sources, out)
    named = ", ".join(map(str, sources))
    all_labels, all_audio = listing.labels.table(), listing.audio.table()
    say(f"found {all_labels.num_rows:,} labels and {all_audio.num_rows:,} audio files")
    if not all_labels.num_rows:
        raise KmedError(f"{named} holds no labels (.json, also inside .zip and .tar); {_remedy(listing)}")
    if not all_audio.num_rows:
        raise KmedError(
            f"{named} holds {all_labels.num_rows:,} labels and no audio (.wav, also inside .zip and .tar); "
            f"put the audio archives ([T원천]….zip) beside the labels. {_remedy(listing)}"
        )
    labels, left_out = _select_roles(all_labels, config)
    rows = _read(listing.containers, labels, "label", say)
    no_label = int((~rows["is_label"]).sum())
    rows = _place(rows[rows["is_label"]], listing.containers).sort_values(["stem", "release", "path"])
    rows = rows.reset_index(drop=True)
    _judge_labels(rows, config)
    audio, strays = _pair(rows, all_audio, all_labels, listing.containers, config)
    heard = _read(listing.containers, audio, "decode" if config.decode else "audio", say)
    rows = rows.merge(
        _place(heard, listing.containers).add_prefix("audio_"), "left", left_on="stem", right_on="audio_stem"
    )
    _judge_audio(rows, config)
    manifest = _manifest(rows)
    quality = describe(manifest, rows, config, listing.warnings, strays)
    quality |= {"roles_left_out": left_out, "files_ignored": dict(sorted(listing.ignored.items()))}
    if no_label:
        quality["files_ignored"]["json that is no label"] = no_label
    if manifest.empty:
        reasons = ", ".join(f"{reason} {n:,}" for reason, n in quality["rejected"].items()) or "none of these roles"
        raise KmedError(f"None of the {len(rows):,} labels in {named} is usable: {reasons}. {_remedy(listing)}")
    _write(out, manifest, rows, quality)
    return quality


def _remedy(listing: Listing) -> str:
    faults = "; ".join(detail for _, detail in listing.warnings[:3])
    return f"Found wrong: {faults}." if faults else "give the folder of an AI Hub 208 download."


def _select_roles(labels: pa.Table, config: DataConfig) -> tuple[pa.Table, dict[str, int]]:
    """Return the labels that may be of the roles asked for, and how many of others were left out."""
    names = (parse_name(stem) for stem in labels["stem"].to_pylist())
    roles = pd.Series([name.role if name else "" for name in names], dtype="str")
    kept = roles.isin([*config.roles, ""])
    left_out = roles[~kept].value_counts().sort_index()
    return labels.filter(pa.array(kept.to_numpy(bool))), {str(role): int(n) for role, n in left_out.items()}


def _read(containers: list[Container], entries: pa.Table, kind: str, say: Progress) -> pd.DataFrame:
    """Return the entries with what reading them gave, in another order."""
    tables = []
    for position, container in enumerate(containers):
        mine = entries.filter(pa.compute.equal(entries["container"], position))
        for first in range(0, mine.num_rows, _CHUNK_FILES):
            part = mine.slice(first, _CHUNK_FILES)
            read = read_chunk(Chunk(kind, container, _pack(part)))
            tables.append(pa.table([*part.columns, *read.columns], [*part.column_names, *read.column_names]))
            say(f"read {kind} {first + part.num_rows:,} of {mine.num_rows:,} in {container.trail}")
    if not tables:
        part = entries.slice(0, 0)
        read = read_chunk(Chunk(kind, Container("folder", ".", ""), _pack(part)))
        tables.append(pa.table([*part.columns, *read.columns], [*part.column_names, *read.column_names]))
    frame: pd.DataFrame = pa.concat_tables(tables).to_pandas()
    return frame


def _pack(entries: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, entries.schema) as stream:
        stream.write_table(entries)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _place(frame: pd.DataFrame, containers: list[Container]) -> pd.DataFrame:
    """Return the frame with each file's location (`path`) and release."""
    folders = frame["name"].str.rpartition("/")[0]
    keys = list(zip(frame["container"], folders, strict=True))
    releases = {key: release_of(f"{containers[key[0]].trail}/{key[1]}") for key in dict.fromkeys(keys)}
    paths = [containers[at].locate(name) for at, name in zip(frame["container"], frame["name"], strict=True)]
    return frame.assign(
        path=pd.Series(paths, frame.index, "str"), release=pd.Series([releases[k] for k in keys], frame.index, "str")
    )


def release_of(trail: str) -> str:
    """Return Training, Validation or N/A, by the innermost folder or archive name that says so."""
    for part in reversed(trail.split("/")):
        for release, pattern in _RELEASES:
            if pattern.fullmatch(part):
                return release
    return "N/A"


def _reject(rows: pd.DataFrame, where: pd.Series, reason: str, detail: pd.Series | str) -> None:
    """Give a verdict to the rows that have none yet."""
    where = where & (rows["reason"] == "")
    rows.loc[where, "detail"] = detail if isinstance(detail, str) else detail[where]
    rows.loc[where, "reason"] = reason


def _judge_labels(rows: pd.DataFrame, config: DataConfig) -> None:
    accepted = rows["quality"].isin(config.accepted_quality)
    _reject(rows, ~accepted, "quality_excluded", "QualityStatus is " + rows["quality"])
    good = rows[rows["reason"] == ""]
    first = good.drop_duplicates("stem").set_index("stem")["path"]
    again = good["stem"].duplicated().reindex(rows.index, fill_value=False)
    _reject(rows, again, "duplicate_utterance", "kept: " + rows["stem"].map(first).fillna("").astype("str"))


def _pair(
    rows: pd.DataFrame, audio: pa.Table, labels: pa.Table, containers: list[Container], config: DataConfig
) -> tuple[pa.Table, list[str]]:
    """Return one audio file per label without a verdict, and the ids of audio that no label names."""
    stems = audio["stem"]
    strays = audio.filter(pa.compute.invert(pa.compute.is_in(stems, labels["stem"].combine_chunks())))[
        "stem"
    ].to_pylist()
    names = [(stem, parse_name(stem)) for stem in strays]
    strays = sorted(stem for stem, name in names if name is None or name.role in (*config.roles, ""))
    wanted = rows.loc[rows["reason"] == "", ["stem", "release"]]
    found = audio.filter(pa.compute.is_in(stems, pa.array(wanted["stem"], pa.string())))
    frame = found.select(["container", "name", "stem"]).to_pandas().assign(row=range(found.num_rows))
    frame = _place(frame, containers).merge(wanted.rename(columns={"release": "wanted"}), on="stem")
    frame["elsewhere"] = frame["release"] != frame["wanted"]
    chosen = frame.sort_values(["stem", "elsewhere", "release", "path"]).drop_duplicates("stem")["row"]
    return found.take(pa.array(np.sort(chosen.to_numpy()))), strays


def _judge_audio(rows: pd.DataFrame, config: DataConfig) -> None:
    fault = rows["audio_fault"]
    duration, stated = rows["audio_duration_s"], rows["stated_s"]
    _reject(rows, fault.isna(), "audio_missing", "no audio of this name in any source")
    _reject(rows, fault != "", "audio_unreadable", fault.fillna(""))
    short = pd.Series(np.fmax(rows["audio_missing_s"], stated.where(np.isfinite(stated)) - duration), rows.index)
    missing = "has " + _seconds(duration) + ", " + _seconds(short) + " less than stated"
    _reject(rows, short > config.truncation_tolerance_s, "audio_truncated", missing)
    low, high = config.min_duration_s, config.max_duration_s
    _reject(rows, ~(duration >= low), "audio_too_short", "lasts " + _seconds(duration) + f"; the least is {low} s")
    _reject(rows, ~(duration <= high), "audio_too_long", "lasts " + _seconds(duration) + f"; the most is {high} s")


def _seconds(values: pd.Series) -> pd.Series:
    return values.map("{:.3f} s".format).astype("str")


def _manifest(rows: pd.DataFrame) -> pd.DataFrame:
    usable = rows[rows["reason"] == ""]
    manifest = usable.rename(
        columns={
            "stem": "utterance_id",
            "audio_path": "audio",
            "audio_duration_s": "duration_s",
            "audio_rate_hz": "rate_hz",
        }
    )
    manifest = manifest[list(MANIFEST_COLUMNS)].reset_index(drop=True)
    return manifest.astype({"rate_hz": "int32"})


def _write(out: Path, manifest: pd.DataFrame, rows: pd.DataFrame, quality: dict[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=out, prefix=".manifest.")
    os.close(handle)
    try:
        pq.write_table(pa.Table.from_pandas(manifest, preserve_index=False), temporary, compression="zstd")
        Path(temporary).replace(out / "manifest.parquet")
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    rejects = rows.loc[rows["reason"] != "", ["stem", "path", "reason", "detail"]]
    rejects = rejects.rename(columns={"stem": "utterance_id"})
    write_text_atomically(out / "rejects.csv", rejects.to_csv(index=False))
    write_json(out / "quality.json", quality)

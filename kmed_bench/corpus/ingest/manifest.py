"""The manifest: one row per usable utterance, one verdict per label.

`ingest` lists the sources, reads the labels of the selected roles, finds each label's audio by
name, reads the audio's header (or all of it), and gives every label exactly one verdict, so
labels = usable + rejected. Nothing is extracted or changed in the sources.
"""

import functools
import logging
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from kmed_bench.config import DataConfig
from kmed_bench.core.corpus_contracts import QualityReport
from kmed_bench.core.errors import KmedError
from kmed_bench.core.language import N_
from kmed_bench.core.progress import track
from kmed_bench.core.schema import AUDIO_DIGEST, MANIFEST_COLUMNS, WarningKind
from kmed_bench.corpus.archives.reader import Container
from kmed_bench.corpus.ingest.aihub import ROLES, parse_name
from kmed_bench.corpus.ingest.checks import judge_audio, judge_labels, pair_audio
from kmed_bench.corpus.ingest.chunks import ChunkStore, read_entries
from kmed_bench.corpus.ingest.listing import Listing, check_sources, list_sources
from kmed_bench.corpus.ingest.quality import describe
from kmed_bench.corpus.ingest.recordings import identify_recordings
from kmed_bench.corpus.ingest.results import keep_rejects, output_folder, write_corpus

log = logging.getLogger(__name__)


KEPT_FOLDER = ".ingest"
"""Where an interrupted run keeps what it has read, inside the output folder."""

_RELEASES = (
    ("Training", re.compile(r"(\d+[._ -]*)?train(ing)?|\[T.*|T[SL]_.*", re.IGNORECASE)),
    ("Validation", re.compile(r"(\d+[._ -]*)?valid(ation)?|\[V.*|V[SL]_.*", re.IGNORECASE)),
)


@track("Reading the download")
def ingest(sources: Sequence[Path], out: Path, config: DataConfig) -> QualityReport:
    """Write ``manifest.parquet``, ``rejects.csv`` and ``quality.json``; return the latter's value.

    Interrupted, it keeps what it has read in `out`; the same call continues from there, with the
    same outcome. The manifest is sorted by utterance and does not depend on the files' order. If
    nothing is usable, `out` stays as it was and the rejects are in ``OUT.rejects.csv`` beside it.

    Parameters
    ----------
    sources : sequence of Path
        Folders of a download in any layout, or single zips and tars; see `archives` for the forms.
    out : Path
        Folder for the results, made if needed.
    config : DataConfig
        Roles, thresholds, whether to decode.

    Raises
    ------
    KmedError
        When a source is missing or holds no labels, nothing is usable (the message names the
        file of the rejects), a role is unknown, or `out` can't be written.
    """
    _check_roles(config)
    check_sources(sources)  # before a folder is made for what can't come
    with output_folder(out):
        listing = list_sources(sources, out)
        labels, audio = listing.labels.table(), listing.audio.table()
        log.info(f"found {labels.num_rows:,} labels and {audio.num_rows:,} audio files")
        _refuse_without_labels(labels, audio, listing, sources)
        store = ChunkStore(out / KEPT_FOLDER)
        try:
            rows, left_out = _judge(listing, labels, audio, config, store)
        except OSError as error:  # an archive is gone, the disk is full; a single file's faults are verdicts
            raise KmedError(
                f"Reading stopped at {error.filename or store.folder}: {error.strerror or error}. Remove the cause and "
                "start again: what was read is kept."
            ) from None
        manifest = make_manifest(rows)
        warnings = listing.warnings | _audio_warnings(rows, labels, audio, config)
        quality = describe(manifest, rows, config, warnings, left_out, listing.ignored)
        if manifest.empty:
            store.clear()
            raise KmedError(_nothing_usable(quality, listing, sources, audio.num_rows) + keep_rejects(out, rows))
        write_corpus(out, manifest, rows, quality)
        store.clear()
    return quality


def _check_roles(config: DataConfig) -> None:
    unknown = [role for role in config.roles if role not in ROLES]
    if unknown or not config.roles:
        raise KmedError(f"data.roles names {', '.join(unknown) or '(none)'}; choose from {', '.join(ROLES)}.")


def _refuse_without_labels(labels: pa.Table, audio: pa.Table, listing: Listing, sources: Sequence[Path]) -> None:
    if not labels.num_rows:
        heard = f", and {audio.num_rows:,} audio files that no label describes" if audio.num_rows else ""
        raise KmedError(
            f"{_named(sources)} holds no labels (.json, also inside .zip and .tar){heard}; {_remedy(listing)}"
        )


def _nothing_usable(quality: QualityReport, listing: Listing, sources: Sequence[Path], n_audio: int) -> str:
    missing = [f"{what} {n:,}" for what, n in quality["incomplete"].items()]
    reasons = [
        f"{reason} {n:,}" + (f" ({'; '.join(missing)})" if reason == "label_incomplete" else "")
        for reason, n in quality["rejected"].items()
    ]
    reasons += [f"{n:,} of role {role}, not asked for" for role, n in quality["roles_left_out"].items()]
    found = f"No label in {_named(sources)} is usable: {', '.join(reasons) or 'no .json file in it is a label'}."
    if not n_audio:
        found += (
            f" It holds {quality['labels']:,} labels and no audio (.wav, also inside .zip and .tar): put the audio "
        )
        return found + f"archives ([T원천]….zip) beside the labels, or {_remedy(listing)}"
    return f"{found} As a remedy, {_remedy(listing)}"


def _named(sources: Sequence[Path]) -> str:
    return ", ".join(map(str, sources))


def _remedy(listing: Listing) -> str:
    faults = [detail for details in listing.warnings.values() for detail in details]
    first = f"repair these first: {'; '.join(faults[:3])}" if faults else "check the folder and data.roles"
    return f"{first}. A source is the folder of an AI Hub 208 download."


def _judge(
    listing: Listing, labels: pa.Table, audio: pa.Table, config: DataConfig, store: ChunkStore
) -> tuple[pd.DataFrame, Counter[str]]:
    """Return one row per label of the roles asked for, with its verdict; and how many of other roles there are."""
    read = functools.partial(read_entries, listing.containers, store=store, workers=config.workers)
    place = functools.partial(_place, listing.containers)
    selected, left_out = _select_roles(labels, config)
    rows = place(read(selected, "label").to_pandas())
    listing.ignored += Counter({N_("json that is no label"): int((~rows["is_label"]).sum())})
    other = ~rows["role"].isin([*config.roles, ""])
    left_out.update(rows.loc[other, "role"])
    rows = rows[rows["is_label"] & ~other].sort_values(["stem", "release", "path", "start"], ignore_index=True)
    judge_labels(rows, config)
    paired = pair_audio(rows, audio, place)
    measured = place(read(paired, "decode" if config.decode else "audio").to_pandas())
    rows = rows.merge(measured.add_prefix("audio_"), how="left", left_on="stem", right_on="audio_stem")
    judge_audio(rows, config)
    rows[AUDIO_DIGEST] = identify_recordings(rows)
    return rows, left_out


def _select_roles(labels: pa.Table, config: DataConfig) -> tuple[pa.Table, Counter[str]]:
    """Return the labels that may be of the roles asked for, and how many, by their name, are of others."""
    names = (parse_name(stem) for stem in labels["stem"].to_pylist())
    roles = pd.Series([name.role if name else "" for name in names], dtype="str")
    kept = roles.isin([*config.roles, ""])
    return labels.filter(pa.array(kept.to_numpy(bool))), Counter(roles[~kept])


def _audio_warnings(
    rows: pd.DataFrame, labels: pa.Table, audio: pa.Table, config: DataConfig
) -> dict[WarningKind, list[str]]:
    """Return the ids of audio that no label names, and of utterances with several audio files."""
    strays = audio.filter(pc.invert(pc.is_in(audio["stem"], labels["stem"].combine_chunks())))["stem"].to_pylist()
    names = ((stem, parse_name(stem)) for stem in strays)
    wanted = (*config.roles, "")
    counts = pc.value_counts(audio["stem"])
    twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    usable = pa.array(rows.loc[rows["reason"] == "", "stem"], pa.string())
    return {
        "audio_without_label": sorted(stem for stem, name in names if name is None or name.role in wanted),
        "duplicate_audio": sorted(twice.filter(pc.is_in(twice, usable)).to_pylist()),
    }


def _place(containers: list[Container], frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame with each file's location (`path`) and `release`."""
    folders = (name.rpartition("/")[0] for name in frame["name"])
    keys = list(zip(frame["container"], folders, strict=True))
    releases = {key: release_of(f"{containers[key[0]].trail}/{key[1]}") for key in dict.fromkeys(keys)}
    paths = [containers[at].locate(name) for at, name in zip(frame["container"], frame["name"], strict=True)]
    return frame.assign(
        path=pd.Series(paths, frame.index, "str"),
        release=pd.Series([releases[key] for key in keys], frame.index, "str"),
    )


def release_of(trail: str) -> str:
    """Return Training, Validation or N/A, by the innermost folder or archive name that says so."""
    for part in reversed(trail.split("/")):
        for release, pattern in _RELEASES:
            if pattern.fullmatch(part):
                return release
    return "N/A"


def make_manifest(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the manifest's columns of the usable rows: labels with their verdict and their audio's columns."""
    names = {
        "stem": "utterance_id",
        "audio_path": "audio",
        "audio_duration_s": "duration_s",
        "audio_rate_hz": "rate_hz",
    }
    manifest = rows[rows["reason"] == ""].rename(columns=names)[[*MANIFEST_COLUMNS, AUDIO_DIGEST]]
    return manifest.reset_index(drop=True).astype({"rate_hz": "int32"})

"""From a manifest to train, valid and test: exact shares, and no speaker in two parts.

`split_manifest` chooses, `write_split` writes and checks what it wrote, `read_split` reads back.
The rules: quotas.py (who is needed), disjoint.py (who may be where), selection.py (who is
drawn), identity.py (what is one sentence, one recording, one content), original_draw.py (the
original benchmark's draw), leakage.py (the proof), cells.py (what is left out), frozen.py (a split
as ids that others can apply).
"""

import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from kmed_bench.config import SplitConfig
from kmed_bench.core.corpus_contracts import SPLIT, SplitDetails, SplitReport
from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import PRIVATE_FOLDER, replacing, write_json
from kmed_bench.core.progress import track
from kmed_bench.core.schema import AUDIO_DIGEST, MANIFEST_COLUMNS, PARTS, UNKNOWN, read_manifest, write_manifest
from kmed_bench.corpus.splitting.cells import CELL, LEFT_OUT, count_cells, find_left_out, name_cells
from kmed_bench.corpus.splitting.identity import (
    Columns,
    content_digest,
    count_near,
    join_spellings,
    mark_repeats,
)
from kmed_bench.corpus.splitting.leakage import (
    count_leaks,
    count_shares,
    describe_parts,
    measure_distance,
    name_leaks,
    split_digest,
)
from kmed_bench.corpus.splitting.original_draw import draw_published
from kmed_bench.corpus.splitting.selection import DISJOINT, UNUSED, Selection, select_parts

log = logging.getLogger(__name__)
Flags = npt.NDArray[np.bool_]

BY_FIELDS = ("dialect", "gender", "age", "region", "role", "quality", "release")


@dataclasses.dataclass(frozen=True)
class Split:
    """Three parts of a manifest, and the account of how they were made.

    Attributes
    ----------
    parts : dict
        ``train``, ``valid``, ``test``: tables with the manifest's columns, sorted by utterance id.
    sha256 : str
        Of the ordered utterance ids of the three parts. What else decides figures is in ``content_sha256`` of the
        report.
    report : SplitReport
        The contents of split.json.
    left_out : pandas.DataFrame or None
        The utterances in no part, with their ``cell``; None for a split that was read: see `read_left_out`.
    """

    parts: dict[str, pd.DataFrame]
    sha256: str
    report: SplitReport
    left_out: pd.DataFrame | None = None


@track("Drawing the split")
def split_manifest(manifest: pd.DataFrame, config: SplitConfig) -> Split:
    """Return train, valid and test of the sizes asked for, with the corpus's shares.

    The outcome depends on the utterances, the settings and the seed, not on the order of rows.
    ``disjoint=()`` with ``by=("age",)`` is the published benchmark's own draw.

    Raises
    ------
    KmedError
        When a setting names something unknown, an utterance id comes twice, or the corpus can't
        give the sizes: the message says what lacks where, and the nearest sizes that it can give.
    """
    _check(config)
    table = sort_manifest(manifest)
    _refuse_unknown_speakers(table, config)
    if not config.disjoint and config.by == ("age",):
        part = draw_published(table, (config.train, config.valid, config.test), config.seed)
        method, crossing, merged, repeats = "published two-step draw on age", 0, [], 0
    else:
        found, usable = _select_distinct(join_spellings(table), config)
        part = np.full(len(table), UNUSED, np.int64)
        part[usable] = found.part
        repeats = int((~usable).sum())
        crossing = int((found.eligible == UNUSED).sum()) if config.disjoint else 0
        method = f"quotas, disjoint in {' and '.join(config.disjoint)}" if config.disjoint else "quotas"
        merged = [f"{field}: {values}" for field, values in found.strata.merged]
    parts = {name: table[part == i].reset_index(drop=True) for i, name in enumerate(PARTS)}
    surplus = int((part == UNUSED).sum()) - crossing - repeats
    details: SplitDetails = {
        "method": method,
        "discarded_because": {"crossing": crossing, "same_recording": repeats, "surplus": surplus},
        "merged_strata": merged,
    }
    return build_split(table, parts, dataclasses.asdict(config), details)


def _select_distinct(table: pd.DataFrame, config: SplitConfig) -> tuple[Selection, Flags]:
    """Return a selection among the rows that repeat no recording, and which rows these are.

    Where these are too few, the selection is among all rows, and the label counts the recordings that parts share.
    """
    usable: Flags = ~mark_repeats(table).to_numpy(bool)
    enough = usable.sum() >= config.train + config.valid + config.test
    if config.disjoint and enough and not usable.all():
        try:
            return select_parts(table[usable].reset_index(drop=True), config), usable
        except KmedError:
            enough = False
    if not usable.all():
        log.warning(
            f"{int((~usable).sum())} of {len(table)} utterances have the same recording as another one. They may be "
            "drawn like the others, since without them there are too few for the sizes asked for; leakage in "
            "split.json counts the recordings that parts share."
        )
    return select_parts(table, config), np.ones(len(table), np.bool_)


def _check(config: SplitConfig) -> None:
    for name, given, known in (("by", config.by, BY_FIELDS), ("disjoint", config.disjoint, DISJOINT)):
        unknown = [value for value in given if value not in known]
        if unknown or len(set(given)) < len(given):
            raise KmedError(
                f"split.{name} is {','.join(given)!r}; choose from {', '.join(known)}, each at most once, separated by "
                "commas, or none."
            )


def _refuse_unknown_speakers(table: pd.DataFrame, config: SplitConfig) -> None:
    unknown = table["speaker_id"].isin(UNKNOWN)
    if "speaker" in config.disjoint and unknown.any():
        others = ",".join(name for name in config.disjoint if name != "speaker") or "none"
        raise KmedError(
            f"The speakers of {int(unknown.sum())} of {len(table)} utterances are not known, so no split can keep them "
            f"apart. Import the corpus with a column of speakers, or give --split.disjoint {others}: the split is then "
            "labelled as leaking unknown speakers, and no figure has an interval."
        )


def sort_manifest(manifest: pd.DataFrame) -> pd.DataFrame:
    """Return the manifest's columns sorted by utterance id, its text fields without gaps.

    Raises
    ------
    KmedError
        When it is empty, lacks a column or repeats an utterance.
    """
    missing = [name for name in MANIFEST_COLUMNS if name not in manifest.columns]
    if missing:
        raise KmedError(f"The manifest lacks the columns {', '.join(missing)}; make it again with `kmed-bench ingest`.")
    if not len(manifest):
        raise KmedError("The manifest holds no utterance, so there is nothing to split; see rejects.csv beside it.")
    columns = [*MANIFEST_COLUMNS, *([AUDIO_DIGEST] if AUDIO_DIGEST in manifest else [])]
    table = manifest.loc[:, columns].sort_values("utterance_id", kind="stable", ignore_index=True)
    twice = table["utterance_id"].duplicated()
    if twice.any():
        raise KmedError(
            f"The manifest holds {int(twice.sum())} utterances twice (first: {table['utterance_id'][twice].iloc[0]}); "
            "each may come once: `kmed-bench ingest` rejects repeats as duplicate_utterance."
        )
    return table


def build_split(
    table: pd.DataFrame, parts: dict[str, pd.DataFrame], config: Mapping[str, Any], details: SplitDetails
) -> Split:
    """Return the split with its account: shares, distances, leaks and what was left out.

    Parameters
    ----------
    table : pandas.DataFrame
        The whole manifest.
    config : mapping
        The settings, as plain values.
    details : SplitDetails
        Further entries of the report.
    """
    by = tuple(config["by"])
    shares = count_shares(table, parts, by)
    distance = measure_distance(shares, {part: len(parts[part]) for part in PARTS})
    deviation = {field: max(row["max_deviation"] for row in rows.values()) for field, rows in distance.items()}
    leakage = count_leaks(parts)
    sha256 = split_digest(parts)
    left_out = find_left_out(table, parts)
    report: SplitReport = {
        **SPLIT.head,
        "sha256": sha256,
        "content_sha256": content_digest(parts),
        "label": name_leaks(leakage),
        "corpus": len(table),
        "counts": {part: len(parts[part]) for part in PARTS},
        "parts": describe_parts(parts),
        "discarded": len(table) - sum(len(parts[part]) for part in PARTS),
        "leakage": leakage,
        "doubts": {"sentences_one_letter_apart": count_near(parts)},
        "max_share_deviation": max((deviation[field] for field in by), default=0.0),
        "share_deviation": deviation,
        "shares": shares,
        "distance": distance,
        "config": json.loads(json.dumps(dict(config))),
        "left_out": count_cells(left_out),
        **details,
    }
    return Split(parts, sha256, report, left_out)


def write_split(split: Split, out: Path) -> SplitReport:
    """Write train, valid, test and left_out.parquet, then split.json, each whole or not at all; return split.json.

    The digest and the leak check in it are recomputed from the files just written. An older
    split.json is removed first, so it is never found beside other parts.

    Raises
    ------
    KmedError
        When what was written is not what was to be written.
    """
    out.mkdir(PRIVATE_FOLDER, parents=True, exist_ok=True)
    (out / "split.json").unlink(missing_ok=True)
    for part in PARTS:
        with replacing(out / f"{part}.parquet", private=True) as temporary:
            write_manifest(split.parts[part], temporary)
    if split.left_out is None:
        (out / f"{LEFT_OUT}.parquet").unlink(missing_ok=True)  # of another split
    else:
        with replacing(out / f"{LEFT_OUT}.parquet", private=True) as temporary:
            write_manifest(split.left_out, temporary)
    written = {part: read_manifest(out / f"{part}.parquet") for part in PARTS}
    sha256 = split_digest(written)
    if sha256 != split.sha256:
        raise KmedError(f"The parts written to {out} read back otherwise ({sha256}, not {split.sha256}); write again.")
    leakage = count_leaks(written)
    report: SplitReport = {
        **split.report,
        "sha256": sha256,
        "content_sha256": content_digest(written),
        "label": name_leaks(leakage),
        "leakage": leakage,
    }
    write_json(out / "split.json", report)
    return report


def read_split(folder: Path) -> Split:
    """Return the split that `write_split` wrote.

    Raises
    ------
    KmedError
        When a file is missing or unreadable, or the parts are not those that split.json accounts for: other
        utterances, or other texts, speakers, groups, lengths or recordings. The digest of a split from before
        ``content_sha256`` covers the ids only; it is read with a warning.
    """
    report = SPLIT.read(folder / "split.json")
    parts = {part: read_manifest(folder / f"{part}.parquet") for part in PARTS}
    return Split(parts, check_account(folder, report, parts), report)


def check_account(folder: Path, report: SplitReport, parts: Mapping[str, Columns]) -> str:
    """Return the SHA-256 of parts that are those of a folder's split.json.

    Raises
    ------
    KmedError
        When they are not; see `read_split`.
    """
    sha256, content = split_digest(parts), report.get("content_sha256")
    if content is None:
        log.warning(
            f"The split in {folder} is of an earlier release: its digest covers the utterance ids only, so later "
            "changes to texts, speakers or audio go unnoticed. Make it again with `kmed-bench split`, which "
            "gives the same parts from the same manifest."
        )
    if report.get("sha256") != sha256 or content not in (None, content_digest(parts)):
        raise KmedError(
            f"The parts in {folder} are not those that its split.json accounts for (sha256 {sha256}), or their texts, "
            "speakers or recordings were changed; make the split again with `kmed-bench split`, or restore the files."
        )
    return sha256


def read_left_out(folder: Path, split: Split) -> pd.DataFrame:
    """Return the utterances that `write_split` left out, with their cell in the column ``cell``.

    Raises
    ------
    KmedError
        When the file is missing, as beside splits of earlier releases, or is not of this split.
    """
    path = folder / f"{LEFT_OUT}.parquet"
    if not path.is_file():
        raise KmedError(
            f"{path} does not exist: the split was made by an earlier release, or copied without it. Make the split "
            "again from the same manifest with `kmed-bench split`, which gives the same parts and this file."
        )
    left_out = read_manifest(path)
    used = pd.concat([split.parts[part]["utterance_id"] for part in PARTS])
    same = CELL in left_out and (left_out[CELL] == name_cells(left_out, split.parts)).all()
    if not same or left_out["utterance_id"].isin(used).any() or len(left_out) != split.report["discarded"]:
        raise KmedError(f"{path} is not what this split left out; make the split again with `kmed-bench split`.")
    return left_out

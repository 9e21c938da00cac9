"""A split as ids and hashes: without text and audio, so it may be published.

Others apply it to their own copy of the download and get the same three parts.
"""

import hashlib
import unicodedata
from pathlib import Path
from typing import Literal

import pandas as pd

from kmed_bench.core.corpus_contracts import FROZEN_SPLIT, FrozenSplit
from kmed_bench.core.errors import KmedError
from kmed_bench.core.fields import check_fields
from kmed_bench.core.files import parse_json, read_json_text, write_json
from kmed_bench.core.schema import GROUP_FIELDS, PARTS
from kmed_bench.corpus.splitting.split import Split, build_split, sort_manifest

_OLDER_FORMAT = "kmed-bench frozen split 1"  # before `version` was a key of its own


def hash_label(utterance_id: str, speaker_id: str, text: str) -> str:
    """Return 16 hex digits that change when an utterance's label does; the id is its salt."""
    text = " ".join(unicodedata.normalize("NFC", text).split())
    return hashlib.sha256(f"{utterance_id}\n{speaker_id}\n{text}".encode()).hexdigest()[:16]


def freeze_split(split: Split, path: Path, *, hashes: bool = True) -> FrozenSplit:
    """Write a split's ids, label hashes and settings as JSON, and return what was written.

    Parameters
    ----------
    hashes : bool
        Whether each label's hash is written, which reveals changed labels in another copy. A guess at a short
        label can be confirmed by its hash, so a file to be published should hold only ids; one with hashes can be
        opened by its owner only.
    """
    frozen: FrozenSplit = {
        **FROZEN_SPLIT.head,
        "sha256": split.sha256,
        "config": split.report["config"],
        "parts": {part: _hash_rows(split.parts[part], hashes=hashes) for part in PARTS},
    }
    write_json(path, frozen, private=hashes)
    return frozen


def _hash_rows(table: pd.DataFrame, *, hashes: bool = True) -> dict[str, str]:
    """Return each utterance's hash by its id; empty texts for none."""
    if not hashes:
        return dict.fromkeys(table["utterance_id"], "")
    rows = zip(table["utterance_id"], table["speaker_id"], table["text"], strict=True)
    return {utterance: hash_label(utterance, speaker, text) for utterance, speaker, text in rows}


def apply_frozen(path: Path, manifest: pd.DataFrame) -> Split:
    """Return the frozen split's parts as found in another copy of the download.

    The report names the ids that this copy lacks (``missing``, by part) and those whose label reads
    otherwise (``changed``); where both are empty, ``sha256`` equals the frozen one, which is kept as
    ``frozen_sha256``.

    Raises
    ------
    KmedError
        When the file is not a frozen split, or this copy leaves a part without utterances.
    """
    frozen = _read(path)
    table = sort_manifest(manifest)
    parts: dict[str, pd.DataFrame] = {}
    missing: dict[str, list[str]] = {}
    changed: dict[str, list[str]] = {}
    for part in PARTS:
        wanted = frozen["parts"][part]
        parts[part] = table[table["utterance_id"].isin(wanted)].reset_index(drop=True)
        found = _hash_rows(parts[part])
        missing[part] = sorted(wanted.keys() - found.keys())
        changed[part] = sorted(name for name, digest in found.items() if wanted[name] not in ("", digest))
    empty = [part for part in PARTS if not len(parts[part])]
    if empty:
        n = sum(len(frozen["parts"][part]) for part in PARTS)
        n_lost = sum(len(ids) for ids in missing.values())
        lost = [name for part in empty for name in missing[part]] or ["none: the file has no ids for it"]
        raise KmedError(
            f"This manifest of {len(table)} utterances lacks {n_lost} of the {n} in {path}, and none is left for "
            f"{', '.join(empty)}; ingest the same parts of the download that the split was made from (first missing: "
            f"{lost[0]})."
        )
    return build_split(
        table,
        parts,
        frozen["config"],
        {"frozen_sha256": frozen["sha256"], "missing": missing, "changed": changed},
    )


def _read(path: Path) -> FrozenSplit:
    text = read_json_text(path)
    frozen = parse_json(text, path)
    if isinstance(frozen, dict) and frozen.get("format") == _OLDER_FORMAT:
        frozen |= FROZEN_SPLIT.head
    checked = FROZEN_SPLIT.check(frozen, path, text=text)
    grouped = list[Literal[GROUP_FIELDS]]  # type: ignore[valid-type]
    check_fields(checked["config"], {"by": grouped}, f"config of {path}", FROZEN_SPLIT.remedy)
    check_fields(checked["parts"], dict.fromkeys(PARTS, dict[str, str]), f"parts of {path}", FROZEN_SPLIT.remedy)
    return checked

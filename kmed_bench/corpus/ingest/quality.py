"""The quality report: what the labels and their audio came to, in counts and hours.

docs/formats.md describes the keys of ``quality.json``.
"""

import itertools
from collections.abc import Mapping

import numpy as np
import pandas as pd

from kmed_bench.config import DataConfig
from kmed_bench.core.corpus_contracts import QUALITY, QualityReport
from kmed_bench.core.schema import AUDIO_DIGEST, UNKNOWN, WarningKind
from kmed_bench.corpus.ingest.aihub import VOCABULARY
from kmed_bench.text.marks import MARKS_VERSION

FIELDS = ("gender", "age", "dialect", "region", "role", "quality", "release")
PAIRED_FIELDS = ("dialect", "gender", "age", "role", "release")
_EXAMPLES = 5
_DURATION_EDGES = (0, 0.5, 1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 25, 30)
_LENGTH_EDGES = (0, 5, 10, 15, 20, 25, 30, 40, 50, 60, 80, 100, 150, 200, 300)


def describe(
    manifest: pd.DataFrame,
    rows: pd.DataFrame,
    config: DataConfig,
    warnings: Mapping[WarningKind, list[str]],
    roles_left_out: Mapping[str, int],
    files_ignored: Mapping[str, int],
) -> QualityReport:
    """Return the contents of ``quality.json``.

    Parameters
    ----------
    manifest : DataFrame
        The usable utterances.
    rows : DataFrame
        One row per label with its verdict (`reason`, empty when usable) and what was read.
    warnings : mapping
        Kind to ids or details, for what is not a matter of one usable utterance.
    roles_left_out, files_ignored : mapping
        Labels by role and files by suffix that were not read.
    """
    rejected = rows.loc[rows["reason"] != "", ["reason", "stem"]].groupby("reason")["stem"]
    warned = {kind: ids for kind, ids in sorted({**warnings, **_warnings(rows, config)}.items()) if ids}
    hours = manifest["duration_s"] / 3600
    return {
        **QUALITY.head,
        "labels": len(rows),
        "usable": len(manifest),
        "rejected": {str(reason): len(ids) for reason, ids in rejected},
        "warnings": {kind: len(ids) for kind, ids in warned.items()},
        "speakers": int(manifest.loc[~manifest["speaker_id"].isin(UNKNOWN), "speaker_id"].nunique()),
        "sentences": int(manifest["sentence_id"].nunique()),
        "hours": round(float(hours.sum()), 4),
        "by": {field: _counts(manifest[field]) for field in FIELDS},
        "hours_by": {field: _sums(hours, manifest[field]) for field in FIELDS},
        "pairs": {f"{a},{b}": _pairs(manifest, a, b) for a, b in itertools.combinations(PAIRED_FIELDS, 2)},
        "unknown_values": _unknown(manifest),
        "stated": {"length": _stated(rows, "stated_s"), "rate": _stated(rows, "stated_hz")},
        "reject_examples": {str(reason): sorted(ids)[:_EXAMPLES] for reason, ids in rejected},
        "warning_examples": {kind: ids[:_EXAMPLES] for kind, ids in warned.items()},
        "histograms": {
            "duration_s": _histogram(manifest["duration_s"], _DURATION_EDGES),
            "text_chars": _histogram(manifest["text"].str.len(), _LENGTH_EDGES),
        },
        "marks_version": MARKS_VERSION,
        "roles_left_out": dict(sorted(roles_left_out.items())),
        "files_ignored": dict(sorted(files_ignored.items())),
    }


def _warnings(rows: pd.DataFrame, config: DataConfig) -> dict[WarningKind, list[str]]:
    """Return kind to the ids of usable utterances it was found at."""
    usable = rows[rows["reason"] == ""]

    def differs(ours: str, stated: str) -> pd.Series:
        known: pd.Series = usable[stated].abs() < np.inf  # False for NaN
        return known & (usable[ours] != usable[stated])

    tests: dict[WarningKind, pd.Series] = {
        "rate_differs": differs("audio_rate_hz", "stated_hz"),
        "format_differs": differs("audio_channels", "stated_channels") | differs("audio_bits", "stated_bits"),
        "metadata_differs": usable["differs"] != "",
        "length_differs": usable["audio_duration_s"] - usable["stated_s"] > config.truncation_tolerance_s,
        "silent_audio": usable["audio_loudest"] <= config.silence_level,
        "opposite_channels": usable["audio_cancelled"] > 0,
        "same_recording": usable[AUDIO_DIGEST].duplicated(keep=False),
        "clipped_audio": usable["audio_clipped"] > config.clipped_share,
    }
    return {kind: sorted(usable.loc[where, "stem"]) for kind, where in tests.items()}


def _stated(rows: pd.DataFrame, column: str) -> int:
    return int(np.isfinite(rows.loc[rows["reason"] == "", column]).sum())


def _counts(values: pd.Series) -> dict[str, int]:
    counts = values.value_counts().sort_index()
    return {str(value): int(n) for value, n in counts.items()}


def _sums(hours: pd.Series, values: pd.Series) -> dict[str, float]:
    return {str(value): round(float(total), 4) for value, total in hours.groupby(values).sum().items()}


def _pairs(manifest: pd.DataFrame, first: str, second: str) -> dict[str, dict[str, dict[str, float]]]:
    table: dict[str, dict[str, dict[str, float]]] = {}
    for (a, b), durations in manifest.groupby([first, second])["duration_s"]:
        table.setdefault(str(a), {})[str(b)] = {
            "n": len(durations),
            "hours": round(float(durations.sum()) / 3600, 4),
        }
    return table


def _unknown(manifest: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Return values outside the set's known vocabulary: kept in the manifest, and counted here."""
    found = {field: _counts(manifest.loc[~manifest[field].isin(known), field]) for field, known in VOCABULARY.items()}
    return {field: counts for field, counts in found.items() if counts}


def _histogram(values: pd.Series, edges: tuple[float, ...]) -> dict[str, list[float]]:
    """Return bin edges and counts; the last bin is open."""
    counts, _ = np.histogram(values, [*edges, np.inf])
    return {"edges": list(edges), "counts": [int(n) for n in counts]}

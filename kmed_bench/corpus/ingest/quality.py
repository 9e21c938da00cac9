"""The quality report: what the labels and their audio came to, in counts and hours.

docs/formats.md describes the keys of ``quality.json``.
"""

import itertools
from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from kmed_bench.config import DataConfig
from kmed_bench.core.corpus_contracts import QUALITY, QualityReport
from kmed_bench.core.schema import AUDIO_DIGEST, UNKNOWN, WarningKind
from kmed_bench.corpus.ingest.aihub import VOCABULARY
from kmed_bench.text.marks import MARKS_VERSION, resolve_marks
from kmed_bench.text.normalise import normalise

FIELDS = ("gender", "age", "dialect", "region", "role", "quality", "release")
PAIRED_FIELDS = ("dialect", "gender", "age", "role", "release")
_EXAMPLES = 5
_MAX_BINS = 32
_LEAST_WIDTHS = {"duration_s": 1.0, "text_chars": 5.0, "chars_per_s": 0.5, "rate_hz": 1000.0, "speaker_utterances": 1.0}
"""Histogram to the least width of its bins; a wide range has bins of 2, 5, 10, 20 times this, and so on."""


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
    known = manifest[~manifest["speaker_id"].isin(UNKNOWN)]
    return {
        **QUALITY.head,
        "labels": len(rows),
        "usable": len(manifest),
        "rejected": {str(reason): len(ids) for reason, ids in rejected},
        "incomplete": _incomplete(rows),
        "warnings": {kind: len(ids) for kind, ids in warned.items()},
        "speakers": int(known["speaker_id"].nunique()),
        "sentences": int(manifest["sentence_id"].nunique()),
        "hours": round(float(hours.sum()), 4),
        "by": {field: _counts(manifest[field]) for field in FIELDS},
        "hours_by": {field: _sums(hours, manifest[field]) for field in FIELDS},
        "speakers_by": {field: _speakers(known, field) for field in FIELDS},
        "pairs": {f"{a},{b}": _pairs(manifest, a, b) for a, b in itertools.combinations(PAIRED_FIELDS, 2)},
        "unknown_values": _unknown(manifest),
        "stated": {"length": _stated(rows, "stated_s"), "rate": _stated(rows, "stated_hz")},
        "reject_examples": {str(reason): sorted(ids)[:_EXAMPLES] for reason, ids in rejected},
        "warning_examples": {kind: ids[:_EXAMPLES] for kind, ids in warned.items()},
        "histograms": {name: histogram(values, _LEAST_WIDTHS[name]) for name, values in _measures(manifest, known)},
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


def _incomplete(rows: pd.DataFrame) -> dict[str, int]:
    """Return what incomplete labels lack, in this program's words: what follows a colon may quote the label."""
    details = rows.loc[rows["reason"] == "label_incomplete", "detail"]
    return _counts(details.str.partition(":")[0]) if len(details) else {}


def _speakers(known: pd.DataFrame, field: str) -> dict[str, int]:
    return {str(value): int(n) for value, n in known.groupby(field)["speaker_id"].nunique().items()}


def _pairs(manifest: pd.DataFrame, first: str, second: str) -> dict[str, dict[str, dict[str, float]]]:
    table: dict[str, dict[str, dict[str, float]]] = {}
    for (a, b), cell in manifest.groupby([first, second])[["duration_s", "speaker_id"]]:
        table.setdefault(str(a), {})[str(b)] = {
            "n": len(cell),
            "hours": round(float(cell["duration_s"].sum()) / 3600, 4),
            "speakers": int(cell.loc[~cell["speaker_id"].isin(UNKNOWN), "speaker_id"].nunique()),
        }
    return table


def _unknown(manifest: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Return values outside the set's known vocabulary: kept in the manifest, and counted here."""
    found = {field: _counts(manifest.loc[~manifest[field].isin(known), field]) for field, known in VOCABULARY.items()}
    return {field: counts for field, counts in found.items() if counts}


def _measures(manifest: pd.DataFrame, known: pd.DataFrame) -> Iterator[tuple[str, pd.Series]]:
    """Yield what has a histogram: a value for each usable utterance, and at the end one for each known speaker."""
    # As CER counts them: what was said, without spaces and punctuation.
    said = {text: len(normalise(resolve_marks(text, "pronunciation"))) for text in manifest["text"].unique()}
    yield "duration_s", manifest["duration_s"]
    yield "text_chars", manifest["text"].str.len()
    lasting = manifest[manifest["duration_s"] > 0]
    yield "chars_per_s", lasting["text"].map(said).astype(float) / lasting["duration_s"]
    yield "rate_hz", manifest["rate_hz"]
    yield "speaker_utterances", known["speaker_id"].value_counts()


def histogram(values: pd.Series, least_width: float) -> dict[str, list[float]]:
    """Return the counts of bins of one width, and their edges, one more than the bins.

    A bin holds its lower edge and not its upper one. The width is ``least_width`` times 1, 2, 5, 10, 20 or so on, the
    least that needs no more than 32 bins; edges are multiples of it.
    """
    if not len(values):
        return {"edges": [], "counts": []}
    low, high = float(values.min()), float(values.max())
    widths = (least_width * step * 10**power for power in itertools.count() for step in (1, 2, 5))
    width = next(width for width in widths if high // width - low // width < _MAX_BINS)
    edges = width * np.arange(low // width, high // width + 2)
    counts, _ = np.histogram(values, edges)
    return {"edges": [float(edge) for edge in edges], "counts": [int(n) for n in counts]}

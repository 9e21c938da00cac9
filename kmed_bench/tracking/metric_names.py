"""Names of metrics in the tracking store."""

import hashlib
import re
import statistics
import unicodedata
from collections import defaultdict

from kmed_bench.core.contracts import Scores
from kmed_bench.core.corpus_contracts import QualityReport, SplitReport
from kmed_bench.core.records import BenchRecord, TrainRecord
from kmed_bench.core.run_contracts import Leak
from kmed_bench.core.schema import SCORE_FIELDS

# Metric keys must be ASCII in some tracking backends; these are the romanised values of 208.
ASCII_VALUES = {
    "경기/서울": "gyeonggi-seoul",
    "경상": "gyeongsang",
    "충청": "chungcheong",
    "전라": "jeolla",
    "강원": "gangwon",
    "제주": "jeju",
    "기타(외국)": "other-foreign",
    "N/A": "N-A",
    "": "unknown",
}
_AGE_BAND = re.compile(r"\d+~\d+")
_PLAIN = re.compile(r"[A-Za-z0-9_.-]{1,100}")
_MADE_HERE = re.compile(r"\.+|\d+-\d+|.*-[0-9a-f]{8}|" + "|".join(ASCII_VALUES.values()))
"""Plain values that could be taken for the name made of another value, or for a folder."""
_MAX_LETTERS = 60
_SUMMARIES = {"test_cer": "test/cer", "untouched_test_cer": "untouched/test_cer", "valid_cer": "best/valid_cer"}
MAX_SHARE_DEVIATION = "split/max_share_deviation"
"""Metric of a split run: the largest difference between a part's share and the corpus's, a fraction."""
_ENDS = {"": "gain", "_low": "gain_low", "_high": "gain_high"}


def overall_metrics(scores: Scores, prefix: str) -> dict[str, float]:
    """Return every number in the scores' overall part as ``<prefix><name>``; those that are None are left out."""
    return {
        f"{prefix}{name}": float(value)
        for name, value in scores["overall"].items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def score_metrics(scores: Scores, prefix: str) -> dict[str, float]:
    """Return the overall part as ``<prefix><name>``, and CER by group as ``<prefix>cer/<field>/<ascii value>``."""
    metrics = overall_metrics(scores, prefix)
    for field in SCORE_FIELDS:
        for value, cell in scores["groups"].get(field, {}).items():
            if cell["cer"] is not None:
                metrics[f"{prefix}cer/{field}/{ascii_value(value)}"] = cell["cer"]
    return metrics


def leak_metrics(leak: Leak) -> dict[str, float]:
    """Return CER and gain by cell of the split's design, and the differences of gains, as ``leak/…``."""
    values: dict[str, float | None] = {}
    for cell, row in leak["cells"].items():
        values |= {f"cer/{cell}": row["tuned"]["cer"], f"gain/{cell}": row["gain"]}
        if row["untouched"] is not None:
            values[f"untouched_cer/{cell}"] = row["untouched"]["cer"]
    for name, difference in leak["differences"].items():
        values |= {f"difference/{name}{end}": difference[key] for end, key in _ENDS.items()}  # type: ignore[literal-required]
    return {f"leak/{name}": value for name, value in values.items() if value is not None}


def ingest_metrics(quality: QualityReport) -> dict[str, float]:
    """Return the results of an ingest as ``ingest/…``: labels, usable and rejected ones by reason, speakers, hours."""
    names = ("labels", "usable", "speakers", "sentences", "hours")
    metrics = {f"ingest/{name}": float(quality[name]) for name in names}  # type: ignore[literal-required]
    metrics["ingest/rejected"] = float(sum(quality["rejected"].values()))
    metrics |= {f"ingest/rejected/{reason}": float(n) for reason, n in quality["rejected"].items()}
    return metrics | {f"ingest/warnings/{kind}": float(n) for kind, n in quality["warnings"].items()}


def split_metrics(report: SplitReport) -> dict[str, float]:
    """Return a split's account as ``split/…``: clips by part, what was left out, what the parts share."""
    metrics = {f"split/{part}_clips": float(n) for part, n in report["counts"].items()}
    metrics |= {f"split/shared/{kind}": float(n) for kind, n in report["leakage"].items()}
    metrics["split/discarded"] = float(report["discarded"])
    return metrics | {MAX_SHARE_DEVIATION: float(report["max_share_deviation"])}


def bench_metrics(record: BenchRecord) -> dict[str, float]:
    """Return what sums up a benchmark: its number of trainings, and means over seeds as ``<size>/<metric>``."""
    finished = [train for train in record.trains if train.status == "FINISHED"]
    metrics = {
        "bench/trainings": float(len(record.trains)),
        "bench/finished": float(len(finished)),
        "bench/skipped_sizes": float(len(record.skipped)),
    }
    by_size: dict[str, list[TrainRecord]] = defaultdict(list)
    for train in finished:
        by_size[train.size].append(train)
    for size, trains in by_size.items():
        for short, name in _SUMMARIES.items():
            values = [train.metrics[name] for train in trains if name in train.metrics]
            if values:
                metrics[f"{size}/{short}"] = statistics.fmean(values)
        metrics[f"{size}/seeds"] = float(len(trains))
    return metrics


def ascii_value(value: str) -> str:
    """Return a different name for each value of a group, in ASCII characters that MLflow allows in metric names.

    Values of 208 and plain ASCII stay readable. In all others Hangul is romanised, the rest becomes ``-``, and eight
    digits of the value's SHA-256 keep 경상/부산 apart from 경상-부산; the name doesn't depend on the other values.
    """
    if value in ASCII_VALUES:
        return ASCII_VALUES[value]
    if _AGE_BAND.fullmatch(value):
        return value.replace("~", "-")
    if _PLAIN.fullmatch(value) and not _MADE_HERE.fullmatch(value):
        return value
    letters = "".join(map(_romanise, unicodedata.normalize("NFC", value)))
    return f"{letters[:_MAX_LETTERS]}-{hashlib.sha256(value.encode()).hexdigest()[:8]}"


def _romanise(character: str) -> str:
    """Return an ASCII character, the Latin letters of a Hangul syllable (in its Unicode name), or a hyphen."""
    if _PLAIN.fullmatch(character):
        return character
    kind, _, letters = unicodedata.name(character, "").rpartition(" ")
    return letters.lower() if kind == "HANGUL SYLLABLE" else "-"

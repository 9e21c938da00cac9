"""Names of metrics in the tracking store."""

from kmed_bench.core.contracts import Scores
from kmed_bench.core.schema import GROUP_FIELDS

# Metric keys must be ASCII in some tracking backends; these are the romanised values of 208.
ASCII_VALUES = {
    "경기/서울": "gyeonggi-seoul",
    "경상": "gyeongsang",
    "충청": "chungcheong",
    "전라": "jeolla",
    "강원": "gangwon",
    "제주": "jeju",
    "기타(외국)": "other-foreign",
}


def overall_metrics(scores: Scores, prefix: str) -> dict[str, float]:
    """Return every number in the scores' overall part as ``<prefix><name>``; those that are None are left out."""
    return {
        f"{prefix}{name}": float(value)
        for name, value in scores["overall"].items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def test_metrics(scores: Scores) -> dict[str, float]:
    """Return the metrics ``test/…``: the overall part, and CER by group as ``test/cer/<field>/<ascii value>``."""
    metrics = overall_metrics(scores, "test/")
    for field in GROUP_FIELDS:
        for value, cell in scores["groups"].get(field, {}).items():
            if cell["cer"] is not None:
                metrics[f"test/cer/{field}/{ascii_value(value)}"] = cell["cer"]
    return metrics


def ascii_value(value: str) -> str:
    """Return a group's value in characters that MLflow allows in metric names."""
    name = ASCII_VALUES.get(value, value)
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "-" for c in name) or "unknown"

"""What the JSON files of the corpus hold, as types; docs/formats.md describes each key."""

from typing import Any, NotRequired, TypedDict

from kmed_bench.core.formats import FileFormat, Head

DATA_PAGE = "data.html"
"""Name of the page on a corpus, beside its manifest."""


class QualityReport(Head):
    """Content of quality.json."""

    labels: int
    usable: int
    rejected: dict[str, int]
    incomplete: NotRequired[dict[str, int]]
    warnings: dict[str, int]
    speakers: int
    sentences: int
    hours: float
    by: dict[str, dict[str, int]]
    hours_by: dict[str, dict[str, float]]
    speakers_by: NotRequired[dict[str, dict[str, int]]]
    pairs: dict[str, dict[str, dict[str, dict[str, float]]]]
    unknown_values: dict[str, dict[str, int]]
    stated: dict[str, int]
    reject_examples: dict[str, list[str]]
    warning_examples: dict[str, list[str]]
    histograms: dict[str, dict[str, list[float]]]
    marks_version: str
    roles_left_out: dict[str, int]
    files_ignored: dict[str, int]


class SplitPower(TypedDict):
    """The smallest difference in CER that a part can show with its speakers; fractions, None where none can be shown.

    ``deviations`` are the assumed standard deviations of a paired difference, and ``source`` is where they come from.
    """

    part: str
    n_clips: int
    n_speakers: int
    smallest_difference: float | None
    power: float
    level: float
    deviations: dict[str, float]
    source: str


class SplitDetails(TypedDict):
    """Entries of split.json that depend on how the split was made: drawn, or frozen and applied."""

    method: NotRequired[str]
    discarded_because: NotRequired[dict[str, int]]
    left_out: NotRequired[dict[str, int]]
    merged_strata: NotRequired[list[str]]
    frozen_sha256: NotRequired[str]
    missing: NotRequired[dict[str, list[str]]]
    changed: NotRequired[dict[str, list[str]]]
    power: NotRequired[SplitPower]


class SplitReport(Head, SplitDetails):
    """Content of split.json."""

    sha256: str
    content_sha256: NotRequired[str]
    label: str
    corpus: int
    counts: dict[str, int]
    parts: dict[str, dict[str, float]]
    discarded: int
    leakage: dict[str, int]
    doubts: NotRequired[dict[str, int]]
    max_share_deviation: NotRequired[float]
    share_deviation: dict[str, float]
    shares: dict[str, dict[str, dict[str, float]]]
    distance: dict[str, dict[str, dict[str, float]]]
    config: dict[str, Any]


class FrozenSplit(Head):
    """Content of a frozen split's file."""

    sha256: str
    config: dict[str, Any]
    parts: dict[str, dict[str, str]]


QUALITY = FileFormat[QualityReport](
    "kmed-quality", version=1, oldest=0, remedy="write it again with `kmed-bench ingest`"
)
SPLIT = FileFormat[SplitReport](
    "kmed-split",
    version=2,
    oldest=0,
    remedy="make the split again with `kmed-bench split`",
    fields={"sha256": str, "counts": dict[str, int]},
)
FROZEN_SPLIT = FileFormat[FrozenSplit](
    "kmed-frozen-split",
    version=1,
    oldest=1,
    remedy="export one with `kmed-bench split --freeze FILE`",
    fields={"sha256": str, "config": dict[str, Any], "parts": dict[str, dict[str, str]]},
)

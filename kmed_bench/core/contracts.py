"""What scores and comparisons hold as JSON, as types; at runtime they are plain dictionaries.

A rate is a fraction, and None where its denominator is zero.
"""

from typing import Any, Literal, NotRequired, TypedDict

from kmed_bench.core.formats import FileFormat, Head


class RuleVersions(TypedDict):
    """Versions of the rules that decide what is counted."""

    normaliser_version: str
    marks_version: str
    numbers_version: str
    terms_version: str
    variants_version: str


class CerCell(TypedDict):
    """CER of some clips with its 95 % interval; fractions, None where undefined."""

    cer: float | None
    cer_low: float | None
    cer_high: float | None
    n_clips: int
    n_speakers: int


class ScoreCell(CerCell):
    """One cell of scores.json; beside these keys it has every rate of ``scoring.measures.MEASURES`` by name.

    ``no_interval`` has the reason for each rate whose interval is None.
    """

    below_minimum: bool
    no_interval: dict[str, str]


class SideRates(TypedDict):
    """Main rates on one side of the dual notation; fractions, None where undefined."""

    cer: float | None
    cer_low: float | None
    cer_high: float | None
    wer: float | None
    cer_number: float | None
    number_exact: float | None


class SideScores(Head):
    """Content of sides.json: both sides of the notation, how many hypotheses hold digits, and a hint or none."""

    pronunciation: SideRates
    spelling: SideRates
    n_with_digits: int
    hint: str


class ElderlyGap(TypedDict):
    """CER of speakers aged 60 and over minus that of the rest."""

    cer_gap: float | None
    cer_gap_low: float | None
    cer_gap_high: float | None
    no_interval: str
    below_minimum: bool
    n_unknown_age: int
    elderly: CerCell
    rest: CerCell


class _Sides(TypedDict):
    """Who is compared with whom, on how many clips and speakers, and the test of the difference.

    The p-values are None where either side is below the minimum.
    """

    field: str
    group: str
    against: str
    below_minimum: bool
    n_clips_group: int
    n_speakers_group: int
    n_clips_against: int
    n_speakers_against: int
    no_interval: str
    p_value: float | None
    p_holm: float | None


class GroupGap(_Sides):
    """CER of a group minus that of the others."""

    cer_group: float | None
    cer_against: float | None
    cer_gap: float | None
    cer_gap_low: float | None
    cer_gap_high: float | None


class BenefitGap(_Sides):
    """The gain of fine-tuning for a group minus that for the others; a gain above 0 means fewer errors."""

    benefit_group: float | None
    benefit_against: float | None
    difference: float | None
    difference_low: float | None
    difference_high: float | None


class NamedGap(GroupGap):
    """A gap of a fine-tuned size; ``p_holm`` is corrected over all groups and sizes."""

    size: str


class NamedBenefit(BenefitGap):
    """A difference in benefit of a size; ``p_holm`` is corrected over all groups and sizes."""

    size: str


class SeedsMean(TypedDict):
    """CER of a fine-tuned size, averaged over seeds; ``seed_sd`` is None with one seed."""

    size: str
    seeds: list[int]
    cer: float | None
    cer_low: float | None
    cer_high: float | None
    no_interval: str
    seed_sd: float | None
    note: str
    n_clips: int
    n_speakers: int


class SpeakerSpread(TypedDict):
    """Quantiles of the speakers' CER by the percentage of speakers, such as ``"90"``."""

    n_speakers: int
    cer_quantiles: dict[str, float]


class MarginVerdict(TypedDict):
    """Whether two systems are equivalent, and whether the second is not worse, within a margin."""

    margin: float
    verdict: str
    equivalent: bool
    non_inferior: bool
    p_equivalence: float
    p_non_inferiority: float
    level: float


class TermRecall(TypedDict):
    """Medical terms of one category."""

    n_terms: int
    n_found: int
    n_missed: int
    recall: float | None
    recall_low: float | None
    recall_high: float | None
    no_interval: NotRequired[str]


class NumberCounts(TypedDict):
    """Numbers of the references; an ambiguous one can be read in several ways and is found by any of them.

    ``n_unread`` are number words before a unit that no rule can read; they are not among ``n_numbers``.
    """

    n_numbers: int
    n_found: int
    n_ambiguous: int
    n_unread: NotRequired[int]


class DecodingTimes(TypedDict):
    """Seconds of audio and of decoding; None where no time is known."""

    audio_s: float
    decode_s: float | None
    rtfx: float | None
    decode_s_p50: float | None
    decode_s_p95: float | None


class JoinedReferences(TypedDict):
    """How hypotheses without references were joined with a split."""

    part: NotRequired[str]
    references: str
    missing_counted_as_empty: int
    unknown_left_out: int


class Comparison(RuleVersions):
    """Paired difference ``b - a`` of one measure, with interval and p-value."""

    metric: str
    better: str
    a: float | None
    b: float | None
    delta: float | None
    delta_low: float | None
    delta_high: float | None
    no_interval: str
    p_value: float
    p_value_floor: float
    test: str
    interval: dict[str, str | float]
    draws: int
    n_clips: int
    n_speakers: int
    n_excluded: int
    transcript_policy: str
    margin: NotRequired[MarginVerdict]


class BaselineComparison(Comparison):
    """A new system (b) against a baseline (a); ``p_holm`` is corrected over the baselines."""

    baseline: str
    p_holm: float


class NamedComparison(Comparison):
    """Two systems of one benchmark; ``p_holm`` is corrected over the pairs compared."""

    a_name: str
    b_name: str
    p_holm: float


class Comparisons(Head):
    """Content of comparisons.json."""

    comparisons: list[NamedComparison] | list[BaselineComparison]
    gaps: NotRequired[list[NamedGap]]
    benefits: NotRequired[list[NamedBenefit]]
    seeds: NotRequired[list[SeedsMean]]


class Scores(Head, RuleVersions):
    """Content of scores.json."""

    overall: ScoreCell
    groups: dict[str, dict[str, ScoreCell]]
    elderly_gap: ElderlyGap
    gaps: NotRequired[list[GroupGap]]
    speakers: NotRequired[SpeakerSpread]
    terms: dict[str, TermRecall]
    numbers: NotRequired[NumberCounts]
    decode: DecodingTimes
    n_predictions: int
    n_excluded: dict[str, int]
    transcript_policy: str
    split_sha256: str | None
    interval: dict[str, str | float]
    minimum: dict[str, int]


class EvaluatedScores(Scores):
    """Content of scores.json as `evaluate` and `score` write it: also what decoded, and how references were found."""

    part: NotRequired[str]
    audio_context: NotRequired[str]
    runtime: NotRequired[dict[str, Any]]
    speed: NotRequired[dict[str, Any]]
    joined: NotRequired[JoinedReferences]
    comparisons: NotRequired[list[BaselineComparison]]
    made_of: NotRequired[str]


class PackageHead(Head, RuleVersions):
    """Content of package.json."""

    part: str
    n_utterances: int
    references_sha256: str
    transcript_policy: str
    split: dict[str, Any]
    columns: list[str]
    files_sha256: dict[str, str]
    scores: dict[str, Scores]
    made_of: str


SCORES = FileFormat[Scores]("kmed-scores", version=2, oldest=0, remedy="write it again with `kmed-bench score`")
SIDES = FileFormat[SideScores]("kmed-sides", version=1, oldest=1, remedy="write it again with `kmed-bench score`")
COMPARISONS = FileFormat[Comparisons](
    "kmed-comparisons", version=2, oldest=0, remedy="write it again with `kmed-bench score --against`"
)
PACKAGE = FileFormat[PackageHead](
    "kmed-package",
    version=5,
    oldest=3,
    remedy="make the package again with `kmed-bench package`",
    fields={
        "part": Literal["train", "valid", "test"],
        "n_utterances": int,
        "references_sha256": str,
        "transcript_policy": Literal["pronunciation", "spelling"],
        "split": dict[str, Any],
        "columns": list[str],
        "files_sha256": dict[str, str],
        "scores": dict[str, dict[str, Any]],
    },
)

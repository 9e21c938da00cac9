"""What an error analysis holds as JSON, as types; at runtime they are plain dictionaries."""

from typing import TypedDict

from kmed_bench.core.contracts import RuleVersions, ScoreCell, TermRecall
from kmed_bench.core.formats import FileFormat, Head


class PageContents(TypedDict):
    """What an error page holds of the clips and of their recordings, and what its size left out.

    ``recordings`` is None where none were asked for; ``needed_mib`` is the size that would take all, None where all
    that can be read is there.
    """

    clips: int
    clips_left_out: int
    recordings: int | None
    recordings_unreadable: int
    recordings_left_out: int
    audio_s: float
    audio_form: str
    audio_mib_per_minute: float
    needed_mib: int | None


class ErrorOverview(Head, RuleVersions):
    """What an error analysis found, in figures."""

    notice: str
    name: str
    overall: ScoreCell
    terms: dict[str, TermRecall]
    n_excluded: dict[str, int]
    substitutions: int
    deletions: int
    insertions: int
    n_perfect_clips: int
    n_hallucinated_clips: int
    hallucination_signs: dict[str, int]
    worst_tenth_share_of_errors: float | None
    transcript_policy: str
    beside: str | None


class ErrorSummary(ErrorOverview):
    """Content of summary.json, beside the tables of an error analysis."""

    page: PageContents


ERROR_SUMMARY = FileFormat[ErrorSummary](
    "kmed-error-summary", version=2, oldest=2, remedy="write it again with `kmed-bench errors`"
)

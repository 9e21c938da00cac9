"""What the other JSON files of runs hold, as types: plan, leak, the gate's decision, a study, a bundle, a passport."""

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from annotated_types import Len

from kmed_bench.core.contracts import CerCell, Comparison, RuleVersions
from kmed_bench.core.formats import FileFormat, Head


class LeakDifference(TypedDict):
    """A gain in CER (positive: fewer errors), or the difference of two gains; None where undefined."""

    gain: float | None
    gain_low: float | None
    gain_high: float | None
    no_interval: str


class LeakCer(CerCell):
    """CER of a cell of the split's design, with the reason where it has no interval; older files have no reason."""

    no_interval: NotRequired[str]


class LeakCell(LeakDifference):
    """One cell of the split's design; ``untouched`` is None where only one model was decoded."""

    tuned: LeakCer
    untouched: LeakCer | None
    n_available: int
    n_decoded: int


class Leak(Head, RuleVersions):
    """Content of leak.json."""

    cells: dict[str, LeakCell]
    differences: dict[str, LeakDifference]
    left_out: dict[str, int]
    sample: dict[str, int]
    split_sha256: str
    transcript_policy: str


class Plan(Head):
    """Content of plan.json; ``sha256`` is of ``settings``, which has everything that decides the figures."""

    sha256: str
    sealed_at: str
    code_version: str
    settings: dict[str, str]


class UntouchedResults(Head):
    """Content of untouched.json: metrics of the valid part by name, and the number of left-out clips decoded.

    ``identity`` is of all that decides them.
    """

    identity: str
    valid: dict[str, float]
    left_out: int


class SpeakerErrors(Head):
    """Content of speaker_errors.json: columns of sums by speaker, sentence and group, no ids and no texts."""

    split_sha256: str
    transcript_policy: str
    normaliser_version: str
    marks_version: str
    speakers: dict[str, list[Any]]


Outcome = Literal["better", "no evidence", "kept untouched", "worse"]


class WorsePart(TypedDict):
    """What got worse by its figure: a measure, or the CER of a group; ``shown``: by more than chance."""

    what: str
    delta: float
    p_value: float
    n_speakers: int
    shown: bool


class SpeakerCers(TypedDict):
    """CER of each speaker of the test part, from the lowest untouched one; no ids.

    Files of earlier releases have no ``n_characters``.
    """

    untouched: list[float]
    tuned: list[float]
    n_clips: list[int]
    n_characters: NotRequired[list[int]]


class Verdict(Head):
    """Content of verdict.json: what fine-tuning changed, and whether the fine-tuned model is recommended."""

    outcome: Outcome
    recommended: bool
    level: float
    valid_untouched: float
    valid_tuned: float
    cer: Comparison
    worse: list[WorsePart]
    speakers: SpeakerCers


class GateCheck(TypedDict):
    """One condition of the gate; ``passed`` is None where it could not be judged."""

    passed: bool | None
    text: str
    figures: dict[str, Any]


class GateDecision(TypedDict):
    """What `promote` decided and did; no file, so without a format: its checks are kept as tags of the version.

    ``notified`` has ``done`` or why it failed for ``command`` and ``webhook``, where one is set.
    """

    name: str
    version: str
    champion: str | None
    passed: bool
    forced: bool
    promoted: bool
    reasons: list[str]
    checks: dict[str, GateCheck]
    notified: NotRequired[dict[str, str]]


class StudyFile(Head):
    """Content of study.json: the fields of a `StudyRecord`, and name, alt and caption of each figure."""

    study: dict[str, Any]
    figures: list[dict[str, str]]


class RunRecord(TypedDict):
    """A run as a bundle holds it: as MLflow has it, without what stays behind.

    ``metrics`` are [step, value, milliseconds since 1970], where the value of what is no number is None; ``artifacts``
    are JSON contents by name.
    """

    id: str
    parent: str
    name: str
    status: str
    start_ms: int
    end_ms: int
    params: dict[str, str]
    tags: dict[str, str]
    metrics: dict[str, list[tuple[int, float | None, int]]]
    artifacts: dict[str, Any]


class BundleHead(Head):
    """Content of a bundle's bundle.json; ``files`` has the SHA-256 of each other member."""

    code_version: str
    minimum_speakers: int
    groups_left_out: int
    runs: list[RunRecord]
    files: dict[str, str]


class PassportResults(TypedDict):
    """Figures of the test part: rates are fractions, None where undefined."""

    overall: CerCell | None
    untouched_cer: float | None
    groups: dict[str, dict[str, CerCell]]
    groups_left_out: int
    minimum: dict[str, int]
    transcript_policy: str


class Passport(Head):
    """Content of passport.json, which says what a model's files are and where they come from.

    ``files`` has the SHA-256 of each file beside it; ``model_code_sha256`` is of the Python file by which MLflow loads
    the model, None for an export. ``sha256`` is of all but itself and ``signature``; see `core.signatures`. ``export``
    is None for a model that training wrote.
    """

    name: str
    size: str
    language: str
    run_id: str
    made_at: str
    code_version: str
    lock_sha256: str | None
    files: dict[str, str]
    model_code_sha256: str | None
    origin: dict[str, str]
    split: dict[str, Any]
    rules: dict[str, str]
    results: PassportResults
    speed: dict[str, float]
    data: dict[str, Any]
    training: dict[str, str]
    limits: list[str]
    export: dict[str, Any] | None
    sha256: str
    signature: dict[str, str] | None


LEAK = FileFormat[Leak]("kmed-leak", version=1, oldest=1, remedy="decode again with eval.leak_clips")
PLAN = FileFormat[Plan](
    "kmed-plan",
    version=1,
    oldest=1,
    remedy="start the benchmark again in another folder",
    fields={"sha256": str, "sealed_at": str, "code_version": str, "settings": dict[str, str]},
)
SPEAKER_ERRORS = FileFormat[SpeakerErrors](
    "kmed-speaker-errors", version=2, oldest=0, remedy="train the version again with this release"
)
VERDICT = FileFormat[Verdict](
    "kmed-verdict",
    version=1,
    oldest=1,
    remedy="train again with this release",
    fields={
        "outcome": Literal["better", "no evidence", "kept untouched", "worse"],
        "recommended": bool,
        "level": float,
        "valid_untouched": float,
        "valid_tuned": float,
        "cer": dict[str, Any],
        "worse": list[dict[str, Any]],
        "speakers": dict[str, list[Any]],
    },
)
UNTOUCHED = FileFormat[UntouchedResults](
    "kmed-untouched",
    version=1,
    oldest=1,
    remedy="delete it, and the untouched model is scored again",
    fields={"identity": str, "valid": dict[str, float], "left_out": int},
)
STUDY = FileFormat[StudyFile](
    "kmed-study",
    version=1,
    oldest=1,
    remedy="run the same `kmed-bench tune` again, which rewrites it",
    fields={"study": dict[str, Any], "figures": list[dict[str, str]]},
)
RUN_FIELDS: dict[str, Any] = {
    "id": str,
    "parent": str,
    "name": str,
    "status": Literal["FINISHED", "FAILED", "KILLED"],
    "start_ms": int,
    "end_ms": int,
    "params": dict[str, str],
    "tags": dict[str, str],
    "metrics": dict[str, list[Annotated[list[float | None], Len(3, 3)]]],
    "artifacts": dict[str, dict[str, Any]],
}
BUNDLE = FileFormat[BundleHead](
    "kmed-bundle",
    version=1,
    oldest=1,
    remedy="make it again with `kmed-bench bundle`",
    fields={"code_version": str, "runs": list[dict[str, Any]], "files": dict[str, str]},
)
PASSPORT = FileFormat[Passport](
    "kmed-passport",
    version=1,
    oldest=1,
    remedy="register or export the model again",
    fields={
        "name": str,
        "run_id": str,
        "made_at": str,
        "code_version": str,
        "files": dict[str, str],
        "model_code_sha256": str | None,
        "split": dict[str, Any],
        "results": dict[str, Any],
        "data": dict[str, Any],
        "limits": list[str],
        "sha256": str,
        "signature": dict[str, str] | None,
    },
)

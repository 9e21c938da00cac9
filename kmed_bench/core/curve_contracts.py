"""What `curve` writes as JSON, as types; at runtime they are plain dictionaries. Rates are fractions."""

from typing import Any, TypedDict

from kmed_bench.core.contracts import RuleVersions
from kmed_bench.core.formats import FileFormat, Head


class CurveRate(TypedDict):
    """A CER with its 95 % interval; without one, ``cer_reason`` says why."""

    cer: float
    cer_low: float | None
    cer_high: float | None
    cer_reason: str


class CurveTraining(TypedDict):
    """One training on one subset; ``reused`` if another command had trained the same."""

    fraction: float
    draw: int
    seed: int
    hours: float
    n_speakers: int
    n_clips: int
    cer: float
    best_epoch: int
    run_id: str
    reused: bool


class CurveAmount(CurveRate):
    """The trainings on one amount: means over them, and the difference from the untouched model.

    ``outcome`` is ``better`` or ``worse`` where the difference is shown after Holm's correction over all amounts.
    """

    fraction: float
    hours: float
    n_speakers: float
    n_clips: float
    n_trainings: int
    delta: float
    delta_low: float | None
    delta_high: float | None
    delta_reason: str
    p_holm: float
    outcome: str


class CurveParameter(TypedDict):
    """A parameter of the fit with its 95 % interval; no bounds where the bootstrap gives none."""

    value: float
    low: float | None
    high: float | None


class CurveFit(TypedDict):
    """The power law ``scale * hours**-exponent + floor``; ``line`` has hours, cer, low and high along it.

    ``reason`` says why there is no interval; ``falls`` whether CER is shown to fall from the smallest to the largest
    amount.
    """

    with_floor: bool
    scale: CurveParameter
    exponent: CurveParameter
    floor: CurveParameter
    reason: str
    falls: bool
    draws: int
    line: list[dict[str, float | None]]


class CurveExtension(TypedDict):
    """The fit beyond the largest amount, with the ``line`` to it; or in ``reason`` why it is not extended."""

    factor: float
    hours: float
    cer: float | None
    low: float | None
    high: float | None
    reason: str
    line: list[dict[str, float | None]]


class CurveResults(TypedDict):
    """What the predictions of all trainings give."""

    untouched: CurveRate
    amounts: list[CurveAmount]
    trainings: list[CurveTraining]
    fit: CurveFit | None
    no_fit: str
    extension: CurveExtension
    n_clips: int
    n_speakers: int


class LearningCurve(Head, RuleVersions, CurveResults):
    """Content of curve.json."""

    size: str
    part: str
    split_sha256: str
    synthetic: bool
    transcript_policy: str
    epochs: int
    repeated: list[str]
    run_id: str


CURVE = FileFormat[LearningCurve](
    "kmed-curve",
    version=1,
    oldest=1,
    remedy="run the same `kmed-bench curve` again, which rewrites it",
    fields={
        "size": str,
        "part": str,
        "untouched": dict[str, Any],
        "amounts": list[dict[str, Any]],
        "trainings": list[dict[str, Any]],
        "fit": dict[str, Any] | None,
        "extension": dict[str, Any],
    },
)

"""A learning curve's record, made by hand, for the tests of its page."""

from typing import Any, cast

from kmed_bench.core.curve_contracts import CURVE, CurveAmount, CurveTraining, LearningCurve


def make_curve(outcomes: tuple[str, ...] = ("not shown", "better"), **changes: Any) -> LearningCurve:
    """A curve of two amounts, 0.5 h and 1 h, with a plain power law that is extended to 2 h."""
    rate = {"cer": 0.2, "cer_low": 0.15, "cer_high": 0.25, "cer_reason": ""}
    delta = {"delta": -0.1, "delta_low": -0.2, "delta_high": -0.01, "delta_reason": "", "p_holm": 0.01}
    amounts = [
        {
            **rate, **delta, "fraction": hours, "hours": hours, "n_speakers": 4.0, "n_clips": 9.0, "n_trainings": 1,
            "outcome": outcome,
        }
        for hours, outcome in zip((0.5, 1.0), outcomes, strict=True)
    ]  # fmt: skip
    trainings = [
        {
            "fraction": hours, "draw": 0, "seed": 0, "hours": hours, "n_speakers": 4, "n_clips": 9, "cer": 0.2,
            "best_epoch": 1, "run_id": "r", "reused": hours == 1,
        }
        for hours in (0.5, 1.0)
    ]  # fmt: skip
    line = [{"hours": hours, "cer": 0.2, "low": 0.1, "high": 0.3} for hours in (0.5, 1.0, 2.0)]
    one = {"value": 0.2, "low": 0.1, "high": 0.3}
    content = {
        **CURVE.head, "untouched": {**rate, "cer": 0.3}, "amounts": cast(list[CurveAmount], amounts),
        "trainings": cast(list[CurveTraining], trainings), "no_fit": "", "n_clips": 9, "n_speakers": 4,
        "fit": {"with_floor": False, "scale": one, "exponent": one, "floor": {**one, "value": 0.0}, "reason": "",
                "falls": True, "draws": 2000, "line": line[:2]},
        "extension": {"factor": 2.0, "hours": 2.0, "cer": 0.18, "low": 0.1, "high": 0.2, "reason": "",
                      "line": line[2:]},
        "size": "base", "part": "valid", "split_sha256": "s", "synthetic": False, "epochs": 3, "repeated": [],
        "transcript_policy": "pronunciation", "run_id": "p",
    }  # fmt: skip
    return cast(LearningCurve, content | changes)

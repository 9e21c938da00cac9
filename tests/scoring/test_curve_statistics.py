"""Learning curves of made-up errors: figures by hand, what is shown, and when the fit is not extended."""

import numpy as np
import pandas as pd
import pytest

from kmed_bench.core.curve_contracts import CurveResults, CurveTraining
from kmed_bench.core.errors import KmedError
from kmed_bench.scoring import ScoringOptions
from kmed_bench.scoring.learning_curve import trace_curve

OPTIONS = ScoringOptions(bootstrap_draws=200)
LENGTH = 50


def count(rate: float, noise: int, *, n_speakers: int = 12, n_clips: int = 10) -> pd.DataFrame:
    """Counts of clips of 50 characters, whose speakers differ by up to a fifth in every model."""
    generator, n = np.random.default_rng(noise), n_speakers * n_clips
    speaker = np.arange(n) % n_speakers
    hard = np.random.default_rng(99).uniform(0.8, 1.2, n_speakers)[speaker]
    return pd.DataFrame(
        {
            "utterance_id": [f"u{i:03d}" for i in range(n)],
            "speaker_id": [f"s{i}" for i in speaker],
            "excluded": "",
            "reference": 0,
            "sentence": np.arange(n),
            "cer_length": LENGTH,
            "cer_errors": generator.binomial(LENGTH, np.clip(rate * hard, 0, 1)),
        }
    )


def training(fraction: float, *, draw: int = 0, seed: int = 0) -> CurveTraining:
    return {
        "fraction": fraction, "draw": draw, "seed": seed, "hours": 8 * fraction, "n_speakers": round(40 * fraction),
        "n_clips": round(400 * fraction), "cer": 0.0, "best_epoch": 2, "run_id": "r", "reused": False,
    }  # fmt: skip


def trace(
    rates: dict[float, float], untouched: float = 0.5, *, extrapolate: float = 2.0, n_speakers: int = 12
) -> CurveResults:
    trained = [
        (training(fraction), count(rate, 10 + i, n_speakers=n_speakers))
        for i, (fraction, rate) in enumerate(rates.items())
    ]
    return trace_curve(count(untouched, 1, n_speakers=n_speakers), trained, OPTIONS, extrapolate=extrapolate)


FALLING = {0.125: 0.4, 0.25: 0.32, 0.5: 0.26, 1.0: 0.22}


def test_a_falling_curve_is_fitted_and_extended() -> None:
    curve = trace(FALLING)
    for i, (amount, rate) in enumerate(zip(curve["amounts"], FALLING.values(), strict=True)):
        exact = count(rate, 10 + i)["cer_errors"].sum() / (120 * LENGTH)
        assert amount["cer"] == pytest.approx(exact)
        assert amount["delta"] == pytest.approx(exact - curve["untouched"]["cer"])
        assert amount["outcome"] == "better"
        assert (amount["cer_low"] or 1) < exact < (amount["cer_high"] or 0)
    fit, extension = curve["fit"], curve["extension"]
    assert fit is not None
    assert fit["with_floor"]
    assert fit["falls"]
    assert extension["hours"] == 16
    assert (extension["low"] or 1) <= (extension["cer"] or 0) <= (extension["high"] or 0)
    assert (extension["cer"] or 1) < curve["amounts"][-1]["cer"]
    h = fit["line"][-1]["hours"] or 0
    value = fit["scale"]["value"] * h ** -fit["exponent"]["value"] + fit["floor"]["value"]
    assert fit["line"][-1]["cer"] == pytest.approx(value)
    assert (h, extension["line"][-1]["hours"]) == pytest.approx((8, 16))


@pytest.mark.parametrize(
    ("rates", "reason"),
    [
        ({0.5: 0.3, 1.0: 0.2}, "2 amounts are as many as the fit has parameters"),
        (dict.fromkeys(FALLING, 0.3), "CER is not shown to fall from the smallest to the largest amount"),
        ({0.25: 0.2, 0.5: 0.3, 1.0: 0.4}, "CER is not shown to fall"),
    ],
)
def test_what_is_not_identified_is_not_extended(rates: dict[float, float], reason: str) -> None:
    extension = trace(rates)["extension"]
    assert extension["reason"].startswith(reason)
    assert (extension["cer"], extension["low"], extension["line"]) == (None, None, [])


def test_a_wide_extension_is_refused() -> None:
    curve = trace({0.25: 0.16, 0.5: 0.04, 1.0: 0.012}, n_speakers=6, extrapolate=4)
    assert curve["fit"] is not None
    assert curve["fit"]["falls"]
    assert "more than a factor of 2" in curve["extension"]["reason"]


def test_one_factor_asks_for_no_extension() -> None:
    assert trace(FALLING, extrapolate=1)["extension"]["reason"] == ""


def test_a_training_that_changes_nothing_is_not_shown_to_help() -> None:
    curve = trace({0.5: 0.3, 1.0: 0.3}, untouched=0.3)
    assert [amount["outcome"] for amount in curve["amounts"]] == ["not shown"] * 2
    assert {amount["outcome"] for amount in trace({0.5: 0.6, 1.0: 0.65}, untouched=0.3)["amounts"]} == {"worse"}


def test_few_speakers_have_no_interval() -> None:
    curve = trace(FALLING, n_speakers=4)
    assert curve["fit"] is not None
    assert curve["fit"]["reason"] == "4 speakers are too few for an interval, which takes 5"
    assert (curve["fit"]["exponent"]["low"], curve["fit"]["line"][0]["high"]) == (None, None)
    assert curve["extension"]["cer"] is None


def test_several_trainings_of_an_amount_are_averaged_and_widen_the_interval() -> None:
    counts = {key: count(rate, 20) for key, rate in {"low": 0.2, "high": 0.3, "whole": 0.18}.items()}
    single = [(training(0.5), counts["high"]), (training(1.0), counts["whole"])]
    several = [*single, (training(0.5, draw=1), counts["low"])]
    alone, mean = (trace_curve(count(0.5, 1), runs, OPTIONS, extrapolate=2) for runs in (single, several))
    cers = [one["cer"] for one in mean["trainings"]]
    assert [one["n_trainings"] for one in mean["amounts"]] == [2, 1]
    assert mean["amounts"][0]["cer"] == pytest.approx((cers[0] + cers[1]) / 2)

    def width(curve: CurveResults) -> float:
        assert curve["fit"] is not None
        place = curve["fit"]["line"][0]
        return (place["high"] or 0) - (place["low"] or 0)

    assert width(mean) > 1.5 * width(alone)


def test_one_amount_and_an_amount_without_an_error_have_no_fit() -> None:
    assert trace({1.0: 0.3})["no_fit"].startswith("one amount shows no curve")
    curve = trace({0.5: 0.3, 1.0: 0.0})
    assert (curve["fit"], curve["extension"]["reason"]) == (None, "there is no fit")
    assert curve["no_fit"].startswith("an amount has no error at all")


def test_models_that_decoded_other_clips_are_refused() -> None:
    with pytest.raises(KmedError, match="decode the same part"):
        trace_curve(count(0.5, 1), [(training(1.0), count(0.3, 2).iloc[1:])], OPTIONS, extrapolate=2)


def test_the_order_of_trainings_and_clips_changes_nothing() -> None:
    trained = [(training(fraction), count(rate, 3)) for fraction, rate in FALLING.items()]
    shuffled = [(one, counts.sample(frac=1, random_state=1)) for one, counts in reversed(trained)]
    first, second = (trace_curve(count(0.5, 1), each, OPTIONS, extrapolate=2) for each in (trained, shuffled))
    assert first == second

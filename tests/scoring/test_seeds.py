"""The mean over seeds: its variance by hand, and what it says with one seed."""

import dataclasses
import math
import statistics

import numpy as np
import pytest
from scipy.stats import t as student
from test_gaps import system

from kmed_bench.core.errors import KmedError
from kmed_bench.core.predictions import Prediction
from kmed_bench.scoring import ScoringOptions, score_predictions
from kmed_bench.scoring.intervals import rate_interval
from kmed_bench.scoring.seeds import mean_over_seeds, seeds_interval
from kmed_bench.scoring.spread import Clips, clips_of

OPTIONS = ScoringOptions(bootstrap_draws=200)


@pytest.fixture(scope="module")
def runs() -> dict[int, list[Prediction]]:
    return {seed: system({"Female": 0.1 + 0.02 * seed, "Male": 0.1}, seed) for seed in (2, 0, 1)}


@pytest.mark.slow
def test_the_mean_is_that_of_the_seeds_and_its_interval_is_wider(runs: dict[int, list[Prediction]]) -> None:
    found = mean_over_seeds("base", {**runs, 2: runs[2][::-1]}, OPTIONS)  # in any order of clips
    cers = [score_predictions(side, OPTIONS)["overall"]["cer"] for side in runs.values()]
    assert found["cer"] == pytest.approx(statistics.fmean(cers))  # type: ignore[type-var]
    assert found["seed_sd"] == pytest.approx(statistics.stdev(cers))  # type: ignore[type-var]
    assert (found["seeds"], found["n_clips"], found["n_speakers"]) == ([0, 1, 2], 360, 36)
    assert "seeds differ" in found["note"]


@pytest.mark.slow
def test_one_seed_says_that_the_variance_of_seeds_is_unknown(runs: dict[int, list[Prediction]]) -> None:
    found = mean_over_seeds("base", {0: runs[0]}, OPTIONS)
    overall = score_predictions(runs[0], OPTIONS)["overall"]
    for key in ("cer", "cer_low", "cer_high"):
        assert found[key] == pytest.approx(overall[key])  # type: ignore[literal-required]
    assert found["seed_sd"] is None
    assert "unknown" in found["note"]


def sample(n_speakers: int = 20) -> Clips:
    generator = np.random.default_rng(1)
    rates = generator.uniform(0.05, 0.2, size=n_speakers)
    return clips_of(np.arange(n_speakers), 100 * rates, np.full(n_speakers, 100.0))


def test_the_variance_is_the_sum_with_satterthwaites_degrees_of_freedom() -> None:
    clips = sample()
    rates = [clips.ratio - 0.02, clips.ratio, clips.ratio + 0.02]
    seeds = 0.02**2 / 3
    total = clips.spread.variance + seeds
    df = total**2 / (clips.spread.variance**2 / clips.spread.df + seeds**2 / 2)
    factor = math.exp(student.ppf(0.975, df) * math.sqrt(total) / clips.ratio)
    interval = seeds_interval(clips, rates)
    assert interval.low == pytest.approx(clips.ratio / factor)
    assert interval.high == pytest.approx(clips.ratio * factor)


def test_seeds_that_agree_leave_the_interval_as_it_is_and_never_narrow_it() -> None:
    clips = sample()
    alone = rate_interval(clips)
    assert seeds_interval(clips, [clips.ratio] * 3) == alone
    nearly = seeds_interval(clips, [clips.ratio - 1e-4, clips.ratio + 1e-4])
    assert nearly.low <= alone.low  # type: ignore[operator]
    assert nearly.high >= alone.high  # type: ignore[operator]


def test_reasons_stand_in_place_of_bounds() -> None:
    clips = sample()
    assert "seeds are too few" in seeds_interval(clips, [0.01, 0.24]).reason
    alone = dataclasses.replace(clips, speaker=np.zeros(20, dtype=np.int64))
    assert "one speaker" in seeds_interval(alone, [0.1, 0.11]).reason


def test_runs_of_other_clips_are_refused(runs: dict[int, list[Prediction]]) -> None:
    with pytest.raises(KmedError, match="decode the same part"):
        mean_over_seeds("base", {0: runs[0], 1: runs[1][:-1]}, OPTIONS)
    with pytest.raises(KmedError, match="has no run"):
        mean_over_seeds("base", {}, OPTIONS)

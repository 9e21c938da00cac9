"""Power against simulation and against hand-computed variances."""

import numpy as np
import pandas as pd
import pytest

from kmed_bench.core.errors import KmedError
from kmed_bench.scoring.intervals import t_p_value
from kmed_bench.scoring.power import (
    Design,
    Deviations,
    assumed_spread,
    describe_power,
    detectable,
    find_part,
    pilot_deviations,
    pilot_spread,
    plan_part,
    speakers_needed,
)
from kmed_bench.scoring.spread import Clips, Spread


def test_the_assumed_variance_is_that_of_means() -> None:
    design = Design(
        speaker=np.repeat(np.arange(10), 20), sentence=np.tile(np.arange(20), 10), length=np.full(200, 15.0)
    )
    spread = assumed_spread(design, Deviations(speaker=0.1, sentence=0.2, clip=0.5))
    assert spread.variance == pytest.approx(0.1**2 / 10 + 0.2**2 / 20 + 0.5**2 / 200)
    # Quantiles of Student's t with 1000 degrees of freedom: 1.962 and 0.842.
    assert detectable(Spread(variance=1e-4, df=1000)) == pytest.approx(0.01 * 2.804, rel=1e-3)


@pytest.mark.parametrize(("n_speakers", "readings"), [(12, 1), (30, 10)])
def test_the_smallest_difference_is_found_four_times_in_five(n_speakers: int, readings: int) -> None:
    generator, rounds, clips = np.random.default_rng(n_speakers), 1500, 20
    speaker = np.repeat(np.arange(n_speakers), clips)
    sentence = generator.permutation(len(speaker)) // readings
    length = generator.integers(8, 40, size=len(speaker)).astype(float)
    assumed = Deviations(speaker=0.03, sentence=0.04, clip=0.1)
    spread = assumed_spread(Design(speaker=speaker, sentence=sentence, length=length), assumed)
    difference, found = detectable(spread), 0
    for _ in range(rounds):
        rates = difference + generator.normal(0, 0.03, n_speakers)[speaker] + generator.normal(0, 0.1, len(speaker))
        rates += generator.normal(0, 0.04, sentence.max() + 1)[sentence]
        sample = Clips(top=rates * length, bottom=length, speaker=speaker, sentence=sentence)
        found += t_p_value(sample.ratio, sample.spread) < 0.05
    assert 0.76 <= found / rounds <= 0.86


def test_the_speakers_needed_find_the_difference_and_one_fewer_does_not() -> None:
    spread = Spread(variance=0.0001, df=19.0)
    needed = speakers_needed(spread, 20, 0.02)
    reach = [detectable(Spread(variance=0.0001 * 20 / n, df=float(n - 1))) for n in (needed - 1, needed)]
    assert reach[1] <= 0.02 < reach[0]
    assert speakers_needed(spread, 20, 1.0) == 6
    assert "cannot show any difference" in describe_power(0.01, 5, 90, "")
    assert "cannot show any difference" in describe_power(None, 9, 90, "")


@pytest.mark.parametrize(("difference", "message"), [(0.0, "must be above 0"), (1e-6, "over 100000 speakers")])
def test_differences_that_no_plan_reaches_are_refused(difference: float, message: str) -> None:
    with pytest.raises(KmedError, match=message):
        speakers_needed(Spread(variance=0.0001, df=19.0), 20, difference)


def test_a_pilot_without_differences_is_refused() -> None:
    codes = np.arange(8)
    with pytest.raises(KmedError, match="differ nowhere"):
        pilot_spread(Clips(top=np.zeros(8), bottom=np.ones(8), speaker=codes, sentence=codes))


def test_a_large_pilot_gives_the_deviations_that_it_was_made_with() -> None:
    generator = np.random.default_rng(4)
    speaker = np.repeat(np.arange(200), 30)
    sentence = generator.permutation(len(speaker)) // 30
    length = generator.integers(8, 40, size=len(speaker)).astype(float)
    rates = 0.02 + generator.normal(0, 0.05, 200)[speaker] + generator.normal(0, 0.08, 200)[sentence]
    rates += generator.normal(0, 0.2, len(speaker))
    found = pilot_deviations(Clips(top=rates * length, bottom=length, speaker=speaker, sentence=sentence))
    assert found.speaker == pytest.approx(0.05, rel=0.15)
    assert found.sentence == pytest.approx(0.08, rel=0.15)
    assert found.clip == pytest.approx(0.2, rel=0.05)


def test_a_part_is_planned_from_its_speakers_sentences_and_characters() -> None:
    part = pd.DataFrame(
        {
            "speaker_id": [f"s{n % 8}" for n in range(40)],
            "sentence_id": [f"t{n}" for n in range(40)],
            "text": ["(3)/(삼) 일째 아파요."] * 39 + ["."],
        }
    )
    found = plan_part(part, "test", "spelling", Deviations(speaker=0.1, sentence=0.0, clip=0.0))
    assert (found["n_clips"], found["n_speakers"]) == (39, 8)  # one clip has no text
    clips_by_speaker = np.array([5] * 7 + [4])
    weights = (clips_by_speaker / 39) ** 2
    spread = Spread(variance=0.01 * weights.sum(), df=weights.sum() ** 2 / (weights**2).sum() - 1)
    assert found["smallest_difference"] == pytest.approx(detectable(spread))
    few = plan_part(part[part["speaker_id"] < "s5"], "test", "spelling")
    assert (few["n_speakers"], few["smallest_difference"]) == (5, None)


@pytest.mark.parametrize(("utterances", "part"), [({"a"}, "train"), ({"c", "d"}, "test"), ({"x", "y"}, "")])
def test_a_pilot_is_of_the_part_that_has_all_of_it(utterances: set[str], part: str) -> None:
    assert find_part(utterances, {"train": {"a", "b"}, "test": {"c", "d"}}) == part


@pytest.mark.parametrize("utterances", [{"a", "c"}, {"a", "x"}])
def test_a_pilot_of_no_one_part_is_refused(utterances: set[str]) -> None:
    with pytest.raises(KmedError, match="not all of one part of this split"):
        find_part(utterances, {"train": {"a", "b"}, "test": {"c", "d"}})

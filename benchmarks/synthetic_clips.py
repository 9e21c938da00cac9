"""Synthetic clips of readers who make errors and loop, for `intervals.py`."""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np

from kmed_bench.scoring.spread import Codes, Floats


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
    """Distributions of synthetic clips.

    Attributes
    ----------
    alike : bool
        Clips a speaker: negative binomial with a mean of 40; else lognormal (sd 0.9) with a median of 30, at most 400.
    speaker, sentence, own_speaker, own_sentence : float
        Standard deviations of lognormal effects, on both systems of a pair alike and on each on its own.
    clip : float
        Shape of the gamma effects of clips; errors are Poisson given these, so negative binomial.
    shares, times : tuple of float
        Shares of clips with a loop, and the shortest and longest loop in references.
    log_times : bool
        Whether the logarithm of a loop's length is uniform, and not the length.
    loop_speaker : float
        Standard deviation of the lognormal effect of speakers on having loops.
    """

    alike: bool
    speaker: float
    sentence: float
    own_speaker: float
    own_sentence: float
    clip: float
    shares: tuple[float, ...]
    times: tuple[float, float]
    log_times: bool
    loop_speaker: float

    @property
    def mean_times(self) -> float:
        """Mean length of a loop in references."""
        low, high = self.times
        return (high - low) / math.log(high / low) if self.log_times else (low + high) / 2


WORLDS = {
    "main": World(
        alike=True,
        speaker=0.4,
        sentence=0.5,
        own_speaker=0.2,
        own_sentence=0.3,
        clip=1.0,
        shares=(0.01,),
        times=(1, 8),
        log_times=False,
        loop_speaker=0.0,
    ),
    "other": World(
        alike=False,
        speaker=0.6,
        sentence=0.3,
        own_speaker=0.3,
        own_sentence=0.2,
        clip=0.5,
        shares=(0.003, 0.01, 0.03),
        times=(1, 20),
        log_times=True,
        loop_speaker=0.7,
    ),
}


@dataclasses.dataclass(frozen=True)
class Design:
    """Who reads what: codes of each clip's speaker and sentence, and the reference's length."""

    speaker: Codes
    sentence: Codes
    length: Floats


class Simulation:
    """Draws of one world."""

    def __init__(self, world: World, rounds: int) -> None:
        self.world, self.rounds, self.generator = world, rounds, np.random.default_rng(208)

    def designs(self, n_speakers: int, readings: int) -> Iterator[Design]:
        """Yield the designs of a cell's samples; a new one every 20 samples."""
        for number in range(self.rounds):
            if number % 20 == 0:
                design = self.design(n_speakers, readings)
            yield design

    def design(self, n_speakers: int, readings: int) -> Design:
        """Return a test part in which ``readings`` clips read each sentence."""
        generator = self.generator
        if self.world.alike:
            clips = np.clip(generator.negative_binomial(4, 0.1, size=n_speakers) + 4, 4, 160)
        else:
            clips = np.clip(30 * generator.lognormal(0, 0.9, size=n_speakers), 2, 400).astype(int)
        speaker = np.repeat(np.arange(n_speakers), clips)
        sentence = np.empty(len(speaker), dtype=np.int64)
        sentence[generator.permutation(len(speaker))] = np.arange(len(speaker)) // readings
        return Design(speaker, sentence, generator.integers(8, 40, size=sentence.max() + 1)[sentence].astype(float))

    def effect(self, deviation: float, codes: Codes) -> Floats:
        """Return lognormal factors with mean 1, equal for equal codes."""
        return self.generator.lognormal(-deviation * deviation / 2, deviation, size=codes.max() + 1)[codes]

    def expected(self, design: Design, rate: float) -> Floats:
        """Return the mean errors of each clip given its speaker, its sentence and what it is."""
        common = self.effect(self.world.speaker, design.speaker) * self.effect(self.world.sentence, design.sentence)
        return rate * design.length * common * self.generator.gamma(self.world.clip, 1 / self.world.clip, len(common))

    def system(self, design: Design, expected: Floats) -> Floats:
        """Return the mean errors of one of two systems, which differ by speaker and sentence."""
        world = self.world
        return (
            expected * self.effect(world.own_speaker, design.speaker) * self.effect(world.own_sentence, design.sentence)
        )

    def errors(self, design: Design, expected: Floats, share: float) -> tuple[Floats, bool]:
        """Return errors of each clip with loops in this share of clips, and whether there is a loop."""
        errors = self.generator.poisson(expected).astype(float)
        if not share:
            return errors, False
        hit = self.generator.random(len(errors)) < share * self.effect(self.world.loop_speaker, design.speaker)
        low, high = self.world.times
        if self.world.log_times:
            times = np.exp(self.generator.uniform(math.log(low), math.log(high), size=len(errors)))
        else:
            times = self.generator.uniform(low, high, size=len(errors))
        return errors + hit * np.rint(design.length * times), bool(hit.any())

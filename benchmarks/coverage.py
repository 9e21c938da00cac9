"""How often the 95 % intervals cover, and how often the paired tests reject where two systems are equal.

    python benchmarks/coverage.py [rate | events | paired] [--rounds N] [--speakers 5 10 20 50 200]

Synthetic clips through ``scoring.intervals``, in the shape of a test part of read speech: 4 to 160 clips a speaker, 40
on average, 8 to 40 characters a sentence, and lognormal effects of speakers (sd 0.4), sentences (0.5) and clips
(exponential). With loops, 1 % of the clips have 1 to 8 times their length in errors on top. ``given`` is the share of
samples that get an interval and no reason, ``missed`` the share of all samples whose interval misses the true value:
a sample with a reason asserts nothing. ``plain`` is Student's t with speakers only on the plain scale, for comparison.
The last line has the Monte Carlo error.
"""

import argparse
import dataclasses
import itertools
import math
from collections.abc import Iterator

import numpy as np
from scipy.special import stdtrit

from kmed_bench.scoring.compare import paired_p_value
from kmed_bench.scoring.intervals import Clips, Codes, Floats, Interval, difference_interval, rate_interval
from kmed_bench.scoring.options import ScoringOptions
from kmed_bench.scoring.sign_flips import sign_flip_p_value

LOOP_SHARE, LOOP_TIMES = 0.01, (1.0, 8.0)
LOOP_RATE = LOOP_SHARE * sum(LOOP_TIMES) / 2
"""What loops add to a rate: their share times their mean length in references."""
_OPTIONS = ScoringOptions(bootstrap_draws=999)


@dataclasses.dataclass(frozen=True)
class Design:
    """Who reads what: codes of each clip's speaker and sentence, and the reference's length."""

    speaker: Codes
    sentence: Codes
    length: Floats


def draw_design(generator: np.random.Generator, n_speakers: int, readings: int) -> Design:
    """Return a test part in which ``readings`` clips read each sentence."""
    clips = np.clip(generator.negative_binomial(4, 0.1, size=n_speakers) + 4, 4, 160)
    speaker = np.repeat(np.arange(n_speakers), clips)
    sentence = np.empty(len(speaker), dtype=np.int64)
    sentence[generator.permutation(len(speaker))] = np.arange(len(speaker)) // readings
    lengths = generator.integers(8, 40, size=sentence.max() + 1).astype(float)
    return Design(speaker, sentence, lengths[sentence])


def effect(generator: np.random.Generator, spread: float, codes: Codes) -> Floats:
    """Return lognormal factors with mean 1, equal for equal codes."""
    return generator.lognormal(-spread * spread / 2, spread, size=codes.max() + 1)[codes]


def draw_errors(generator: np.random.Generator, design: Design, expected: Floats, *, loops: bool) -> Floats:
    """Return errors of each clip, whose expected number is given without loops."""
    errors = generator.poisson(expected).astype(float)
    if loops:
        hit = generator.random(len(errors)) < LOOP_SHARE
        errors += hit * np.rint(design.length * generator.uniform(*LOOP_TIMES, size=len(errors)))
    return errors


def expected_errors(generator: np.random.Generator, design: Design, rate: float) -> Floats:
    """Return the mean errors of each clip given its speaker, its sentence and what it is."""
    common = effect(generator, 0.4, design.speaker) * effect(generator, 0.5, design.sentence)
    return rate * design.length * common * generator.exponential(size=len(common))


def clips(design: Design, top: Floats, bottom: Floats) -> Clips:
    """Return a ratio's clips."""
    return Clips(top=top, bottom=bottom, speaker=design.speaker, sentence=design.sentence)


def plain(sample: Clips) -> Interval:
    """Return Student's interval with the speaker as the only factor."""
    alone = dataclasses.replace(sample, sentence=np.arange(len(sample.top)))
    reach = float(stdtrit(sample.n_speakers - 1, 0.975)) * math.sqrt(alone.spread.variance)
    return Interval(low=sample.ratio - reach, high=sample.ratio + reach)


class Tally:
    """Counts of a cell's samples: how many intervals were given, and how many missed."""

    def __init__(self) -> None:
        self.n, self.given, self.missed = 0, 0, 0

    def add(self, interval: Interval, truth: float) -> None:
        """Count one interval."""
        self.n += 1
        if interval.low is not None and interval.high is not None:
            self.given += 1
            self.missed += not interval.low <= truth <= interval.high

    def __str__(self) -> str:
        covered = f"{1 - self.missed / self.given:.3f}" if self.given else "  -  "
        return f"{covered} {self.given / self.n:6.3f} {self.missed / self.n:6.3f}"


def designs(generator: np.random.Generator, n_speakers: int, readings: int, rounds: int) -> Iterator[Design]:
    """Yield the designs of a cell's samples; a new one every 20 samples."""
    for number in range(rounds):
        if number % 20 == 0:
            design = draw_design(generator, n_speakers, readings)
        yield design


def rate_table(generator: np.random.Generator, speakers: list[int], rounds: int) -> None:
    """Print the coverage of error rates."""
    print("speakers  rate loops readings | covered given missed | plain covered")
    for n, rate, loops, readings in itertools.product(speakers, (0.01, 0.1, 0.3), (False, True), (1, 4, 8)):
        ours, peer = Tally(), Tally()
        for design in designs(generator, n, readings, rounds):
            errors = draw_errors(generator, design, expected_errors(generator, design, rate), loops=loops)
            sample = clips(design, errors, design.length)
            truth = rate + LOOP_RATE * loops
            ours.add(rate_interval(sample), truth)
            peer.add(plain(sample), truth)
        print(f"{n:8} {rate:5} {loops!s:>5} {readings:8} | {ours} | {str(peer)[:5]}", flush=True)


def events_table(generator: np.random.Generator, speakers: list[int], rounds: int) -> None:
    """Print the coverage of rates of clips, such as hallucinations, from no event on."""
    print("speakers  rate spread readings events | covered given missed | plain covered | no event")
    for n, rate, spread, readings in itertools.product(speakers, (0.001, 0.003, 0.01, 0.03), (0.4, 1.0), (1, 8)):
        ours, peer, events, none = Tally(), Tally(), 0, 0
        for design in designs(generator, n, readings, rounds):
            chance = rate * effect(generator, spread, design.speaker) * effect(generator, 0.5, design.sentence)
            hits = (generator.random(len(chance)) < chance).astype(float)
            sample = clips(design, hits, np.ones(len(hits)))
            ours.add(rate_interval(sample), rate)
            peer.add(plain(sample), rate)
            events, none = events + int(hits.sum()), none + (not hits.any())
        cell = f"{n:8} {rate:5} {spread:6} {readings:8} {events / rounds:6.1f}"
        print(f"{cell} | {ours} | {str(peer)[:5]} | {none / rounds:.3f}", flush=True)


_SYSTEMS: dict[str, tuple[float | None, tuple[bool, bool]]] = {
    "equal": (1.0, (False, False)),
    "equal, loops": (1.0, (True, True)),
    "equal on average": (None, (True, False)),
    "0.7 of the errors": (0.7, (False, False)),
    "0.7, loops of one": (0.7, (True, False)),
}
"""Two systems: the second's expected errors as a factor of the first's without loops (None: as many errors as the
first's loops make up for), and which of them loops."""


def paired_table(generator: np.random.Generator, speakers: list[int], rounds: int) -> None:
    """Print the coverage of paired differences and the share of p-values at or below 0.05."""
    print("speakers  rate readings systems             | covered given missed | rejected by p, by sign flips only")
    for n, rate, readings, name in itertools.product(speakers, (0.01, 0.1, 0.3), (1, 8), _SYSTEMS):
        factor, loops = _SYSTEMS[name]
        share = 1 + LOOP_RATE / rate if factor is None else factor
        truth = rate * (share - 1) + LOOP_RATE * (loops[1] - loops[0])
        tally, ours, flips = Tally(), 0, 0
        for design in designs(generator, n, readings, rounds):
            common, sides = expected_errors(generator, design, rate), []
            for level, looping in zip((1.0, share), loops, strict=True):
                own = effect(generator, 0.2, design.speaker) * effect(generator, 0.3, design.sentence)
                sides.append(draw_errors(generator, design, level * common * own, loops=looping))
            sample = clips(design, sides[1] - sides[0], design.length)
            tally.add(difference_interval(sample), truth)
            ours += paired_p_value(sample, _OPTIONS) <= 0.05
            flips += sign_flip_p_value(sample.speaker_tops, draws=_OPTIONS.bootstrap_draws, seed=0) <= 0.05
        cell = f"{n:8} {rate:5} {readings:8} {name:19}"
        print(f"{cell} | {tally} | {ours / rounds:.3f} {flips / rounds:.3f}", flush=True)


_TABLES = {"rate": rate_table, "events": events_table, "paired": paired_table}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=_TABLES, nargs="?", default="rate")
    parser.add_argument("--rounds", type=int, default=1000, help="samples per cell (1000)")
    parser.add_argument("--speakers", type=int, nargs="+", default=[5, 10, 20, 50, 200])
    args = parser.parse_args()
    _TABLES[args.table](np.random.default_rng(208), args.speakers, args.rounds)
    print(f"Monte Carlo error of a share of 0.95: {math.sqrt(0.95 * 0.05 / args.rounds):.4f}")


if __name__ == "__main__":
    main()

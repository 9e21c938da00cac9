"""How often tests of groups, of margins and over seeds are wrong, on synthetic clips.

    python benchmarks/group_tests.py [gap | benefit | seeds | margin] [--rounds N]

The clips are those of ``intervals.py``: 4 to 160 a speaker, with lognormal effects of speakers (sd 0.4), sentences and
clips, errors 10 % of the characters. ``rejected`` is the share of samples with p < 0.05 where there is no difference
(nominal: at most 0.05), ``covered`` how many of the given intervals hold the true value (nominal: 0.95).

gap: a group against others with the same true CER; ``sd`` is that of the group's speakers.
benefit: both sides improve by the same difference in CER on average, the group with twice the error rate or the same.
seeds: the mean over seeds, each multiplying all errors by a lognormal factor, and each speaker's by another.
margin: two systems that differ by exactly the margin: the share called equivalent (nominal: at most 0.025).
"""

import argparse
import itertools
import math
from collections.abc import Callable

import numpy as np

from kmed_bench.scoring.compare import judge_margin
from kmed_bench.scoring.gaps import rates_p_value
from kmed_bench.scoring.intervals import Interval, gap_interval, gap_p_value, rate_interval
from kmed_bench.scoring.options import ScoringOptions
from kmed_bench.scoring.seeds import seeds_interval
from kmed_bench.scoring.spread import Clips, Codes, Floats

_OPTIONS = ScoringOptions(bootstrap_draws=999)
_RATE = 0.1
Generator = np.random.Generator


def lognormal(generator: Generator, spread: float, codes: Codes) -> Floats:
    """Return factors with mean 1, equal for equal codes."""
    return generator.lognormal(-spread * spread / 2, spread, size=int(codes.max()) + 1)[codes]


def draw_side(
    generator: Generator, n_speakers: int, readings: int, *, spread: float = 0.4, rate: float = _RATE
) -> Clips:
    """Return one side's clips, whose tops are expected errors given their speaker, sentence and what they are."""
    counts = np.clip(generator.negative_binomial(4, 0.1, size=n_speakers) + 4, 4, 160)
    speaker = np.repeat(np.arange(n_speakers), counts)
    sentence = generator.permutation(len(speaker)) // readings
    length = generator.integers(8, 40, size=int(sentence.max()) + 1).astype(float)[sentence]
    common = lognormal(generator, spread, speaker) * lognormal(generator, 0.5, sentence)
    top = rate * length * common * generator.exponential(size=len(speaker))
    return Clips(top=top, bottom=length, speaker=speaker, sentence=sentence)


def with_tops(clips: Clips, top: Floats) -> Clips:
    """Return the same clips with other numerators."""
    return Clips(top=top, bottom=clips.bottom, speaker=clips.speaker, sentence=clips.sentence)


class Tally:
    """Counts of a cell's samples: intervals given and missed, and rejections."""

    def __init__(self) -> None:
        self.n, self.given, self.missed, self.rejected = 0, 0, 0, 0

    def add(self, interval: Interval, truth: float, p_value: float) -> None:
        """Count one sample."""
        self.n += 1
        self.rejected += p_value < 0.05
        if interval.low is not None and interval.high is not None:
            self.given += 1
            self.missed += not interval.low <= truth <= interval.high

    def __str__(self) -> str:
        covered = 1 - self.missed / self.given if self.given else math.nan
        return f"{covered:.3f} {self.given / self.n:6.3f} {self.rejected / self.n:8.3f}"


def gap_table(generator: Generator, rounds: int) -> None:
    """Print the errors of the tests of gaps."""
    print("group others readings   sd | covered given rejected")
    sides, spreads = ((5, 40), (10, 40), (10, 10), (20, 20), (40, 40)), (0.4, 0.8)
    for (n, m), readings, spread in itertools.product(sides, (1, 4), spreads):
        tally = Tally()
        for _ in range(rounds):
            drawn = draw_side(generator, n, readings, spread=spread), draw_side(generator, m, readings)
            group, rest = (with_tops(side, generator.poisson(side.top).astype(float)) for side in drawn)
            interval = gap_interval(group, rest)
            tally.add(interval, 0.0, rates_p_value(group, rest))
        print(f"{n:5} {m:6} {readings:8} {spread:4} | {tally}", flush=True)


def draw_benefit(generator: Generator, side: Clips, factor: float) -> Clips:
    """Return the errors that fine-tuning removes, where it leaves a share ``factor`` of the expected errors."""
    kept = factor * lognormal(generator, 0.3, side.speaker) * lognormal(generator, 0.3, side.sentence)
    removed = generator.poisson(side.top) - generator.poisson(side.top * kept)
    return with_tops(side, removed.astype(float))


def benefit_table(generator: Generator, rounds: int) -> None:
    """Print the errors of the tests of differences in benefit."""
    print("group others readings rates | covered given rejected")
    sides, rates = ((5, 40), (10, 40), (10, 10), (20, 20), (40, 40)), (1, 2)
    for (n, m), readings, times in itertools.product(sides, (1, 4), rates):
        tally = Tally()
        for _ in range(rounds):
            # With twice the rate, three quarters are kept in place of a half: the same difference.
            group = draw_benefit(generator, draw_side(generator, n, readings, rate=times * _RATE), 1 - 0.5 / times)
            rest = draw_benefit(generator, draw_side(generator, m, readings), 0.5)
            interval = gap_interval(group, rest)
            tally.add(interval, 0.0, gap_p_value(group, rest))
        print(f"{n:5} {m:6} {readings:8} x{times:4} | {tally}", flush=True)


def seeds_table(generator: Generator, rounds: int) -> None:
    """Print the coverage of the mean over seeds, beside that of an interval that leaves seeds out."""
    print("speakers seeds seed sd | covered given | without seeds covered")
    for n, n_seeds, spread in itertools.product((10, 20, 50), (2, 3, 5), (0.02, 0.05, 0.15)):
        ours, plain = Tally(), Tally()
        for _ in range(rounds):
            side = draw_side(generator, n, 4)
            errors = np.array(
                [
                    generator.poisson(side.top * factor * lognormal(generator, 0.1, side.speaker))
                    for factor in generator.lognormal(-spread * spread / 2, spread, size=n_seeds)
                ]
            )
            mean = with_tops(side, errors.mean(axis=0))
            ours.add(seeds_interval(mean, list(errors.sum(axis=1) / side.bottom.sum())), _RATE, 1.0)
            plain.add(rate_interval(mean), _RATE, 1.0)
        print(f"{n:8} {n_seeds:5} {spread:7} | {str(ours)[:12]} | {str(plain)[:5]}", flush=True)


def margin_table(generator: Generator, rounds: int) -> None:
    """Print how often systems that differ by the margin, or not at all, are called equivalent or not worse."""
    print("speakers readings margin difference | equivalent not worse")
    for n, readings, margin, share in itertools.product((10, 20, 50), (1, 4), (0.01, 0.02), (1, 0)):
        counts = np.zeros(2)
        for _ in range(rounds):
            side = draw_side(generator, n, readings)
            factor = 1 + share * margin / _RATE
            other = side.top * factor * lognormal(generator, 0.2, side.speaker)
            worse = with_tops(side, (generator.poisson(other) - generator.poisson(side.top)).astype(float))
            verdict = judge_margin(worse, margin, _OPTIONS)
            counts += verdict["equivalent"], verdict["non_inferior"]
        shown = f"{counts[0] / rounds:10.3f} {counts[1] / rounds:9.3f}"
        print(f"{n:8} {readings:8} {margin:6} {share * margin:10} | {shown}", flush=True)


_TABLES: dict[str, Callable[[Generator, int], None]] = {
    "gap": gap_table,
    "benefit": benefit_table,
    "seeds": seeds_table,
    "margin": margin_table,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=_TABLES, nargs="?", default="gap")
    parser.add_argument("--rounds", type=int, default=1000, help="samples per cell (1000)")
    args = parser.parse_args()
    _TABLES[args.table](np.random.default_rng(208), args.rounds)
    errors = (math.sqrt(share * (1 - share) / args.rounds) for share in (0.05, 0.025))
    print("Monte Carlo error of a share of 0.05 and of 0.025: " + ", ".join(f"{error:.4f}" for error in errors))


if __name__ == "__main__":
    main()

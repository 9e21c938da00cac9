"""How often the 95 % intervals cover, and how often the paired tests reject where two systems are equal.

    python benchmarks/intervals.py [all | rate | events | paired | clips | gap] [--world main | other] [--rounds N]

Synthetic clips through ``scoring.intervals``. The world ``main`` has the shape of a test part of read speech: 4 to 160
clips a speaker, 40 on average, 8 to 40 characters a sentence, lognormal effects of speakers (sd 0.4) and sentences
(0.5), exponential ones of clips, and in 1 % of the clips a loop of 1 to 8 times their length. The limits of
``scoring.intervals`` were chosen on it, and not on ``other``: see ``synthetic_clips.WORLDS``.

``covered`` is the share of the intervals given that hold the true value, ``given`` the share of samples that get an
interval and no reason, ``missed`` the share of all samples whose interval misses, and ``unseen`` the part of it that
has no loop among its clips where the true value counts some. ``rejected`` is the share of p-values at or below 0.05,
``flips`` that of sign flips alone. The lines after a table have the lowest and highest figures of each group of cells.
"""

import argparse
import dataclasses
import itertools
import math
import time

import numpy as np
from scipy.special import stdtrit
from synthetic_clips import WORLDS, Design, Simulation

from kmed_bench.scoring.compare import paired_p_value
from kmed_bench.scoring.intervals import Interval, difference_interval, difference_p_value, gap_interval, rate_interval
from kmed_bench.scoring.options import ScoringOptions
from kmed_bench.scoring.spread import Clips, Floats

_OPTIONS = ScoringOptions(bootstrap_draws=999)


def clips(design: Design, top: Floats, bottom: Floats) -> Clips:
    """Return a ratio's clips."""
    return Clips(top=top, bottom=bottom, speaker=design.speaker, sentence=design.sentence)


def plain(sample: Clips) -> Interval:
    """Return Student's interval with the speaker as the only factor."""
    alone = dataclasses.replace(sample, sentence=np.arange(len(sample.top)))
    reach = float(stdtrit(sample.n_speakers - 1, 0.975)) * math.sqrt(alone.spread.variance)
    return Interval(low=sample.ratio - reach, high=sample.ratio + reach)


class Tally:
    """Counts of a cell's samples: intervals given, missed, and missed without a loop among the clips."""

    def __init__(self) -> None:
        self.n, self.given, self.missed, self.unseen = 0, 0, 0, 0

    def add(self, interval: Interval, truth: float, *, unseen: bool = False) -> None:
        """Count one interval."""
        self.n += 1
        if interval.low is not None and interval.high is not None:
            self.given += 1
            missed = not interval.low <= truth <= interval.high
            self.missed += missed
            self.unseen += missed and unseen

    @property
    def figures(self) -> dict[str, float]:
        """Shares by name."""
        covered = 1 - self.missed / self.given if self.given else math.nan
        shares = {"given": self.given, "missed": self.missed, "unseen": self.unseen}
        return {"covered": covered} | {name: count / self.n for name, count in shares.items()}


class Table:
    """Prints the cells of a table, and the range of each figure over groups of cells."""

    def __init__(self) -> None:
        self.groups: dict[str, list[dict[str, float]]] = {}

    def add(self, group: str, cell: str, figures: dict[str, float]) -> None:
        """Print one cell and keep it for its group."""
        self.groups.setdefault(group, []).append(figures)
        print(f"{group:48} {cell:24}", *(f"{name} {value:.3f}" for name, value in figures.items()), flush=True)

    def summarise(self) -> None:
        """Print the lowest and highest figures of each group."""
        for group, cells in self.groups.items():
            ranges = {name: [cell[name] for cell in cells if not math.isnan(cell[name])] or [0] for name in cells[0]}
            print(f"= {group:46}", *(f"{name} {min(of):.3f} to {max(of):.3f}" for name, of in ranges.items()))


def rate_table(simulation: Simulation, speakers: list[int], table: Table) -> None:
    """Print the coverage of error rates."""
    world = simulation.world
    for n, share, rate, readings in itertools.product(speakers, (0.0, *world.shares), (0.01, 0.1, 0.3), (1, 4, 8)):
        ours, peer = Tally(), Tally()
        truth = rate + share * world.mean_times
        for design in simulation.designs(n, readings):
            errors, looping = simulation.errors(design, simulation.expected(design, rate), share)
            sample = clips(design, errors, design.length)
            ours.add(rate_interval(sample), truth, unseen=share > 0 and not looping)
            peer.add(plain(sample), truth)
        figures = ours.figures | {"plain": peer.figures["covered"]}
        table.add(f"rate, {n} speakers, loops {share:g}, rate {rate:g}", f"readings {readings}", figures)


def events_table(simulation: Simulation, speakers: list[int], table: Table) -> None:
    """Print the coverage of rates of clips, such as hallucinations, from no event on."""
    for n, rate, spread, readings in itertools.product(speakers, (0.001, 0.003, 0.01, 0.03), (0.4, 1.0), (1, 8)):
        ours, peer, events, none = Tally(), Tally(), 0, 0
        for design in simulation.designs(n, readings):
            chance = rate * simulation.effect(spread, design.speaker) * simulation.effect(0.5, design.sentence)
            hits = (simulation.generator.random(len(chance)) < chance).astype(float)
            sample = clips(design, hits, np.ones(len(hits)))
            ours.add(rate_interval(sample), rate)
            peer.add(plain(sample), rate)
            events, none = events + int(hits.sum()), none + (not hits.any())
        figures = ours.figures | {"plain": peer.figures["covered"], "none": none / simulation.rounds}
        expected = events / simulation.rounds
        few = "up to" if expected <= 13 else "over"
        table.add(f"events, {few} 13 expected, {n} speakers", f"rate {rate} sd {spread} readings {readings}", figures)


def gap_table(simulation: Simulation, speakers: list[int], table: Table) -> None:
    """Print the coverage of the gap between a group and twice as many other speakers of the same rate."""
    for n, share, rate, readings in itertools.product(
        speakers, (0.0, *simulation.world.shares), (0.01, 0.1, 0.3), (1, 8)
    ):
        ours = Tally()
        for sides in zip(simulation.designs(n, readings), simulation.designs(2 * n, readings), strict=True):
            drawn = [(side, simulation.errors(side, simulation.expected(side, rate), share)) for side in sides]
            unseen = share > 0 and not all(looping for _, (_, looping) in drawn)
            samples = [clips(side, errors, side.length) for side, (errors, _) in drawn]
            ours.add(gap_interval(*samples), 0.0, unseen=unseen)
        table.add(f"gap, {n} speakers, loops {share:g}, rate {rate:g}", f"readings {readings}", ours.figures)


_SYSTEMS: dict[str, tuple[float | None, tuple[bool, bool]]] = {
    "equal": (1.0, (False, False)),
    "equal, loops": (1.0, (True, True)),
    "equal on average": (None, (True, False)),
    "0.7 of the errors": (0.7, (False, False)),
    "0.7, loops of one": (0.7, (True, False)),
}
"""Two systems: the second's expected errors as a factor of the first's without loops (None: as many errors as the
first's loops make up for), and which of them loops."""


def paired_table(simulation: Simulation, speakers: list[int], table: Table) -> None:
    """Print the coverage of paired differences and the share of p-values at or below 0.05."""
    world = simulation.world
    for n, (name, (factor, looping)) in itertools.product(speakers, _SYSTEMS.items()):
        for share, rate, readings in itertools.product(
            world.shares if any(looping) else (0.0,), (0.01, 0.1, 0.3), (1, 8)
        ):
            per_loop = share * world.mean_times
            level = 1 + per_loop / rate if factor is None else factor
            truth = rate * (level - 1) + per_loop * (looping[1] - looping[0])
            samples, unseen = [], []
            for design in simulation.designs(n, readings):
                common, sides = simulation.expected(design, rate), []
                for scale, loops in zip((1.0, level), looping, strict=True):
                    expected = simulation.system(design, scale * common)
                    sides.append(simulation.errors(design, expected, share * loops))
                samples.append(clips(design, sides[1][0] - sides[0][0], design.length))
                unseen.append(any(loops and not side[1] for loops, side in zip(looping, sides, strict=True)))
            figures = _paired_figures(samples, truth, unseen)
            table.add(f"{name}, {n} speakers, loops {share:g}, rate {rate:g}", f"readings {readings}", figures)


def clips_table(simulation: Simulation, speakers: list[int], table: Table) -> None:
    """Print the same of differences in rates of clips, such as hallucinations, of which few may differ."""
    for n, factor, rate, readings in itertools.product(speakers, (1.0, 0.3, 0.0), (0.003, 0.01, 0.03), (1, 8)):
        samples, differing = [], 0.0
        for design in simulation.designs(n, readings):
            chance = rate * simulation.effect(0.6, design.speaker) * simulation.effect(0.5, design.sentence)
            common = simulation.generator.random(len(chance)) < 0.3
            one, two, shared = (simulation.generator.random(len(chance)) < chance for _ in range(3))
            kept = simulation.generator.random(len(chance)) < factor
            difference = (kept & np.where(common, shared, two)) * 1.0 - np.where(common, shared, one)
            samples.append(clips(design, difference, np.ones(len(difference))))
            differing += np.abs(difference).sum() / simulation.rounds
        figures = _paired_figures(samples, rate * (factor - 1), [False] * len(samples))
        table.add(f"clips, factor {factor:g}, {n} speakers", f"rate {rate:g}, {differing:.1f} differ", figures)


def _paired_figures(samples: list[Clips], truth: float, unseen: list[bool]) -> dict[str, float]:
    tally, rejected = Tally(), 0
    for sample, without in zip(samples, unseen, strict=True):
        tally.add(difference_interval(sample), truth, unseen=without)
        # The package's p-value is at least this one; sign flips take longer.
        rejected += difference_p_value(sample) <= 0.05 and paired_p_value(sample, _OPTIONS) <= 0.05
    n = len(samples)
    return tally.figures | {"rejected": rejected / n, "flips": _rejected_by_flips(samples) / n}


def _rejected_by_flips(samples: list[Clips]) -> int:
    """Return how many samples sign flips alone reject, all samples at once with the same signs."""
    sums = np.stack([sample.speaker_tops for sample in samples], axis=1)
    n = len(sums)
    if n <= 12:
        signs = 2.0 * (np.arange(2**n)[:, None] >> np.arange(n) & 1) - 1
    else:
        signs = np.random.default_rng(0).integers(0, 2, size=(_OPTIONS.bootstrap_draws, n)) * 2.0 - 1
    extreme = np.abs(signs @ sums) >= np.abs(sums.sum(axis=0)) - 1e-9 * np.abs(sums).sum(axis=0)
    return int((extreme.mean(axis=0) <= 0.05).sum())


TABLES = {"rate": rate_table, "events": events_table, "paired": paired_table, "clips": clips_table, "gap": gap_table}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=["all", *TABLES], nargs="?", default="all")
    parser.add_argument("--world", choices=WORLDS, default="main")
    parser.add_argument("--rounds", type=int, default=1000, help="samples per cell (1000)")
    parser.add_argument("--speakers", type=int, nargs="+", default=[5, 10, 20, 50, 200])
    args = parser.parse_args()
    for name in TABLES if args.table == "all" else [args.table]:
        table, start = Table(), time.monotonic()
        TABLES[name](Simulation(WORLDS[args.world], args.rounds), args.speakers, table)
        table.summarise()
        error = math.sqrt(0.95 * 0.05 / args.rounds)
        print(
            f"{name}: {time.monotonic() - start:.0f} s; Monte Carlo error of a share of 0.95: {error:.4f}", flush=True
        )


if __name__ == "__main__":
    main()

"""The CER of a fine-tuned size over several seeds, with speakers, sentences and seeds as random factors."""

import math
import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from kmed_bench.core.contracts import SeedsMean
from kmed_bench.core.errors import KmedError
from kmed_bench.core.language import N_
from kmed_bench.core.predictions import Prediction
from kmed_bench.scoring.compare import pair_counts
from kmed_bench.scoring.intervals import ALPHA, MAX_FACTOR, Interval, rate_interval
from kmed_bench.scoring.measures import MEASURES, SENTENCE, count_utterances
from kmed_bench.scoring.options import ScoringOptions
from kmed_bench.scoring.spread import Clips, Spread, add_spreads, clips_of

_CER = MEASURES["cer"]
_ONE_SEED = "one seed: how much seeds differ is unknown, and the interval does not count it"
_SEVERAL = "counts how much speakers, sentences and seeds differ"


def mean_over_seeds(size: str, runs: Mapping[int, Sequence[Prediction]], options: ScoringOptions) -> SeedsMean:
    """Return the mean CER of a size's fine-tuned runs with an interval for other speakers, sentences and seeds.

    Parameters
    ----------
    runs : mapping
        Seed to its predictions; all of the same utterances.

    Raises
    ------
    KmedError
        When there is no run, or the runs' utterances or references differ.
    """
    if not runs:
        raise KmedError(f"Size {size} has no run, so there is no mean over seeds; give at least one run's predictions.")
    seeds = sorted(runs)
    tables = [count_utterances(runs[seed], options.transcript_side) for seed in seeds]
    # Each in the order of the first, and checked against it.
    tables = [pair_counts(tables[0], table, _CER.bottom)[1] for table in tables]
    tables = [table[table["excluded"] == ""] for table in tables]
    first = tables[0]
    errors = np.array([table[_CER.top].to_numpy(dtype=float) for table in tables])
    clips = clips_of(first["speaker_id"], errors.mean(axis=0), first[_CER.bottom], first[SENTENCE])
    rates = [float(row.sum() / clips.bottom.sum()) for row in errors] if clips.n_speakers else []
    interval = seeds_interval(clips, rates)
    return {
        "size": size,
        "seeds": seeds,
        "cer": clips.ratio if clips.n_speakers else None,
        "cer_low": interval.low,
        "cer_high": interval.high,
        "no_interval": interval.reason,
        "seed_sd": statistics.stdev(rates) if len(rates) > 1 else None,
        "note": _SEVERAL if len(seeds) > 1 else _ONE_SEED,
        "n_clips": len(first),
        "n_speakers": clips.n_known_speakers,
    }


def seeds_interval(clips: Clips, rates: Sequence[float]) -> Interval:
    """Return the 95 % interval of a rate that is averaged over seeds; with one seed that of the rate.

    All seeds decode the same clips, so seeds and speakers are crossed. The variance of the mean is that between
    speakers and sentences of the clips' averages, plus that between the seeds' rates over their number, with
    Satterthwaite's degrees of freedom. Variation between seeds within a speaker is in both parts, so the interval is a
    little too wide rather than too narrow. It is on the logarithmic scale, as in `rate_interval`.

    Parameters
    ----------
    clips : Clips
        Numerators averaged over seeds.
    rates : sequence of float
        Each seed's rate on these clips.

    Source: F. Satterthwaite, An approximate distribution of estimates of variance components, Biometrics Bulletin 2
    (1946) 110-114.
    """
    alone = rate_interval(clips)
    if alone.reason or len(rates) < 2:
        return alone
    seeds = Spread(variance=statistics.variance(rates) / len(rates), df=len(rates) - 1.0)
    if not (clips.spread.variance and seeds.variance and clips.ratio):
        return alone
    reach = add_spreads(clips.spread, seeds).reach(ALPHA)[0] / clips.ratio
    if not reach <= math.log(MAX_FACTOR):
        return Interval(reason=N_("{n} seeds are too few for how much they differ").format(n=len(rates)))
    # Never narrower than without the seeds, where small counts have an interval of their own.
    low, high = clips.ratio * math.exp(-reach), clips.ratio * math.exp(reach)
    return Interval(low=min(low, alone.low or low), high=max(high, alone.high or high))

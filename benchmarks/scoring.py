"""The analytic interval beside two bootstraps of speakers, and the whole of scoring a predictions file.

    python benchmarks/scoring.py [--quick] [--json FILE]
    python benchmarks/scoring.py --predictions N [--one-process]

Synthetic counts of 10,000 clips and 10,000 draws (--quick: 3 rounds instead of 7). Ours needs no draws; the peers give
plain percentile intervals:

- scipy: ``scipy.stats.bootstrap`` on the sums of each speaker, vectorised, percentile.
- loop: one draw at a time, the clips of the drawn speakers joined and summed.

With --predictions only N synthetic predictions are scored, every reference another one; the result is the CPU time of
all processes, the wall time, and the peak memory of the largest one (Linux's kibibytes), predictions included.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats

from kmed_bench.core.predictions import Prediction
from kmed_bench.scoring.groups import score_counts
from kmed_bench.scoring.intervals import rate_interval
from kmed_bench.scoring.measures import count_utterances
from kmed_bench.scoring.options import ScoringOptions
from kmed_bench.scoring.spread import Clips, Floats, clips_of

N_CLIPS = N_DRAWS = 10_000
SYLLABLES = list("가나다라마바사아자차카타파하간난단란만반산안장창강 ")


def make_predictions(n_clips: int, n_speakers: int) -> list[Prediction]:
    """Return clips of 21 characters on average, the length of 208's labels, with about 10 % errors."""
    generator = np.random.default_rng(0)
    made = []
    for number in range(n_clips):
        speaker = number % n_speakers
        reference = "".join(generator.choice(SYLLABLES, size=generator.integers(6, 36)))
        wrong = generator.random(len(reference)) < 0.1
        hypothesis = "".join("헉" if hit else sign for hit, sign in zip(wrong, reference, strict=True))
        fields = {
            "gender": ("Female", "Male")[speaker % 2],
            "age": ("20~29", "30~39", "40~49", "50~59", "60~69", "over70")[speaker % 6],
            "dialect": ("경기/서울", "경상", "충청", "전라", "강원")[speaker % 5],
        }
        made.append(
            Prediction(
                utterance_id=f"u{number:05}",
                speaker_id=f"s{speaker:05}",
                sentence_id="",
                reference=reference + ".",
                hypothesis=hypothesis,
                duration_s=4.0,
                decode_s=0.1,
                region="",
                role="patient",
                **fields,
            )
        )
    return made


def seconds(call: Callable[[], Any]) -> float:
    """Return the wall time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def by_scipy(clips: Clips) -> Any:
    return scipy.stats.bootstrap(
        (clips.speaker_tops, np.bincount(clips.speaker, weights=clips.bottom)),
        lambda top, bottom, axis: top.sum(axis=axis) / bottom.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=N_DRAWS,
        batch=1000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval


def by_loop(clips: list[tuple[Floats, Floats]]) -> Any:
    generator = np.random.default_rng(0)
    rates = []
    for _ in range(N_DRAWS):
        drawn = [clips[i] for i in generator.integers(0, len(clips), size=len(clips))]
        top, bottom = (np.concatenate(side) for side in zip(*drawn, strict=True))
        rates.append(top.sum() / bottom.sum())
    return np.quantile(rates, [0.025, 0.975])


def measure(n_speakers: int, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of every way in every round, the ways taking turns; aggregation counts for each."""
    generator = np.random.default_rng(1)
    speakers = np.arange(N_CLIPS) % n_speakers
    length = generator.integers(6, 36, size=N_CLIPS).astype(float)
    errors = generator.poisson(0.1 * length).astype(float)

    def aggregate() -> Clips:
        return clips_of(speakers, errors, length)

    def split() -> list[tuple[Floats, Floats]]:
        return [(errors[speakers == s], length[speakers == s]) for s in range(n_speakers)]

    ways: dict[str, Callable[[], Any]] = {
        "ours": lambda: rate_interval(aggregate()),
        "scipy": lambda: by_scipy(aggregate()),
        "loop": lambda: by_loop(split()),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            taken[name].append(seconds(way))
    return taken


def measure_scale(n_clips: int, n_speakers: int, *, one_process: bool) -> dict[str, float]:
    """Return what counting and scoring this many predictions takes."""
    predictions = make_predictions(n_clips, n_speakers)
    options = ScoringOptions()
    if one_process:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    start, began = time.perf_counter(), cpu_seconds()
    counts = count_utterances(predictions, options.transcript_side)
    counted, used = time.perf_counter(), cpu_seconds()
    score_counts(counts, options)
    peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "n_clips": n_clips,
        "count_cpu_s": used - began,
        "count_wall_s": counted - start,
        "score_cpu_s": cpu_seconds() - used,
        "wall_s": time.perf_counter() - start,
        "peak_bytes": peaks[0] * 1024,
        "peak_helper_bytes": peaks[1] * 1024,
    }


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of its helpers that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 rounds instead of 7")
    parser.add_argument("--json", type=Path, help="where the result is written")
    parser.add_argument("--speakers", type=int, default=800, help="speakers of the 10,000 clips")
    parser.add_argument("--predictions", type=int, help="score this many predictions, and nothing else")
    parser.add_argument("--one-process", action="store_true", help="with --predictions: without helpers")
    args = parser.parse_args()
    if args.predictions:
        print(json.dumps(measure_scale(args.predictions, args.speakers, one_process=args.one_process), indent=2))
        return
    taken = measure(args.speakers, 3 if args.quick else 7)
    every_clip_a_speaker_s = seconds(worst_case)
    predictions = make_predictions(N_CLIPS, args.speakers)
    options = ScoringOptions()
    start = time.perf_counter()
    counts = count_utterances(predictions, options.transcript_side)
    counted = time.perf_counter()
    score_counts(counts, options)
    scored = time.perf_counter()
    ratios = {}
    for name in ("scipy", "loop"):
        each = [peer / ours for peer, ours in zip(taken[name], taken["ours"], strict=True)]
        ratios[name] = {"median": statistics.median(each), "low": min(each), "high": max(each)}
    result = {
        "machine": {"processor": platform.processor() or platform.machine(), "system": platform.platform()},
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            "jiwer": importlib.metadata.version("jiwer"),
        },
        "settings": {"n_clips": N_CLIPS, "n_draws": N_DRAWS, "n_speakers": args.speakers},
        "ours": {
            "interval_s": taken["ours"],
            "interval_every_clip_a_speaker_s": every_clip_a_speaker_s,
            "count_utterances_s": counted - start,
            "score_all_groups_s": scored - counted,
        },
        "peers": {name: {"interval_s": taken[name]} for name in ratios},
        "ratios": ratios,
    }
    text = json.dumps(result, indent=2)
    print(text)
    if args.json:
        args.json.write_text(text + "\n", encoding="utf-8")


def worst_case() -> Any:
    """Return the interval of the slowest shape there is: every clip from a speaker of its own."""
    generator = np.random.default_rng(2)
    length = generator.integers(6, 36, size=N_CLIPS).astype(float)
    return rate_interval(clips_of(np.arange(N_CLIPS), generator.poisson(0.1 * length).astype(float), length))


if __name__ == "__main__":
    main()

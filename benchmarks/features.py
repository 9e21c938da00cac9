"""Building a store of features: clips computed by a thread for each core, against one after the other.

    python benchmarks/features.py --json features.json

The sides take turns within a round, each with an empty cache; a first block of each is left out. `1 thread` and `N
threads` are build_features, whose stores' bytes are compared; `loop` computes the same clips in the main thread with
all of torch's threads, and writes nothing. A ratio over 1 means that N threads are faster: the other side's seconds
divided by theirs in the same round.
"""

import argparse
import functools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from kmed_bench.asr.features.audio import change_speed, decode_audio
from kmed_bench.asr.features.log_mel import log_mel
from kmed_bench.asr.features.store import build_features
from kmed_bench.asr.features.threads import count_cores
from kmed_bench.asr.model.device import describe_machine
from kmed_bench.config import DataConfig
from kmed_bench.core.array_cache import CHECKSUMS
from kmed_bench.core.schema import read_manifest
from kmed_bench.corpus.archives.reader import AudioReader
from kmed_bench.corpus.demo.demo import make_demo_corpus
from kmed_bench.corpus.ingest.manifest import ingest


class Block(NamedTuple):
    """What a side took for a store, and what it wrote."""

    seconds: float
    cpu_s: float
    checksums: str  # empty without a store


Side = Callable[[pd.DataFrame, float], Block]


def read_part(source: Path | None, folder: Path, n_clips: int) -> pd.DataFrame:
    """Return rows of a manifest, repeated under other ids up to the number of clips."""
    if source is None:
        source = folder / "corpus"
        make_demo_corpus(source, speakers=12, sentences=max(n_clips // 4, 12), seed=1, layout="zips")
    ingest([source], folder, DataConfig())
    rows = read_manifest(folder / "manifest.parquet")
    part = pd.concat([rows] * -(-n_clips // len(rows)), ignore_index=True).head(n_clips)
    return part.assign(utterance_id=[f"clip-{i}" for i in range(len(part))])


def build(part: pd.DataFrame, speed: float, n_threads: int) -> Block:
    with tempfile.TemporaryDirectory() as cache:
        cpu_s, started = time.process_time(), time.perf_counter()
        store = build_features(part, Path(cache), dtype="fp16", speed=speed, n_threads=n_threads)
        taken = time.perf_counter() - started
        return Block(taken, time.process_time() - cpu_s, Path(cache, store.key, CHECKSUMS).read_text("utf-8"))


def loop(part: pd.DataFrame, speed: float) -> Block:
    cpu_s, started = time.process_time(), time.perf_counter()
    with AudioReader() as reader:
        for location in part["audio"]:
            samples = decode_audio(reader.read(location), location)
            log_mel(samples if speed == 1 else change_speed(samples, speed)).astype(np.float16)
    return Block(time.perf_counter() - started, time.process_time() - cpu_s, "")


def measure(part: pd.DataFrame, sides: dict[str, Side], rounds: int, speed: float) -> dict[str, list[Block]]:
    """Return each side's blocks; the order turns with the rounds."""
    blocks: dict[str, list[Block]] = {name: [] for name in sides}
    order = list(sides)
    for side in sides.values():
        side(part.head(16), speed)
    for number in range(rounds):
        for name in order[number % len(order) :] + order[: number % len(order)]:
            block = sides[name](part, speed)
            blocks[name].append(block)
            print(f"round {number + 1} of {rounds}, {name}: {block.seconds:.2f} s, CPU {block.cpu_s:.2f} s", flush=True)
    if len({block.checksums for each in blocks.values() for block in each if block.checksums}) > 1:
        raise SystemExit("the stores differ")
    return blocks


def ratio(other: list[Block], ours: list[Block]) -> dict[str, float]:
    each = [a.seconds / b.seconds for a, b in zip(other, ours, strict=True)]
    return {"median": statistics.median(each), "low": min(each), "high": max(each)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the result is written")
    parser.add_argument("--source", type=Path, help="a corpus in the download's layout (default: the demo corpus)")
    parser.add_argument("--clips", type=int, default=300, help="clips in a block")
    parser.add_argument("--rounds", type=int, default=5, help="blocks of each side")
    parser.add_argument("--speed", type=float, default=1.0, help="factor by which the clips play faster")
    parser.add_argument("--threads", type=int, nargs="+", default=[count_cores()], help="numbers of threads to try")
    args = parser.parse_args()
    threads: dict[str, Side] = {f"{n} threads": functools.partial(build, n_threads=n) for n in args.threads}
    others: dict[str, Side] = {"1 thread": functools.partial(build, n_threads=1), "loop": loop}
    with tempfile.TemporaryDirectory() as folder:
        part = read_part(args.source, Path(folder), args.clips)
        blocks = measure(part, threads | others, args.rounds, args.speed)
    result = {
        "machine": {"what": describe_machine(torch.device("cpu")), "cores": count_cores(), "load": os.getloadavg()[0]},
        "settings": {"n_clips": len(part), "audio_s": float(part["duration_s"].sum()), "speed": args.speed},
        "ms_per_clip": {
            name: statistics.median(1e3 * block.seconds / len(part) for block in each) for name, each in blocks.items()
        },
        "cpu_ms_per_clip": {
            name: statistics.median(1e3 * block.cpu_s / len(part) for block in each) for name, each in blocks.items()
        },
        "ratios": {name: {other: ratio(blocks[other], blocks[name]) for other in others} for name in threads},
    }
    text = json.dumps(result, indent=2)
    print(text)
    if args.json:
        args.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

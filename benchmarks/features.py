"""Building a store of features: clips computed by a thread for each core, against one after the other.

    python benchmarks/features.py --json features.json

The sides take turns within a round, each with an empty cache; a first block of each is left out. `one after the other`
leaves torch all its threads; `one torch thread` shows what these add or cost. A ratio over 1 means that the threads
are faster: the other side's seconds divided by theirs in the same round. The stores' bytes are compared.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch

from kmed_bench.asr.features.store import build_features
from kmed_bench.asr.features.threads import count_cores
from kmed_bench.asr.model.device import describe_machine
from kmed_bench.config import DataConfig
from kmed_bench.core.array_cache import CHECKSUMS
from kmed_bench.core.schema import read_manifest
from kmed_bench.corpus.demo.demo import make_demo_corpus
from kmed_bench.corpus.ingest.manifest import ingest


class Side(NamedTuple):
    """How a side builds the store."""

    n_threads: int
    n_torch_threads: int


class Block(NamedTuple):
    """What a side took for a store, and what it wrote."""

    seconds: float
    cpu_s: float
    checksums: str


def read_part(source: Path | None, n_clips: int) -> pd.DataFrame:
    """Return rows of a manifest, repeated under other ids up to the number of clips."""
    with tempfile.TemporaryDirectory() as folder:
        ingest([source or make_demo(n_clips)], Path(folder), DataConfig())
        rows = read_manifest(Path(folder, "manifest.parquet"))
    part = pd.concat([rows] * -(-n_clips // len(rows)), ignore_index=True).head(n_clips)
    return part.assign(utterance_id=[f"clip-{i}" for i in range(len(part))])


def make_demo(n_clips: int) -> Path:
    """Return a demo corpus in a folder that stays until the system removes it."""
    folder = Path(tempfile.mkdtemp(prefix="kmed-features-")) / "corpus"
    make_demo_corpus(folder, speakers=12, sentences=max(n_clips // 4, 12), seed=1, layout="zips")
    return folder


def build(part: pd.DataFrame, side: Side, speed: float) -> Block:
    torch.set_num_threads(side.n_torch_threads)
    with tempfile.TemporaryDirectory() as cache:
        cpu_s, started = time.process_time(), time.perf_counter()
        store = build_features(part, Path(cache), dtype="fp16", speed=speed, n_threads=side.n_threads)
        taken = time.perf_counter() - started
        return Block(taken, time.process_time() - cpu_s, Path(cache, store.key, CHECKSUMS).read_text("utf-8"))


def measure(part: pd.DataFrame, sides: dict[str, Side], rounds: int, speed: float) -> dict[str, list[Block]]:
    """Return each side's blocks; the order turns with the rounds."""
    blocks: dict[str, list[Block]] = {name: [] for name in sides}
    order = list(sides)
    for side in sides.values():
        build(part.head(16), side, speed)
    for number in range(rounds):
        for name in order[number % len(order) :] + order[: number % len(order)]:
            block = build(part, sides[name], speed)
            blocks[name].append(block)
            print(f"round {number + 1} of {rounds}, {name}: {block.seconds:.2f} s, CPU {block.cpu_s:.2f} s", flush=True)
    if len({block.checksums for each in blocks.values() for block in each}) > 1:
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
    part = read_part(args.source, args.clips)
    n_torch_threads = torch.get_num_threads()
    threads = {f"{n} threads": Side(n, n_torch_threads) for n in args.threads}
    others = {"one after the other": Side(1, n_torch_threads), "one torch thread": Side(1, 1)}
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

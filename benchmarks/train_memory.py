"""Peak memory of training each size, each in a process of its own; random weights, since only the shapes matter."""

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import torch
from whisper.model import Whisper

from kmed_bench.asr.batches import Example, korean_tokenizer
from kmed_bench.asr.device import resolve_precision
from kmed_bench.asr.weights import dimensions
from kmed_bench.config import TrainConfig
from kmed_bench.records import SIZES
from kmed_bench.training.fit import fit

N_STEPS = 2  # the second has the optimizer's state from its start
N_FRAMES, N_TOKENS = 500, 24
"""A clip of 5 s with 24 tokens: about what patients of 208 say."""


class Noise:
    """Frames of any clip, drawn anew."""

    def n_frames(self, utterance_id: str) -> int:  # noqa: ARG002 (every clip is alike)
        """Return the frames of a clip."""
        return N_FRAMES

    def window(self, utterance_ids: Sequence[str], n_frames: int) -> torch.Tensor:
        """Return random frames, shape (batch, 80, n_frames)."""
        return torch.randn(len(utterance_ids), 80, n_frames)


def measure_memory(config: TrainConfig) -> dict[str, Any]:
    """Return the peak of each size and window, optimizer state included, in bytes."""
    found: dict[str, dict[str, Any]] = {}
    for size in SIZES:
        for context in ("full", "thinned", "dynamic"):
            command = [sys.executable, __file__, size, context, str(config.batch_size)]
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found.setdefault(size, {})[context] = json.loads(printed)
            print(f"{size} {context}: {found[size][context]['peak_bytes'] / 2**30:.2f} GiB", file=sys.stderr)
    settings = {"batch_size": config.batch_size, "clip_frames": N_FRAMES, "clip_tokens": N_TOKENS}
    return {"ours": found, "peers": {}, "ratios": {}, "settings": {**settings, "weights": "random"}}


def peak_bytes() -> int:
    """Return the largest memory that this process has held; Linux counts it in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("context", choices=("full", "thinned", "dynamic"))
    parser.add_argument("batch_size", type=int)
    args = parser.parse_args()
    imported = peak_bytes()
    model = Whisper(dimensions(args.size))
    for name, parameter in model.named_parameters():
        if "embedding" in name:  # openai-whisper leaves these uninitialised
            torch.nn.init.normal_(parameter, std=0.02)
    tokenizer = korean_tokenizer()
    words = tokenizer.encode(" 네" * N_TOKENS)[:N_TOKENS]
    tokens = (*tokenizer.sot_sequence_including_notimestamps, *words, tokenizer.eot)
    examples = [Example(f"u{i}", tokens, "네" * N_TOKENS, N_FRAMES) for i in range(N_STEPS * args.batch_size)]
    config = TrainConfig(epochs=1, batch_size=args.batch_size, audio_context=args.context)
    for _ in fit(model, examples, Noise(), examples[: args.batch_size], Noise(), config, seed=0):
        pass
    facts = {"imports_bytes": imported, "peak_bytes": peak_bytes()}
    parameters = sum(p.numel() for p in model.parameters())
    precision = resolve_precision(config.precision, model.device)
    print(json.dumps({**facts, "parameters": parameters, "precision": precision}))


if __name__ == "__main__":
    main()

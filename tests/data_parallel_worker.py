"""One of two processes that train together; the first writes what they came to. Run by torchrun."""

import sys
from pathlib import Path

import pandas as pd
import torch

from kmed_bench.asr.features.store import build_features
from kmed_bench.asr.model.tokenizer import korean_tokenizer
from kmed_bench.asr.model.weights import load_weights
from kmed_bench.config import TrainConfig
from kmed_bench.training.batches import build_examples
from kmed_bench.training.fit import fit
from kmed_bench.training.parallel import Parallel
from kmed_bench.training.sources import LogMelSource


def main() -> None:
    checkpoint, table, cache, out = (Path(word) for word in sys.argv[1:5])
    parallel = Parallel.from_environment()
    part = pd.read_parquet(table)
    with parallel.main_first():
        store = build_features(part, cache)
    examples, _ = build_examples(part, store, policy="pronunciation", max_len=80, tokenizer=korean_tokenizer())
    model = load_weights(checkpoint)
    config = TrainConfig(epochs=2, batch_size=4, lr=1e-3, precision="fp32", audio_context="dynamic")
    results = list(
        fit(model, examples[:9], LogMelSource(store), examples[9:], store, config, seed=0, parallel=parallel)
    )
    if parallel.is_main:
        torch.save({"results": [vars(r) for r in results], "model": model.state_dict(), "world": parallel.world}, out)


if __name__ == "__main__":
    main()

"""Fine-tuning beside the original's recipe and transformers' trainer: clips per second, memory, and what they learn.

    python benchmarks/train.py [--quick] [--json FILE]      clips per second, share of the matmul peak
    python benchmarks/train.py --memory [--json FILE]       peak memory of tiny, base and small
    python benchmarks/train.py --quality [--json FILE]      decoded test CER after equal epochs (hours)

Whisper base on the shared recordings (KMED_REAL_SPEECH, or ../shared/data/korean-speech), batch 4, the same batches
for all, of clips spread evenly over the recordings' lengths. Needs librosa, transformers and accelerate. The
competitors (peers_train.py) are processes that take turns (turns.py), a block of steps each; ratios are of blocks over
the same clips. Ours is ``fit`` itself: `full` in the 30 s window, `dynamic` in the batch's own length with few
positions for its silence. Features are made before for ours and for transformers, as both advise; the original makes
them in each step, which is its recipe. A GPU is used where there is one.

The peak is what a large square matrix product reaches in the same turns, in training's precision. The operations of a
batch of B clips, T encoder positions and N tokens, K of them learned in all clips together, model width d, V tokens in
the vocabulary, in multiply-adds:

- convolutions B (2T 240 d + T 3 d²), T being the positions they read; the first needs no gradient of its input, so it
  counts twice, all else 3 times
- an encoder layer B (12 T d² + 2 T² d): four projections, two of four times the width, scores and weighted sum
- a decoder layer B (14 N d² + 2 T d² + N² d + 2 N T d): self-attention (causal: half), cross-attention, two wide ones
- logits K d V

Forward and the two products of backward make 3; a multiply-add is two operations. Padding is computed, so it counts.
"""

import argparse
import contextlib
import dataclasses
import functools
import importlib.metadata
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args
from unittest import mock

import pandas as pd
import torch
from turns import Pace, Turns
from whisper.model import ModelDimensions

from kmed_bench.asr.features.store import FeatureStore, build_features
from kmed_bench.asr.model.device import describe_machine, pick_device, resolve_precision
from kmed_bench.asr.model.tokenizer import korean_tokenizer
from kmed_bench.asr.model.weights import find_weights, load_weights
from kmed_bench.asr.model.whisper import Whisper
from kmed_bench.config import Context, DataConfig, TrainConfig
from kmed_bench.core.batching import round_up
from kmed_bench.core.schema import read_manifest
from kmed_bench.corpus.ingest.manifest import ingest
from kmed_bench.training.batches import (
    LEARNED_STEP,
    Example,
    batch_window,
    build_examples,
    epoch_order,
    label_tensors,
    n_learned,
)
from kmed_bench.training.fit import fit
from kmed_bench.training.loss import LossNetwork
from kmed_bench.training.sources import LogMelSource

CONFIG = TrainConfig(epochs=1, batch_size=4, lr=2e-5, max_len=80)
DEVICE = pick_device()
SEED = 0
CONTEXTS: tuple[Context, ...] = get_args(Context)
PEERS = ("original", "transformers")
PEAK_SIDE, PRODUCTS_A_STEP = 2048, 40  # turns of some seconds, as ours are: a processor's speed changes within seconds
TARGETS = {"original over full": 2.2, "original over dynamic": 10, "transformers over full": 1.2}
TARGETS |= {"transformers over dynamic": 4}


@dataclasses.dataclass(frozen=True)
class Material:
    """The shared recordings, ready for every competitor.

    Attributes
    ----------
    batches : list
        The batches of ``fit``'s first epoch, in its order.
    part : pandas.DataFrame
        The recordings' rows.
    """

    examples: list[Example]
    batches: list[list[Example]]
    store: FeatureStore
    part: pd.DataFrame


def speech_folder() -> Path:
    """Return the shared recordings' folder, found as the tests find it."""
    named = os.environ.get("KMED_REAL_SPEECH")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data" / "korean-speech"
    if not (folder / "Training").is_dir():
        raise SystemExit(f"No recordings in {folder}; set KMED_REAL_SPEECH to a download's folder.")
    return folder


def prepare(folder: Path, n_steps: int) -> Material:
    """Return the recordings' features and batches; the folder keeps what a second call needs."""
    if not (folder / "manifest").exists():
        ingest([speech_folder()], folder / "manifest", DataConfig())
    part = read_manifest(folder / "manifest" / "manifest.parquet")
    store = build_features(part, folder / "features")
    examples, _ = build_examples(
        part, store, policy="pronunciation", max_len=CONFIG.max_len, tokenizer=korean_tokenizer()
    )
    needed = n_steps * CONFIG.batch_size
    if len(examples) < needed:
        raise SystemExit(f"{len(examples)} recordings are too few for {n_steps} steps of {CONFIG.batch_size}.")
    # A few steps of an epoch may be long or short by chance; these have the lengths of all recordings.
    ordered = sorted(examples, key=lambda e: (e.n_frames, e.utterance_id))
    whole = [ordered[i * len(ordered) // needed] for i in range(needed)]
    batches = epoch_order(whole, CONFIG.batch_size, seed=SEED, epoch=1)
    return Material(whole, batches, store, part)


def multiply_adds(
    dims: ModelDimensions, n_clips: int, n_positions: int, n_tokens: int, n_learning: int, n_read: int | None = None
) -> int:
    """Return the multiply-adds of a training step, by the formula above; the convolutions compute n_read positions."""
    d, t, n = dims.n_audio_state, n_positions, n_tokens
    read = t if n_read is None else n_read
    first = 2 * read * 3 * dims.n_mels * d  # its output has 2 T positions, and its kernel 3 taps
    encoder = 3 * read * d * d + dims.n_audio_layer * (12 * t * d * d + 2 * t * t * d)
    decoder = dims.n_text_layer * (14 * n * d * d + 2 * t * d * d + n * n * d + 2 * n * t * d)
    total: int = n_clips * (2 * first + 3 * (encoder + decoder)) + 3 * n_learning * d * dims.n_vocab
    return total


def operations(batch: Sequence[Example], dims: ModelDimensions, context: Context) -> int:
    """Return the floating-point operations of our training step on a batch."""
    window = batch_window(batch, context)
    learned = sum(n_learned(e, korean_tokenizer()) for e in batch)
    n_tokens = label_tensors(batch, korean_tokenizer())[0].shape[1]
    n_learning = round_up(learned, LEARNED_STEP)
    return 2 * multiply_adds(dims, len(batch), len(window.counts), n_tokens, n_learning, window.n_frames // 2)


class Stopwatch:
    """Seconds of our measured steps in forward, backward and optimizer."""

    def __init__(self, pace: Pace) -> None:
        self.seconds = 0.0
        self._pace = pace

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the three calls while training runs."""
        calls = ((LossNetwork, "forward"), (torch.Tensor, "backward"), (torch.optim.AdamW, "step"))
        with contextlib.ExitStack() as stack:
            for owner, name in calls:
                stack.enter_context(mock.patch.object(owner, name, self._timed(getattr(owner, name))))
            yield

    def _timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                if self._pace.measuring:
                    self.seconds += time.perf_counter() - started

        return timed


def compete(folder: Path, n_steps: int, weights: Path, name: str, pace: Pace) -> None:
    """Be a competitor, in a process of its own."""
    if name == "peak":
        multiply(pace)
    material, model = prepare(folder, n_steps), load_weights(weights, str(DEVICE))
    if name in CONTEXTS:
        train_ours(model, material, name, pace)
    else:
        train_as_peer(model, material, name, pace)


def multiply(pace: Pace) -> None:
    """Multiply large square matrices in training's precision."""
    dtype = torch.bfloat16 if resolve_precision("auto", DEVICE) == "bf16" else torch.float32
    a = torch.randn(PEAK_SIDE, PEAK_SIDE, dtype=dtype, device=DEVICE)
    while True:
        for _ in range(PRODUCTS_A_STEP):
            a @ a
        pace()


def train_ours(model: Whisper, material: Material, context: Context, pace: Pace) -> None:
    """Train with ``fit`` and note the share of the time outside forward, backward and optimizer."""
    config, watch = dataclasses.replace(CONFIG, audio_context=context), Stopwatch(pace)
    examples, store = material.examples, material.store

    def step_done(*_counts: int) -> None:
        pace.notes["watched_s"] = watch.seconds
        pace()

    with watch.watching():
        for _ in fit(model, examples, LogMelSource(store), examples[:1], store, config, seed=SEED, progress=step_done):
            pass


def train_as_peer(model: Whisper, material: Material, name: str, pace: Pace) -> None:
    """Train as one of the peers."""
    from peers_train import prepare_transformers, train_original, train_transformers, write_recordings

    used = {example.utterance_id for batch in material.batches for example in batch}
    with tempfile.TemporaryDirectory() as folder:
        paths = write_recordings(material.part[material.part["utterance_id"].isin(used)], Path(folder) / "wav")
        if name == "original":
            train_original(model, material.batches, paths, lr=CONFIG.lr, max_len=CONFIG.max_len, pace=pace)
        else:
            rows = prepare_transformers([e for batch in material.batches for e in batch], paths)
            bf16 = resolve_precision("auto", DEVICE) == "bf16"
            train_transformers(model, material.batches, rows, lr=CONFIG.lr, bf16=bf16, pace=pace)


def summarise(batches: Sequence[Sequence[Example]], dims: ModelDimensions, turns: Turns) -> dict[str, Any]:
    """Return rates, shares and ratios of the measured blocks."""
    clips = turns.block * CONFIG.batch_size
    seconds = turns.seconds
    products = turns.block * PRODUCTS_A_STEP
    peak = [2 * PEAK_SIDE**3 * products / s for s in seconds["peak"]]

    def rate(name: str) -> dict[str, Any]:
        return {"clips_per_s": clips * len(seconds[name]) / sum(seconds[name]), "block_s": seconds[name]}

    def own(context: Context) -> dict[str, Any]:
        first = turns.warm_up
        blocks = [batches[first + i * turns.block :][: turns.block] for i in range(turns.blocks)]
        done = [sum(operations(batch, dims, context) for batch in block) for block in blocks]
        shares = [n / s / top for n, s, top in zip(done, seconds[context], peak, strict=True)]
        return {
            **rate(context),
            "share_of_matmul_peak": {"median": statistics.median(shares), "low": min(shares), "high": max(shares)},
            # A GPU's calls return before their work is done, so that their time says nothing.
            "share_outside_forward_backward_optimizer": 1 - turns.notes[context]["watched_s"] / sum(seconds[context])
            if DEVICE.type == "cpu"
            else None,
        }

    ratios = {}
    contexts, peers = ([name for name in kind if name in seconds] for kind in (CONTEXTS, PEERS))
    for peer in peers:
        for context in contexts:
            each = [theirs / ours for theirs, ours in zip(seconds[peer], seconds[context], strict=True)]
            spread = {"median": statistics.median(each), "low": min(each), "high": max(each)}
            ratios[f"{peer} over {context}"] = {**spread, "target": TARGETS.get(f"{peer} over {context}")}
    return {
        "matmul_peak_gflops": [top / 1e9 for top in peak],
        "ours": {context: own(context) for context in contexts},
        "peers": {name: rate(name) for name in peers},
        "ratios": ratios,
    }


def describe() -> dict[str, Any]:
    """Return the machine, the versions and the precisions of the result."""
    names = ("torch", "torchaudio", "openai-whisper", "transformers", "accelerate", "librosa", "soxr", "numpy")
    installed = {d.metadata["Name"].lower() for d in importlib.metadata.distributions()}
    precision = resolve_precision("auto", DEVICE)
    return {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "system": platform.platform(),
            "torch": describe_machine(DEVICE),
        },
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in names if name in installed},
        },
        "precision": {"ours": precision, "original": "fp32", "transformers": precision},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 blocks of 2 steps instead of 6 of 4")
    parser.add_argument("--json", type=Path, help="where the result is written")
    parser.add_argument("--block", type=int, help="steps of a turn (4; --quick: 2)")
    parser.add_argument("--blocks", type=int, help="measured turns of each (6; --quick: 3)")
    parser.add_argument("--weights", type=Path, help="another checkpoint than base's, such as one to try this with")
    parser.add_argument("--memory", action="store_true", help="peak memory of each size instead")
    parser.add_argument("--quality", action="store_true", help="decoded test CER instead; hours")
    parser.add_argument("--only", help="competitors by names separated by semicolons (all)")
    parser.add_argument("--curve", action="store_true", help="of --quality: ours decoded after each epoch")
    parser.add_argument("--epochs", type=int, default=2, help="of --quality (2)")
    parser.add_argument("--seeds", default="0,1,2", help="of --quality (0,1,2)")
    parser.add_argument("--parts", default="200,40,40", help="train, valid and test clips of --quality (200,40,40)")
    parser.add_argument("--lr", type=float, default=CONFIG.lr, help="of --quality, the same for all (2e-5)")
    args = parser.parse_args()
    weights = args.weights or find_weights("base").path
    if args.memory:
        from train_memory import measure_memory

        found = measure_memory(CONFIG)
    elif args.quality:
        from train_quality import measure_quality

        config = dataclasses.replace(CONFIG, epochs=args.epochs, lr=args.lr)
        parts, seeds = ([int(n) for n in given.split(",")] for given in (args.parts, args.seeds))
        wanted = args.only.split(";") if args.only else None
        found = measure_quality(speech_folder(), config, seeds, parts, weights, only=wanted, curve=args.curve)
    else:
        block, blocks = args.block or (2 if args.quick else 4), args.blocks or (3 if args.quick else 6)
        names = (*CONTEXTS, *PEERS, "peak")
        if args.only:
            wanted = args.only.split(";")
            if unknown := set(wanted) - set(names):
                parser.error(f"no competitor is called {', '.join(unknown)}; there are {'; '.join(names)}")
            names = tuple(name for name in names if name in (*wanted, "peak"))
        turns, n_steps = Turns(names, warm_up=block, block=block, blocks=blocks), block * (blocks + 1)
        with tempfile.TemporaryDirectory() as folder:
            material = prepare(Path(folder), n_steps)
            turns.run(functools.partial(compete, Path(folder), n_steps, weights))
        found = summarise(material.batches, load_weights(weights).dims, turns)
        found["settings"] = {"batch_size": CONFIG.batch_size, "block": block, "blocks": blocks, "warm_up": block}
    text = json.dumps({**describe(), **found}, indent=2)
    print(text)
    if args.json:
        args.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

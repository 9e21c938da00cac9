"""Section `peers` of `gpu.py`: `fit` in turns with transformers' trainer and with the original's recipe."""

import dataclasses
import functools
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpu_models import Bench, Clips, left_out, load_clips
from gpu_training import Steps, config_of
from train import CONFIG, SEED
from turns import Pace, Turns

from kmed_bench.training.fit import fit
from kmed_bench.training.sources import LogMelSource


def compete(bench: Bench, steps: Steps, name: str, pace: Pace) -> None:
    """Be a competitor, in a process of its own; all train base on the same batches."""
    clips, config = load_clips(bench), config_of(bench)
    examples = clips.repeated(steps.measured * config.batch_size)
    features, model = clips.features(bench.device), bench.model("base")
    source = LogMelSource(features)
    if name == "ours":

        def tick(*_counts: int) -> None:
            pace()

        for _ in fit(model, examples, source, examples[:1], features, config, seed=SEED, progress=tick):
            pass
        return
    train_peer(name, model, clips, source.order(examples, config, seed=SEED, epoch=1), pace)


def train_peer(name: str, model: Any, clips: Clips, batches: list[Any], pace: Pace) -> None:
    """Train as a peer."""
    from peers_train import LOADED_WITH, prepare_transformers, train_original, train_transformers, write_recordings

    pace.notes["audio_loaded_with"] = LOADED_WITH
    examples = [example for batch in batches for example in batch]
    with tempfile.TemporaryDirectory() as folder:
        written = write_recordings(clips.part, Path(folder, "wav"))
        paths = {e.utterance_id: written[e.utterance_id.partition("#")[0]] for e in examples}
        if name == "original":
            train_original(model, batches, paths, lr=CONFIG.lr, max_len=CONFIG.max_len, pace=pace)
            return
        plain = {e.utterance_id.partition("#")[0]: e for e in examples}
        once = prepare_transformers([dataclasses.replace(e, utterance_id=name) for name, e in plain.items()], written)
        rows = {e.utterance_id: once[e.utterance_id.partition("#")[0]] for e in examples}
        bf16 = model.device.type == "cuda"
        compiled = name == "transformers compiled"
        train_transformers(model, batches, rows, lr=CONFIG.lr, bf16=bf16, pace=pace, compiled=compiled)


def compare(bench: Bench, steps: Steps, peer: str) -> dict[str, Any]:
    """Return the rates of ours and a peer, and the peer's seconds over ours, block by block."""
    if reason := left_out("transformers", "accelerate"):
        return reason
    turns = Turns(("ours", peer), warm_up=steps.warm_up, block=steps.block, blocks=steps.blocks)
    turns.run(functools.partial(compete, bench, steps))
    n_clips, (ours, theirs) = steps.block * CONFIG.batch_size, (turns.seconds["ours"], turns.seconds[peer])
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    return {
        "ours_clips_per_s": n_clips / statistics.median(ours),
        "clips_per_s": n_clips / statistics.median(theirs),
        "over_ours": {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)},
        **turns.notes[peer],
    }


def run(bench: Bench, report: Callable[[str, Callable[[], Any]], None]) -> None:
    """Compare with each peer; the slowest start, compilation, comes last."""
    load_clips(bench)  # so that the competitors find the features
    steps = Steps(1, 1, 2) if bench.tiny else Steps(warm_up=60, block=20, blocks=5)
    for peer in ("transformers", "original", "transformers compiled"):
        if peer == "transformers compiled" and bench.device.type != "cuda":
            continue
        report(f"peers {peer}", functools.partial(compare, bench, steps, peer))

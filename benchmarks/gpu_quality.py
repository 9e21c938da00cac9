"""Section `quality` of `gpu.py`: what the GPU computes beside what the CPU computes."""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from gpu_models import Bench, Clips, load_clips
from gpu_training import config_of

from kmed_bench.asr.decoding.decode import decode_clips
from kmed_bench.asr.decoding.options import DecodingOptions
from kmed_bench.asr.model.device import Precision
from kmed_bench.training.fit import fit
from kmed_bench.training.sources import LogMelSource

N_LOSSES, LR = 8, 1e-4
TOLERANCES: dict[Precision, float] = {"fp32": 2e-3, "bf16": 2e-2}
"""Largest relative difference of a loss from the CPU's in fp32; cuDNN rounds fp32's convolutions to TF32."""

Report = Callable[[str, Callable[[], Any]], None]


def losses(bench: Bench, clips: Clips, precision: Precision) -> list[float]:
    """Return tiny's first training losses in nats per token: epochs of one step, so that each step's loss is told."""
    config = dataclasses.replace(config_of(bench), precision=precision, epochs=N_LOSSES, lr=LR)
    batch = clips.repeated(config.batch_size)
    results = fit(bench.model("tiny"), batch, LogMelSource(clips.store), batch[:1], clips.store, config, seed=0)
    return [result.train_loss for result in results]


def compare_losses(bench: Bench, clips: Clips) -> dict[str, Any]:
    """Return the losses of the device and of the CPU.

    Raises
    ------
    RuntimeError
        When a loss differs by more than the tolerance.
    """
    cpu = losses(dataclasses.replace(bench, device=torch.device("cpu")), clips, "fp32")
    found: dict[str, Any] = {"cpu fp32": cpu}
    worst = {}
    for precision, tolerance in TOLERANCES.items():
        found[precision] = losses(bench, clips, precision)
        worst[precision] = max(abs(ours / theirs - 1) for ours, theirs in zip(found[precision], cpu, strict=True))
        found[f"{precision} worst relative difference"] = worst[precision]
        found[f"{precision} tolerance"] = tolerance
    if late := [precision for precision, tolerance in TOLERANCES.items() if worst[precision] > tolerance]:
        raise RuntimeError(f"losses of {', '.join(late)} are beyond the tolerance: {json.dumps(found)}")
    return found


def compare_texts(bench: Bench, clips: Clips, expected: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """Return how many of base's transcripts equal each system's, and of how many, by precision and batch size."""
    model, here = bench.model("base"), set(clips.part["utterance_id"])
    known = {system: sorted(here.intersection(texts)) for system, texts in expected.items()}
    names = sorted(set[str]().union(*known.values()))
    found: dict[str, Any] = {"clips": {system: len(of) for system, of in known.items()}}
    for precision in TOLERANCES:
        for batch_size in (8, 32):
            options = DecodingOptions(batch_size=batch_size, precision=precision)
            texts = {r.utterance_id: r.text for r in decode_clips(model, clips.store, names, options)}
            found[f"{precision}, batch {batch_size}"] = {
                system: sum(texts[name] == expected[system][name].strip() for name in of)
                for system, of in known.items()
            }
    return found


def compare_repeats(bench: Bench, clips: Clips) -> dict[str, Any]:
    """Return how many transcripts are the same when the same clips are decoded twice in bf16."""
    model, names = bench.model("base"), clips.part["utterance_id"].tolist()[: 4 if bench.tiny else 64]
    precision: Precision = "bf16" if bench.device.type == "cuda" else "fp32"
    options = DecodingOptions(batch_size=32, precision=precision, max_new_tokens=8 if bench.tiny else 64)
    first, second = ([r.text for r in decode_clips(model, clips.store, names, options)] for _ in range(2))
    return {"clips": len(names), "equal": sum(a == b for a, b in zip(first, second, strict=True))}


def run(bench: Bench, report: Report) -> None:
    """Compare losses, and transcripts where their file is given."""
    clips = load_clips(bench)
    report("quality losses", functools.partial(compare_losses, bench, clips))
    report("quality repeats", functools.partial(compare_repeats, bench, clips))
    if bench.texts:
        given = json.loads(bench.texts.read_text(encoding="utf-8"))
        systems = given if any(isinstance(value, dict) for value in given.values()) else {"given": given}
        report("quality texts", functools.partial(compare_texts, bench, clips, systems))

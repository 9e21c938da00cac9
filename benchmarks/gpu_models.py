"""What the sections of `gpu.py` share: settings, models, clips, timing, and the card's own rates."""

import argparse
import dataclasses
import importlib.util
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import soundfile
import torch
from train import speech_folder
from whisper.model import ModelDimensions

from kmed_bench.asr.features.device_store import DeviceFeatures, fits
from kmed_bench.asr.features.store import FeatureSource, FeatureStore, build_features
from kmed_bench.asr.model.device import describe_machine
from kmed_bench.asr.model.tokenizer import N_TEXT_CTX, N_VOCAB, korean_tokenizer
from kmed_bench.asr.model.weights import dimensions, load_weights
from kmed_bench.asr.model.whisper import Whisper
from kmed_bench.config import DataConfig
from kmed_bench.core.schema import MANIFEST_COLUMNS, read_manifest
from kmed_bench.corpus.ingest.manifest import ingest
from kmed_bench.training.batches import Example, build_examples

ONE_LAYER = ModelDimensions(80, 1500, 64, 2, 1, N_VOCAB, N_TEXT_CTX, 64, 2, 1)
SAMPLE_RATE_HZ = 16_000


@dataclasses.dataclass(frozen=True)
class Bench:
    """Settings of a run.

    Attributes
    ----------
    folder : Path
        Keeps the clips and their features for the next section.
    ends_s : float
        When the section must be done, on time.perf_counter's clock.
    """

    device: torch.device
    folder: Path
    sizes: tuple[str, ...]
    tiny: bool
    weights: Path | None
    texts: Path | None
    ends_s: float

    @classmethod
    def from_options(cls, args: argparse.Namespace) -> "Bench":
        """Return the settings that the command line asks for."""
        weights, texts = (Path(given) if given else None for given in (args.weights, args.texts))
        ends_s = time.perf_counter() + 0.95 * args.limit_s
        return cls(torch.device(args.device), Path(args.folder), tuple(args.sizes), args.tiny, weights, texts, ends_s)

    def model(self, size: str, seed: int = 0) -> Whisper:
        """Return a model of a size on the device: base with the given weights, else random ones."""
        if size == "base" and self.weights:
            return load_weights(self.weights, str(self.device))
        torch.manual_seed(seed)
        model = Whisper(ONE_LAYER if self.tiny else dimensions(size))
        for name, parameter in model.named_parameters():
            if "embedding" in name:  # openai-whisper leaves these uninitialised
                torch.nn.init.normal_(parameter, std=0.02)
        return model.to(self.device).eval()

    def synchronize(self) -> None:
        """Wait until the device has done its queued work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def left_s(self) -> float:
        """Return the seconds until the section must be done."""
        return self.ends_s - time.perf_counter()


class Repeated:
    """Features of more clips than there are: ``name#number`` has those of ``name``."""

    def __init__(self, features: FeatureSource) -> None:
        self._features = features

    def n_frames(self, utterance_id: str) -> int:
        """Return a clip's number of frames of 10 ms."""
        return self._features.n_frames(utterance_id.partition("#")[0])

    def window(self, utterance_ids: Sequence[str], n_frames: int) -> torch.Tensor:
        """Return clips padded with their own silence, shape (batch, 80, n_frames)."""
        return self._features.window([name.partition("#")[0] for name in utterance_ids], n_frames)


@dataclasses.dataclass(frozen=True)
class Clips:
    """Clips ready for training and decoding."""

    part: pd.DataFrame
    store: FeatureStore
    examples: list[Example]
    source: str

    def features(self, device: torch.device) -> Repeated:
        """Return the frames as an experiment keeps them, on a GPU that has room for them; for repeated examples."""
        if not fits(self.store.n_bytes, device):
            return Repeated(self.store)
        return Repeated(DeviceFeatures(self.store, self.part["utterance_id"].tolist(), device))

    def repeated(self, n: int) -> list[Example]:
        """Return n examples, read from `Repeated` features; of fewer than all, lengths as in the whole."""
        ordered = sorted(self.examples, key=lambda e: (e.n_frames, e.utterance_id))
        if n < len(ordered):
            return [ordered[i * len(ordered) // n] for i in range(n)]
        each = (ordered[i % len(ordered)] for i in range(n))
        return [dataclasses.replace(e, utterance_id=f"{e.utterance_id}#{i}") for i, e in enumerate(each)]


def load_clips(bench: Bench) -> Clips:
    """Return the recordings, or noise where they are not or the run is a small one."""
    try:
        recordings = None if bench.tiny else speech_folder()
    except SystemExit:
        recordings = None
    manifest = bench.folder / "manifest"
    if recordings is None:
        part = noise_part(bench.folder / "noise", 12 if bench.tiny else 96)
    else:
        if not manifest.exists():
            ingest([recordings], manifest, DataConfig())
        part = read_manifest(manifest / "manifest.parquet")
    store = build_features(part, bench.folder / "features")
    examples, _ = build_examples(part, store, policy="pronunciation", max_len=80, tokenizer=korean_tokenizer())
    return Clips(part, store, examples, "noise" if recordings is None else "recordings")


def noise_part(folder: Path, n_clips: int) -> pd.DataFrame:
    """Return rows of a manifest for clips of noise of 2-12 s, labelled with random words of 5-40 tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    draw, encode = np.random.default_rng(0), korean_tokenizer().encode
    words = ["머리가", "아파요", "약을", "먹었어요", "열이", "나요", "어제부터", "기침이", "심해요", "병원에", "갔어요"]
    rows = []
    for i in range(n_clips):
        seconds, n_tokens, label = draw.uniform(2, 12), draw.integers(5, 41), "네"
        while len(encode(" " + (longer := f"{label} {draw.choice(words)}"))) <= n_tokens:
            label = longer
        path = folder / f"noise-{i:04}.wav"
        if not path.exists():
            samples = draw.normal(scale=0.1, size=int(seconds * SAMPLE_RATE_HZ)).clip(-1, 1)
            soundfile.write(path, samples, SAMPLE_RATE_HZ, subtype="PCM_16")
        row = dict.fromkeys(MANIFEST_COLUMNS, "N/A") | {"utterance_id": path.stem, "audio": str(path), "text": label}
        rows.append({**row, "duration_s": float(seconds), "rate_hz": SAMPLE_RATE_HZ})
    return pd.DataFrame(rows)


def seconds_of(bench: Bench, call: Callable[[], Any], n: int) -> float:
    """Return the mean seconds of n calls after two others."""
    call(), call()
    bench.synchronize()
    started = time.perf_counter()
    for _ in range(n):
        call()
    bench.synchronize()
    return (time.perf_counter() - started) / n


def matmul_rate(bench: Bench) -> float:
    """Return the operations a second of a large square product of random bf16 matrices (fp32 on a CPU)."""
    side, dtype = (8192, torch.bfloat16) if bench.device.type == "cuda" else (256, torch.float32)
    a, b = (torch.randn(side, side, dtype=dtype, device=bench.device) for _ in range(2))
    return 2 * side**3 / seconds_of(bench, lambda: a @ b, 20)


def describe_card(bench: Bench) -> dict[str, Any]:
    """Return the card, its software and its rates."""
    on_gpu = bench.device.type == "cuda"
    source = torch.empty(2**31 if on_gpu else 2**22, dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    copy_s = seconds_of(bench, lambda: target.copy_(source), 10)
    return {
        "card": describe_machine(bench.device),
        "memory_bytes": torch.cuda.get_device_properties(bench.device).total_memory if on_gpu else None,
        "driver": driver_version() if on_gpu else None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "matmul_tflops": matmul_rate(bench) / 1e12,
        "copy_gb_per_s": 2 * source.numel() / copy_s / 1e9,
        "clips": load_clips(bench).source,
    }


def left_out(*packages: str) -> dict[str, Any] | None:
    """Return what is reported of a peer whose packages are not all installed; None if they are."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    return {"left_out": f"{', '.join(missing)}: not installed"} if missing else None


def driver_version() -> str | None:
    """Return the driver's version, None where NVML's package is not installed."""
    try:
        import pynvml
    except ImportError:
        return None
    pynvml.nvmlInit()
    return str(pynvml.nvmlSystemGetDriverVersion())

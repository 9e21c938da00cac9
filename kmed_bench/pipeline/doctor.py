"""`doctor`: what a machine has, what it lacks, and the remedies."""

import dataclasses
import importlib.util
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch

from kmed_bench import __version__
from kmed_bench.asr.features.resampling import import_torchaudio
from kmed_bench.asr.model.device import pick_device, resolve_precision
from kmed_bench.asr.model.weights import WeightsError, find_weights
from kmed_bench.config import Config
from kmed_bench.core.addresses import without_password
from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import cache_folder
from kmed_bench.core.schema import SIZES
from kmed_bench.pipeline.estimates import free_bytes
from kmed_bench.report.fonts import find_korean_font
from kmed_bench.tracking.store import open_store

# A fine-tuned small needs 1 GiB per checkpoint and 2 GiB of optimizer state; base needs a third of that.
_DISK_GIB = 10
_MEMORY_GIB = 8


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of the examination; if not ok, its text says what to do."""

    ok: bool
    name: str
    text: str

    def __str__(self) -> str:
        return without_password(f"{'ok     ' if self.ok else 'MISSING'}  {self.name:<10} {self.text}")


def examine(config: Config) -> list[Finding]:
    """Return the findings on Python, torch, device, memory, disk, weights, tracking store, font and demo voice."""
    return list(_examine(config))


def _examine(config: Config) -> Iterator[Finding]:
    yield Finding(sys.version_info >= (3, 11), "python", f"{platform.python_version()} (3.11 or newer is needed)")
    yield Finding(True, "kmed-bench", __version__)
    yield _torch()
    device = pick_device()
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {os.cpu_count()} cores"
    yield Finding(True, "device", f"{name}; train.precision=auto means {resolve_precision('auto', device)}")
    memory = psutil.virtual_memory().total / 2**30
    yield Finding(memory >= _MEMORY_GIB, "memory", f"{memory:.0f} GiB ({_MEMORY_GIB} are needed for base, batch 4)")
    yield _disk("disk, here", Path.cwd(), "run in another folder")
    cache = cache_folder()
    yield _disk("disk, cache", cache, "set KMED_CACHE to a folder on a larger disk")
    for size in SIZES:
        try:
            weights = find_weights(size, download=False)
            yield Finding(True, size, f"{weights.path} ({weights.origin})")
        except WeightsError as error:
            yield Finding(False, size, str(error))
    yield _store(config)
    font = find_korean_font()
    remedy = "no font with Hangul; `pip install koreanize-matplotlib` brings NanumGothic"
    yield Finding(font is not None, "font", str(font or remedy))
    voice = importlib.util.find_spec("espeakng_loader") is not None
    yield Finding(voice, "demo voice", "eSpeak NG" if voice else "`pip install 'kmed-bench[demo]'` for the demo corpus")


def _torch() -> Finding:
    try:
        versions = f"torch {torch.__version__}, torchaudio {import_torchaudio().__version__}"
    except KmedError as error:
        return Finding(False, "torch", str(error))
    return Finding(True, "torch", versions)


def _disk(name: str, folder: Path, remedy: str) -> Finding:
    free = free_bytes(folder) / 2**30
    text = f"{free:.0f} GiB free in {folder}"
    return Finding(free >= _DISK_GIB, name, text if free >= _DISK_GIB else f"{text}, {_DISK_GIB} needed; {remedy}")


def _store(config: Config) -> Finding:
    try:
        return Finding(True, "tracking", open_store(config.tracking))
    except KmedError as error:
        return Finding(False, "tracking", str(error))

"""Which device does the work, and in which arithmetic."""

import contextlib
import os
import platform
from typing import Literal

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

# oneDNN, which multiplies bf16 on CPUs, keeps 1,024 compiled products unless told otherwise, when it makes the first.
# An epoch of clips of all lengths needs more, and would then compile the same ones at nearly every step.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8192")

Precision = Literal["fp32", "bf16", "fp16"]


def pick_device() -> torch.device:
    """Return CUDA where there is one, else the CPU; of several GPUs the one that a launcher gave this process."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def describe_machine(device: torch.device) -> str:
    """Return what did the work, without the machine's name: GPU model, or processor kind and threads."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"{platform.machine()} CPU ({torch.backends.cpu.get_cpu_capability()}), {torch.get_num_threads()} threads"


def resolve_precision(wanted: str, device: torch.device) -> Precision:
    """Return the precision, for ``auto`` bf16 where the hardware multiplies it and fp32 elsewhere.

    Without native bf16 a CPU emulates it, several times slower than fp32 (measured: docs/LOG.md).
    """
    for known in ("fp32", "bf16", "fp16"):
        if wanted == known:
            return known
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    native = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return "bf16" if native else "fp32"


def bf16_on_cpu(precision: Precision, device: torch.device) -> bool:
    """Return whether layers of our own compute training (``training.native``, ``training.output``)."""
    return precision == "bf16" and device.type == "cpu"


def autocast(precision: Precision, device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Return the context of a precision: nothing for fp32, 16-bit matrix products otherwise."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16 if precision == "bf16" else torch.float16)


def no_plan_per_shape(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Leave cuDNN's attention out on a GPU, for training and decoding, where nearly every call has a new shape.

    It plans each shape anew, which takes longer than a step: on an H200, training in bf16 took 5.8 (`full`) and 7.0
    (`dynamic`) times as long with it (docs/LOG.md, 2026-11-26). torch's other kernels take any shape. fp32 never uses
    it, and a CPU has none.
    """
    others = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    return sdpa_kernel(others) if device.type == "cuda" else contextlib.nullcontext()

"""Which device does the work, and in which arithmetic."""

import contextlib
import platform
from typing import Literal

import torch

Precision = Literal["fp32", "bf16"]


def pick_device() -> torch.device:
    """Return CUDA where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def describe_machine(device: torch.device) -> str:
    """Return what did the work, without the machine's name: GPU model, or processor kind and threads."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"{platform.machine()} CPU ({torch.backends.cpu.get_cpu_capability()}), {torch.get_num_threads()} threads"


def resolve_precision(wanted: str, device: torch.device) -> Precision:
    """Return fp32 or bf16 for ``auto``: bf16 where the hardware multiplies it.

    Without native bf16 a CPU emulates it, several times slower than fp32 (measured: docs/LOG.md).
    """
    if wanted in ("fp32", "bf16"):
        return "bf16" if wanted == "bf16" else "fp32"
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    native = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return "bf16" if native else "fp32"


def autocast(precision: Precision, device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Return the context of a precision: nothing for fp32, bf16 matrix products otherwise."""
    if precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()

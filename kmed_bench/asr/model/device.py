"""The device that computes, and the precision it computes in."""

import contextlib
import os
import platform
from collections.abc import Iterator
from typing import Literal, cast, get_args

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from kmed_bench.core.language import N_

# oneDNN, which multiplies bf16 on CPUs, reads this when it compiles its first product, and keeps 1,024 by default. An
# epoch of clips of all lengths needs more, and would recompile the same ones at nearly every step.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8192")

# cuBLAS reads this when it starts; torch computes deterministically only with a workspace of fixed size.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

Precision = Literal["fp32", "bf16", "fp16"]


def pick_device() -> torch.device:
    """Return the GPU if there is one, else the CPU; of several GPUs, the one that the launcher assigned."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def describe_machine(device: torch.device) -> str:
    """Return the GPU's model, or the processor's kind and its threads; never the machine's name."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    n_threads = torch.get_num_threads()
    threads = "1 thread" if n_threads == 1 else f"{n_threads} threads"
    return f"{platform.machine()} CPU ({torch.backends.cpu.get_cpu_capability()}), {threads}"


def thread_params(device: torch.device) -> dict[str, str]:
    """Return the params of a run that state the number of threads and whether its results depend on it.

    On a CPU the threads share out the sums of matrix products, so another number adds in another order and rounds
    otherwise; after some steps the weights differ visibly. One thread everywhere would remove that, at the cost of the
    other cores.
    """
    decides = N_("no: the GPU computes") if device.type == "cuda" else N_("yes: sums are taken in another order")
    return {"machine.threads": str(torch.get_num_threads()), "machine.threads_decide": decides}


def resolve_precision(setting: str, device: torch.device) -> Precision:
    """Return the precision of a setting; ``auto`` is bf16 where the hardware multiplies it natively, else fp32.

    A CPU without native bf16 emulates it, several times slower than fp32 (docs/LOG.md).
    """
    if setting in get_args(Precision):
        return cast(Precision, setting)
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    native = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return "bf16" if native else "fp32"


def autocast(precision: Precision, device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Return a context in which matrix products are computed in a precision; for fp32 it does nothing."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16 if precision == "bf16" else torch.float16)


@contextlib.contextmanager
def gpu_kernels(device: torch.device) -> Iterator[None]:
    """Let a GPU use kernels that take any shape at once and compute fp32 in fp32; on a CPU nothing changes.

    cuDNN's attention compiles a plan for every new shape, which takes longer than a step, and in training and decoding
    nearly every call has a new shape: on an H200, training in bf16 took 5.8 (`full`) and 7.0 (`dynamic`) times as long
    with it (docs/LOG.md, 2026-11-26). torch's other kernels accept any shape, and fp32 never uses cuDNN's. In fp32
    convolutions, cuDNN by default rounds the factors to the 10 bits of TF32.
    """
    if device.type != "cuda":
        yield
        return
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
            yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


@contextlib.contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Use only kernels that give the same bits in every run, where that is wanted; a CPU's all do.

    Raises
    ------
    RuntimeError
        By torch, when an operation has no such kernel.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    if wanted:
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # nothing reads what was never written
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.utils.deterministic.fill_uninitialized_memory = before[1]


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor on a device; a GPU copies it when its turn comes, which the host does not wait for."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)

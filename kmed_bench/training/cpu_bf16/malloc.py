"""Memory that training frees and asks for again in the next step, kept by the process meanwhile."""

import contextlib
import ctypes
import sys
from collections.abc import Iterator

import torch

# glibc's names for mallopt (malloc.h, mallopt(3)).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
_KEPT = {_M_TRIM_THRESHOLD: -1, _M_MMAP_MAX: 0}
# Where glibc's own thresholds have come to once tensors of over 32 MB were freed. Once told, it moves them no more, and
# with what they start from (128 KiB) every layer's tensors would be asked of the system.
_USUAL = {_M_MMAP_MAX: 65_536, _M_MMAP_THRESHOLD: 32 * 2**20, _M_TRIM_THRESHOLD: 64 * 2**20}


@contextlib.contextmanager
def retain_freed_memory(device: torch.device) -> Iterator[None]:
    """Let the C library keep what is freed; at the end it is given back to the system.

    By default glibc asks the system for each tensor over 32 MB and returns it when freed, so that every step of
    training on the CPU waits for hundreds of megabytes of fresh, zeroed pages (docs/decisions/011-native-bf16.md).
    GPUs have torch's own cache; other C libraries are left alone.
    """
    if device.type != "cpu":
        yield
        return
    keep_freed_memory()
    try:
        yield
    finally:
        give_freed_memory_back()


def keep_freed_memory() -> None:
    """Let glibc keep what is freed from here on; with another C library nothing happens."""
    if libc := _glibc():
        _set(libc, _KEPT)


def give_freed_memory_back() -> None:
    """Return what is free to the system, and let glibc do so from here on as it does by itself."""
    if libc := _glibc():
        _set(libc, _USUAL)
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None


def _set(libc: ctypes.CDLL, options: dict[int, int]) -> None:
    for option, value in options.items():
        libc.mallopt(option, value)

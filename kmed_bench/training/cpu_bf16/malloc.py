"""Memory that training frees and allocates again in the next step, kept by the process in between."""

import contextlib
import ctypes
import sys
from collections.abc import Iterator

import torch

# glibc's names for mallopt (malloc.h, mallopt(3)).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
_KEPT = {_M_TRIM_THRESHOLD: -1, _M_MMAP_MAX: 0}
# The values that glibc's dynamic thresholds reach after tensors of over 32 MB were freed. Setting any of them disables
# the adjustment, and the initial 128 KiB would send every layer's tensors through mmap.
_USUAL = {_M_MMAP_MAX: 65_536, _M_MMAP_THRESHOLD: 32 * 2**20, _M_TRIM_THRESHOLD: 64 * 2**20}


@contextlib.contextmanager
def retain_freed_memory(device: torch.device) -> Iterator[None]:
    """Make the C library keep freed memory for reuse; it is returned to the system on exit.

    By default glibc asks the system for each tensor over 32 MB and returns it when freed, so every training step on the
    CPU waits for hundreds of megabytes of fresh, zeroed pages (docs/decisions/011-native-bf16.md). On a GPU, which has
    torch's own cache, and with other C libraries nothing happens.
    """
    libc = _glibc() if device.type == "cpu" else None
    if libc is None:
        yield
        return
    _set(libc, _KEPT)
    try:
        yield
    finally:
        _set(libc, _USUAL)
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None


def _set(libc: ctypes.CDLL, options: dict[int, int]) -> None:
    for option, value in options.items():
        libc.mallopt(option, value)

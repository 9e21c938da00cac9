"""Memory that training frees and asks for again in the next step, kept by the process meanwhile."""

import contextlib
import ctypes
import sys
from collections.abc import Iterator

import torch

# glibc's names and defaults for mallopt (malloc.h, mallopt(3)).
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_DEFAULTS = {_M_TRIM_THRESHOLD: 128 * 1024, _M_MMAP_MAX: 65_536}
_KEPT = {_M_TRIM_THRESHOLD: -1, _M_MMAP_MAX: 0}


@contextlib.contextmanager
def freed_memory_kept(device: torch.device) -> Iterator[None]:
    """Let the C library keep what is freed; at the end it is given back to the system.

    By default glibc asks the system for each tensor over 32 MB and returns it when freed, so that every step of
    training on the CPU waits for hundreds of megabytes of fresh, zeroed pages (docs/decisions/011-native-bf16.md).
    GPUs have torch's own cache; other C libraries are left alone.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if device.type != "cpu" or not (hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim")):
        yield
        return
    assert libc is not None
    for option, value in _KEPT.items():
        libc.mallopt(option, value)
    try:
        yield
    finally:
        for option, value in _DEFAULTS.items():
            libc.mallopt(option, value)
        libc.malloc_trim(0)

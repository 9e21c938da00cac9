"""Resampling whose cost stays bounded for rates that share few factors with 16,000 Hz."""

import functools
import importlib.metadata
import math
from typing import Any

import numpy as np
import torch

from kmed_bench.core.errors import KmedError, brief

_MAX_KERNEL = 1 << 22


def resample(samples: np.ndarray, rate_hz: int, new_hz: int) -> np.ndarray:
    """Return samples at another rate, float32, shape (n_samples,).

    torchaudio's filter holds about ``rate_hz * new_hz / gcd ** 2`` numbers: 70,560 from 44,100 to 16,000 Hz, but 706
    million (gigabytes) from 44,101 Hz. Beyond 4 million, scipy's polyphase filter is used, whose length grows only with
    the larger rate.

    Parameters
    ----------
    samples : numpy.ndarray
        float32, mono.
    """
    if rate_hz == new_hz:
        return samples
    divisor = math.gcd(rate_hz, new_hz)
    if (rate_hz // divisor) * (new_hz // divisor) > _MAX_KERNEL:
        from scipy.signal import resample_poly  # slow to import, and no usual rate needs it

        polyphase: np.ndarray = resample_poly(samples, new_hz // divisor, rate_hz // divisor)
        return polyphase.astype(np.float32, copy=False)
    changed: np.ndarray = _windowed_sinc(rate_hz, new_hz)(torch.from_numpy(samples)).numpy()
    return changed


@functools.lru_cache(maxsize=8)
def _windowed_sinc(rate_hz: int, new_hz: int) -> Any:
    """Return torchaudio's resampling with its filter, which takes as long to compute as a clip of a few seconds.

    Given the samples' type, the filter is that of ``torchaudio.functional.resample``.
    """
    return import_torchaudio().transforms.Resample(rate_hz, new_hz, dtype=torch.float32)


def import_torchaudio() -> Any:
    """Return torchaudio, imported on first use: that takes a second, and fails beside a torch built for another CUDA.

    Raises
    ------
    KmedError
        When it is missing or does not load beside the torch that is installed.
    """
    try:
        import torchaudio
    except (ImportError, OSError, RuntimeError) as error:
        versions = [f"{name} {_version(name)}" for name in ("torch", "torchaudio")]
        raise KmedError(
            f"{' and '.join(versions)} do not load together ({brief(error)}); install a pair that "
            "fits: `pip install torch==2.14.1 torchaudio==2.11.0`."
        ) from None
    return torchaudio


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "(missing)"

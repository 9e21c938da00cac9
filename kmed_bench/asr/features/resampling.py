"""Samples at another rate, at a cost that does not depend on how odd the rate is."""

import math

import numpy as np

_MAX_KERNEL = 1 << 22


def resample(samples: np.ndarray, rate_hz: int, new_hz: int) -> np.ndarray:
    """Return samples at another rate, float32, shape (n_samples,).

    torchaudio's filter holds about ``rate_hz * new_hz / gcd ** 2`` numbers: 70,560 from 44,100 to 16,000 Hz, but 706
    million from 44,101 Hz, some gigabytes. Beyond 4 million, scipy's polyphase filter does it, whose length grows with
    the larger rate alone.

    Parameters
    ----------
    samples : numpy.ndarray
        float32, mono.
    """
    if rate_hz == new_hz:
        return samples
    divisor = math.gcd(rate_hz, new_hz)
    if (rate_hz // divisor) * (new_hz // divisor) > _MAX_KERNEL:
        from scipy.signal import resample_poly

        polyphase: np.ndarray = resample_poly(samples, new_hz // divisor, rate_hz // divisor)
        return polyphase.astype(np.float32, copy=False)
    import torch
    import torchaudio  # takes a second to import; most corpora are at a rate that needs it, the command line is not

    changed: np.ndarray = torchaudio.functional.resample(torch.from_numpy(samples), rate_hz, new_hz).numpy()
    return changed

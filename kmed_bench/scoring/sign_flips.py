"""Paired permutation test of speakers by exchanging two systems."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

_BLOCK_CELLS = 1 << 16
"""Draws times speakers computed at once: half a megabyte, which fits in the processor's cache."""
_EXACT_SPEAKERS = 12
"""Up to this many speakers all 2**n sign patterns are computed; above, random ones."""


def sign_flip_p_value(differences: npt.ArrayLike, *, draws: int, seed: int) -> float:
    """Return the two-sided p-value of no difference between two systems, by flipping the signs of whole speakers.

    If the systems were equal, exchanging them for any speaker would be as likely as the data. Up to 12 speakers all
    sign patterns are computed; above, random ones, with the observed pattern counted among them.

    Parameters
    ----------
    differences : array_like
        (n_speakers,) errors of one system minus errors of the other.

    Notes
    -----
    With n speakers the p-value is at least 2 / 2**n: 5 speakers or fewer can never reach 0.05.
    """
    nonzero = np.asarray(differences, dtype=np.float64)
    nonzero = nonzero[nonzero != 0]
    if not len(nonzero):
        return 1.0
    observed = abs(nonzero.sum())
    slack = 1e-9 * np.abs(nonzero).sum()  # rounding, where a pattern equals the observed one
    if len(nonzero) <= _EXACT_SPEAKERS:
        patterns = np.arange(2 ** len(nonzero))[:, None] >> np.arange(len(nonzero)) & 1
        return float(np.mean(np.abs((2 * patterns - 1) @ nonzero) >= observed - slack))
    generator = np.random.default_rng(seed)
    extreme = 0
    for rows in _blocks(draws, len(nonzero)):
        signs = generator.integers(0, 2, size=(rows, len(nonzero)), dtype=np.int8) * 2.0 - 1.0
        extreme += int(np.sum(np.abs(signs @ nonzero) >= observed - slack))
    return (extreme + 1) / (draws + 1)


def _blocks(draws: int, count: int) -> Iterator[int]:
    size = max(1, _BLOCK_CELLS // count)
    for start in range(0, draws, size):
        yield min(size, draws - start)

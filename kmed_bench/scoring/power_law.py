"""An error rate as a power law of the amount of training data, fitted to many samples at a time.

``CER(h) = a h^-b + c`` has a floor c that no amount of data goes below; with too few amounts for three parameters c is
0. The fit minimises the sum of squared relative deviations, with a, b and c not negative: for each exponent b, a and c
are a linear least-squares problem with two unknowns, and b is searched on a grid that is refined once.

Sources: J. Hestness et al., Deep learning scaling is predictable, empirically, arXiv:1712.00409 (2017), for the power
law with a floor as the shape of learning curves, speech recognition among them; J. Rosenfeld et al., A constructive
prediction of the generalization error across scales, ICLR 2020, for relative deviations as what a fit minimises.
"""

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
STEEPEST = 3.0
"""Largest exponent that is searched; published ones of speech recognition are below 0.5."""
_COARSE, _FINE = 241, 41
_BLOCK = 1000
"""Samples fitted at a time, which bounds the memory."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PowerLaws:
    """One fit for each sample.

    Attributes
    ----------
    scale, exponent, floor : numpy.ndarray
        (n_samples,) a, b and c, with h in the unit of the amounts.
    """

    scale: Floats
    exponent: Floats
    floor: Floats

    def at(self, amounts: npt.ArrayLike) -> Floats:
        """Return (n_samples, n_amounts) rates."""
        h = np.asarray(amounts, dtype=np.float64)
        rates: Floats = self.scale[:, None] * h[None, :] ** -self.exponent[:, None] + self.floor[:, None]
        return rates


def fit_power_laws(amounts: npt.ArrayLike, rates: npt.ArrayLike, *, with_floor: bool) -> PowerLaws:
    """Return the power law of each sample of rates.

    Parameters
    ----------
    amounts : array_like
        (n_amounts,) positive amounts of data.
    rates : array_like
        (n_samples, n_amounts) positive rates.
    with_floor : bool
        Whether c is fitted; otherwise it is 0.
    """
    h, y = np.asarray(amounts, dtype=np.float64), np.asarray(rates, dtype=np.float64)
    unit = float(np.exp(np.log(h).mean()))  # amounts around 1 keep the sums of one size
    grid = np.linspace(0.0, STEEPEST, _COARSE)
    found: list[PowerLaws] = []
    for start in range(0, len(y), _BLOCK):
        block = y[start : start + _BLOCK]
        coarse = _best(h / unit, block, np.broadcast_to(grid, (len(block), _COARSE)), with_floor)
        near = np.clip(coarse.exponent[:, None] + grid[1] * np.linspace(-1, 1, _FINE), 0.0, STEEPEST)
        found.append(_best(h / unit, block, near, with_floor))
    scale, exponent, floor = (
        np.concatenate([getattr(one, name) for one in found]) for name in ("scale", "exponent", "floor")
    )
    return PowerLaws(scale=scale * unit**exponent, exponent=exponent, floor=floor)


def _best(h: Floats, y: Floats, exponents: Floats, with_floor: bool) -> PowerLaws:
    """Return for each sample the best of its exponents, the smallest of equals, with its a and c.

    The relative deviations are a u + c v - 1 with u = h^-b / y and v = 1 / y.
    """
    u = h[None, None, :] ** -exponents[:, :, None] / y[:, None, :]
    v = np.broadcast_to((1 / y)[:, None, :], u.shape)
    uu, uv, vv = (u * u).sum(-1), (u * v).sum(-1), (v * v).sum(-1)
    us, vs = u.sum(-1), v.sum(-1)
    a, c = us / uu, np.zeros_like(us)
    if with_floor:
        determinant = uu * vv - uv * uv
        # At b = 0, or all but 0, a and c are one constant: the fit without a floor is the same.
        apart = determinant > 1e-12 * uu * vv
        safe = np.where(apart, determinant, 1.0)
        both_a, both_c = (vv * us - uv * vs) / safe, (uu * vs - uv * us) / safe
        inside = apart & (both_a >= 0) & (both_c >= 0)
        flat = apart & (both_a < 0)
        a = np.where(inside, both_a, np.where(flat, 0.0, a))
        c = np.where(inside, both_c, np.where(flat, vs / vv, 0.0))
    loss = a * a * uu + 2 * a * c * uv + c * c * vv - 2 * a * us - 2 * c * vs
    index: Any = (np.arange(len(y)), loss.argmin(axis=1))
    return PowerLaws(scale=a[index], exponent=exponents[index], floor=c[index])

"""Nested subsets of a training part: whole speakers, each larger subset with all of the smaller one."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from kmed_bench.core.errors import KmedError
from kmed_bench.core.language import N_
from kmed_bench.core.schema import UNKNOWN

Floats = npt.NDArray[np.float64]
_CANDIDATES = 8
"""Speakers drawn at random of which the one joins that keeps the groups' shares best; with all of them to choose from,
draws would hardly differ."""
REPEATED = N_(
    "{fraction:g} of the speech in draw {draw}, whose speakers are those of {kept_fraction:g} in draw {kept_draw}"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subset:
    """A subset of a training part.

    Attributes
    ----------
    draw : int
        Number of the draw, from 0 on.
    fraction : float
        The amount that was asked for, as a fraction of the part's duration; whole speakers may give another.
    rows : pandas.DataFrame
        The utterances, in the part's order.
    """

    draw: int
    fraction: float
    rows: pd.DataFrame

    @property
    def hours(self) -> float:
        """Duration of the utterances."""
        return float(self.rows["duration_s"].sum()) / 3600

    @property
    def n_speakers(self) -> int:
        """Number of speakers."""
        return int(self.rows["speaker_id"].nunique())


def draw_subsets(
    part: pd.DataFrame, fractions: Sequence[float], *, by: Sequence[str], seed: int, draws: int
) -> tuple[list[Subset], list[str]]:
    """Return nested subsets of a training part from small to large, and in words those that would repeat another.

    Within a draw, speakers join in an order of its own, and a subset is the beginning of that order whose duration is
    nearest to its fraction. Subsets of the same speakers are one, under the fraction that fits it best.

    Parameters
    ----------
    by : sequence of str
        Columns whose shares of the part's duration each subset keeps as far as whole speakers allow.

    Raises
    ------
    KmedError
        When a speaker is not known, or the part has only one.
    """
    unknown = part["speaker_id"].isin(UNKNOWN)
    if unknown.any():
        raise KmedError(
            f"The speakers of {int(unknown.sum())} of {len(part)} training utterances are not known, so no subset of "
            "speakers can be drawn. Import the corpus with a column of speakers, and split it again."
        )
    seconds = part.groupby("speaker_id")["duration_s"].sum()
    if len(seconds) < 2:
        raise KmedError("The training part has one speaker, and subsets are of whole speakers; split a larger corpus.")
    found: dict[frozenset[str], Subset] = {}
    repeated: list[str] = []
    for draw in range(draws):
        order = _order(part, by, np.random.default_rng([seed, draw]))
        share = (seconds[order].cumsum() / seconds.sum()).to_numpy()
        for fraction, n in _sizes(share, fractions):
            chosen = frozenset(order[:n])
            rows = part[part["speaker_id"].isin(chosen)].reset_index(drop=True)
            new, old = Subset(draw=draw, fraction=fraction, rows=rows), found.get(chosen)
            if old is None:
                found[chosen] = new
            elif n < len(order):
                error = {one.fraction: abs(one.fraction - float(share[n - 1])) for one in (old, new)}
                kept = found[chosen] = min(old, new, key=lambda one: error[one.fraction])
                left = old if kept is new else new
                repeated.append(
                    REPEATED.format(
                        fraction=left.fraction, draw=left.draw, kept_fraction=kept.fraction, kept_draw=kept.draw
                    )
                )
    return sorted(found.values(), key=lambda one: (one.fraction, one.draw)), repeated


def _sizes(share: Floats, fractions: Sequence[float]) -> Iterator[tuple[float, int]]:
    """Yield each fraction with the number of speakers whose share of the duration is nearest to it."""
    for fraction in fractions:
        n = len(share) if fraction == 1 else int(np.abs(share[:-1] - fraction).argmin()) + 1
        yield fraction, n


def _order(part: pd.DataFrame, by: Sequence[str], noise: np.random.Generator) -> list[str]:
    """Return the speakers in a random order whose every beginning has nearly the part's shares of each field."""
    places, names = pd.factorize(part["speaker_id"], sort=True)
    if not by:
        return list(noise.permutation(names.to_numpy(dtype=object)))
    columns = []
    for field in by:
        values, known = pd.factorize(part[field], sort=True)
        table = np.zeros((len(names), len(known)))
        np.add.at(table, (places, values), part["duration_s"].to_numpy(dtype=np.float64))
        columns.append(table)
    seconds = np.concatenate(columns, axis=1)
    target = seconds.sum(axis=0) / seconds.sum()
    left, joined = list(noise.permutation(len(names))), np.zeros_like(target)
    order: list[str] = []
    while left:
        # The next ones of a random order are a random sample; those passed over stay first in line.
        sums = joined + seconds[left[:_CANDIDATES]]
        distance = ((sums / sums.sum(axis=1, keepdims=True) - target) ** 2).sum(axis=1)
        chosen = left.pop(int(distance.argmin()) if order else 0)
        joined = joined + seconds[chosen]
        order.append(str(names[chosen]))
    return order

"""Settings of the learning curve."""

from typing import Annotated

from pydantic import AfterValidator, Field

from kmed_bench.config.fields import LIST, Count, Decides, Whole, group


def _ascending(values: tuple[float, ...]) -> tuple[float, ...]:
    if len(set(values)) < len(values):
        raise ValueError("each fraction may be named once")
    return tuple(sorted(values))


Fractions = Annotated[
    tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(min_length=1), AfterValidator(_ascending), LIST
]


@group
class CurveConfig:
    """Learning curve by amount of training speech."""

    fractions: Annotated[Fractions, Decides.NOTHING] = (0.125, 0.25, 0.5, 1.0)
    """Amounts of speech that a learning curve trains on, as fractions of the training part, drawn as whole speakers.
    The same command with more fractions extends the curve."""
    draws: Annotated[Count, Decides.NOTHING] = 1
    """How often the nested subsets of speakers are drawn; each draw has its own subsets, except for the full amount."""
    seed: Annotated[Whole, Decides.CURVE] = 208
    """Random seed of the order in which speakers join the subsets."""
    extrapolate: Annotated[float, Field(ge=1, le=4), Decides.NOTHING] = 2.0
    """Up to which multiple of the largest amount the fitted curve is extended, if it is identified. 1: not at all."""

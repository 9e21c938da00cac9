"""What scoring can be asked: which side of the notation, how small a group may be, how its intervals are drawn."""

import dataclasses
from typing import Self

from kmed_bench.config import Config, DataConfig, EvalConfig
from kmed_bench.text.marks import Policy


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoringOptions:
    """Settings of scores and comparisons; the defaults are those of the configuration.

    Attributes
    ----------
    transcript_side : str
        Side of the dual notation (3)/(삼) that hypotheses are compared with: pronunciation or spelling.
    min_group_clips, min_group_speakers : int
        A group under either minimum is marked ``below_minimum``.
    bootstrap_draws, bootstrap_seed : int
        Number and seed of the random sign patterns behind p-values of over 12 speakers.
    """

    transcript_side: Policy = DataConfig.transcript_side
    min_group_clips: int = EvalConfig.min_group_clips
    min_group_speakers: int = EvalConfig.min_group_speakers
    bootstrap_draws: int = EvalConfig.bootstrap_draws
    bootstrap_seed: int = EvalConfig.bootstrap_seed

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """Return the options that a benchmark's settings ask for."""
        return cls(
            transcript_side=config.data.transcript_side,
            min_group_clips=config.eval.min_group_clips,
            min_group_speakers=config.eval.min_group_speakers,
            bootstrap_draws=config.eval.bootstrap_draws,
            bootstrap_seed=config.eval.bootstrap_seed,
        )

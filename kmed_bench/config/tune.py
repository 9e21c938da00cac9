"""Settings of the hyperparameter search."""

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from kmed_bench.config.fields import FORBID, LIST, Count, Decides, Names, Whole, group
from kmed_bench.config.yaml_text import parse_yaml


def _number_word(value: Any) -> Any:
    """Return the number that a text holds: YAML 1.1 reads ``2e-5``, which has no dot, as a text."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return float(value)
    return value


def _read_space(value: Any) -> Any:
    """Return the search space that a YAML text of the command line holds; ``none`` is the empty one."""
    if isinstance(value, str):
        try:
            value = parse_yaml(value)[0]
        except ValueError as error:
            raise ValueError(f"it must be a YAML mapping ({error})") from None
    if isinstance(value, str) and value.strip().lower() == "none":
        return {}
    if isinstance(value, Mapping):
        return {key: _read_choices(entry) for key, entry in value.items()}
    return {} if value is None else value


def _read_choices(entry: Any) -> Any:
    return tuple(_number_word(choice) for choice in entry) if isinstance(entry, (list, tuple)) else entry


@dataclasses.dataclass(frozen=True, kw_only=True)
class Range:
    """Values from low to high, both included; whole numbers if both are."""

    __pydantic_config__ = FORBID
    low: Annotated[int | float, BeforeValidator(_number_word)]
    high: Annotated[int | float, BeforeValidator(_number_word)]
    log: bool = False
    """Whether values are drawn evenly on a logarithmic scale."""

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"low ({self.low}) must be under high ({self.high})")
        if self.log and self.low <= 0:
            raise ValueError(f"low ({self.low}) must be over 0 where log is true")


Choice = bool | int | float | str | None
Dimension = Annotated[
    Annotated[Range, Tag("range")] | Annotated[tuple[Choice, ...], Field(min_length=2), Tag("choices")],
    # Told apart first: otherwise a fault in one form would be explained as a fault in the other as well.
    Discriminator(lambda entry: "range" if isinstance(entry, (Mapping, Range)) else "choices"),
]


def _default_space() -> dict[str, Range | tuple[Choice, ...]]:
    return {
        "train.lr": Range(low=1e-6, high=1e-4, log=True),
        "train.warmup_steps": Range(low=0, high=500),
        "train.schedule": ("constant", "linear", "cosine"),
        "train.weight_decay": Range(low=1e-4, high=0.1, log=True),
        "train.batch_size": (4, 8, 16),
        "train.freeze_encoder": (False, True),
        "train.spec_augment": (False, True),
    }


@group
class TuneConfig:
    """Search for better settings of training, by decoded validation CER."""

    space: Annotated[dict[str, Dimension], BeforeValidator(_read_space), Decides.SEARCH] = dataclasses.field(
        default_factory=_default_space
    )
    """What is searched: each setting of training with a range {low, high, log} or a list of choices, in YAML. The
    default value must be among them."""
    trials: Annotated[Count, Decides.NOTHING] = 30
    """Trials of the study, shared by all processes that work on it. The default settings are the first trial."""
    objectives: Annotated[tuple[Literal["cer", "seconds_per_clip"], ...], Field(min_length=1), LIST, Decides.SEARCH] = (
        "cer",
    )
    """What is minimized: the lowest decoded validation CER, with or without the decoding time per clip in seconds."""
    sampler: Annotated[Literal["tpe", "gp", "random"], Decides.SEARCH] = "tpe"
    """How the settings of a trial are chosen: tree-structured Parzen estimator, Gaussian process, or at random."""
    pruner: Annotated[Literal["median", "successive_halving", "hyperband", "none"], Decides.SEARCH] = "median"
    """Rule that stops unpromising trials early."""
    seed: Annotated[Whole, Decides.SEARCH] = 208
    """Random seed of the sampler; trial k draws the same in any process. Trainings use the first of train.seeds."""
    startup_trials: Annotated[Count, Decides.SEARCH] = 5
    """Trials before tpe and gp learn from others, and before the median pruner may stop one."""
    warmup_epochs: Annotated[Whole, Decides.SEARCH] = 1
    """First epochs of a trial, in which no pruner stops it."""
    storage: Annotated[str, Decides.NOTHING] = "sqlite:///kmed-optuna.db"
    """Where Optuna keeps the study: sqlite:///PATH, or postgresql://… for several machines. Never MLflow's own
    database."""
    heartbeat_s: Annotated[Count, Decides.NOTHING] = 60
    """Heartbeat interval of a running trial, in seconds. A process that misses two is considered dead."""
    retries: Annotated[Whole, Decides.NOTHING] = 2
    """How often a trial whose process died is run again with the same parameters."""
    callbacks: Annotated[Names, Decides.NOTHING] = ()
    """Functions of your own that are called after each trial with the study and the trial, as module:function."""
    experiment: Annotated[str, Decides.NOTHING] = "kmed-hpo"
    """MLflow experiment of studies."""

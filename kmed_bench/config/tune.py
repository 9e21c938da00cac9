"""Settings of the search for better settings."""

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Discriminator, Field, Tag

from kmed_bench.config.fields import FORBID, Count, split_commas


def _number_word(value: Any) -> Any:
    """YAML 1.1 reads ``2e-5``, which has no dot, as a text."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return float(value)
    return value


def _read_space(value: Any) -> Any:
    """Let the command line give a search space as YAML text; ``none`` is the empty one."""
    if isinstance(value, str):
        try:
            value = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(f"it must be a YAML mapping ({' '.join(str(error).split())})") from None
    if isinstance(value, str) and value.strip().lower() == "none":
        return {}
    if isinstance(value, Mapping):
        return {key: _read_choices(entry) for key, entry in value.items()}
    return {} if value is None else value


def _read_choices(entry: Any) -> Any:
    return tuple(_number_word(choice) for choice in entry) if isinstance(entry, (list, tuple)) else entry


@dataclasses.dataclass(frozen=True, kw_only=True)
class Range:
    """Values from low to high, both included; whole numbers where low and high are."""

    __pydantic_config__ = FORBID
    low: Annotated[int | float, BeforeValidator(_number_word)]
    high: Annotated[int | float, BeforeValidator(_number_word)]
    log: bool = False
    """Draw the logarithm evenly."""

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"low ({self.low}) must be under high ({self.high})")
        if self.log and self.low <= 0:
            raise ValueError(f"low ({self.low}) must be over 0 where log is true")


Choice = bool | int | float | str | None
Dimension = Annotated[
    Annotated[Range, Tag("range")] | Annotated[tuple[Choice, ...], Field(min_length=2), Tag("choices")],
    # Told apart first, so that a fault in one form is not explained as a fault in the other too.
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """Search for settings of training by decoded valid CER."""

    __pydantic_config__ = FORBID
    space: Annotated[dict[str, Dimension], BeforeValidator(_read_space)] = dataclasses.field(
        default_factory=_default_space
    )
    """Setting to a range {low, high, log} or a list of choices; the default value must be among them."""
    trials: Count = 30
    """Trials of the study, however many processes share them; the default settings are the first."""
    objectives: Annotated[tuple[Literal["cer", "seconds_per_clip"], ...], BeforeValidator(split_commas)] = ("cer",)
    """What is minimised: the best decoded valid CER, alone or with the seconds a clip takes to decode."""
    sampler: Literal["tpe", "gp", "random"] = "tpe"
    pruner: Literal["median", "successive_halving", "hyperband", "none"] = "median"
    seed: Annotated[int, Field(ge=0)] = 208
    """Of the sampler; trial k draws the same whichever process runs it. Training uses train.seeds' first."""
    startup_trials: Annotated[int, Field(ge=1)] = 5
    """Trials before tpe and gp learn from others, and before the median pruner may end one."""
    warmup_epochs: Annotated[int, Field(ge=0)] = 1
    """Epochs that no pruner cuts."""
    storage: str = "sqlite:///kmed-optuna.db"
    """sqlite:///PATH, or postgresql://… for several machines; never MLflow's own database."""
    heartbeat_s: Count = 60
    """A running trial signs this often; after two silent intervals its process counts as dead."""
    retries: Annotated[int, Field(ge=0)] = 2
    """How often a trial whose process died is run again with the same parameters."""
    experiment: str = "kmed-hpo"

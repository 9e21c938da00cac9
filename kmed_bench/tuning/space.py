"""The search space: settings of training that a trial may choose, and the published values among them."""

import dataclasses
import math
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from kmed_bench.config import Config, Decides, Range, TrainConfig, adjust
from kmed_bench.config.identity import decisive
from kmed_bench.config.tune import Choice
from kmed_bench.core.errors import KmedError

# It changes what a trial is, not how well it trains: epochs are for the pruner, as seeds are for `--confirm`.
_FIXED = ("train.epochs",)


def check_space(config: Config) -> None:
    """Raise KmedError unless every setting of ``tune.space`` can be tuned with each of its values.

    Raises
    ------
    KmedError
        When the space is empty, names a setting that is no choice of training's, holds a value that the setting
        does not take, or lacks the published value.
    """
    decided = decisive(Config(), Decides.TRAINING)
    tunable = [key for key in decided if key.startswith("train.") and key not in _FIXED]
    if not config.tune.space:
        raise KmedError(
            "tune.space is empty, so there is nothing to search; name settings such as "
            "{train.lr: {low: 1e-6, high: 1e-4, log: true}}."
        )
    for name, dimension in config.tune.space.items():
        if name not in tunable:
            raise KmedError(
                f"tune.space names {name!r}, which can't be tuned: only training may differ between trials, never "
                f"the data, the decoding or the scoring. The settings are: {', '.join(tunable)}."
            )
        values = (dimension.low, dimension.high) if isinstance(dimension, Range) else dimension
        for value in values:
            adjust(config, {name: value})  # explains what the setting takes
        _published(name, dimension)


def fit_warmup(config: Config, n_utterances: int) -> Config:
    """Return settings that search no warm-up as long as the shortest training, which no such trial could do.

    Parameters
    ----------
    n_utterances : int
        Of the training part.

    Raises
    ------
    KmedError
        When no warm-up of the range is shorter.
    """
    space = config.tune.space
    warmup, batches = space.get("train.warmup_steps"), space.get("train.batch_size", (config.train.batch_size,))
    if not isinstance(warmup, Range):
        return config
    largest = int(batches.high) if isinstance(batches, Range) else max(int(str(choice)) for choice in batches)
    n_steps = math.ceil(n_utterances / largest) * config.train.epochs
    if warmup.high < n_steps:
        return config
    if warmup.low >= n_steps - 1:
        raise KmedError(
            f"tune.space draws train.warmup_steps from {warmup.low} on, but {n_utterances} utterances in batches of "
            f"{largest} make {n_steps} optimizer steps in {config.train.epochs} epochs; lower the range or take it out."
        )
    shorter = dataclasses.replace(warmup, high=n_steps - 1)
    tune = dataclasses.replace(config.tune, space={**space, "train.warmup_steps": shorter})
    return dataclasses.replace(config, tune=tune)


def find_published(config: Config) -> dict[str, Choice]:
    """Return the published value of each setting in the space, as the space writes it."""
    return {name: _published(name, dimension) for name, dimension in config.tune.space.items()}


def _published(name: str, dimension: Range | tuple[Choice, ...]) -> Choice:
    field = name.removeprefix("train.")
    value = getattr(TrainConfig(), field)
    if isinstance(dimension, Range):
        if isinstance(value, (int, float)) and dimension.low <= value <= dimension.high:
            return value
    else:
        for choice in dimension:
            # "0.9,1.1" and none are written otherwise than they are kept.
            if getattr(adjust(Config(), {name: choice}).train, field) == value:
                return choice
    raise KmedError(
        f"tune.space leaves the published value {value!r} of {name} out; widen the range or add the choice, since "
        "the published settings are the first trial and what others are measured against."
    )


def distributions(config: Config) -> dict[str, BaseDistribution]:
    """Return Optuna's form of the space."""
    return {name: _distribution(name, dimension) for name, dimension in config.tune.space.items()}


def _distribution(name: str, dimension: Range | tuple[Choice, ...]) -> BaseDistribution:
    if not isinstance(dimension, Range):
        return CategoricalDistribution(dimension)
    low, high = dimension.low, dimension.high
    # The setting's kind decides, not how its ends are written: 0 to 1 of a weight decay are not two values.
    if isinstance(getattr(TrainConfig(), name.removeprefix("train.")), int):
        return IntDistribution(int(low), int(high), log=dimension.log)
    return FloatDistribution(float(low), float(high), log=dimension.log)


def suggest(trial: optuna.Trial, config: Config) -> dict[str, Any]:
    """Return a trial's settings by dotted name, fit for ``config.adjust``."""
    chosen: dict[str, Any] = {}
    for name, dimension in config.tune.space.items():
        found = _distribution(name, dimension)
        if isinstance(found, CategoricalDistribution):
            chosen[name] = trial.suggest_categorical(name, found.choices)
        elif isinstance(found, IntDistribution):
            chosen[name] = trial.suggest_int(name, found.low, found.high, log=found.log)
        elif isinstance(found, FloatDistribution):
            chosen[name] = trial.suggest_float(name, found.low, found.high, log=found.log)
    return chosen

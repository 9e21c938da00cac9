"""The search space: which training settings a trial may choose, and the default values among them."""

import dataclasses
import math

import optuna

from kmed_bench.config import Config, Decides, Range, TrainConfig, adjust
from kmed_bench.config.identity import decisive
from kmed_bench.config.tune import Choice
from kmed_bench.core.errors import KmedError

# It defines what a trial is, not how well it trains: epochs belong to the pruner, as seeds do to `--confirm`.
_FIXED = ("train.epochs",)


def check_space(config: Config) -> None:
    """Raise KmedError unless every setting of ``tune.space`` can be tuned with each of its values.

    Raises
    ------
    KmedError
        When the space is empty, names a setting that is not one of training's, has a value that the setting does not
        take, or lacks the default value.
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
            adjust(config, {name: value})  # raises an error that explains what the setting takes
        _default(name, dimension)


def fit_warmup(config: Config, n_utterances: int) -> Config:
    """Return settings whose warm-up range ends before the shortest training does.

    Parameters
    ----------
    n_utterances : int
        Size of the training part.

    Raises
    ------
    KmedError
        When even the lowest warm-up of the range is too long.
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


def find_default(config: Config) -> dict[str, Choice]:
    """Return the default value of each setting in the space, written as the space writes it."""
    return {name: _default(name, dimension) for name, dimension in config.tune.space.items()}


def _default(name: str, dimension: Range | tuple[Choice, ...]) -> Choice:
    field = name.removeprefix("train.")
    value = getattr(TrainConfig(), field)
    if isinstance(dimension, Range):
        if isinstance(value, (int, float)) and dimension.low <= value <= dimension.high:
            return value
    else:
        for choice in dimension:
            # Compared as parsed: "0.9,1.1" and none have another form in the settings than in the space.
            if getattr(adjust(Config(), {name: choice}).train, field) == value:
                return choice
    raise KmedError(
        f"tune.space leaves out the default value {value!r} of {name}; widen the range or add the choice, since the "
        "default settings are the first trial, to which the others are compared."
    )


def suggest(trial: optuna.Trial, config: Config) -> dict[str, Choice]:
    """Return a trial's settings by dotted name, as ``config.adjust`` takes them."""
    chosen: dict[str, Choice] = {}
    for name, dimension in config.tune.space.items():
        if not isinstance(dimension, Range):
            chosen[name] = trial.suggest_categorical(name, dimension)
        # The setting's type decides, not how the ends are written: a weight decay from 0 to 1 is not two values.
        elif isinstance(getattr(TrainConfig(), name.removeprefix("train.")), int):
            chosen[name] = trial.suggest_int(name, int(dimension.low), int(dimension.high), log=dimension.log)
        else:
            chosen[name] = trial.suggest_float(name, float(dimension.low), float(dimension.high), log=dimension.log)
    return chosen

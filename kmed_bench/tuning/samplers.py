"""Samplers and pruners by name."""

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler

from kmed_bench.config import Config, TuneConfig, digest

# One in this many of the trials that reach a rung is promoted to the next.
_REDUCTION = 3


def make_sampler(config: TuneConfig, number: int) -> BaseSampler:
    """Return the sampler for one trial, seeded by the study's seed and the trial's number.

    With one seed per process, all processes would draw the same first trials; with one per trial, trial k gets the
    same draws in any process, also after a restart.
    """
    seed = int(digest([config.seed, number]), 16) % 2**32
    match config.sampler:
        case "tpe":
            return TPESampler(seed=seed, n_startup_trials=config.startup_trials)
        case "gp":
            return GPSampler(seed=seed, n_startup_trials=config.startup_trials)
        case "random":
            return RandomSampler(seed=seed)


def make_pruner(config: Config) -> BasePruner:
    """Return the pruner; its steps are epochs, counted from 1. With two objectives Optuna can't prune.

    Sources: K. Jamieson, A. Talwalkar, Non-stochastic best arm identification and hyperparameter optimization,
    AISTATS 2016 (successive halving); L. Li et al., Hyperband, JMLR 18 (2018).
    """
    tune, first = config.tune, config.tune.warmup_epochs + 1
    match tune.pruner if len(tune.objectives) == 1 else "none":
        case "median":
            return MedianPruner(n_startup_trials=tune.startup_trials, n_warmup_steps=first)
        case "successive_halving":
            return SuccessiveHalvingPruner(min_resource=first, reduction_factor=_REDUCTION)
        case "hyperband":
            last = max(config.train.epochs, first)
            return HyperbandPruner(min_resource=first, max_resource=last, reduction_factor=_REDUCTION)
        case _:
            return NopPruner()


def directions(config: TuneConfig) -> list[optuna.study.StudyDirection]:
    """Return MINIMIZE for each objective."""
    return [optuna.study.StudyDirection.MINIMIZE] * len(config.objectives)

"""Whether the best trial is better or lucky: its settings and the default ones, trained again on several seeds."""

import logging
from collections.abc import Mapping, Sequence

import numpy as np
import scipy.stats

from kmed_bench.config import Config, adjust, confirmation_digest
from kmed_bench.config.tune import Choice
from kmed_bench.core.errors import KmedError
from kmed_bench.core.quantities import percent
from kmed_bench.core.records import Confirmation
from kmed_bench.scoring.intervals import LEVEL
from kmed_bench.tracking.processes import is_gone, this_process
from kmed_bench.tracking.trials import trial_params
from kmed_bench.tuning.search import Search
from kmed_bench.tuning.space import find_default
from kmed_bench.tuning.study_record import write_confirmation

log = logging.getLogger(__name__)

_OWNER = "kmed.confirming"


def check_seeds(config: Config, seeds: Sequence[int]) -> None:
    """Raise KmedError unless the seeds can confirm a trial, or there are none.

    Raises
    ------
    KmedError
        For a single seed, a repeated one, or the one that the trials used.
    """
    if not seeds:
        return
    if len(set(seeds)) != len(seeds) or len(seeds) < 2:
        listed = ",".join(map(str, seeds))
        raise KmedError(f"--confirm {listed}: give at least two different seeds; one has no interval.")
    if config.train.seeds[0] in seeds:
        raise KmedError(
            f"--confirm names seed {config.train.seeds[0]}, which the trials use: it helped to choose the best one, so "
            "it can't confirm it; give other seeds."
        )


def confirm_best(search: Search, seeds: Sequence[int]) -> None:
    """Train the default and the best settings on the seeds and store the comparison in the study.

    Each finished training is stored, so an interrupted confirmation continues where it stopped. Only one process
    confirms; the others return at once.
    """
    record = search.record()
    best = record.best()
    if best is None or best.is_default:
        log.info("Nothing to confirm: no complete trial beats the default settings.")
        return
    if not _claim(search):
        log.info("Another process is confirming the best trial; its report will have the result.")
        return
    try:
        default = [_train(search, find_default(search.config), seed, "default") for seed in seeds]
        tuned = [_train(search, best.params, seed, "best") for seed in seeds]
    finally:
        search.queue.study.set_user_attr(_OWNER, "")
    result = compare_seeds(seeds, default, tuned)
    write_confirmation(search.queue.study, best.number, result)
    search.parent.log_metrics({"confirm/delta": result.delta, "confirm/low": result.low, "confirm/high": result.high})
    search.parent.set_tags({"kmed.confirmed": result.verdict})
    log.info(f"Best settings compared to the default ones on {len(seeds)} seeds: {result.verdict}.")


def compare_seeds(seeds: Sequence[int], default: Sequence[float], best: Sequence[float]) -> Confirmation:
    """Return the mean over seeds of best minus default, with its 95 % interval (Student's t, paired samples).

    Parameters
    ----------
    default, best : sequence of float
        Valid CER by seed, in the order of ``seeds``.
    """
    differences = np.asarray(best, dtype=np.float64) - np.asarray(default, dtype=np.float64)
    n, mean = len(differences), float(differences.mean())
    half = float(scipy.stats.t.ppf((1 + LEVEL) / 2, n - 1) * differences.std(ddof=1) / np.sqrt(n))
    return Confirmation(
        seeds=tuple(seeds),
        default=tuple(default),
        best=tuple(best),
        delta=mean,
        low=mean - half,
        high=mean + half,
    )


def _claim(search: Search) -> bool:
    """Return whether this process is the one that confirms, after recording that it is."""
    with search.queue.lock():
        owner = search.queue.study.user_attrs.get(_OWNER)
        if owner and not is_gone(owner):
            return False
        search.queue.study.set_user_attr(_OWNER, this_process())
        return True


def _train(search: Search, params: Mapping[str, Choice], seed: int, which: str) -> float:
    """Return the valid CER of settings trained with a seed, from the study if it was measured before."""
    config = adjust(search.config, params)
    key = f"kmed.confirm.{confirmation_digest(config, seed)}"
    study = search.queue.study
    if key not in study.user_attrs:
        with search.parent.child("confirm", f"confirm-{which}-seed{seed}") as run:
            run.set_tags({"kmed.study": search.name, "kmed.size": search.weights.size, "kmed.seed": str(seed)})
            run.log_params(trial_params(config) | {"train.seeds": seed})
            cer = search.train(run, config, seed).valid_cer
        study.set_user_attr(key, cer)
        log.info(f"Settings of {which}, seed {seed}: valid CER {percent(cer, 2)}")
    return float(study.user_attrs[key])

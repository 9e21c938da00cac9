"""Is the best trial better, or lucky? Its settings and the published ones, trained anew on several seeds."""

import dataclasses
import json
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.stats

from kmed_bench.config import Config, adjust, confirmation_digest
from kmed_bench.core.errors import KmedError
from kmed_bench.core.records import Confirmation
from kmed_bench.scoring.bootstrap import LEVEL
from kmed_bench.tracking.processes import is_gone, this_process
from kmed_bench.tuning.search import Search
from kmed_bench.tuning.space import find_published
from kmed_bench.tuning.study_record import CONFIRMED

log = logging.getLogger(__name__)

_OWNER = "kmed.confirming"


def check_seeds(config: Config, seeds: Sequence[int]) -> None:
    """Raise KmedError unless the seeds can confirm a trial; none at all are fine.

    Raises
    ------
    KmedError
        For a single seed, a repeated one, or the one that the trials used.
    """
    if not seeds:
        return
    if len(set(seeds)) != len(seeds) or len(seeds) < 2:
        given = ",".join(map(str, seeds))
        raise KmedError(f"--confirm {given}: give at least two different seeds; one has no interval.")
    if config.train.seeds[0] in seeds:
        raise KmedError(
            f"--confirm names seed {config.train.seeds[0]}, which the trials use: it helped to choose the best one, so "
            "it can't confirm it. Give other seeds."
        )


def confirm_best(search: Search, seeds: Sequence[int]) -> None:
    """Train published and best settings on the seeds and keep the comparison in the study.

    Each training that is done is kept, so that an interrupted confirmation goes on where it stood. Only one process
    confirms; the others leave it to that.
    """
    record = search.record()
    best = record.best()
    if best is None or best.is_published:
        log.info("Nothing to confirm: no complete trial beats the published settings.")
        return
    if not _claim(search):
        log.info("Another process confirms the best trial; its page will say what it found.")
        return
    try:
        published = [_train(search, find_published(search.config), seed, "published") for seed in seeds]
        tuned = [_train(search, best.params, seed, "best") for seed in seeds]
    finally:
        search.queue.study.set_user_attr(_OWNER, "")
    found = compare_seeds(seeds, published, tuned)
    search.queue.study.set_user_attr(CONFIRMED, json.dumps({"trial": best.number, **dataclasses.asdict(found)}))
    search.parent.log_metrics({"confirm/delta": found.delta, "confirm/low": found.low, "confirm/high": found.high})
    search.parent.set_tags({"kmed.confirmed": found.verdict})
    log.info(f"Best settings against published on {len(seeds)} seeds: {found.verdict}.")


def compare_seeds(seeds: Sequence[int], published: Sequence[float], best: Sequence[float]) -> Confirmation:
    """Return best minus published by seed: mean and 95 % interval of Student's t for paired samples.

    Parameters
    ----------
    published, best : sequence of float
        Valid CER by seed, in the order of ``seeds``.
    """
    differences = np.asarray(best, dtype=np.float64) - np.asarray(published, dtype=np.float64)
    n, mean = len(differences), float(differences.mean())
    half = float(scipy.stats.t.ppf((1 + LEVEL) / 2, n - 1) * differences.std(ddof=1) / np.sqrt(n))
    return Confirmation(
        seeds=tuple(seeds),
        published=tuple(published),
        best=tuple(best),
        delta=mean,
        low=mean - half,
        high=mean + half,
    )


def _claim(search: Search) -> bool:
    with search.queue.lock():
        owner = search.queue.study.user_attrs.get(_OWNER)
        if owner and not is_gone(owner):
            return False
        search.queue.study.set_user_attr(_OWNER, this_process())
        return True


def _train(search: Search, params: Any, seed: int, which: str) -> float:
    config = adjust(search.config, params)
    known = f"kmed.confirm.{confirmation_digest(config, seed)}"
    study = search.queue.study
    if known not in study.user_attrs:
        with search.parent.child("confirm", f"confirm-{which}-seed{seed}") as run:
            run.set_tags({"kmed.study": search.name, "kmed.size": search.weights.size, "kmed.seed": str(seed)})
            cer = search.train(run, config, seed).valid_cer
        study.set_user_attr(known, cer)
        log.info(f"Settings of {which}, seed {seed}: valid CER {cer:.2%}")
    return float(study.user_attrs[known])

"""Versions registered by several processes at once, and the alias ``challenger``: the best of them by valid CER.

A registry has no conditional write. Each process therefore makes its version's figures visible first, sets the alias
to the best version that it sees, and looks again until what it sees and the alias agree. Whoever writes last has seen
all versions that were complete before, and a version that was completed later sets the alias itself.
"""

import logging
import random
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from kmed_bench.tracking.refusals import refused
from kmed_bench.tracking.waiting import store_error

ALIAS = "challenger"
BENCH_TAG = "kmed.bench"
"""The benchmark's run that a version's training belongs to."""
CER_TAG = "kmed.best.valid_cer"
_MEASURE = ("kmed.split_sha256", "kmed.eval_context", "kmed.transcript_policy")
"""What valid CERs must have in common to be compared, beside the model."""
_TRIES = 16
_LONGEST_PAUSE_S = 1.0
T = TypeVar("T")
log = logging.getLogger(__name__)


def set_challenger(client: MlflowClient, name: str, version: str) -> str:
    """Give the alias to the best version comparable with a new one by decoded valid CER, and return that version.

    Versions are compared if they are of one benchmark, or were measured on one split in one way. Of equal ones the
    earliest has the alias. A new version without a valid CER, or not comparable with the challenger so far, takes it.

    Parameters
    ----------
    version : str
        The new version, whose tags are complete.
    """
    new = client.get_model_version(name, version)
    for _ in range(_TRIES):
        best = _best(client, new)
        if _alias(client, name) == best:
            return best
        persistently(lambda chosen=best: client.set_registered_model_alias(name, ALIAS, chosen))  # type: ignore[misc]
        if _best(client, new) == best:
            holder = _alias(client, name)
            if holder == best or not _is_comparable(client.get_model_version(name, holder).tags, new.tags):
                return best
    return best


def mend_challenger(client: MlflowClient, name: str) -> None:
    """Give the alias to the best version comparable with the one that has it.

    A process that dies between writing the alias and looking again may leave it with a version that is no longer the
    best. The next registration mends that; before a decision it can't be waited for.
    """
    holder = _alias(client, name)
    if holder and (best := set_challenger(client, name, holder)) != holder:
        log.warning("%s: the challenger is version %s, not %s, which has a higher valid CER.", name, best, holder)


def _best(client: MlflowClient, new: ModelVersion) -> str:
    if CER_TAG not in new.tags:
        return str(new.version)
    versions = client.search_model_versions(f"name = '{new.name}'")
    measured = [other for other in versions if CER_TAG in other.tags and _is_comparable(other.tags, new.tags)]
    return str(min(measured or [new], key=lambda other: (float(other.tags[CER_TAG]), int(other.version))).version)


def _is_comparable(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    if one.get(BENCH_TAG) and one.get(BENCH_TAG) == other.get(BENCH_TAG):
        return True
    return bool(one.get(_MEASURE[0])) and all(one.get(key) == other.get(key) for key in _MEASURE)


def _alias(client: MlflowClient, name: str) -> str:
    return str(client.get_registered_model(name).aliases.get(ALIAS, ""))


def persistently(act: Callable[[], T]) -> T:
    """Return what a function returns, calling it again after a pause if the registry refuses it.

    Two processes that number a version, or set a first alias, at the same moment make the store refuse one of them;
    MLflow repeats the former, three times.

    Raises
    ------
    mlflow.exceptions.MlflowException
        When it is refused too often, or for lack of a permission, or the store is away.
    """
    for attempt in range(_TRIES - 1):
        try:
            return act()
        except MlflowException as error:
            if store_error(error) is not None or refused(error) is not None:
                raise
            time.sleep(random.uniform(0, min(_LONGEST_PAUSE_S, 0.02 * 2**attempt)))
    return act()

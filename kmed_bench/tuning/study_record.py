"""A study's storage read into plain records for the report."""

import dataclasses
import json
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from kmed_bench.config import Config
from kmed_bench.core.records import Confirmation, StudyRecord, StudyTrial
from kmed_bench.tuning.study_queue import ERROR, PUBLISHED, RUN, retry_history

EPOCHS = "kmed.epochs"
CONFIRMED = "kmed.confirmation"
_NAMES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


def read_study(study: optuna.Study, config: Config, size: str, *, synthetic: bool) -> StudyRecord:
    """Return the study as it stands.

    Parameters
    ----------
    synthetic : bool
        Whether it trained on generated speech, of which the page then warns.
    """
    trials = study.get_trials(deepcopy=False)
    repeated = {number for trial in trials for number in retry_history(trial)}
    record = StudyRecord(
        name=study.study_name,
        size=size,
        sampler=config.tune.sampler,
        pruner=config.tune.pruner,
        objectives=config.tune.objectives,
        epochs=config.train.epochs,
        n_trials=sum(not retry_history(trial) for trial in trials),
        trials=tuple(_read_trial(trial, lost=trial.number in repeated) for trial in trials),
        synthetic=synthetic,
    )
    found: dict[str, Any] = json.loads(study.user_attrs.get(CONFIRMED) or "{}")
    best = record.best()
    # What was confirmed is one trial; where a later one is better, nothing is known of that one yet.
    if best is not None and found and found.pop("trial", None) == best.number:
        return dataclasses.replace(record, confirmation=_read_confirmation(found))
    return record


def _read_trial(trial: FrozenTrial, *, lost: bool) -> StudyTrial:
    values = trial.values or []
    if trial.state == TrialState.PRUNED and trial.intermediate_values:
        values = [trial.intermediate_values[max(trial.intermediate_values)]]
    history = retry_history(trial)
    # A trial that waits for its retry has the lost one's epochs among its attributes still.
    begun = trial.state != TrialState.WAITING
    return StudyTrial(
        number=trial.number,
        state="lost" if lost else _NAMES[trial.state],
        params=dict(trial.params) if begun else dict(trial.system_attrs.get("fixed_params", {})),
        cer=values[0] if values else None,
        seconds_per_clip=values[1] if len(values) > 1 else None,
        epochs=int(trial.user_attrs.get(EPOCHS, 0)) if begun else 0,
        is_published=bool(trial.user_attrs.get(PUBLISHED)),
        retry_of=history[-1] if history else None,
        reason=str(trial.user_attrs.get(ERROR, "")),
        run_id=str(trial.user_attrs.get(RUN, "")) if begun else "",
    )


def _read_confirmation(found: dict[str, Any]) -> Confirmation:
    by_seed: dict[str, Any] = {key: tuple(found.pop(key)) for key in ("seeds", "published", "best")}
    return Confirmation(**by_seed, **found)

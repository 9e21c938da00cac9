"""A study's storage read into plain records for the report."""

import dataclasses
import json
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from kmed_bench.config import Config
from kmed_bench.core.records import Confirmation, StudyRecord, StudyTrial
from kmed_bench.tuning.study_queue import DEFAULT, ERROR, RUN, retry_history

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
    """Return the study in its current state.

    Parameters
    ----------
    synthetic : bool
        Whether it trained on generated speech, which the page then states.
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
    stored, best = study.user_attrs.get(CONFIRMED), record.best()
    if stored is None or best is None:
        return record
    trial, confirmation = _read_confirmation(stored)
    # A confirmation is of one trial: if a later trial is better, that one is not confirmed.
    return dataclasses.replace(record, confirmation=confirmation) if trial == best.number else record


def _read_trial(trial: FrozenTrial, *, lost: bool) -> StudyTrial:
    values = trial.values or []
    if trial.state == TrialState.PRUNED and trial.intermediate_values:
        values = [trial.intermediate_values[max(trial.intermediate_values)]]
    history = retry_history(trial)
    # A queued retry still has the lost trial's epochs among its attributes.
    begun = trial.state != TrialState.WAITING
    return StudyTrial(
        number=trial.number,
        state="lost" if lost else _NAMES[trial.state],
        params=dict(trial.params) if begun else dict(trial.system_attrs.get("fixed_params", {})),
        cer=values[0] if values else None,
        seconds_per_clip=values[1] if len(values) > 1 else None,
        epochs=int(trial.user_attrs.get(EPOCHS, 0)) if begun else 0,
        is_default=bool(trial.user_attrs.get(DEFAULT)),
        retry_of=history[-1] if history else None,
        reason=str(trial.user_attrs.get(ERROR, "")),
        run_id=str(trial.user_attrs.get(RUN, "")) if begun else "",
    )


def write_confirmation(study: optuna.Study, trial: int, confirmation: Confirmation) -> None:
    """Store a confirmation, and the number of the trial that it is of, in the study."""
    study.set_user_attr(CONFIRMED, json.dumps({"trial": trial, **dataclasses.asdict(confirmation)}))


def _read_confirmation(stored: str) -> tuple[int, Confirmation]:
    fields = json.loads(stored)
    by_seed: dict[str, Any] = {key: tuple(fields.pop(key)) for key in ("seeds", "default", "best")}
    return fields.pop("trial"), Confirmation(**by_seed, **fields)

"""Runs and studies as read from the tracking store."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

from kmed_bench.core.contracts import NamedBenefit, NamedComparison, NamedGap, Scores, SeedsMean
from kmed_bench.core.language import N_, gettext, translate_stored
from kmed_bench.core.quantities import percent
from kmed_bench.core.run_contracts import Leak, Verdict


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainRecord:
    """One `train` run.

    Attributes
    ----------
    params, metrics, tags : dict
        As logged; metrics holds each metric's last value.
    history : pandas.DataFrame
        Columns ``metric``, ``step`` (epoch; 0 is the untouched model), ``value``;
        one row per metric and step, the latest where a resumed run logged a step twice.
    """

    run_id: str
    name: str
    size: str
    seed: int
    status: str
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]
    history: pd.DataFrame


@dataclasses.dataclass(frozen=True, kw_only=True)
class Opening:
    """One decoding of a test part for scores.

    Attributes
    ----------
    opened_ms : int
        When it began, in milliseconds since 1970, UTC.
    command : str
        The command that decoded: run, train, evaluate or export.
    model : str
        What was decoded with, such as ``base, seed 0``; of a path the last name.
    untouched : bool
        Whether that was a model before training, whose figures can't have been tuned on this test part.
    plan_sha256 : str
        The plan sealed before training; empty for an opening without a plan.
    settings : dict
        What decides the figures, as text; empty where it was not recorded.
    verified : bool, optional
        Whether the settings were the plan's, where they were looked at before a bundle left some of them behind.
    """

    opened_ms: int
    command: str
    model: str
    untouched: bool
    plan_sha256: str
    run_id: str
    settings: Mapping[str, str]
    verified: bool | None = None

    @property
    def contradicts_plan(self) -> bool:
        """Whether its settings are not those of the plan it names: its record was altered, or never completed."""
        if not self.plan_sha256:
            return False
        return hash_settings(self.settings) != self.plan_sha256 if self.verified is None else not self.verified


def hash_settings(settings: Mapping[str, str]) -> str:
    """Return the SHA-256 of settings as JSON with sorted keys and without spaces, in UTF-8."""
    text = json.dumps(dict(settings), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def differing_settings(before: Mapping[str, str], after: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Return (name, before, after) of each setting that both have and that differs, by name."""
    return [
        (name, before[name], after[name]) for name in sorted(before) if after.get(name, before[name]) != before[name]
    ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchRecord:
    """One `bench` run with its children.

    Attributes
    ----------
    skipped : dict
        Size to the reason why it was left out, with the remedy.
    split, quality : dict
        Contents of split.json and quality.json; empty when the run has none.
    scores : dict
        Run id of a train run to the scores.json of its best checkpoint on the test part.
    comparisons : tuple of dict
        Paired differences on the test part; what ``scoring.significance.compare_systems`` returned.
    gaps, benefits, seeds : tuple of dict
        The further entries of comparisons.json: groups against the rest, and means over seeds.
    verdicts : mapping
        Run id of a train run to its verdict.json; runs of earlier releases have none.
    leaks : mapping
        Run id of a train run to its leak.json, where left-out utterances were decoded too.
    openings : tuple of Opening
        All openings of this test part that the store knows, by any benchmark, the first one first.
    absent : mapping
        Planned training that no run in the store is of, to the remedy.
    not_compared : mapping
        Training that has no part in the comparisons, to the reason.
    deleted : mapping
        Each of its runs that was deleted in the store, to what restores it; the figures are without them.
    """

    run_id: str
    name: str
    status: str
    params: dict[str, str]
    tags: dict[str, str]
    trains: tuple[TrainRecord, ...]
    skipped: dict[str, str]
    split: dict[str, Any]
    quality: dict[str, Any]
    scores: dict[str, Scores]
    comparisons: tuple[NamedComparison, ...] = ()
    gaps: tuple[NamedGap, ...] = ()
    benefits: tuple[NamedBenefit, ...] = ()
    seeds: tuple[SeedsMean, ...] = ()
    verdicts: Mapping[str, Verdict] = dataclasses.field(default_factory=dict)
    leaks: Mapping[str, Leak] = dataclasses.field(default_factory=dict)
    openings: tuple[Opening, ...] = ()
    absent: Mapping[str, str] = dataclasses.field(default_factory=dict)
    not_compared: Mapping[str, str] = dataclasses.field(default_factory=dict)
    deleted: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def synthetic(self) -> bool:
        """Whether the speech is the generated demo corpus, by its train runs, or its own settings without any."""
        return any(is_synthetic(run.params | self.params, run.tags) for run in self.trains or (self,))

    @property
    def settings_origin(self) -> str:
        """Which trial of which study the settings come from; empty if they come from none."""
        if "kmed.study" not in self.tags:
            return ""
        values, params = (json.loads(self.tags.get(f"kmed.study_{name}", "{}")) for name in ("values", "params"))
        listed = ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in params.items())
        if "cer" in values:
            listed = gettext("{settings}; valid CER {cer}", settings=listed, cer=percent(values["cer"], 2))
        trial, run_id, confirmed = (self.tags.get(f"kmed.study_{name}") for name in ("trial", "run_id", "confirmed"))
        return gettext(
            "trial {trial}, the best of study {study} (run {run_id}): {settings}, compared to the default settings on "
            "other seeds: {confirmed}",
            trial=trial,
            study=self.tags["kmed.study"],
            run_id=run_id,
            settings=listed,
            confirmed=translate_stored(str(confirmed)),
        )


def is_synthetic(params: Mapping[str, str], tags: Mapping[str, str]) -> bool:
    """Return whether the speech of a run is the generated demo corpus.

    The tag ``kmed.synthetic`` decides, which was set by comparing the labels with the demo corpus's sentences. A run
    without it is synthetic when its settings, as logged, name no source.
    """
    if "kmed.synthetic" in tags:
        return tags["kmed.synthetic"] == "true"
    return params.get("data.source", "unknown").lower() in ("", "none")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportedRecord:
    """One repetition from a log of the original benchmark, as imported into the store.

    Its figures are teacher-forced and on the training data: shown beside ours, never compared with decoded CER.

    Attributes
    ----------
    version : int
        The repetition's number in the log; no seed.
    sha256 : str
        Of the log's content; equal for the versions of one log.
    file : str
        The log's file name.
    params : dict
        The log's ``mata_data``, paths reduced to their last name.
    time_s : float or None
        Seconds that the log states for the repetition.
    history : pandas.DataFrame
        Columns ``metric``, ``step`` (epoch, 1 for the first), ``value``; CER as fractions. The metrics are
        ``train/loss``, ``train/cer_teacher_forced``, ``imported/valid_loss``, ``imported/valid_cer_teacher_forced``.
    """

    run_id: str
    name: str
    size: str
    version: int
    sha256: str
    file: str
    params: dict[str, str]
    time_s: float | None
    history: pd.DataFrame


STATES = ("complete", "pruned", "failed", "lost", "running", "waiting")
"""lost: its process died or was interrupted; another trial repeats it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyTrial:
    """One trial.

    Attributes
    ----------
    state : str
        One of ``STATES``.
    cer : float or None
        Lowest decoded valid CER of its epochs; None where no epoch was finished.
    seconds_per_clip : float or None
        Decoding time of a valid clip at the best epoch; None where it was not an objective.
    reason : str
        Why it failed; empty otherwise.
    """

    number: int
    state: str
    params: Mapping[str, Any]
    cer: float | None
    seconds_per_clip: float | None
    epochs: int
    is_default: bool
    retry_of: int | None
    reason: str
    run_id: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Confirmation:
    """The best trial's settings compared to the default ones, both trained again with the same seeds.

    Attributes
    ----------
    default, best : tuple of float
        Valid CER by seed.
    delta, low, high : float
        Mean of best minus default over seeds, with its 95 % interval (Student's t, paired by seed).
    """

    seeds: tuple[int, ...]
    default: tuple[float, ...]
    best: tuple[float, ...]
    delta: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """``better`` or ``worse`` where the interval excludes 0, else ``not shown to be better``."""
        if self.high < 0:
            return "better"
        return "worse" if self.low > 0 else N_("not shown to be better")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyRecord:
    """A study as its storage holds it, without Optuna's types."""

    name: str
    size: str
    sampler: str
    pruner: str
    objectives: tuple[str, ...]
    epochs: int
    n_trials: int
    trials: tuple[StudyTrial, ...]
    synthetic: bool
    confirmation: Confirmation | None = None

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> "StudyRecord":
        """Return the record whose fields study.json has as plain values."""
        trials = tuple(StudyTrial(**trial) for trial in fields["trials"])
        stored = fields["confirmation"]
        by_seed = {key: tuple(stored[key]) for key in ("seeds", "default", "best")} if stored else {}
        confirmation = Confirmation(**{**stored, **by_seed}) if stored else None
        objectives = tuple(fields["objectives"])
        return cls(**{**fields, "objectives": objectives, "trials": trials, "confirmation": confirmation})

    def slots(self) -> list[StudyTrial]:
        """Return the trials without those that another one repeats."""
        return [trial for trial in self.trials if trial.state != "lost"]

    def best(self) -> StudyTrial | None:
        """Return the complete trial with the lowest CER, the first of equals; None where none is complete."""
        complete = [trial for trial in self.trials if trial.state == "complete" and trial.cer is not None]
        return min(complete, key=lambda trial: (trial.cer, trial.number), default=None)

    def default(self) -> StudyTrial | None:
        """Return the trial of the default settings; None if it is not complete."""
        complete = (trial for trial in self.trials if trial.is_default and trial.state == "complete")
        return next(complete, None)

    def saved_epochs(self) -> float:
        """Return the share of the epochs of pruned and complete trials that pruning saved."""
        ended = [trial for trial in self.trials if trial.state in ("complete", "pruned")]
        planned = self.epochs * len(ended)
        # Patience may end a complete trial early; those epochs were not saved by the pruner.
        unspent = sum(self.epochs - trial.epochs for trial in ended if trial.state == "pruned")
        return unspent / planned if planned else 0.0

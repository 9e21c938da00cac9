"""Runs: a benchmark and its children, what they log, and how each of them ends."""

import contextlib
import dataclasses
import json
import logging
import math
import os
import re
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path, PurePath
from types import FrameType
from typing import Any

import mlflow
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunStatus, RunTag
from mlflow.tracking import MlflowClient
from mlflow.utils import mlflow_tags

from kmed_bench.config import Config, flatten, to_yaml
from kmed_bench.records import KmedError
from kmed_bench.tracking.notes import describe_bench, describe_train
from kmed_bench.tracking.processes import PROCESS_TAG, end_abandoned, this_process
from kmed_bench.tracking.readback import read_bench
from kmed_bench.tracking.store import experiment_id, open_store, without_password

__all__ = ["BenchRun", "ChildRun", "bench_run", "lone_run", "open_store"]

# MLflow's limits (mlflow.utils.validation); longer values are cut, never refused after hours of work.
_PARAM_CHARS = 6_000
_TAG_CHARS = 8_000
_BATCH_PARAMS = 100
_BATCH_METRICS = 1_000
_DIGEST_CHARS = 36


class ChildRun:
    """One run in the store; everything is logged by its id, so threads don't disturb one another.

    Attributes
    ----------
    run_id : str
        MLflow's id.
    ends_as : str or None
        Status for the run's end instead of the usual one, such as ``KILLED`` for a pruned trial.
    """

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self.run_id = run_id
        self.ends_as: str | None = None
        self._client = client

    def log_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Log an epoch's metrics at step ``epoch`` in one call; 0 is the untouched model.

        Raises
        ------
        KmedError
            When a metric is not a finite number.
        """
        faulty = {name: value for name, value in metrics.items() if not math.isfinite(value)}
        if faulty:
            named = ", ".join(f"{name} = {value}" for name, value in faulty.items())
            raise KmedError(
                f"{named} at step {epoch} of run {self.run_id}: metrics must be finite numbers. A loss that is not "
                "finite means that training diverged: lower train.lr, set train.grad_clip, or use precision fp32."
            )
        now_ms = int(time.time() * 1000)
        entries = iter([Metric(name, float(value), now_ms, epoch) for name, value in metrics.items()])
        while batch := list(islice(entries, _BATCH_METRICS)):
            self._client.log_batch(self.run_id, metrics=batch)

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Log final figures, which belong to no epoch, at step 0.

        Raises
        ------
        KmedError
            When a metric is not a finite number.
        """
        self.log_epoch(0, metrics)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log settings as text; None becomes ``none``, and values over MLflow's limit are cut."""
        entries = iter([Param(name, _param_text(value)) for name, value in params.items()])
        while batch := list(islice(entries, _BATCH_PARAMS)):
            self._client.log_batch(self.run_id, params=batch)

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags; values over MLflow's limit are cut."""
        entries = iter([RunTag(name, _cut(str(value), _TAG_CHARS)) for name, value in tags.items()])
        while batch := list(islice(entries, _BATCH_PARAMS)):
            self._client.log_batch(self.run_id, tags=batch)

    def set_note(self, markdown: str) -> None:
        """Set the description that the MLflow UI shows on the run's page."""
        self.set_tags({mlflow_tags.MLFLOW_RUN_NOTE: markdown})

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """Copy a file, or a folder with all in it, into the run's artifacts.

        Raises
        ------
        KmedError
            When the path does not exist.
        """
        if path.is_dir():
            self._client.log_artifacts(self.run_id, str(path), folder)
        elif path.is_file():
            self._client.log_artifact(self.run_id, str(path), folder)
        else:
            raise KmedError(f"{path} does not exist, so run {self.run_id} can't keep it; run the stage that writes it.")

    def log_json(self, value: Any, name: str) -> None:
        """Write a value as an artifact of this name: UTF-8 JSON, Hangul readable."""
        text = json.dumps(value, ensure_ascii=False, indent=2) + "\n"
        self._client.log_text(self.run_id, text, name)

    def log_dataset(
        self, *, sha256: str, counts: Mapping[str, int], context: str, name: str = "AI Hub 208", part: str | None = None
    ) -> None:
        """Link the run to its data by name, counts and the split's hash: no cell values, no paths.

        Parameters
        ----------
        sha256 : str
            The split's hash; MLflow keeps 36 characters as the digest and the whole as a tag.
        counts : mapping
            Clips per part, such as ``{"train": 10000, "valid": 5000, "test": 1000}``.
        context : str
            What the run did with it, such as ``training`` or ``evaluation``.
        part : str, optional
            The part that was used; None: the whole split.
        """
        n_clips = counts[part] if part else sum(counts.values())
        dataset = Dataset(
            name=name if part is None else f"{name}, {part}",
            digest=sha256[:_DIGEST_CHARS],
            source_type="code",
            source=json.dumps({"tags": {"corpus": name}}),
            profile=json.dumps({"num_rows": n_clips, **{f"n_{key}": value for key, value in counts.items()}}),
        )
        tags = [InputTag(mlflow_tags.MLFLOW_DATASET_CONTEXT, context), InputTag("kmed.split_sha256", sha256)]
        self._client.log_inputs(self.run_id, datasets=[DatasetInput(dataset, tags)])


class BenchRun(ChildRun):
    """A run that has children: a benchmark, or a study of trials."""

    def __init__(self, client: MlflowClient, run_id: str, experiment: str) -> None:
        super().__init__(client, run_id)
        self._experiment_id = experiment

    @property
    def uri(self) -> str:
        """The tracking URI of the store that holds the run."""
        return str(self._client.tracking_uri)

    @contextlib.contextmanager
    def child(
        self, kind: str, name: str, *, tags: Mapping[str, str] | None = None, params: Mapping[str, Any] | None = None
    ) -> Iterator[ChildRun]:
        """Give a child run of this one; it ends FINISHED, FAILED on an error, KILLED when interrupted."""
        started = mlflow.start_run(
            run_name=name,
            nested=True,
            parent_run_id=self.run_id,
            experiment_id=self._experiment_id,
            tags={"kmed.kind": kind, PROCESS_TAG: this_process()},
        )
        run = ChildRun(self._client, started.info.run_id)
        with _ending(run):
            run.set_tags(tags or {})
            run.log_params(params or {})
            yield run

    def log_skipped(self, reasons: Mapping[str, str]) -> None:
        """Note the sizes that were left out, each with its reason and remedy."""
        self.set_tags({"kmed.skipped": json.dumps(dict(reasons), ensure_ascii=False)})


@contextlib.contextmanager
def bench_run(config: Config, *, code_version: str) -> Iterator[BenchRun]:
    """Give the run that a whole benchmark belongs to, its settings logged.

    Under ``mlflow run`` that is the run which MLflow already started; otherwise a new one in ``config``'s
    experiment. It ends FINISHED, FAILED on an error, KILLED when interrupted or terminated.

    Raises
    ------
    KmedError
        When the tracking store can't be used.
    """
    name = f"bench-{config.profile}-{time.strftime('%Y%m%d-%H%M%S')}"
    with lone_run(config, kind="bench", name=name, code_version=code_version) as run:
        try:
            yield run
        finally:
            _note_bench(run)


def _note_bench(run: BenchRun) -> None:
    """Describe the benchmark and its trainings for whoever opens their pages, as far as they came."""
    try:
        record = read_bench(run.uri, run.run_id)
        run.set_note(describe_bench(record, run._experiment_id))
        for train in record.trains:
            ChildRun(run._client, train.run_id).set_note(describe_train(train))
    except Exception as error:  # a note neither fails a benchmark nor hides why one failed
        logging.getLogger(__name__).warning("Run %s has no note in the MLflow UI: %s", run.run_id, error)


@contextlib.contextmanager
def lone_run(
    config: Config,
    *,
    kind: str,
    name: str,
    code_version: str,
    experiment: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> Iterator[BenchRun]:
    """Give a run without a parent: a benchmark, a study, or one stage that is run alone.

    Parameters
    ----------
    kind : str
        The tag ``kmed.kind``: bench, split, train, report, study, imported.
    experiment : str, optional
        Where the run goes when MLflow has not started it; None: ``tracking.experiment``.

    Raises
    ------
    KmedError
        When the tracking store can't be used.
    """
    uri = open_store(config.tracking)
    client = MlflowClient(tracking_uri=uri)
    with _terminable():
        started = _adopt_or_start(client, uri, name, experiment or config.tracking.experiment)
        run = BenchRun(client, started.info.run_id, started.info.experiment_id)
        with _ending(run):
            given = {"kmed.kind": kind, "kmed.profile": config.profile, "kmed.code_version": code_version}
            given[PROCESS_TAG] = this_process()
            end_abandoned(client, started.info.experiment_id)
            if _is_drawn(started.info.run_name):
                given[mlflow_tags.MLFLOW_RUN_NAME] = name
            run.set_tags(given | dict(tags or {}))
            _log_config(run, config, known=started.data.params)
            yield run


def _adopt_or_start(client: MlflowClient, uri: str, name: str, experiment: str) -> mlflow.ActiveRun:
    """Return the run that ``mlflow run`` made for this process, or a new one."""
    if os.environ.get("MLFLOW_RUN_ID"):
        return mlflow.start_run()  # it has its experiment; naming one as well would be refused
    return mlflow.start_run(run_name=name, experiment_id=experiment_id(client, uri, experiment))


def _is_drawn(run_name: str | None) -> bool:
    """Tell whether MLflow drew the name (``nervous-fox-12``); one that a person chose is kept."""
    return not run_name or re.fullmatch(r"[a-z]+-[a-z]+-\d+", run_name) is not None


def _log_config(run: ChildRun, config: Config, known: Mapping[str, str]) -> None:
    """Log the settings flat and whole; what ``mlflow run`` already logged (``-P train.lr=1e-5``) stays."""
    shown = shareable(config)
    run.log_params({key: value for key, value in flatten(shown).items() if key not in known})
    run._client.log_text(run.run_id, to_yaml(shown), "config.yaml")


def shareable(config: Config) -> Config:
    """Return the settings with folders reduced to their last name and passwords masked.

    Paths may carry the name of a person or of an institution, and a database URI its password.
    """
    data, model, tracking = config.data, config.model, config.tracking
    return dataclasses.replace(
        config,
        data=dataclasses.replace(data, source=data.source and PurePath(data.source).name),
        model=dataclasses.replace(model, weights=model.weights and PurePath(model.weights).name),
        tracking=dataclasses.replace(tracking, uri=tracking.uri and _shareable_uri(tracking.uri)),
    )


def _shareable_uri(uri: str) -> str:
    scheme, _, rest = uri.partition("://")
    return f"{scheme}:///{PurePath(rest).name}" if scheme == "sqlite" else without_password(uri)


@contextlib.contextmanager
def _ending(run: ChildRun) -> Iterator[None]:
    """End the active run with the status that tells what happened; MLflow would call an interrupt FAILED."""
    status = RunStatus.to_string(RunStatus.FAILED)
    try:
        yield
        status = RunStatus.to_string(RunStatus.FINISHED)
    except KeyboardInterrupt:
        status = RunStatus.to_string(RunStatus.KILLED)
        raise
    finally:
        mlflow.end_run(run.ends_as or status)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end the runs as an interrupt does; by default it would leave them RUNNING for ever."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _param_text(value: Any) -> str:
    text = "none" if value is None or value == "" else str(value)
    return _cut(text, _PARAM_CHARS)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"

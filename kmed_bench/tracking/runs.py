"""Runs: a benchmark and its children, what they log, and how each of them ends."""

import contextlib
import dataclasses
import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

import mlflow
from mlflow.tracking import MlflowClient
from mlflow.utils import mlflow_tags

from kmed_bench.config import Config, flatten, to_yaml
from kmed_bench.tracking.processes import PROCESS_TAG, end_abandoned, terminable, this_process
from kmed_bench.tracking.read import read_bench
from kmed_bench.tracking.run import TrackedRun, ending
from kmed_bench.tracking.run_notes import describe_bench, describe_train
from kmed_bench.tracking.store import experiment_id, open_store, without_password

__all__ = ["ParentRun", "TrackedRun", "bench_run", "open_store", "standalone_run"]

_ENDS = ("kmed.ended", "kmed.failed")
# MLflow would log the whole path of the program, which may carry a person's name.
_SOURCE = {mlflow_tags.MLFLOW_SOURCE_NAME: "kmed-bench"}


class ParentRun(TrackedRun):
    """A run that has children: a benchmark, or a study of trials."""

    def __init__(self, client: MlflowClient, run_id: str, experiment: str, *, reopened: bool = False) -> None:
        super().__init__(client, run_id, reopened=reopened)
        self._experiment_id = experiment

    @property
    def uri(self) -> str:
        """The tracking URI of the store that holds the run."""
        return str(self._client.tracking_uri)

    @contextlib.contextmanager
    def child(
        self,
        kind: str,
        name: str,
        *,
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
        run_id: str | None = None,
    ) -> Iterator[TrackedRun]:
        """Give a child run of this one; it ends FINISHED, FAILED on an error, KILLED when interrupted.

        Parameters
        ----------
        run_id : str, optional
            A child that did not finish, to be continued; None: a new one.
        """
        given = {"kmed.kind": kind, PROCESS_TAG: this_process()}
        if run_id is None:
            started = mlflow.start_run(
                run_name=name,
                nested=True,
                parent_run_id=self.run_id,
                experiment_id=self._experiment_id,
                tags=given | _SOURCE,
            )
        else:
            started = _reopen(self._client, run_id, given)
        run = TrackedRun(self._client, started.info.run_id, reopened=run_id is not None)
        with ending(run):
            run.set_tags(tags or {})
            run.log_params(params or {})
            yield run

    def log_skipped(self, reasons: Mapping[str, str]) -> None:
        """Note the sizes that were left out, each with its reason and remedy."""
        self.set_tags({"kmed.skipped": json.dumps(dict(reasons), ensure_ascii=False)})


@contextlib.contextmanager
def bench_run(
    config: Config, *, code_version: str, tags: Mapping[str, str] | None = None, run_id: str | None = None
) -> Iterator[ParentRun]:
    """Give the run that a whole benchmark belongs to, its settings logged.

    Under ``mlflow run`` that is the run which MLflow already started; otherwise a new one in ``config``'s
    experiment. It ends FINISHED, FAILED on an error, KILLED when interrupted or terminated.

    Parameters
    ----------
    run_id : str, optional
        A benchmark to continue; see `standalone_run`.

    Raises
    ------
    KmedError
        When the tracking store can't be used.
    """
    name = f"bench-{config.profile}-{time.strftime('%Y%m%d-%H%M%S')}"
    with standalone_run(config, kind="bench", name=name, code_version=code_version, tags=tags, run_id=run_id) as run:
        try:
            yield run
        finally:
            _note_bench(run)


def _note_bench(run: ParentRun) -> None:
    """Describe the benchmark and its trainings for whoever opens their pages, as far as they came."""
    try:
        record = read_bench(run.uri, run.run_id)
        run.set_note(describe_bench(record, run._experiment_id))
        for train in record.trains:
            TrackedRun(run._client, train.run_id).set_note(describe_train(train))
    except Exception as error:  # a note neither fails a benchmark nor hides why one failed
        logging.getLogger(__name__).warning("Run %s has no note in the MLflow UI: %s", run.run_id, error)


@contextlib.contextmanager
def standalone_run(
    config: Config,
    *,
    kind: str,
    name: str,
    code_version: str,
    experiment: str | None = None,
    tags: Mapping[str, str] | None = None,
    run_id: str | None = None,
) -> Iterator[ParentRun]:
    """Give a run without a parent: a benchmark, a study, or one stage that is run alone.

    Parameters
    ----------
    kind : str
        The tag ``kmed.kind``: bench, split, train, report, study, imported.
    experiment : str, optional
        Where the run goes when MLflow has not started it; None: ``tracking.experiment``.
    run_id : str, optional
        A run to continue rather than a new one: it is RUNNING again, keeps its name and start, and ends as any
        other. The run that ``mlflow run`` started for this process is then marked as its continuation.

    Raises
    ------
    KmedError
        When the tracking store can't be used.
    """
    uri = open_store(config.tracking)
    client = MlflowClient(tracking_uri=uri)
    given = {"kmed.kind": kind, PROCESS_TAG: this_process()}
    version = "kmed.code_version" if run_id is None else "kmed.continued_by_code_version"
    given |= {"kmed.profile": config.profile, version: code_version}
    with terminable(), contextlib.ExitStack() as outer:
        if run_id is None:
            started = _adopt_or_start(client, uri, name, experiment or config.tracking.experiment)
        else:
            outer.enter_context(_continuation(client, run_id))
            started = _reopen(client, run_id, given)
        run = ParentRun(client, started.info.run_id, started.info.experiment_id, reopened=run_id is not None)
        with ending(run):
            if run_id is None and _is_drawn(started.info.run_name):
                given[mlflow_tags.MLFLOW_RUN_NAME] = name
            run.set_tags(given | dict(tags or {}))
            end_abandoned(client, started.info.experiment_id)
            _log_config(run, config, known=started.data.params)
            yield run


def _reopen(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> mlflow.ActiveRun:
    """Return an ended run, active and RUNNING again, without the tags that told how it ended."""
    known = client.get_run(run_id).data.tags
    started = mlflow.start_run(run_id=run_id, nested=mlflow.active_run() is not None, tags=dict(tags))
    for name in _ENDS:
        if name in known:
            client.delete_tag(run_id, name)
    return started


@contextlib.contextmanager
def _continuation(client: MlflowClient, run_id: str) -> Iterator[None]:
    """Under ``mlflow run``: say in the run that MLflow started which other run the work goes into."""
    if not os.environ.get("MLFLOW_RUN_ID"):
        yield
        return
    own, continued = mlflow.start_run(), client.get_run(run_id)
    run = TrackedRun(client, own.info.run_id)
    with ending(run):
        name, place = continued.info.run_name, continued.info.experiment_id
        run.set_tags({"kmed.kind": "continuation", "kmed.continues": run_id, PROCESS_TAG: this_process()})
        run.set_tags({mlflow_tags.MLFLOW_RUN_NAME: f"continue-{name}"})
        run.set_note(f"Continues [{name}](#/experiments/{place}/runs/{run_id}), where everything is logged.\n")
        yield


def _adopt_or_start(client: MlflowClient, uri: str, name: str, experiment: str) -> mlflow.ActiveRun:
    """Return the run that ``mlflow run`` made for this process, or a new one."""
    if os.environ.get("MLFLOW_RUN_ID"):
        return mlflow.start_run()  # it has its experiment; naming one as well would be refused
    return mlflow.start_run(run_name=name, experiment_id=experiment_id(client, uri, experiment), tags=dict(_SOURCE))


def _is_drawn(run_name: str | None) -> bool:
    """Tell whether MLflow drew the name (``nervous-fox-12``); one that a person chose is kept."""
    return not run_name or re.fullmatch(r"[a-z]+-[a-z]+-\d+", run_name) is not None


def _log_config(run: TrackedRun, config: Config, known: Mapping[str, str]) -> None:
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
        tune=dataclasses.replace(config.tune, storage=_shareable_uri(config.tune.storage)),
    )


def _shareable_uri(uri: str) -> str:
    for prefix in ("sqlite:///", "journal:"):
        if uri.startswith(prefix):
            return prefix + PurePath(uri).name
    return without_password(uri)

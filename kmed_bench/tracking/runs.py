"""Runs without a parent: a benchmark or a single training, begun or continued, with their settings and notes."""

import contextlib
import json
import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any

from mlflow.tracking import MlflowClient
from mlflow.utils import mlflow_tags

from kmed_bench.config import Config, flatten, to_yaml
from kmed_bench.core.surroundings import sigterm_interrupts
from kmed_bench.tracking.endings import begun, ending
from kmed_bench.tracking.metric_names import bench_metrics
from kmed_bench.tracking.own_run import has_random_name, own_run_id
from kmed_bench.tracking.params import shareable
from kmed_bench.tracking.processes import PROCESS_TAG, end_abandoned, this_process
from kmed_bench.tracking.read import read_bench, read_train
from kmed_bench.tracking.run import TrackedRun, reopen_run, start_run
from kmed_bench.tracking.run_notes import describe_bench, describe_train
from kmed_bench.tracking.store import experiment_id, experiment_name, open_store


@contextlib.contextmanager
def bench_run(
    config: Config, *, code_version: str, tags: Mapping[str, str] | None = None, run_id: str | None = None
) -> Iterator[TrackedRun]:
    """Yield the run of a whole benchmark; its notes are written when it ends.

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
            _write_notes(run)


def log_skipped(bench: TrackedRun, reasons: Mapping[str, str]) -> None:
    """Tag a benchmark with the sizes that were skipped, each with its reason and remedy."""
    bench.set_tags({"kmed.skipped": json.dumps(dict(reasons), ensure_ascii=False)})


def _write_notes(bench: TrackedRun) -> None:
    """Write the descriptions of the benchmark and its trainings, as far as they got, and sum them up in metrics."""
    with _no_note_is_no_failure(bench):
        record = read_bench(bench.uri, bench.run_id)
        experiment = bench.client.get_run(bench.run_id).info.experiment_id
        bench.set_note(describe_bench(record, experiment))
        bench.log_summary(bench_metrics(record))
        for train in record.trains:
            TrackedRun(bench.client, train.run_id).set_note(describe_train(train))


@contextlib.contextmanager
def _no_note_is_no_failure(run: TrackedRun) -> Iterator[None]:
    """Turn an error into a warning: a missing note must not fail a run, nor hide why one failed."""
    try:
        yield
    except Exception as error:
        logging.getLogger(__name__).warning("Run %s has no note in the MLflow UI: %s", run.run_id, error)


@contextlib.contextmanager
def standalone_run(
    config: Config,
    *,
    kind: str,
    name: str,
    code_version: str,
    tags: Mapping[str, str] | None = None,
    params: Mapping[str, Any] | None = None,
    run_id: str | None = None,
) -> Iterator[TrackedRun]:
    """Yield a run without a parent, its settings logged; the note of a training is written when it ends.

    Under ``mlflow run`` it is the run that MLflow already started; otherwise a new one in `experiment_name`.
    It ends FINISHED, FAILED on an error, or KILLED when interrupted or terminated.

    Parameters
    ----------
    kind : str
        Value of the tag ``kmed.kind``: bench, train, or the name of a stage.
    params : mapping, optional
        What decides the run; None: all settings. Those that ``mlflow run`` logged already (``-P train.lr=1e-5``) stay.
    run_id : str, optional
        A run to continue: it is RUNNING again and keeps its name and start time. The run that ``mlflow run`` started
        for this process is then marked as its continuation. None: a new run.

    Raises
    ------
    KmedError
        When the tracking store can't be used.
    """
    uri = open_store(config.tracking)
    client = MlflowClient(tracking_uri=uri)
    version = "kmed.code_version" if run_id is None else "kmed.continued_by_code_version"
    own = {"kmed.kind": kind, "kmed.profile": config.profile, version: code_version}
    with sigterm_interrupts(), own_run_id(client) as own_id, contextlib.ExitStack() as outer:
        if run_id is not None and own_id is not None:
            outer.enter_context(_continuation(client, own_id, run_id))

        def start() -> TrackedRun:
            if run_id is not None:
                return reopen_run(client, run_id, own)
            if own_id is not None:
                return _adopt(client, own_id, name)
            return start_run(client, experiment_id(client, uri, experiment_name(config.tracking)), name, own)

        with begun(start) as run:
            run.set_tags(own | dict(tags or {}))
            before = client.get_run(run.run_id)
            end_abandoned(client)
            chosen = flatten(shareable(config)) if params is None else params
            run.log_params({key: value for key, value in chosen.items() if key not in before.data.params})
            if kind in ("bench", "train"):  # a stage reads only some of the settings
                run.client.log_text(run.run_id, to_yaml(shareable(config)), "config.yaml")
            try:
                yield run
            finally:
                if kind == "train" and not run.is_away:
                    with _no_note_is_no_failure(run):
                        run.set_note(describe_train(read_train(client, run.run_id)))


def _adopt(client: MlflowClient, run_id: str, name: str) -> TrackedRun:
    """Return the run that ``mlflow run`` started, renamed unless a person chose its name."""
    client.set_tag(run_id, PROCESS_TAG, this_process())
    client.update_run(run_id, status="RUNNING", name=name if has_random_name(client.get_run(run_id)) else None)
    return TrackedRun(client, run_id)


@contextlib.contextmanager
def _continuation(client: MlflowClient, own_id: str, continued_id: str) -> Iterator[None]:
    """Mark the run that ``mlflow run`` started with the run that the work goes into, and end it with that one."""
    own, continued = TrackedRun(client, own_id), client.get_run(continued_id).info
    with ending(own):
        own.set_tags({"kmed.kind": "continuation", "kmed.continues": continued_id, PROCESS_TAG: this_process()})
        own.set_tags({mlflow_tags.MLFLOW_RUN_NAME: f"continue-{continued.run_name}"})
        link = f"[{continued.run_name}](#/experiments/{continued.experiment_id}/runs/{continued_id})"
        own.set_note(f"Continues {link}, where everything is logged.\n")
        yield

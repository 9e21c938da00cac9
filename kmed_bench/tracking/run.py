"""One run in the store: how it starts, what it logs (each point once, even in a reopened run), and how it ends."""

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from mlflow.entities import Metric, Param, RunStatus, RunTag
from mlflow.tracking import MlflowClient
from mlflow.utils import mlflow_tags

from kmed_bench.core.errors import KmedError
from kmed_bench.tracking.away import PATIENCE_S, is_away, is_remote
from kmed_bench.tracking.datasets import dataset_input, datasets_of
from kmed_bench.tracking.endings import FAILURE_TAG, begun
from kmed_bench.tracking.origin import run_tags
from kmed_bench.tracking.outbox import Outbox, deliver_left
from kmed_bench.tracking.points import Points
from kmed_bench.tracking.processes import PROCESS_TAG, this_process

Done = TypeVar("Done")
# MLflow's limits (mlflow.utils.validation). Longer values are cut: an error here would come after hours of work.
_PARAM_CHARS = 6_000
_TAG_CHARS = 8_000
_ENDS = ("kmed.ended", "kmed.failed", FAILURE_TAG)


class TrackedRun:
    """Any run in the store, with or without children.

    Everything is logged by the run's id through one client. MLflow's global tracking URI and active run are not used,
    so runs in several threads, or in several stores, do not affect each other.

    Attributes
    ----------
    run_id : str
        MLflow's id.
    ends_as : str or None
        Final status that replaces the usual one, such as ``KILLED`` for a pruned trial.
    reopened : bool
        Whether an ended run is continued.
    patience_s : float
        Longest wait for a store that is away, where this can't go on without it.
    behind : bool
        Whether the store may lack checkpoints: it was away, or the run is continued.
    """

    def __init__(self, client: MlflowClient, run_id: str, *, reopened: bool = False) -> None:
        self.run_id = run_id
        self.ends_as: str | None = None
        self._client = client
        self._points = Points(client, run_id)
        self.reopened = reopened
        self.patience_s, self.behind = PATIENCE_S, reopened
        self._outbox = Outbox(client, run_id) if is_remote(self.uri) else None

    @property
    def client(self) -> MlflowClient:
        """MLflow's client for the store that holds the run."""
        return self._client

    @property
    def uri(self) -> str:
        """The tracking URI of the store that holds the run."""
        return str(self._client.tracking_uri)

    @property
    def is_away(self) -> bool:
        """Whether the store does not answer, and metrics are kept for it."""
        return self._outbox is not None and self._outbox.is_away

    def settle(self) -> None:
        """Return once the store has all metrics and answers; a local store always does.

        Raises
        ------
        AwayError
            When it does not answer within `patience_s`.
        """
        if self._outbox is not None:
            self._outbox.settle(self.patience_s)

    def close(self) -> None:
        """Stop asking a store that is away; what is kept for it stays for whoever continues or ends the run."""
        if self._outbox is not None:
            self._outbox.close()

    def _patiently(self, act: Callable[[], Done]) -> Done:
        """Call a function that can be repeated; if the store is away, do so again once it answers."""
        try:
            return act()
        except Exception as error:
            if self._outbox is None or not is_away(error):
                raise
        self.settle()
        return act()

    def _send(self, metrics: list[Metric]) -> None:
        if not metrics:
            return
        if self._outbox is None:
            self._client.log_batch(self.run_id, metrics=metrics)
        else:
            self._outbox.send(metrics)

    @contextlib.contextmanager
    def child(
        self,
        kind: str,
        name: str,
        *,
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
        run_id: str | None = None,
    ) -> Iterator["TrackedRun"]:
        """Yield a child run, which ends FINISHED, FAILED on an error, or KILLED when interrupted.

        Parameters
        ----------
        kind : str
            Value of the tag ``kmed.kind``: split, train, report, trial, confirm.
        run_id : str, optional
            An unfinished child to continue; None: a new one.
        """
        own = {"kmed.kind": kind}

        def start() -> TrackedRun:
            self.settle()
            if run_id is not None:
                return reopen_run(self._client, run_id, own)
            experiment = self._client.get_run(self.run_id).info.experiment_id
            return start_run(self._client, experiment, name, own | {mlflow_tags.MLFLOW_PARENT_RUN_ID: self.run_id})

        with begun(start) as run:
            run.set_tags(tags or {})
            run.log_params(params or {})
            yield run

    def log_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Log an epoch's metrics at step ``epoch`` in one call; step 0 is the untouched model.

        In a reopened run, points that the store already has are not logged twice.

        Raises
        ------
        KmedError
            When a metric is not a finite number, or differs from what a reopened run logged before.
        """
        faulty = {name: value for name, value in metrics.items() if not math.isfinite(value)}
        if faulty:
            listed = ", ".join(f"{name} = {value}" for name, value in faulty.items())
            raise KmedError(
                f"{listed} at step {epoch} of run {self.run_id}: metrics must be finite numbers. A loss that is not "
                "finite means that training diverged: lower train.lr, set train.grad_clip, or use precision fp32."
            )
        now_ms = int(time.time() * 1000)
        points = [Metric(name, float(value), now_ms, epoch) for name, value in metrics.items()]
        new = [point for point in points if not (self.reopened and self._known().has(point))]
        self._send(new)
        self._points.add(new)

    def _known(self) -> Points:
        """Return the points that this object logged and, for a reopened run, those that the store has."""
        if self.reopened and not self._points.has_read:
            self._patiently(self._points.read)
        return self._points

    def link_model(self, model_id: str, metrics: Mapping[str, float], *, step: int) -> None:
        """Attach metrics to a LoggedModel and to this run's dataset without duplicating points of the run's curves."""
        datasets = datasets_of(self._client.get_run(self.run_id))
        dataset = {"dataset_name": datasets[0].name, "dataset_digest": datasets[0].digest} if datasets else {}
        now_ms = int(time.time() * 1000)
        linked = []
        for name, value in metrics.items():
            # The store keeps one point where key, step, value and time are equal.
            before = self._known().find(name, step)
            time_ms, kept = (now_ms, float(value)) if before is None else (before.timestamp, before.value)
            linked.append(Metric(name, kept, time_ms, step, model_id=model_id, run_id=self.run_id, **dataset))
        self._client.log_batch(self.run_id, metrics=linked)

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Log final metrics, which belong to no epoch, at step 0.

        Raises
        ------
        KmedError
            When a metric is not a finite number.
        """
        self.log_epoch(0, metrics)

    def log_summary(self, metrics: Mapping[str, float]) -> None:
        """Log figures that sum up the run's children so far; a continued run replaces them."""
        now_ms = int(time.time() * 1000)
        self._send([Metric(k, float(v), now_ms, 0) for k, v in metrics.items()])

    def log_points(self, points: Iterable[tuple[str, int, float, int]]) -> None:
        """Log points of curves by step, in as few requests as MLflow allows.

        A continued run keeps the points it has: steps after its last saved state are taken again.

        Parameters
        ----------
        points : iterable of tuple
            Name, step, value and time in milliseconds since the epoch.
        """
        new = [
            Metric(name, value, time_ms, step)
            for name, step, value, time_ms in points
            if not self.reopened or self._known().find(name, step) is None
        ]
        self._send(new)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log settings as text; None becomes ``none``, and values longer than MLflow's limit are cut.

        A continued run keeps what it was begun with.
        """

        def log() -> None:
            logged = self._client.get_run(self.run_id).data.params if self.reopened and params else {}
            new = [Param(name, param_text(value)) for name, value in params.items() if name not in logged]
            self._client.log_batch(self.run_id, params=new)

        self._patiently(log)

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags; values longer than MLflow's limit are cut."""
        new = [RunTag(k, _cut(str(v), _TAG_CHARS)) for k, v in tags.items()]
        self._patiently(lambda: self._client.log_batch(self.run_id, tags=new))

    def set_note(self, markdown: str) -> None:
        """Set the description that the MLflow UI shows on the run's page."""
        self.set_tags({mlflow_tags.MLFLOW_RUN_NOTE: markdown})

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """Copy a file or a whole folder into the run's artifacts.

        Raises
        ------
        KmedError
            When the path does not exist.
        """
        if path.is_dir():
            self._patiently(lambda: self._client.log_artifacts(self.run_id, str(path), folder))
        elif path.is_file():
            self._patiently(lambda: self._client.log_artifact(self.run_id, str(path), folder))
        else:
            raise KmedError(f"{path} does not exist, so run {self.run_id} can't keep it; run the stage that writes it.")

    def log_json(self, value: Any, name: str) -> None:
        """Write a value as a JSON artifact: UTF-8, Hangul not escaped."""
        text = json.dumps(value, ensure_ascii=False, indent=2) + "\n"
        self._patiently(lambda: self._client.log_text(self.run_id, text, name))

    def log_dataset(
        self,
        *,
        sha256: str,
        counts: Mapping[str, int],
        context: str,
        name: str = "AI Hub 208",
        part: str | None = None,
        kind: str = "split",
    ) -> None:
        """Link the run to data that it read, by name, clip counts and digest; see `datasets.dataset_input`.

        Parameters
        ----------
        sha256 : str
            Of the data: 36 characters become MLflow's digest, all of it the tag ``kmed.<kind>_sha256``.
        counts : mapping
            Clips per part, such as ``{"train": 10000, "valid": 5000, "test": 1000}``.
        context : str
            What the run did with the data, such as ``training`` or ``evaluation``.
        part : str, optional
            The part that was used; None: all of it.
        kind : str
            What was read: split, manifest or predictions.
        """
        given = dataset_input(
            name=name,
            sha256=sha256,
            counts=counts,
            context=context,
            part=part,
            kind=kind,
            digest_tag=f"kmed.{kind}_sha256",
        )

        def log() -> None:
            before = datasets_of(self._client.get_run(self.run_id)) if self.reopened else []
            if (given.dataset.name, given.dataset.digest) not in {(linked.name, linked.digest) for linked in before}:
                self._client.log_inputs(self.run_id, datasets=[given])

        self._patiently(log)


def param_text(value: Any) -> str:
    """Return a setting as the text of a param: None becomes ``none``, and a value over MLflow's limit is cut."""
    text = "none" if value is None or value == "" else str(value)
    return _cut(text, _PARAM_CHARS)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def start_run(client: MlflowClient, experiment_id: str, name: str, tags: Mapping[str, str]) -> TrackedRun:
    """Return a new run, RUNNING, with these tags, its process and the commit; see `origin`.

    All of it is one transaction: a process that is killed at any moment leaves no run whose owner is unknown.
    """
    own = {PROCESS_TAG: this_process(), **tags}
    started = client.create_run(experiment_id, run_name=name, tags=run_tags(own))
    return TrackedRun(client, started.info.run_id)


def run_of_another(uri: str, run_id: str) -> TrackedRun:
    """Return a run that another process holds, for children of it; nothing is changed."""
    return TrackedRun(MlflowClient(tracking_uri=uri), run_id)


def reopen_run(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> TrackedRun:
    """Return an ended run, RUNNING again, with these tags and its process, without those that described its end.

    Metrics that its last process could not deliver are delivered first.
    """
    deliver_left(client, run_id)
    before = client.get_run(run_id).data.tags
    for name in _ENDS:
        if name in before:
            client.delete_tag(run_id, name)
    run = TrackedRun(client, run_id, reopened=True)
    run.set_tags({PROCESS_TAG: this_process(), **tags})  # first: whoever finds it RUNNING knows its owner
    client.update_run(run_id, status=RunStatus.to_string(RunStatus.RUNNING))
    return run

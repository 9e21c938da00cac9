"""One run in the store: what it logs, once, also when the run was reopened."""

import contextlib
import json
import math
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunStatus, RunTag
from mlflow.tracking import MlflowClient
from mlflow.utils import mlflow_tags

from kmed_bench.core.errors import KmedError

# MLflow's limits (mlflow.utils.validation); longer values are cut, never refused after hours of work.
_PARAM_CHARS = 6_000
_TAG_CHARS = 8_000
_BATCH_PARAMS = 100
_BATCH_METRICS = 1_000
_DIGEST_CHARS = 36
_SAME = 1e-4
"""Relative difference that fp32 sums in another order (threads, kernels) may come to."""
_MEASURED_ANEW = ("time/", "speed/")
"""Metrics that no two passes share; what was logged first stays."""


class TrackedRun:
    """One run in the store; everything is logged by its id, so threads don't disturb one another.

    Attributes
    ----------
    run_id : str
        MLflow's id.
    ends_as : str or None
        Status for the run's end instead of the usual one, such as ``KILLED`` for a pruned trial.
    """

    def __init__(self, client: MlflowClient, run_id: str, *, reopened: bool = False) -> None:
        self.run_id = run_id
        self.ends_as: str | None = None
        self._client = client
        self._points: dict[tuple[str, int], Metric] = {}
        self._reopened = reopened
        self._read: set[str] = set()

    @property
    def client(self) -> MlflowClient:
        """MLflow's client for the store that holds the run."""
        return self._client

    def log_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Log an epoch's metrics at step ``epoch`` in one call; 0 is the untouched model.

        In a run that was reopened, what the store has already is not logged twice.

        Raises
        ------
        KmedError
            When a metric is not a finite number, or when a reopened run comes to another value than before.
        """
        faulty = {name: value for name, value in metrics.items() if not math.isfinite(value)}
        if faulty:
            named = ", ".join(f"{name} = {value}" for name, value in faulty.items())
            raise KmedError(
                f"{named} at step {epoch} of run {self.run_id}: metrics must be finite numbers. A loss that is not "
                "finite means that training diverged: lower train.lr, set train.grad_clip, or use precision fp32."
            )
        now_ms = int(time.time() * 1000)
        given = [Metric(name, float(value), now_ms, epoch) for name, value in metrics.items()]
        entries = iter([point for point in given if not self._has(point)])
        while batch := list(islice(entries, _BATCH_METRICS)):
            self._client.log_batch(self.run_id, metrics=batch)
            self._points |= {(point.key, point.step): point for point in batch}

    def _has(self, given: Metric) -> bool:
        """Tell whether a reopened run has this point already, with the same value."""
        before = self._point(given.key, given.step) if self._reopened else None
        if before is None:
            return False
        same = math.isclose(before.value, given.value, rel_tol=_SAME, abs_tol=_SAME)
        if not same and not given.key.startswith(_MEASURED_ANEW):
            raise KmedError(
                f"{given.key} at step {given.step} of run {self.run_id} was {before.value!r} before the run was "
                f"continued and is {given.value!r} now: this is not the same training. Continue it with the code, "
                "the data and the machine that began it, or start a new one without --resume."
            )
        return True

    def _point(self, name: str, step: int) -> Metric | None:
        """Return what the store holds under a name and step, as far as this run logged or read it."""
        if self._reopened and name not in self._read:
            self._read.add(name)
            for point in self._client.get_metric_history(self.run_id, name):
                self._points.setdefault((name, point.step), point)
        return self._points.get((name, step))

    def link_model(self, model_id: str, metrics: Mapping[str, float], *, step: int) -> None:
        """Attach figures to a LoggedModel, and to the data of this run; the run's own curves get no point twice."""
        datasets = datasets_of(self._client.get_run(self.run_id))
        named = {"dataset_name": datasets[0].name, "dataset_digest": datasets[0].digest} if datasets else {}
        now_ms = int(time.time() * 1000)
        linked = []
        for name, value in metrics.items():
            # The store keeps a point once when key, step, value and time are the same.
            known = self._point(name, step)
            time_ms, kept = (now_ms, float(value)) if known is None else (known.timestamp, known.value)
            linked.append(Metric(name, kept, time_ms, step, model_id=model_id, run_id=self.run_id, **named))
        if linked:
            self._client.log_batch(self.run_id, metrics=linked)

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
        if self._reopened and (dataset.name, dataset.digest) in {
            (known.name, known.digest) for known in datasets_of(self._client.get_run(self.run_id))
        }:
            return
        tags = [InputTag(mlflow_tags.MLFLOW_DATASET_CONTEXT, context), InputTag("kmed.split_sha256", sha256)]
        self._client.log_inputs(self.run_id, datasets=[DatasetInput(dataset, tags)])


def _param_text(value: Any) -> str:
    text = "none" if value is None or value == "" else str(value)
    return _cut(text, _PARAM_CHARS)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def datasets_of(run: Run) -> list[Dataset]:
    """Return the data that a run is linked to."""
    return [given.dataset for given in run.inputs.dataset_inputs] if run.inputs else []


@contextlib.contextmanager
def ending(run: TrackedRun) -> Iterator[None]:
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

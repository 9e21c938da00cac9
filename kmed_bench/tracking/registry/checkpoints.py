"""Checkpoints of epochs as LoggedModels: weights alone, beside the metrics and the data they belong to.

A checkpoint in fp32 takes about 151 MB (tiny), 290 MB (base) or 967 MB (small). Where the store keeps its artifacts
on the file system that holds the checkpoint, the file is linked and takes nothing more until the training replaces
it; elsewhere it is copied or sent whole. A training therefore keeps 1 + keep of them in the store, and one more while
a new one is on its way.
"""

import contextlib
import dataclasses
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from mlflow.entities import LoggedModel, LoggedModelStatus
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient

from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import sha256_of
from kmed_bench.tracking.run import TrackedRun
from kmed_bench.tracking.store import local_folder

MODEL_TYPE = "kmed-checkpoint"
_PAGE = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One epoch's weights in the store.

    Attributes
    ----------
    model_id : str
        MLflow's id; ``kmed-bench evaluate models:/<model_id>`` and the other commands take it.
    n_bytes : int
        Size of the file.
    sha256 : str
        Of the file.
    whole : bool
        False when whoever wrote it was ended before it was complete.
    best : bool
        True for the epoch with the lowest decoded valid CER when it was logged.
    """

    model_id: str
    epoch: int
    metrics: dict[str, float]
    n_bytes: int
    sha256: str
    whole: bool
    best: bool


def log_checkpoint(
    run: TrackedRun, path: Path, *, epoch: int, metrics: Mapping[str, float], split_sha256: str, best: bool
) -> str:
    """Return the model id of an epoch's checkpoint, stored once however often it is logged.

    A second call for the same epoch and file finds the first one's; what a killed process left half-written, and
    what another file was stored for the epoch, is deleted and written anew.

    Parameters
    ----------
    path : Path
        openai-whisper's format: ``dims`` and ``model_state_dict``. Write it anew rather than in place: the store may
        hold a link to it.
    metrics : mapping
        The epoch's figures, as logged at step ``epoch``.
    split_sha256 : str
        Hash of the split that the figures were measured on.
    best : bool
        Whether the epoch is the best one so far; the one that was best before no longer is.

    Raises
    ------
    KmedError
        When the checkpoint does not exist.
    """
    if not path.is_file():
        raise KmedError(f"The checkpoint {path} of epoch {epoch} does not exist, so it can't be logged; save it first.")
    client, sha256 = run.client, sha256_of(path)
    model_id: str | None = None
    for known in search_checkpoints(run):
        if known.epoch != epoch:
            if best and known.best:
                client.set_logged_model_tags(known.model_id, {"kmed.best": "false"})
        elif model_id is None and known.whole and known.sha256 == sha256:
            model_id = known.model_id
        else:
            _delete(client, client.get_logged_model(known.model_id))
    if model_id is None:
        tags = {"kmed.kind": "checkpoint", "kmed.epoch": str(epoch), "kmed.split_sha256": split_sha256}
        tags |= {"kmed.checkpoint_sha256": sha256, "kmed.checkpoint_bytes": str(path.stat().st_size)}
        model_id = _store(run, path, epoch, metrics, tags)
    client.set_logged_model_tags(model_id, {"kmed.best": str(best).lower()})
    return model_id


def _store(run: TrackedRun, path: Path, epoch: int, metrics: Mapping[str, float], tags: dict[str, str]) -> str:
    """Write the model, READY as its last step: one that is not READY is not whole."""
    info = run.client.get_run(run.run_id).info
    name = f"{info.run_name}-epoch{epoch:02d}".translate(str.maketrans("/:.%\"'", "______"))
    model = run.client.create_logged_model(
        info.experiment_id, name, source_run_id=run.run_id, tags=tags, model_type=MODEL_TYPE
    )
    _put(run.client, model, path)
    run.link_model(model.model_id, metrics, step=epoch)
    run.client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    return str(model.model_id)


def _put(client: MlflowClient, model: LoggedModel, path: Path) -> None:
    """Link the file into the store where that is on the same file system, else copy or send it."""
    folder = local_folder(model.artifact_location)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError):  # another file system, or one without links
            os.link(path, folder / path.name)
            return
    client.log_model_artifact(model.model_id, str(path))


def search_checkpoints(run: TrackedRun) -> list[Checkpoint]:
    """Return a run's checkpoints in the store by epoch, incomplete ones included."""
    experiment = run.client.get_run(run.run_id).info.experiment_id
    query = f"source_run_id = '{run.run_id}' AND model_type = '{MODEL_TYPE}'"
    checkpoints: list[Checkpoint] = []
    token: str | None = None
    while True:
        page = run.client.search_logged_models([experiment], query, max_results=_PAGE, page_token=token)
        checkpoints += [_checkpoint(model) for model in page]
        token = page.token
        if not token:
            return sorted(checkpoints, key=lambda one: (one.epoch, not one.whole))


def _checkpoint(model: LoggedModel) -> Checkpoint:
    tags = model.tags
    return Checkpoint(
        model_id=str(model.model_id),
        epoch=int(tags["kmed.epoch"]),
        metrics={point.key: point.value for point in model.metrics or []},
        n_bytes=int(tags["kmed.checkpoint_bytes"]),
        sha256=tags["kmed.checkpoint_sha256"],
        whole=model.status == LoggedModelStatus.READY,
        best=tags.get("kmed.best") == "true",
    )


def keep_checkpoints(run: TrackedRun, keep: int) -> list[Checkpoint]:
    """Return the superseded checkpoints of a run, which are deleted now: neither the best, nor the latest others.

    Parameters
    ----------
    keep : int
        How many of the latest epochs stay beside the best one; 0: the best one alone.
    """
    checkpoints = search_checkpoints(run)
    others = [one for one in checkpoints if one.whole and not one.best]
    superseded = [one for one in checkpoints if not one.whole] + others[: max(0, len(others) - keep)]
    for one in superseded:
        _delete(run.client, run.client.get_logged_model(one.model_id))
    return superseded


def _delete(client: MlflowClient, model: LoggedModel) -> None:
    """Delete the file, then the model; MLflow's own deletion keeps the file until `mlflow gc`.

    A store that can't delete files (some buckets grant no such right) keeps them, with a warning.
    """
    try:
        get_artifact_repository(model.artifact_location, tracking_uri=client.tracking_uri).delete_artifacts()  # type: ignore[no-untyped-call]
    except (MlflowException, NotImplementedError, OSError) as error:
        logging.getLogger(__name__).warning("The files of checkpoint %s stay in the store: %s", model.name, error)
    client.delete_logged_model(model.model_id)

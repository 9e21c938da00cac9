"""Checkpoints of epochs as LoggedModels: only the weights, linked to their metrics and data.

A checkpoint in fp32 takes about 151 MB (tiny), 290 MB (base) or 967 MB (small). If the store's artifacts are on the
same file system as the checkpoint, the file is hard-linked and takes no extra space until the training replaces it;
otherwise it is copied or uploaded. A training keeps 1 + keep of them in the store, and one more while a new one is
being written. Once the best one is registered, the registered model's file is the only one of it.
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
from kmed_bench.tracking.refusals import refused
from kmed_bench.tracking.run import TrackedRun
from kmed_bench.tracking.store import local_folder

MODEL_TYPE = "kmed-checkpoint"
_PAGE = 100
_undeletable: set[str] = set()
log = logging.getLogger(__name__)


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
        SHA-256 of the file.
    whole : bool
        False if its writer was killed before it was complete.
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
    """Store an epoch's checkpoint and return its model id.

    A second call for the same epoch and file returns the first one's model. An incomplete model of a killed process,
    or a model of another file for the same epoch, is replaced.

    Parameters
    ----------
    path : Path
        openai-whisper's format: ``dims`` and ``model_state_dict``. Later checkpoints must be new files, not written
        into this one: the store may have a hard link to it.
    metrics : mapping
        The epoch's figures, as logged at step ``epoch``.
    split_sha256 : str
        Hash of the split that the figures were measured on.
    best : bool
        Whether the epoch is the best so far; the previous best then loses its mark.

    Raises
    ------
    KmedError
        When the checkpoint does not exist.
    """
    if not path.is_file():
        raise KmedError(f"The checkpoint {path} of epoch {epoch} does not exist, so it can't be logged; save it first.")
    client, sha256 = run.client, sha256_of(path)
    model_id: str | None = None
    for stored in search_checkpoints(run):
        if stored.epoch != epoch:
            if best and stored.best:
                client.set_logged_model_tags(stored.model_id, {"kmed.best": "false"})
        elif model_id is None and stored.whole and stored.sha256 == sha256:
            model_id = stored.model_id
        else:
            delete_model(client, client.get_logged_model(stored.model_id))
    if model_id is None:
        tags = {"kmed.kind": "checkpoint", "kmed.epoch": str(epoch), "kmed.split_sha256": split_sha256}
        tags |= {"kmed.checkpoint_sha256": sha256, "kmed.checkpoint_bytes": str(path.stat().st_size)}
        model_id = _store(run, path, epoch, metrics, tags)
    client.set_logged_model_tags(model_id, {"kmed.best": str(best).lower()})
    return model_id


def _store(run: TrackedRun, path: Path, epoch: int, metrics: Mapping[str, float], tags: dict[str, str]) -> str:
    """Create the model and return its id; it is marked READY last, so a model that is not READY is incomplete."""
    stored = run.client.get_run(run.run_id)
    info, params = stored.info, dict(stored.data.params)
    name = f"{info.run_name}-epoch{epoch:02d}".translate(str.maketrans("/:.%\"'", "______"))
    model = run.client.create_logged_model(
        info.experiment_id, name, source_run_id=run.run_id, tags=tags, params=params, model_type=MODEL_TYPE
    )
    _put(run.client, model, path)
    run.link_model(model.model_id, metrics, step=epoch)
    run.client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    return str(model.model_id)


def _put(client: MlflowClient, model: LoggedModel, path: Path) -> None:
    """Hard-link the file into the store if both are on one file system, else copy or upload it."""
    folder = local_folder(model.artifact_location)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError):  # another file system, or one without links
            os.link(path, folder / path.name)
            return
    client.log_model_artifact(model.model_id, str(path))


def search_checkpoints(run: TrackedRun) -> list[Checkpoint]:
    """Return a run's checkpoints in the store by epoch, incomplete ones included."""
    found = map(_checkpoint, _models_of(run, f" AND model_type = '{MODEL_TYPE}'"))
    return sorted(found, key=lambda one: (one.epoch, not one.whole))


def find_best(run: TrackedRun) -> str | None:
    """Return the address of the model with a run's best epoch: the registered one, or its checkpoint; None without."""
    ready = [model for model in _models_of(run) if model.status == LoggedModelStatus.READY]
    registered = [model for model in ready if model.model_type != MODEL_TYPE and "kmed.checkpoint_sha256" in model.tags]
    best = [model for model in ready if model.model_type == MODEL_TYPE and model.tags.get("kmed.best") == "true"]
    return next((f"models:/{model.model_id}" for model in [*registered, *best]), None)


def _models_of(run: TrackedRun, also: str = "") -> list[LoggedModel]:
    experiment = run.client.get_run(run.run_id).info.experiment_id
    models: list[LoggedModel] = []
    token: str | None = None
    while True:
        query = f"source_run_id = '{run.run_id}'{also}"
        page = run.client.search_logged_models([experiment], query, max_results=_PAGE, page_token=token)
        models += page
        token = page.token
        if not token:
            return models


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
    """Delete a run's checkpoints except the best and the latest others, and return those deleted.

    Parameters
    ----------
    keep : int
        Number of latest epochs to keep besides the best; 0 keeps only the best.
    """
    checkpoints = search_checkpoints(run)
    others = [one for one in checkpoints if one.whole and not one.best]
    superseded = [one for one in checkpoints if not one.whole] + others[: max(0, len(others) - keep)]
    return [one for one in superseded if delete_model(run.client, run.client.get_logged_model(one.model_id))]


def replace_by_registered(run: TrackedRun, model_id: str) -> None:
    """Delete the run's checkpoint that a registered model holds too; MLflow gave that model the epoch's metrics.

    Parameters
    ----------
    model_id : str
        The LoggedModel behind a version that `models.log_model` registered.
    """
    sha256 = run.client.get_logged_model(model_id).tags["kmed.checkpoint_sha256"]
    for one in search_checkpoints(run):
        if one.sha256 == sha256:
            run.client.set_logged_model_tags(model_id, {"kmed.epoch": str(one.epoch)})
            delete_model(run.client, run.client.get_logged_model(one.model_id))


def delete_model(client: MlflowClient, model: LoggedModel) -> bool:
    """Delete the file, then the model; MLflow's own deletion would keep the file until `mlflow gc`.

    If the store can't delete files (some buckets do not grant that right), they stay, with a warning. So does the model
    if a server does not let the user delete it: False is returned then, and no further try is made.
    """
    if model.model_id in _undeletable:
        return False
    try:
        get_artifact_repository(model.artifact_location, tracking_uri=client.tracking_uri).delete_artifacts()  # type: ignore[no-untyped-call]
    except (MlflowException, NotImplementedError, OSError) as error:
        if refused(error) is None:  # the model's own deletion says the same in a moment
            log.warning("The files of checkpoint %s stay in the store: %s", model.name, error)
    try:
        client.delete_logged_model(model.model_id)
    except MlflowException as error:
        if refused(error) is None:
            raise
        _undeletable.add(model.model_id)
        log.warning(
            "Checkpoint %s is superseded and stays in the store: the server does not let this user delete it; it takes "
            "MANAGE on logged models (docs/server.md).",
            model.name,
        )
        return False
    return True

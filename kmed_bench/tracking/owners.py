"""The runs that files on disk belong to: whether they run, and whether the store holds their models."""

import dataclasses
import functools
from pathlib import Path

from mlflow.entities import LifecycleStage, LoggedModel, LoggedModelStatus, Run, RunStatus, ViewType
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from kmed_bench.core.files import sha256_of
from kmed_bench.tracking.processes import PROCESS_TAG, is_gone
from kmed_bench.tracking.store import local_folder, search_runs
from kmed_bench.tracking.waiting import store_error

_FULL_ID = 32
_RUNNING = RunStatus.to_string(RunStatus.RUNNING)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Owner:
    """A run that files belong to.

    Attributes
    ----------
    is_alive : bool
        Whether it, or the benchmark that it is part of, is RUNNING and its process may live.
    is_deleted : bool
        Whether it was deleted in the store, which keeps it until `mlflow gc`.
    """

    run_id: str
    name: str
    status: str
    is_alive: bool
    is_deleted: bool


class Owners:
    """Looks up the runs of files in one store.

    Parameters
    ----------
    uri : str or None
        Of an open store; None: there is none, so no run is known.
    """

    def __init__(self, uri: str | None) -> None:
        self._client = None if uri is None else MlflowClient(tracking_uri=uri)
        self.find = functools.cache(self._find)
        self.holds_model = functools.cache(self._holds_model)

    def _find(self, run_id: str) -> Owner | None:
        """Return the run of an id, or of the first 8 digits of a benchmark's; None if the store has none."""
        run = self._run(run_id)
        if run is None:
            return None
        parent = self._run(run.data.tags.get(MLFLOW_PARENT_RUN_ID, ""))
        return Owner(
            run_id=run.info.run_id,
            name=run.info.run_name,
            status=run.info.status,
            is_alive=_is_alive(run) or (parent is not None and _is_alive(parent)),
            is_deleted=run.info.lifecycle_stage == LifecycleStage.DELETED,
        )

    def _run(self, run_id: str) -> Run | None:
        if self._client is None or not run_id:
            return None
        if len(run_id) < _FULL_ID:
            return next((run for run in self._benches if run.info.run_id.startswith(run_id)), None)
        try:
            return self._client.get_run(run_id)
        except MlflowException as error:
            if (away := store_error(error)) is not None:
                raise away from error
            return None

    @functools.cached_property
    def _benches(self) -> list[Run]:
        assert self._client is not None  # as `_run` checked
        return search_runs(self._client, "tags.`kmed.kind` = 'bench'", view=ViewType.ALL)

    def _holds_model(self, run_id: str, checkpoint: Path) -> bool:
        """Return whether the store has a model of the run with its file.

        Parameters
        ----------
        checkpoint : Path
            The training's best checkpoint. Where it is there, the store's must have the same SHA-256 and size.
        """
        run = self._run(run_id)
        if self._client is None or run is None or run.info.lifecycle_stage == LifecycleStage.DELETED:
            return False
        sha256, n_bytes = (sha256_of(checkpoint), checkpoint.stat().st_size) if checkpoint.is_file() else (None, None)
        models = self._client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run.info.run_id}'")
        return any(
            model.status == LoggedModelStatus.READY
            and sha256 in (None, model.tags.get("kmed.checkpoint_sha256"))
            and self._has_file(model, n_bytes)
            for model in models
        )

    def _has_file(self, model: LoggedModel, n_bytes: int | None) -> bool:
        """Return whether the model's files have a checkpoint, of a size if one is given."""
        folder = local_folder(model.artifact_location)
        if folder is not None:
            sizes = [file.stat().st_size for file in folder.rglob("*.pt")]
        else:
            assert self._client is not None  # as `_holds_model` checked
            list_files = functools.partial(self._client.list_logged_model_artifacts, str(model.model_id))
            listed = [*list_files(), *list_files("artifacts")]
            sizes = [int(file.file_size or 0) for file in listed if file.path.endswith(".pt")]
        return bool(sizes) and n_bytes in (None, *sizes)


def _is_alive(run: Run) -> bool:
    return run.info.status == _RUNNING and not is_gone(run.data.tags.get(PROCESS_TAG, ""))

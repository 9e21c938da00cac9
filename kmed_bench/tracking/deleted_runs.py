"""What deleted runs left in the store: files of runs that MLflow marks as deleted and keeps until `mlflow gc`."""

import dataclasses
from collections.abc import Callable, Iterator

from mlflow.entities import FileInfo, LifecycleStage, LoggedModel, Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from kmed_bench.core.language import N_
from kmed_bench.tracking.registry.checkpoints import delete_model
from kmed_bench.tracking.store import local_folder, search_runs


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeletedRun:
    """A deleted run with files in the store.

    Attributes
    ----------
    n_files, n_bytes : int
        Of the run's artifacts and of the models that it logged.
    ended_s : float
        When it ended, in seconds since the epoch.
    versions : tuple of str
        Registered versions that point to it, as ``NAME version N``.
    """

    run_id: str
    name: str
    kind: str
    ended_s: float
    n_files: int
    n_bytes: int
    versions: tuple[str, ...]


def find_deleted(uri: str) -> list[DeletedRun]:
    """Return the store's deleted runs that have files or versions, the latest first."""
    client = MlflowClient(tracking_uri=uri)
    described = (_describe(client, run) for run in search_runs(client, "", view=ViewType.DELETED_ONLY))
    return [run for run in described if run.n_files or run.versions]


def _describe(client: MlflowClient, run: Run) -> DeletedRun:
    places = [run.info.artifact_uri, *(model.artifact_location for model in _models(client, run))]
    sizes = [size for place in places for size in _sizes(client, place)]
    found = client.search_model_versions(f"run_id = '{run.info.run_id}'")
    return DeletedRun(
        run_id=run.info.run_id,
        name=run.info.run_name,
        kind=run.data.tags.get("kmed.kind", ""),
        ended_s=(run.info.end_time or run.info.start_time) / 1000,
        n_files=len(sizes),
        n_bytes=sum(sizes),
        versions=tuple(sorted(f"{version.name} version {version.version}" for version in found)),
    )


def _models(client: MlflowClient, run: Run) -> list[LoggedModel]:
    return list(client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run.info.run_id}'"))


def _sizes(client: MlflowClient, place: str) -> Iterator[int]:
    """Yield the size in bytes of each file of an artifact location."""
    folder = local_folder(place)
    if folder is not None:
        yield from (path.stat().st_size for path in folder.rglob("*") if path.is_file())
    else:
        yield from _listed(_repository(client, place).list_artifacts, None)


def _listed(list_artifacts: Callable[[str | None], list[FileInfo]], path: str | None) -> Iterator[int]:
    for file in list_artifacts(path):
        if file.is_dir:
            yield from _listed(list_artifacts, file.path)
        else:
            yield int(file.file_size or 0)


def _repository(client: MlflowClient, place: str) -> ArtifactRepository:
    return get_artifact_repository(place, tracking_uri=client.tracking_uri)


def remove_files(uri: str, deleted: DeletedRun) -> str:
    """Remove a deleted run's files and the models that it logged; return why they were left, or an empty text.

    The run itself stays, deleted, until `mlflow gc`.
    """
    client = MlflowClient(tracking_uri=uri)
    if deleted.versions:
        return f"{', '.join(deleted.versions)} points to it; delete that first, or restore the run"
    try:
        run = client.get_run(deleted.run_id)
        if run.info.lifecycle_stage != LifecycleStage.DELETED:
            return "it was restored meanwhile"
        for model in _models(client, run):
            delete_model(client, model)
        _repository(client, run.info.artifact_uri).delete_artifacts()  # type: ignore[no-untyped-call]
    except (MlflowException, NotImplementedError, OSError) as error:
        return f"the store can't remove its files ({error})"
    return ""


def deleted_parts(client: MlflowClient, bench: Run, series: str | None) -> dict[str, str]:
    """Return the deleted runs of a benchmark: its own, and trainings of its series; name to what restores each.

    Parameters
    ----------
    bench : mlflow.entities.Run
        The benchmark, which is itself among them if it was deleted.
    series : str or None
        Its series tag, as a query on train runs.
    """
    queries = [f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{bench.info.run_id}'", *([series] if series else [])]
    runs = [bench] if bench.info.lifecycle_stage == LifecycleStage.DELETED else []
    runs += [run for query in queries for run in reversed(search_runs(client, query, view=ViewType.DELETED_ONLY))]
    return {f"{run.info.run_name} ({run.info.run_id[:8]})": restore_command(run) for run in runs}


def restore_command(run: Run) -> str:
    """Return that a run is deleted, and the command that brings it back."""
    text = N_("deleted in the store; `mlflow runs restore --run-id {run_id}` brings it back")
    return text.format(run_id=run.info.run_id)

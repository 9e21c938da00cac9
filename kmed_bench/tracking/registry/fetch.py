"""Checkpoints downloaded from the store or the registry."""

from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException

from kmed_bench.core.addresses import without_password
from kmed_bench.core.errors import KmedError
from kmed_bench.tracking.refusals import refused
from kmed_bench.tracking.store import global_store


def fetch_checkpoint(uri: str, folder: Path, *, tracking_uri: str) -> Path:
    """Return the path of the openai-format checkpoint of ``models:/…`` or ``runs:/…``, downloaded into a folder.

    Parameters
    ----------
    tracking_uri : str
        The store that has the model, as `open_store` returned it.

    Raises
    ------
    KmedError
        When the store has no such model, or the model holds no single ``.pt`` file.
    """
    try:
        with global_store(tracking_uri):
            downloaded = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder)))
    except (MlflowException, OSError) as error:
        raise refused(error, tracking_uri) or KmedError(
            f"The model {uri} can't be fetched from {without_password(tracking_uri)} ({without_password(str(error))}); "
            "check its name, version or alias in the MLflow UI, and name the store with --tracking.uri."
        ) from None
    files = sorted(downloaded.rglob("*.pt")) if downloaded.is_dir() else [downloaded]
    if len(files) != 1:
        raise KmedError(f"{uri} holds {len(files)} .pt files, expected one; name a model that kmed-bench registered.")
    return files[0]

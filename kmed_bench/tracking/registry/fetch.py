"""Checkpoints taken out of the store or the registry."""

from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException

from kmed_bench.core.errors import KmedError
from kmed_bench.tracking.store import without_password


def fetch_checkpoint(uri: str, folder: Path) -> Path:
    """Return the openai-format checkpoint of ``models:/…`` or ``runs:/…``, downloaded into a folder.

    Raises
    ------
    KmedError
        When the store has no such model, or the model holds no single ``.pt`` file.
    """
    try:
        downloaded = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder)))
    except (MlflowException, OSError) as error:
        store, said = without_password(mlflow.get_tracking_uri()), without_password(str(error))
        raise KmedError(
            f"The model {uri} can't be fetched from {store} ({said}); check its name, version or alias in the MLflow "
            "UI, and name the store with --tracking.uri."
        ) from None
    found = sorted(downloaded.rglob("*.pt")) if downloaded.is_dir() else [downloaded]
    if len(found) != 1:
        raise KmedError(f"{uri} holds {len(found)} .pt files, expected one; name a model that kmed-bench registered.")
    return found[0]

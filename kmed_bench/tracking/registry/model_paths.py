"""MLmodel without the paths of the machine that logged it: the folder of temporary files may name an account."""

import tempfile
from pathlib import Path, PurePath
from typing import Any

import mlflow
import yaml
from mlflow.tracking import MlflowClient

_FILE = "MLmodel"


def hide_paths(client: MlflowClient, model_id: str) -> None:
    """Replace the paths that MLflow was given in a LoggedModel's MLmodel by the names of the files.

    MLflow reads the files by ``path``, which is relative to the model, and the code by the last part of its path.
    The store must be MLflow's global one.
    """
    with tempfile.TemporaryDirectory() as folder:
        address = f"{client.get_logged_model(model_id).artifact_location}/{_FILE}"
        path = Path(mlflow.artifacts.download_artifacts(address, dst_path=folder))
        content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        flavor = content["flavors"]["python_function"]
        before = yaml.safe_dump(content)
        for artifact in flavor["artifacts"].values():
            artifact["uri"] = PurePath(artifact["uri"]).name
        flavor["model_code_path"] = PurePath(flavor["model_code_path"]).name
        if yaml.safe_dump(content) != before:
            path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
            client.log_model_artifact(model_id, str(path))

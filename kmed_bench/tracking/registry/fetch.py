"""The folder of an MLflow model: fetched from a store, and looked at before any code in it runs."""

import logging
import re
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.tracking import MlflowClient

from kmed_bench.core.addresses import without_password
from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import sha256_of
from kmed_bench.scoring.verdict import RECOMMENDED_TAG, VERDICT_TEXT_TAG
from kmed_bench.tracking.refusals import refused
from kmed_bench.tracking.registry.checkpoints import find_best
from kmed_bench.tracking.run import TrackedRun
from kmed_bench.tracking.store import global_store

log = logging.getLogger(__name__)
MODEL_CODE = Path(__file__).with_name("pyfunc_model.py")
"""What MLflow copies into each registered model, and runs when one is loaded."""
_VERSION = re.compile(r"models:/([^/@]+)(?:/(\d+)|@(.+))")
_LOADER = "mlflow.pyfunc.loaders.code_model"
_IMPORTING = ("code", "data", "python_model")
"""Keys of MLmodel that add to Python's path, point the loader elsewhere, or name a pickle."""


def fetch_model(uri: str, folder: Path, *, tracking_uri: str) -> Path:
    """Return the file or folder of ``models:/…`` or ``runs:/…``, downloaded into a folder.

    A registered version whose verdict does not recommend it is named in a warning, with the verdict.

    Parameters
    ----------
    tracking_uri : str
        The store that has the model, as `open_store` returned it.

    Raises
    ------
    KmedError
        When the store has no such model.
    """
    try:
        with global_store(tracking_uri):
            path = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder)))
            _warn_unless_recommended(uri, MlflowClient(tracking_uri=tracking_uri))
            return path
    except (MlflowException, OSError) as error:
        raise refused(error, tracking_uri) or KmedError(
            f"The model {uri} can't be fetched from {without_password(tracking_uri)} ({without_password(str(error))}); "
            "check its name, version or alias in the MLflow UI, and name the store with --tracking.uri."
        ) from None


def _warn_unless_recommended(uri: str, client: MlflowClient) -> None:
    named = _VERSION.fullmatch(uri)
    if named is None:
        return
    name, number, alias = named.groups()
    version = client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, number)
    if version.tags.get(RECOMMENDED_TAG) == "false":
        verdict = version.tags.get(VERDICT_TEXT_TAG, "")
        log.warning(f"{uri} is version {version.version}, which is not recommended over the untouched model: {verdict}")


def fetch_checkpoint(uri: str, folder: Path, *, tracking_uri: str) -> Path:
    """Return the path of the openai-format checkpoint of a model of the store; no code of the model runs.

    Raises
    ------
    KmedError
        Like `fetch_model`, and when the model holds no single ``.pt`` file.
    """
    downloaded = fetch_model(uri, folder, tracking_uri=tracking_uri)
    files = sorted(downloaded.rglob("*.pt")) if downloaded.is_dir() else [downloaded]
    if len(files) != 1:
        raise KmedError(f"{uri} holds {len(files)} .pt files, expected one; name a model that kmed-bench registered.")
    return files[0]


def fetch_best(run_id: str, folder: Path, *, tracking_uri: str) -> Path:
    """Return the path of the checkpoint with a training's best epoch, downloaded into a folder.

    Raises
    ------
    KmedError
        Like `fetch_checkpoint`, and when the store has none of that training.
    """
    uri = find_best(TrackedRun(MlflowClient(tracking_uri=tracking_uri), run_id))
    if uri is None:
        raise KmedError(
            f"The store has no checkpoint of the training {run_id}: it was removed, or the training ran with "
            "tracking.log_checkpoints=false. Leave out --checkpoints, or train again."
        )
    return fetch_checkpoint(uri, folder, tracking_uri=tracking_uri)


def foreign_code(folder: Path, code_sha256: str | None = None) -> str:
    """Return why loading a model folder by MLflow would run other code than this release's; empty if it would not.

    Parameters
    ----------
    code_sha256 : str, optional
        SHA-256 of the code that it may run; None: this release's.

    Raises
    ------
    KmedError
        When the folder holds no MLflow model of Python functions.
    """
    try:
        flavor = Model.load(str(folder)).flavors["python_function"]
        path = folder / Path(str(flavor.get("model_code_path", ""))).name
    except Exception as error:  # MLflow raises what PyYAML and its own constructors raise
        raise KmedError(
            f"{folder} is no MLflow model of Python functions ({type(error).__name__}); name a model that kmed-bench "
            "registered."
        ) from None
    if (loader := flavor.get("loader_module")) != _LOADER:
        return f"its loader is {loader!r:.60}"
    if present := [key for key in _IMPORTING if flavor.get(key) is not None]:
        return f"its MLmodel names {present[0]} ({flavor[present[0]]!r:.60})"
    if not path.is_file():
        return "its MLmodel names no file of code"
    if sha256_of(path) != (code_sha256 or sha256_of(MODEL_CODE)):
        return f"its {path.name} is of another release or author"
    return ""

"""Registered models, logged with everything that is needed to run them elsewhere."""

import contextlib
import dataclasses
import importlib.metadata
import io
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import soundfile
from mlflow.entities import LoggedModelStatus, Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.models import ModelSignature
from mlflow.tracking import MlflowClient
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from kmed_bench.config import Config, Decides, flatten
from kmed_bench.config.identity import decisive
from kmed_bench.core.contracts import SCORES
from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import sha256_of
from kmed_bench.core.surroundings import interrupts_wait
from kmed_bench.tracking.datasets import datasets_of
from kmed_bench.tracking.endings import forget_end, keep_end
from kmed_bench.tracking.origin import HIDDEN
from kmed_bench.tracking.registry.challenger import BENCH_TAG, persistently, set_challenger
from kmed_bench.tracking.registry.fetch import MODEL_CODE
from kmed_bench.tracking.registry.model_card import describe_registered, write_card
from kmed_bench.tracking.registry.model_paths import hide_paths
from kmed_bench.tracking.registry.passport import describe_model, write_passport
from kmed_bench.tracking.run import TrackedRun, param_text
from kmed_bench.tracking.store import global_store, read_artifact

PREFIX = "kmed-whisper-"
_HEADLINE = ("train.lr", "train.epochs", "train.batch_size", "train.max_len", "train.audio_context", "train.seeds")
_GROUP_DEPTH = 2
"""Slashes in the name of a group's metric, such as test/cer/gender/Female, from this number on."""
LANGUAGE = "ko"
"""What the registered model transcribes unless a request names another language."""
_REQUIRED = ("mlflow", "openai-whisper", "torch", "torchaudio", "soundfile", "scipy", "numpy", "pandas")
# The operator of a server can change these with MLFLOW_PYFUNC_INFERENCE_CONFIG, as JSON.
LIMITS = {"max_rows": 512, "max_audio_mib": 128.0, "max_audio_minutes": 10.0, "max_request_minutes": 60.0}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelVersionInfo:
    """One registered version.

    Attributes
    ----------
    uri : str
        ``models:/<name>/<version>``, which `mlflow.pyfunc.load_model` takes.
    model_id : str
        The LoggedModel behind it.
    """

    name: str
    version: str
    uri: str
    model_id: str
    run_id: str


def log_model(
    run: TrackedRun,
    checkpoint: Path,
    *,
    size: str,
    split_sha256: str = "",
    metrics: Mapping[str, float] | None = None,
    tags: Mapping[str, str] | None = None,
    step: int = 0,
    sign_key: str | None = None,
) -> ModelVersionInfo:
    """Log a checkpoint as a pyfunc model of the run, register it, and return the version.

    The alias ``challenger`` goes to the version with the lowest valid CER of those that can be compared with this one,
    whichever is registered last; see `set_challenger`. Its verdict is a tag, and the gate judges it.

    Parameters
    ----------
    checkpoint : Path
        openai-whisper's format: ``dims`` and ``model_state_dict``.
    split_sha256 : str
        Hash of the split it was measured on; only versions with equal hashes are compared.
    metrics : mapping
        Figures such as ``{"test/cer": 0.118}``; all but those of groups become version tags.
    step : int
        The checkpoint's epoch.
    sign_key : str, optional
        File of the Ed25519 key that signs the passport.

    Raises
    ------
    KmedError
        When the checkpoint does not exist, or the key can't be read.
    """
    if not checkpoint.is_file():
        raise KmedError(f"The checkpoint {checkpoint} does not exist, so it can't be registered; train first.")
    name = f"{PREFIX}{size}"
    client = run.client
    source = client.get_run(run.run_id)
    sha256 = sha256_of(checkpoint)
    described = {"kmed.size": size, "kmed.language": LANGUAGE, "kmed.split_sha256": split_sha256, **(tags or {})}
    # The UI's table of versions shows every tag of every version, one below the other.
    overall = {key: value for key, value in (metrics or {}).items() if key.count("/") < _GROUP_DEPTH}
    described |= {f"kmed.{key}".replace("/", "."): repr(float(value)) for key, value in overall.items()}
    described["kmed.checkpoint_sha256"] = sha256
    if bench := source.data.tags.get(MLFLOW_PARENT_RUN_ID):
        described[BENCH_TAG] = bench
    facts = _facts(client, source, name, size, described, metrics or {})
    card = write_card(**facts)
    passport = describe_model(language=LANGUAGE, run_id=run.run_id, **facts)
    with _active(run), _quiet():
        model_id = _logged_before(client, source, name, sha256)
        if model_id is None:
            with tempfile.TemporaryDirectory() as folder:
                files = {"checkpoint": Path(folder) / checkpoint.name, "card": Path(folder) / "MODEL_CARD.md"}
                _link_or_copy(checkpoint, files["checkpoint"])
                files["card"].write_text(card, encoding="utf-8")
                files["passport"] = write_passport(passport, files.values(), Path(folder), sign_key)
                model_id = _log_model(files, name, step, described, source.data.params)
        hide_paths(client, model_id)
        telling = telling_params(source.data.params)  # versions have no params; as tags they can be searched
        version = persistently(
            lambda: (
                _registered_before(client, name, run.run_id, model_id)
                or mlflow.register_model(f"models:/{model_id}", name, tags=telling)
            )
        )
    run.link_model(model_id, metrics or {}, step=0)
    for key, value in described.items():
        client.set_model_version_tag(name, version.version, key, value)
    client.update_model_version(name, version.version, card)
    _describe_registered(client, name, size)
    set_challenger(client, name, str(version.version))
    return ModelVersionInfo(
        name=name,
        version=str(version.version),
        uri=f"models:/{name}/{version.version}",
        model_id=model_id,
        run_id=run.run_id,
    )


def _link_or_copy(path: Path, target: Path) -> None:
    try:
        os.link(path, target)  # MLflow refuses a symbolic link that leads out of a folder
    except OSError:
        shutil.copy(path, target)


def _log_model(files: Mapping[str, Path], name: str, step: int, tags: dict[str, str], params: Mapping[str, str]) -> str:
    """Return the id of a new LoggedModel of the active run, with the run's params."""
    code = shutil.copy(MODEL_CODE, files["card"].parent)
    logged = mlflow.pyfunc.log_model(
        name=name,
        python_model=str(code),
        artifacts={key: str(path) for key, path in files.items()},
        model_config={"language": LANGUAGE, "path_root": "", **LIMITS},
        signature=signature(),
        input_example=_example(),
        pip_requirements=pinned_requirements(),
        step=step,
        tags={**tags, **HIDDEN},
        params=dict(params),
    )
    return str(logged.model_id)


def telling_params(params: Mapping[str, str]) -> dict[str, str]:
    """Return the params that tell versions apart: the headline ones, and others that decide and are not the default.

    The LoggedModel behind a version has all of its training's params.
    """
    default = {key: param_text(value) for key, value in flatten(Config()).items()}
    deciding = decisive(Config(), ~Decides.NOTHING)
    changed = {key for key in deciding if params.get(key, default[key]) != default[key]}
    return {key: value for key, value in params.items() if key in _HEADLINE or key in changed}


def _describe_registered(client: MlflowClient, name: str, size: str) -> None:
    """Give a registered model a description and tags unless it has them, which may be a person's."""
    found = client.get_registered_model(name)
    if not found.description:
        client.update_registered_model(name, describe_registered(size))
    wanted = {"kmed.size": size, "kmed.language": LANGUAGE, "kmed.task": "automatic-speech-recognition"}
    for key in wanted.keys() - found.tags.keys():
        client.set_registered_model_tag(name, key, wanted[key])


def _logged_before(client: MlflowClient, run: Run, name: str, sha256: str) -> str | None:
    """Return the id of the model that an interrupted attempt logged of this checkpoint, or None."""
    query = f"source_run_id = '{run.info.run_id}' AND name = '{name}'"
    for model in client.search_logged_models([run.info.experiment_id], query):
        if model.status == LoggedModelStatus.READY and model.tags.get("kmed.checkpoint_sha256") == sha256:
            return str(model.model_id)
    return None


def _registered_before(client: MlflowClient, name: str, run_id: str, model_id: str) -> ModelVersion | None:
    """Return the version that an interrupted attempt registered for a logged model, or None."""
    versions = client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
    return next((version for version in versions if version.source == f"models:/{model_id}"), None)


def _facts(
    client: MlflowClient, run: Run, name: str, size: str, tags: Mapping[str, str], metrics: Mapping[str, float]
) -> dict[str, Any]:
    """Return what a model's card and passport tell, from what the run and its benchmark have logged so far."""
    parent_id = run.data.tags.get(MLFLOW_PARENT_RUN_ID)
    parent = client.get_run(parent_id).data if parent_id else run.data
    counts: dict[str, int] = {}
    for dataset in datasets_of(run):
        profile = json.loads(dataset.profile or "{}")
        counts |= {key.removeprefix("n_"): n for key, n in profile.items() if key.startswith("n_")}
    return {
        "name": name,
        "size": size,
        "params": {**parent.params, **run.data.params},
        "tags": {**parent.tags, **run.data.tags, **tags},
        "metrics": {**run.data.metrics, **metrics},
        "scores": read_artifact(client, run, "scores.json", SCORES),
        "counts": counts,
    }


def pinned_requirements() -> list[str]:
    """Return the model's requirements, pinned to the installed versions without their local part (``+cpu``)."""
    return [f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in _REQUIRED]


@contextlib.contextmanager
def _active(run: TrackedRun) -> Iterator[None]:
    """Make a run MLflow's active one, which is where `log_model` puts models; its status afterwards is as before.

    Meanwhile it is RUNNING. If this process is killed, `processes.end_abandoned` finds the status of an ended run.
    """
    info = run.client.get_run(run.run_id).info
    status = info.status
    if info.end_time is not None:
        keep_end(run.run_id, status, info.end_time)
    with global_store(run.uri):
        mlflow.start_run(run_id=run.run_id, nested=True)
        try:
            yield
        finally:
            mlflow.end_run(status)
            forget_end(run.run_id)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide MLflow's progress bars and messages while the block runs; errors are raised all the same."""
    logger = logging.getLogger("mlflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def signature() -> ModelSignature:
    """Return the signature of every registered model; MLflow's CSV, split, records, instances and inputs fit it."""
    inputs = Schema(
        [
            ColSpec(DataType.binary, "audio", required=False),
            ColSpec(DataType.string, "audio_base64", required=False),
            ColSpec(DataType.string, "path", required=False),
            # Lists of numbers. MLflow reads no CSV for a signature with an array column, and makes one row of all rows
            # of an `instances` body; a column of text takes lists unchanged.
            ColSpec(DataType.string, "samples", required=False),
            ColSpec(DataType.long, "rate_hz", required=False),
        ]
    )
    params = ParamSchema(
        [ParamSpec("language", DataType.string, LANGUAGE), ParamSpec("detail", DataType.boolean, False)]
    )
    return ModelSignature(inputs=inputs, outputs=Schema([ColSpec(DataType.string, "text")]), params=params)


@interrupts_wait()
def _example() -> pd.DataFrame:
    """Return a quarter of a second of a 440 Hz tone as FLAC bytes; no speech, which could be a patient's."""
    time_s = np.arange(4_000) / 16_000
    buffer = io.BytesIO()
    soundfile.write(buffer, 0.1 * np.sin(2 * np.pi * 440 * time_s), 16_000, format="FLAC")
    return pd.DataFrame({"audio": [buffer.getvalue()]})

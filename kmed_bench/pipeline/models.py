"""The model that a MODEL argument names: a size, a file, a folder, or one in the tracking store."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from whisper.model import Whisper

from kmed_bench.asr.model.device import pick_device
from kmed_bench.asr.model.weights import find_weights, load_weights
from kmed_bench.asr.runtimes.backend import Backend
from kmed_bench.asr.runtimes.formats import detect_format, open_folder
from kmed_bench.asr.runtimes.ggml import is_ggml
from kmed_bench.asr.runtimes.hf_format import read_hf_folder
from kmed_bench.asr.runtimes.own import OwnBackend
from kmed_bench.asr.runtimes.plugins import find_system, identify_system, open_system, system_names
from kmed_bench.config import Config, EvalConfig
from kmed_bench.core.errors import KmedError
from kmed_bench.core.finished import content_sha256
from kmed_bench.core.schema import SIZES
from kmed_bench.core.scratch import scratch_folder
from kmed_bench.tracking.registry.fetch import fetch_checkpoint
from kmed_bench.tracking.stages import StageRun
from kmed_bench.tracking.store import open_store

log = logging.getLogger(__name__)


def open_located(config: Config, model: str, path: Path) -> Backend:
    """Return the model at the path that `located` yields for it, behind the library that it belongs to.

    Raises
    ------
    KmedError
        When the model can't be read, or its library is not installed.
    """
    system = find_system(model)
    if system is not None or path.is_dir() or is_ggml(path):
        backend = open_folder(path, config.eval) if system is None else open_system(*system, config.eval)
        _warn_of_settings(config.eval, backend.name)
        return backend
    network, model_bytes = load_weights(path, str(pick_device())), path.stat().st_size
    return OwnBackend(network, config.eval, model, model_bytes=model_bytes, features=config.features)


@contextlib.contextmanager
def located(config: Config, model: str) -> Iterator[Path]:
    """Yield the path that `find_model` returns; what was downloaded is there until the block ends."""
    with scratch_folder() as folder:
        yield find_model(config, model, folder)


def tell_stage(stage: StageRun | None, model: str, path: Path) -> None:
    """Log to a stage's run which model it reads, if the stage is tracked."""
    if stage is not None:
        stage.read_model(shown_model(model), path if path.is_file() else None)


def shown_model(model: str) -> str:
    """Return a MODEL argument without folders, which may name a user or a patient."""
    system = find_system(model)
    if system is not None:
        entry, argument = system
        return f"{entry.name}:{Path(argument).name if Path(argument).exists() else argument}"
    return Path(model).name if Path(model).exists() else model


def identify_model(model: str, path: Path) -> str:
    """Return what tells whether the model at the path that `located` yields is still the same."""
    system = find_system(model)
    return content_sha256(path) if system is None else identify_system(*system)


def _warn_of_settings(config: EvalConfig, library: str) -> None:
    """Log the settings that differ from the defaults and that another library does not follow."""
    defaults = EvalConfig()
    for name in ("audio_context", "precision", "beam_size", "no_repeat_ngram_size"):
        if getattr(config, name) != getattr(defaults, name):
            log.warning(
                f"eval.{name} = {getattr(config, name)} is a setting of our own decoding; {library} decodes greedily "
                "in the 30 s window, in the arithmetic recorded in scores.json."
            )


def find_model(config: Config, model: str, folder: Path) -> Path:
    """Return the file or folder that a MODEL argument names; a model of the store is downloaded into ``folder``.

    A folder with a single ``.pt`` file means that file.

    Raises
    ------
    KmedError
        When nothing has that name, or a folder is of no known format.
    """
    if model in SIZES:
        return find_weights(model).path
    if model.startswith(("models:/", "runs:/")):
        uri = open_store(config.tracking)
        return fetch_checkpoint(model, folder, tracking_uri=uri)
    if (system := find_system(model)) is not None:
        return Path(system[1])
    path = Path(model)
    if not path.exists():
        systems = "".join(f", {name}:…" for name in system_names())
        raise KmedError(
            f"Model {model} does not exist; give a size ({', '.join(SIZES)}), a .pt file, a Hugging Face or "
            "CTranslate2 folder, an export to ONNX, OpenVINO or ggml, or an MLflow URI (models:/NAME@ALIAS, runs:/…)"
            f"{systems}."
        )
    if path.is_dir() and detect_format(path) == "openai":
        return next(path.glob("*.pt"))
    return path


def load_located(model: str, path: Path) -> Whisper:
    """Return the model at the path that `located` yields for it as openai-whisper's, in fp32.

    Raises
    ------
    KmedError
        When it can't be read, or is of a format that only its runtime reads.
    """
    if find_system(model) is not None:
        raise KmedError(f"{model} is another package's system, which can be evaluated and not exported.")
    fmt = "ggml" if is_ggml(path) else detect_format(path) if path.is_dir() else "openai"
    if fmt == "openai":
        return load_weights(path, str(pick_device()))
    if fmt != "hf":
        raise KmedError(
            f"{model} is of the format {fmt}, which is what an export ends in; export the .pt file or the Hugging "
            "Face folder that it was made from."
        )
    return read_hf_folder(path).to(pick_device())

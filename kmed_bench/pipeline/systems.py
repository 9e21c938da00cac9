"""Any model on the same standard: decode a part of a split, score it, compare it with a baseline."""

import dataclasses
import importlib.metadata
import logging
import resource
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from kmed_bench import __version__
from kmed_bench.asr.decoding.decode import predict_part
from kmed_bench.asr.decoding.options import DecodingOptions
from kmed_bench.asr.features.log_mel import N_MELS
from kmed_bench.asr.features.store import build_features
from kmed_bench.asr.model.device import describe_machine, pick_device
from kmed_bench.asr.model.weights import cache_folder, find_weights, load_weights
from kmed_bench.asr.model.whisper import Whisper
from kmed_bench.asr.runtimes.backends import Runtime, detect_kind, open_folder, predict_samples
from kmed_bench.asr.runtimes.hf_format import N_VOCAB, read_hf_folder
from kmed_bench.config import Config, EvalConfig
from kmed_bench.core.console import track
from kmed_bench.core.errors import KmedError
from kmed_bench.core.predictions import Prediction
from kmed_bench.core.schema import SIZES
from kmed_bench.tracking.registry.fetch import fetch_checkpoint
from kmed_bench.tracking.store import open_store

log = logging.getLogger(__name__)

_GIB = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class System:
    """A model that is ready to decode.

    Attributes
    ----------
    runtime : dict
        Name, version, settings and audio_context of what decodes, for ``scores.json``.
    decode : callable
        Takes rows of a manifest; returns their predictions in that order, warm-up not timed.
    parameters : int or None
        Learned numbers; None where the file does not tell.
    model_bytes : int
        Size of the weights on disk.
    """

    runtime: dict[str, Any]
    decode: Callable[[pd.DataFrame], list[Prediction]]
    parameters: int | None
    model_bytes: int


def open_system(config: Config, model: str) -> System:
    """Return a model with the runtime that belongs to it: our own decoding, transformers or faster-whisper.

    Raises
    ------
    KmedError
        When the model can't be found or read, or its library is not installed.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = find_model(config, model, Path(folder))
        if path.is_dir():
            return _open_foreign(path, config.eval)
        network = load_weights(path, str(pick_device()))
        _check_own(model, network)
        model_bytes = path.stat().st_size
    return System(
        runtime=_describe_own(config, network),
        decode=lambda rows: _decode_own(network, rows, config),
        parameters=sum(p.numel() for p in network.parameters()),
        model_bytes=model_bytes,
    )


def _open_foreign(path: Path, config: EvalConfig) -> System:
    runtime: Runtime = open_folder(path, config)
    standard = EvalConfig()
    for name in ("audio_context", "precision", "beam_size", "no_repeat_ngram_size"):
        if getattr(config, name) != getattr(standard, name):
            log.warning(
                f"eval.{name} = {getattr(config, name)} is a setting of our own decoding; {runtime.name} decodes "
                "greedily in the 30 s window, in the arithmetic recorded in scores.json."
            )

    def decode(rows: pd.DataFrame) -> list[Prediction]:
        with track(f"Decoding by {runtime.name}") as tick:
            return predict_samples(runtime, rows, progress=tick)

    return System(
        runtime=runtime.describe(), decode=decode, parameters=runtime.parameters, model_bytes=runtime.model_bytes
    )


def find_model(config: Config, model: str, folder: Path) -> Path:
    """Return the file or folder that a MODEL argument names; what the store holds is downloaded into a folder.

    A folder that holds one ``.pt`` file means that file.

    Raises
    ------
    KmedError
        When there is nothing of that name, or a folder is of no known format.
    """
    if model in SIZES:
        return find_weights(model).path
    if model.startswith(("models:/", "runs:/")):
        open_store(config.tracking)
        return fetch_checkpoint(model, folder)
    path = Path(model)
    if not path.exists():
        raise KmedError(
            f"Model {model} does not exist; give a size ({', '.join(SIZES)}), a .pt file, a Hugging Face or "
            "CTranslate2 folder, or an MLflow URI (models:/NAME@ALIAS, runs:/…)."
        )
    if path.is_dir() and detect_kind(path) == "openai":
        return next(path.glob("*.pt"))
    return path


def load_model(config: Config, model: str) -> Whisper:
    """Return a model of any kind but CTranslate2 as openai-whisper's, in fp32, for our own decoding and for export.

    Raises
    ------
    KmedError
        When it can't be found or read, or is a CTranslate2 folder.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = find_model(config, model, Path(folder))
        if not path.is_dir():
            return load_weights(path, str(pick_device()))
        if detect_kind(path) == "ct2":
            raise KmedError(
                f"{model} is a CTranslate2 folder, which is what an export ends in; export the .pt file or the Hugging "
                "Face folder that it was made from."
            )
        network: Whisper = read_hf_folder(path).to(pick_device())
        return network


def _describe_own(config: Config, network: Whisper) -> dict[str, Any]:
    names = ("batch_size", "precision", "max_new_tokens", "beam_size", "no_repeat_ngram_size")
    return {
        "name": "kmed-bench",
        "version": f"{__version__}, torch {importlib.metadata.version('torch')}",
        "settings": {
            **{name: getattr(config.eval, name) for name in names},
            "features": config.features.dtype,
            "language": "ko",
            "device": network.device.type,
            "timed": "encoder and decoding of ready features",
        },
        "audio_context": config.eval.audio_context,
    }


def _decode_own(network: Whisper, rows: pd.DataFrame, config: Config) -> list[Prediction]:
    """Return our own predictions; a first batch of the longest clips is decoded untimed."""
    settings = config.eval
    with track("Features") as tick:
        store = build_features(
            rows,
            cache_folder() / "features",
            dtype=config.features.dtype,
            budget_bytes=int(config.features.cache_gib * _GIB),
            progress=tick,
        )

    options = DecodingOptions.from_config(settings)
    predict_part(network, rows.nlargest(settings.batch_size, "duration_s"), store, options)
    with track("Decoding") as tick:
        predictions = predict_part(network, rows, store, options, progress=tick)
    if settings.no_repeat_ngram_size is not None:
        ngram_blocked = sum(prediction.ngram_blocked for prediction in predictions)
        log.info(f"The repetition guard changed the search in {ngram_blocked} of {len(rows)} clips.")
    return predictions


def describe_speed(
    scores: Mapping[str, Any], *, parameters: int | None, model_bytes: int, device: torch.device | None = None
) -> dict[str, Any]:
    """Return what a model takes: RTFx, seconds per clip, memory, parameters, bytes, and the machine.

    Parameters
    ----------
    scores : mapping
        Of ``score_predictions``, whose ``decode`` has the times.
    """
    device = device or pick_device()
    return {
        **{name: scores["decode"][name] for name in ("rtfx", "decode_s_p50", "decode_s_p95")},
        "peak_memory_bytes": peak_memory_bytes(device),
        "parameters": parameters,
        "model_bytes": model_bytes,
        "machine": describe_machine(device),
    }


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most memory held so far: torch's on the GPU, else the whole process's, since it began."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _check_own(model: str, network: Whisper) -> None:
    """Refuse what our own decoding would read wrongly: other vocabularies and other numbers of mel bands."""
    dims = network.dims
    if (dims.n_vocab, dims.n_mels) != (N_VOCAB, N_MELS):
        raise KmedError(
            f"{model} has {dims.n_vocab} tokens and {dims.n_mels} mel bands; our own decoding reads Whisper's "
            f"multilingual models of {N_VOCAB} and {N_MELS} (tiny to large-v2). Evaluate English-only models and "
            "large-v3 as a Hugging Face or CTranslate2 folder."
        )

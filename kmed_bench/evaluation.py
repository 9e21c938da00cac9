"""Any model on the same standard: decode a part of a split, score it, compare it with a baseline."""

import dataclasses
import importlib.metadata
import resource
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from whisper.model import Whisper

from kmed_bench import __version__
from kmed_bench.asr.decode import predict_as_set
from kmed_bench.asr.device import describe_machine, pick_device
from kmed_bench.asr.features import N_MELS, build_frames
from kmed_bench.asr.hf_format import N_VOCAB, read_hf_folder
from kmed_bench.asr.runtimes import Runtime, detect_kind, open_folder, predict_samples
from kmed_bench.asr.weights import cache_folder, find_weights, load_weights
from kmed_bench.config import Config, EvalConfig
from kmed_bench.corpus.split import read_split
from kmed_bench.progress import Narrator
from kmed_bench.records import SIZES, KmedError, Prediction, read_predictions, write_json, write_predictions
from kmed_bench.scoring import compare_predictions, score_predictions
from kmed_bench.scoring.foreign import Hypothesis, join_references
from kmed_bench.scoring.package import Package, hash_references, read_package, score_against
from kmed_bench.tracking.fetch import fetch_checkpoint
from kmed_bench.tracking.store import open_store

_GIB = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class System:
    """A model that is ready to decode.

    Attributes
    ----------
    runtime : dict
        Name, version, settings and audio_context of what decodes, for ``scores.json``.
    decode : callable
        Takes rows of a manifest and a narrator; returns their predictions in that order, warm-up not timed.
    parameters : int or None
        Learned numbers; None where the file does not tell.
    model_bytes : int
        Size of the weights on disk.
    """

    runtime: dict[str, Any]
    decode: Callable[[pd.DataFrame, Narrator], list[Prediction]]
    parameters: int | None
    model_bytes: int


def evaluate_model(
    config: Config,
    model: str,
    split_folder: Path,
    part: str,
    out: Path,
    *,
    narrator: Narrator,
    against: Path | None = None,
) -> dict[str, Any]:
    """Decode and score one part with any model; write predictions and scores; return the scores.

    Parameters
    ----------
    model : str
        A size, a ``.pt`` file, a Hugging Face or CTranslate2 folder, or an MLflow URI (``models:/…``, ``runs:/…``).
    against : Path, optional
        A baseline: predictions.jsonl, the scores.json or the folder beside it, or a benchmark package's folder. Then
        ``comparisons.json`` is written too, and the scores hold its rows under ``comparisons``.

    Raises
    ------
    KmedError
        When the model, the split or the baseline can't be read, or the baseline is of other utterances; before any
        clip is decoded.
    """
    if against is not None and _predictions_behind(against).resolve() == (out / "predictions.jsonl").resolve():
        raise KmedError(
            f"{out} holds the baseline itself, which would be overwritten; name another folder for results."
        )
    split = read_split(split_folder)
    rows = split.parts[part]
    baseline = None if against is None else read_baseline(against, rows, config.eval)
    system = open_system(config, model, narrator)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    predictions = system.decode(rows, narrator)
    scores = {
        **score_predictions(predictions, config.eval, split_sha256=split.sha256),
        "part": part,
        "audio_context": system.runtime["audio_context"],
        "runtime": system.runtime,
    }
    scores["speed"] = describe_speed(scores, parameters=system.parameters, model_bytes=system.model_bytes)
    if system.runtime["name"] == "faster-whisper" and torch.cuda.is_available():
        scores["speed"]["peak_memory_bytes"] = None  # CTranslate2's memory is not torch's, so it is not measured
    (out / "comparisons.json").unlink(missing_ok=True)  # of scores that these replace
    write_predictions(out / "predictions.jsonl", predictions)
    write_json(out / "scores.json", scores)
    if baseline is not None and against is not None:
        scores["comparisons"] = compare_with(baseline, str(against), predictions, config.eval)
        write_json(out / "comparisons.json", {"comparisons": scores["comparisons"]})
    return scores


def open_system(config: Config, model: str, narrator: Narrator) -> System:
    """Return a model with the runtime that belongs to it: our own decoding, transformers or faster-whisper.

    Raises
    ------
    KmedError
        When the model can't be found or read, or its library is not installed.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = find_model(config, model, Path(folder))
        if path.is_dir():
            return _open_foreign(path, config.eval, narrator)
        network = load_weights(path, str(pick_device()))
        _check_own(model, network)
        model_bytes = path.stat().st_size
    return System(
        runtime=_describe_own(config.eval, network),
        decode=lambda rows, narrator: _decode_own(network, rows, config, narrator),
        parameters=sum(p.numel() for p in network.parameters()),
        model_bytes=model_bytes,
    )


def _open_foreign(path: Path, config: EvalConfig, narrator: Narrator) -> System:
    runtime: Runtime = open_folder(path, config)
    standard = EvalConfig()
    for name in ("audio_context", "precision", "beam_size", "repetition_guard"):
        if getattr(config, name) != getattr(standard, name):
            narrator.say(
                f"eval.{name} = {getattr(config, name)} is a setting of our own decoding; {runtime.name} decodes "
                "greedily in the 30 s window, in the arithmetic recorded in scores.json."
            )

    def decode(rows: pd.DataFrame, narrator: Narrator) -> list[Prediction]:
        with narrator.track(f"Decoding by {runtime.name}") as tick:
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
        return read_hf_folder(path).to(pick_device())


def _describe_own(config: EvalConfig, network: Whisper) -> dict[str, Any]:
    names = ("batch_size", "precision", "max_new_tokens", "beam_size", "repetition_guard")
    return {
        "name": "kmed-bench",
        "version": f"{__version__}, torch {importlib.metadata.version('torch')}",
        "settings": {
            **{name: getattr(config, name) for name in names},
            "language": "ko",
            "device": network.device.type,
            "timed": "encoder and decoding of ready features",
        },
        "audio_context": config.audio_context,
    }


def _decode_own(network: Whisper, rows: pd.DataFrame, config: Config, narrator: Narrator) -> list[Prediction]:
    """Return our own predictions; a first batch of the longest clips is decoded untimed."""
    settings = config.eval
    with narrator.track("Features") as tick:
        budget = int(config.train.feature_budget_gib * _GIB)
        store = build_frames(rows, cache_folder() / "features", budget_bytes=budget, progress=tick)

    predict_as_set(network, rows.nlargest(settings.batch_size, "duration_s"), store, settings)
    with narrator.track("Decoding") as tick:
        predictions = predict_as_set(network, rows, store, settings, tick)
    if settings.repetition_guard is not None:
        guarded = sum(prediction.guarded for prediction in predictions)
        narrator.say(f"The repetition guard changed the search in {guarded} of {len(rows)} clips.")
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


def read_baseline(path: Path, rows: pd.DataFrame, config: EvalConfig) -> Package | list[Prediction]:
    """Return a baseline that was measured on the same utterances as these rows.

    Raises
    ------
    KmedError
        When there is none, it can't be read, or it is of other utterances or of another transcript policy.
    """
    if (path / "package.json").is_file():
        package = read_package(path)
        if package.policy != config.policy:
            raise KmedError(
                f"{path} was scored on the {package.policy} side, and eval.policy is {config.policy}; give "
                f"--eval.policy {package.policy}."
            )
        ids = set(next(iter(package.systems.values()))["utterance_id"])
        baseline: Package | list[Prediction] = package
    else:
        predictions = read_predictions(_predictions_behind(path))
        ids = {prediction.utterance_id for prediction in predictions}
        baseline = predictions
    own = set(rows["utterance_id"])
    if ids != own:
        raise KmedError(
            f"The baseline {path} is of other utterances: {len(own - ids)} of this part's {len(own)} are missing in it "
            f"and {len(ids - own)} of its {len(ids)} are not in this part; decode the same part of the same split."
        )
    if isinstance(baseline, Package):
        nothing = {name: Hypothesis(text="", decode_s=0.0) for name in rows["utterance_id"]}
        references = join_references(nothing, rows, missing="refuse").predictions
        if hash_references(references, config.policy) != baseline.head["references_sha256"]:
            raise KmedError(
                f"The references or speakers of this split are not those of the package {path}; take both from the "
                "same release of the corpus."
            )
    return baseline


def _predictions_behind(path: Path) -> Path:
    """Return the predictions of a path that may also be the scores beside them, or their folder."""
    if path.is_dir():
        return path / "predictions.jsonl"
    return path.with_name("predictions.jsonl") if path.name == "scores.json" else path


def compare_with(
    baseline: Package | Sequence[Prediction], name: str, predictions: Sequence[Prediction], config: EvalConfig
) -> list[dict[str, Any]]:
    """Return the paired difference to every system of a baseline; a negative delta means that the new one is better.

    Parameters
    ----------
    name : str
        What a baseline of one predictions file is called.
    """
    if isinstance(baseline, Package):
        rows: list[dict[str, Any]] = score_against(baseline, predictions, config)["comparisons"]
        return rows
    compared = compare_predictions(baseline, predictions, config)
    return [{"baseline": name, **compared, "p_holm": compared["p_value"]}]

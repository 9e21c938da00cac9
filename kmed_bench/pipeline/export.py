"""Handing a model over to another runtime: written, opened by that runtime, measured, and only then named."""

import dataclasses
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from kmed_bench.asr.decoding.decode import predict_part
from kmed_bench.asr.decoding.options import DecodingOptions
from kmed_bench.asr.features.store import build_features
from kmed_bench.asr.model.weights import cache_folder, save_weights
from kmed_bench.asr.model.whisper import Whisper
from kmed_bench.asr.runtimes.backends import Runtime, open_folder, predict_samples
from kmed_bench.asr.runtimes.hf_format import import_transformers, missing_library, write_hf_folder
from kmed_bench.config import EvalConfig
from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import replacing_folder, sha256_of, write_json
from kmed_bench.core.predictions import Prediction
from kmed_bench.scoring.measures import count_utterances, rates, versions
from kmed_bench.text.marks import Policy
from kmed_bench.text.normalise import normalise

Format = Literal["openai", "hf", "ct2"]
Quantization = Literal["float32", "int8"]
FORMATS: tuple[Format, ...] = ("openai", "hf", "ct2")
QUANTIZATIONS: tuple[Quantization, ...] = ("float32", "int8")
MAX_DRIFT: dict[Quantization, float] = {"float32": 0.002, "int8": 0.01}
"""How far an exported model's CER may stand from the original's, as a fraction, either way."""

_CT2_COPIED = ["tokenizer.json", "preprocessor_config.json", "generation_config.json"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """Clips on which an exported model is held against the original.

    Attributes
    ----------
    part : pandas.DataFrame
        Rows of a manifest.
    originals : sequence of Prediction
        What our own decoding of the original model writes for them; see ``decode_original``.
    about : dict
        Identity of the clips, such as part and split_sha256, for ``export.json``.
    transcript_side : str
        Side of the dual notation that both CERs are measured against.
    """

    part: pd.DataFrame
    originals: Sequence[Prediction]
    about: dict[str, Any]
    transcript_side: Policy = "pronunciation"


def spread_clips(part: pd.DataFrame, limit: int | None) -> pd.DataFrame:
    """Return at most ``limit`` rows, evenly spaced over a part; the same ones every time."""
    if limit is None or limit >= len(part):
        return part
    return part.iloc[[i * len(part) // limit for i in range(limit)]]


def decode_original(
    model: Whisper, part: pd.DataFrame, config: EvalConfig, *, progress: Callable[[int, int], None] | None = None
) -> list[Prediction]:
    """Return our own transcripts of clips, greedy, fp32, in the 30 s window that every runtime uses."""
    store = build_features(part, cache_folder() / "features")
    options = DecodingOptions(batch_size=config.batch_size, max_new_tokens=config.max_new_tokens)
    return predict_part(model, part, store, options, progress=progress)


def export_model(
    model: Whisper,
    out: Path,
    format: Format,
    config: EvalConfig,
    *,
    quantization: Quantization = "float32",
    trial: Trial | None = None,
    max_drift: float | None = None,
    about: dict[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write a folder in a runtime's own format and return its ``export.json``.

    Parameters
    ----------
    out : Path
        A folder that is not there yet. It appears whole, after the files were opened by their own runtime and, with
        a trial, the drift was found within its bound; otherwise not at all.
    trial : Trial, optional
        None exports without measuring; ``drift`` says so.
    max_drift : float, optional
        Largest difference in CER, a fraction; None: ``MAX_DRIFT``.
    about : dict
        Where the model is from, for ``export.json``.

    Raises
    ------
    KmedError
        As ``check_request``; when a library is missing, the runtime can't open the files, or the drift exceeds its
        bound.
    """
    bound = check_request(out, format, quantization, max_drift)
    with replacing_folder(out) as folder:
        _WRITERS[format](model, folder, quantization)
        runtime = open_folder(folder, config)  # opened in any case: a file that its runtime can't read is no export
        account = {
            "format": format,
            "quantization": quantization,
            **(about or {}),
            "runtime": runtime.describe(),
            "parameters": runtime.parameters,
            "drift": _measure(runtime, trial, bound, progress),
            "files": _list_files(folder),
        }
        write_json(folder / "export.json", account)
        _refuse_existing(out)
    return account


def check_request(out: Path, format: Format, quantization: Quantization, max_drift: float | None) -> float:
    """Return the largest drift that an export may have; called before hours of decoding.

    Raises
    ------
    KmedError
        When the folder exists, the bound is no fraction, or format and quantization do not go together.
    """
    if quantization != "float32" and format != "ct2":
        raise KmedError(f"Format {format} is written in float32 alone; {quantization} needs --format ct2.")
    bound = MAX_DRIFT[quantization] if max_drift is None else max_drift
    if not (math.isfinite(bound) and bound >= 0):
        raise KmedError(f"--max-drift is {bound}; give a fraction of at least 0, such as 0.002.")
    _refuse_existing(out)
    return bound


def _refuse_existing(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise KmedError(f"{out} exists already and is not overwritten; name another folder, or remove it first.")


def _measure(
    runtime: Runtime,
    trial: Trial | None,
    bound: float,
    progress: Callable[[int, int], None] | None,
) -> dict[str, Any] | None:
    """Return the account of the drift, None without a trial; raise when it exceeds the bound."""
    if trial is None:
        return None
    exported = predict_samples(runtime, trial.part, progress=progress)
    before, after = (
        rates(count_utterances(side, trial.transcript_side))["cer"] for side in (trial.originals, exported)
    )
    if before is None or after is None:
        raise KmedError("None of the clips has a reference that is not empty, so no CER can be measured; take others.")
    drift = after - before
    differing = sum(a.hypothesis != b.hypothesis for a, b in zip(trial.originals, exported, strict=True))
    if abs(drift) > bound:
        raise KmedError(
            f"The export is refused: decoded by {runtime.name} {runtime.version} the model has a CER of {after:.4f} on "
            f"{len(exported)} clips, and {before:.4f} by our own decoding; the drift of {drift:+.4f} exceeds "
            f"{bound:g} ({differing} transcripts differ). Measure on more clips, or set --max-drift if you accept it."
        )
    return {
        "cer_original": before,
        "cer_exported": after,
        "drift": drift,
        "bound": bound,
        "n_clips": len(exported),
        "n_differing": differing,
        "n_differing_normalised": sum(
            normalise(a.hypothesis) != normalise(b.hypothesis) for a, b in zip(trial.originals, exported, strict=True)
        ),
        **trial.about,
        "transcript_policy": trial.transcript_side,
        **versions(),
    }


def _list_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Return name to bytes and SHA-256 of every file."""
    paths = sorted(folder.iterdir())
    return {path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in paths}


def _write_openai(model: Whisper, folder: Path, quantization: Quantization) -> None:
    del quantization  # float32, as checked
    save_weights(model, folder / "model.pt")


def _write_hf(model: Whisper, folder: Path, quantization: Quantization) -> None:
    del quantization
    write_hf_folder(model, folder)


def _write_ct2(model: Whisper, folder: Path, quantization: Quantization) -> None:
    """Convert with CTranslate2's own converter, from a Hugging Face folder that is removed again."""
    import_transformers()
    try:
        from ctranslate2.converters import TransformersConverter
    except ImportError as error:
        raise missing_library("ctranslate2", "The CTranslate2 format", error) from None
    # The converter empties the folder that it writes to, so each has one of its own.
    source, converted = folder / "hf", folder / "ct2"
    source.mkdir()
    write_hf_folder(model, source)
    converter = TransformersConverter(str(source), copy_files=_CT2_COPIED)
    converter.convert(str(converted), quantization=quantization)
    for path in sorted(converted.iterdir()):
        path.rename(folder / path.name)
    shutil.rmtree(source)
    converted.rmdir()


_WRITERS: dict[Format, Callable[[Whisper, Path, Quantization], None]] = {
    "openai": _write_openai,
    "hf": _write_hf,
    "ct2": _write_ct2,
}

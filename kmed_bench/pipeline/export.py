"""`export`: a model in another library's format, opened by that library and measured before it gets its name."""

import dataclasses
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd

from kmed_bench.asr.model.weights import save_weights
from kmed_bench.asr.model.whisper import Whisper
from kmed_bench.asr.runtimes.backend import Backend
from kmed_bench.asr.runtimes.formats import Format, open_folder
from kmed_bench.asr.runtimes.ggml import write_ggml
from kmed_bench.asr.runtimes.graph_writer import write_graph_record, write_graphs
from kmed_bench.asr.runtimes.graphs import convert_to_openvino
from kmed_bench.asr.runtimes.hf_format import write_hf_folder
from kmed_bench.asr.runtimes.libraries import import_transformers, missing_library
from kmed_bench.asr.runtimes.own import OwnBackend
from kmed_bench.config import EvalConfig
from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import replacing_folder, sha256_of, write_json
from kmed_bench.core.predictions import Prediction
from kmed_bench.core.progress import track
from kmed_bench.core.run_contracts import Passport
from kmed_bench.scoring.measures import count_utterances, rates, versions
from kmed_bench.text.marks import Policy
from kmed_bench.text.normalise import normalise
from kmed_bench.tracking.registry.passport import passport_of_export, write_passport

Quantization = Literal["float32", "float16", "int8"]
QUANTIZATIONS: dict[Format, tuple[Quantization, ...]] = {
    **dict.fromkeys(get_args(Format), ("float32",)),
    "ct2": ("float32", "int8"),
    "ggml": ("float16",),
}
"""Number formats of each format's weights, its default first."""
MAX_DRIFT: dict[Quantization, float] = {"float32": 0.002, "float16": 0.01, "int8": 0.01}
"""Largest difference of an exported model's CER from the original's, as a fraction, in either direction."""
NOT_WRITTEN = {
    "coreml": "its runtime exists on Apple's systems only, so the CER can't be measured again elsewhere; on a Mac, "
    "whisper.cpp runs the ggml export",
    "tensorrt": "an engine runs only on the kind of GPU that it was built on; build it there from the onnx export",
    "tflite": "its converter brings JAX and a second set of converters; convert the hf export with litert-torch",
}
"""Formats that are often asked for, and why they are not written."""

_CT2_COPIED = ["tokenizer.json", "preprocessor_config.json", "generation_config.json"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DriftCheck:
    """Clips on which an exported model is compared with the original.

    Attributes
    ----------
    part : pandas.DataFrame
        Rows of a manifest.
    originals : sequence of Prediction
        The original model's, by our own decoding; see `decode_original`.
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


def decode_original(model: Whisper, part: pd.DataFrame, config: EvalConfig) -> list[Prediction]:
    """Return our own transcripts of clips: greedy, fp32, in the 30 s window that every library uses."""
    options = EvalConfig(batch_size=config.batch_size, max_new_tokens=config.max_new_tokens)
    return OwnBackend(model, options, "The model").decode(part)


def export_model(
    model: Whisper,
    out: Path,
    format: Format,
    config: EvalConfig,
    *,
    quantization: Quantization | None = None,
    check: DriftCheck | None = None,
    max_drift: float | None = None,
    about: dict[str, Any] | None = None,
    passport: Passport | None = None,
    sign_key: str | None = None,
) -> dict[str, Any]:
    """Write a folder in a library's own format and return its ``export.json``.

    Parameters
    ----------
    out : Path
        A folder that does not exist yet. It appears whole, after the library opened the files and, with a check, the
        drift was within its bound; otherwise not at all.
    quantization : str, optional
        Number format of the weights; None: the first of ``QUANTIZATIONS``.
    check : DriftCheck, optional
        None exports without measuring; ``drift`` is then None.
    max_drift : float, optional
        Largest difference in CER, a fraction; None: ``MAX_DRIFT``.
    about : dict
        The origin of the model, for ``export.json``.
    passport : Passport, optional
        The model's; the export gets one that is made from it. None: none.
    sign_key : str, optional
        File of the Ed25519 key that signs it.

    Raises
    ------
    KmedError
        As `check_request`; when a library is missing or can't open the files, or the drift exceeds its bound.
    """
    bound = check_request(out, format, quantization, max_drift)
    quantization = quantization or QUANTIZATIONS[format][0]
    with replacing_folder(out) as folder:
        with track(f"Converting to {format}"):
            _WRITERS[format](model, folder, quantization)
        backend = open_folder(folder, config)  # in any case: a file that its library can't read is no export
        record = {
            "format": format,
            "quantization": quantization,
            **(about or {}),
            "runtime": backend.describe(),
            "parameters": backend.parameters,
            "drift": None if check is None else _measure_drift(backend, check, bound),
            "files": _list_files(folder),
        }
        write_json(folder / "export.json", record)
        if passport is not None:
            content = passport_of_export(passport, record)
            write_passport(content, sorted(folder.iterdir()), folder, sign_key)
        _refuse_existing(out)
    return record


def check_format(name: str) -> Format:
    """Return a format's name; raise KmedError, with the reason, for one that is not written."""
    if name in QUANTIZATIONS:
        return name
    reason = NOT_WRITTEN.get(name, "this package has no runtime for it, so its CER could not be measured again")
    raise KmedError(f"Format {name!r:.40} is not written: {reason}. Choose {', '.join(QUANTIZATIONS)}.")


def check_request(out: Path, format: Format, quantization: Quantization | None, max_drift: float | None) -> float:
    """Return the largest drift that an export may have; to be called before hours of decoding.

    Raises
    ------
    KmedError
        When the folder exists, the bound is no fraction, or format and quantization do not go together.
    """
    possible = QUANTIZATIONS[format]
    quantization = quantization or possible[0]
    if quantization not in possible:
        able = " or ".join(name for name, kinds in QUANTIZATIONS.items() if quantization in kinds)
        raise KmedError(
            f"Format {format} is written only in {' and '.join(possible)}; {quantization} needs --format {able}."
        )
    bound = MAX_DRIFT[quantization] if max_drift is None else max_drift
    if not (math.isfinite(bound) and bound >= 0):
        raise KmedError(f"--max-drift is {bound}; give a fraction of at least 0, such as 0.002.")
    _refuse_existing(out)
    return bound


def _refuse_existing(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise KmedError(f"{out} exists already and is not overwritten; name another folder, or remove it first.")


def _measure_drift(backend: Backend, check: DriftCheck, bound: float) -> dict[str, Any]:
    """Return the drift as ``export.json`` records it; raise KmedError if it exceeds the bound."""
    exported, side = backend.decode(check.part), check.transcript_side
    before, after = (rates(count_utterances(clips, side))["cer"] for clips in (check.originals, exported))
    if before is None or after is None:
        raise KmedError("Every clip has an empty reference, so no CER can be measured; measure on other clips.")
    drift = after - before
    differing = sum(a.hypothesis != b.hypothesis for a, b in zip(check.originals, exported, strict=True))
    if abs(drift) > bound:
        raise KmedError(
            f"The export is refused: decoded by {backend.name} {backend.version} the model has a CER of {after:.4f} on "
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
            normalise(a.hypothesis) != normalise(b.hypothesis) for a, b in zip(check.originals, exported, strict=True)
        ),
        **check.about,
        "transcript_policy": side,
        **versions(),
    }


def _list_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the bytes and SHA-256 of every file by its name."""
    paths = sorted(folder.iterdir())
    return {path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in paths}


def _write_openai(model: Whisper, folder: Path, quantization: Quantization) -> None:
    del quantization  # float32, as checked
    save_weights(model, folder / "model.pt")


def _write_hf(model: Whisper, folder: Path, quantization: Quantization) -> None:
    del quantization
    write_hf_folder(model, folder)


def _write_ct2(model: Whisper, folder: Path, quantization: Quantization) -> None:
    """Convert with CTranslate2's own converter, by way of a temporary Hugging Face folder."""
    import_transformers()
    try:
        from ctranslate2.converters import TransformersConverter
    except ImportError as error:
        raise missing_library("ctranslate2", "The CTranslate2 format", error) from None
    # The converter empties the folder it writes to, so source and target are separate.
    source, converted = folder / "hf", folder / "ct2"
    source.mkdir()
    write_hf_folder(model, source)
    converter = TransformersConverter(str(source), copy_files=_CT2_COPIED)
    converter.convert(str(converted), quantization=quantization)
    for path in sorted(converted.iterdir()):
        path.rename(folder / path.name)
    shutil.rmtree(source)
    converted.rmdir()


def _write_onnx(model: Whisper, folder: Path, quantization: Quantization) -> None:
    del quantization
    write_graphs(model, folder)
    write_graph_record(model, folder)


def _write_openvino(model: Whisper, folder: Path, quantization: Quantization) -> None:
    _write_onnx(model, folder, quantization)
    convert_to_openvino(folder)


def _write_ggml(model: Whisper, folder: Path, quantization: Quantization) -> None:
    del quantization  # float16
    write_ggml(model, folder / "ggml-model.bin")


_WRITERS: dict[Format, Callable[[Whisper, Path, Quantization], None]] = {
    "openai": _write_openai,
    "hf": _write_hf,
    "ct2": _write_ct2,
    "onnx": _write_onnx,
    "openvino": _write_openvino,
    "ggml": _write_ggml,
}

"""The formats of a model folder: recognised by their files, opened by the library they belong to."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from kmed_bench.asr.runtimes.backend import Backend
from kmed_bench.asr.runtimes.faster_whisper import FasterWhisperBackend
from kmed_bench.asr.runtimes.ggml import GgmlBackend
from kmed_bench.asr.runtimes.graphs import OnnxBackend, OpenVinoBackend
from kmed_bench.asr.runtimes.openai import OpenAIBackend
from kmed_bench.asr.runtimes.transformers import TransformersBackend
from kmed_bench.config import EvalConfig
from kmed_bench.core.errors import KmedError
from kmed_bench.core.fields import check_fields
from kmed_bench.core.files import parse_json, read_json_text

# transformers takes memory for what the configuration says, before it looks at the weights.
_HF_LIMITS = {
    "d_model": 8192,
    "encoder_layers": 256,
    "decoder_layers": 256,
    "encoder_attention_heads": 256,
    "decoder_attention_heads": 256,
    "encoder_ffn_dim": 32768,
    "decoder_ffn_dim": 32768,
    "vocab_size": 1 << 17,
    "num_mel_bins": 1024,
    "max_source_positions": 1 << 13,
    "max_target_positions": 1 << 13,
}
Format = Literal["openai", "hf", "ct2", "onnx", "openvino", "ggml"]
_FILES: dict[Format, tuple[str, ...]] = {
    "hf": ("model*.safetensors", "pytorch_model*.bin"),
    "ct2": ("model.bin",),
    "onnx": ("encoder.onnx", "decoder.onnx"),
    "openvino": ("encoder.xml", "decoder.xml"),
}


def detect_format(folder: Path) -> Format:
    """Return the format of a model folder: one of ``Format``, known by its files.

    Raises
    ------
    KmedError
        When the files are of no format, of two, of adapters, or of a model that is not Whisper.
    """
    if (folder / "adapter_config.json").is_file():
        raise KmedError(
            f"{folder} holds adapters, not a whole model; merge them into their base model first "
            "(peft's `merge_and_unload`) and save that."
        )
    formats: list[Format] = [
        name for name, patterns in _FILES.items() if any(any(folder.glob(pattern)) for pattern in patterns)
    ]
    if len(list(folder.glob("*.pt"))) == 1:
        formats.append("openai")
    if len(list(folder.glob("ggml*.bin"))) == 1:
        formats.append("ggml")
    if len(formats) != 1:
        held = "several models" if formats else "no model"
        raise KmedError(
            f"{folder} holds {held}: expected either a Hugging Face model (config.json and *.safetensors), or a "
            "CTranslate2 model (model.bin), or one .pt file of openai-whisper, or one ggml*.bin of whisper.cpp, or "
            "an exported folder of ONNX or OpenVINO graphs (encoder.onnx or encoder.xml)."
        )
    if formats == ["hf"]:
        _check_hf_config(folder / "config.json")
    return formats[0]


def _check_hf_config(path: Path) -> None:
    """Raise KmedError unless a Hugging Face configuration is Whisper's, of a size that its weights can have."""
    text = read_json_text(path)
    content = parse_json(text, path)
    model_type = content.get("model_type") if isinstance(content, dict) else None
    if model_type != "whisper":
        raise KmedError(
            f"{path.parent} holds a model of type {model_type!r:.80}; only Whisper's architecture is evaluated."
        )
    stated = {name: Annotated[int, Field(ge=1, le=limit)] for name, limit in _HF_LIMITS.items() if name in content}
    check_fields(content, stated, path, "save the model there again", text=text)


def open_folder(folder: Path, config: EvalConfig) -> Backend:
    """Return the backend that belongs to a folder's format, or to a single file of whisper.cpp.

    Raises
    ------
    KmedError
        When the folder is of no known format, is incomplete, or its library is not installed.
    """
    if not folder.is_dir():
        return GgmlBackend(folder, config)
    fmt = detect_format(folder)
    if fmt == "openai":
        return OpenAIBackend(next(folder.glob("*.pt")), config)
    if fmt == "ggml":
        return GgmlBackend(next(folder.glob("ggml*.bin")), config)
    return _FOLDERS[fmt](folder, config)


_FOLDERS: dict[Format, Callable[[Path, EvalConfig], Backend]] = {
    "hf": TransformersBackend,
    "ct2": FasterWhisperBackend,
    "onnx": OnnxBackend,
    "openvino": OpenVinoBackend,
}

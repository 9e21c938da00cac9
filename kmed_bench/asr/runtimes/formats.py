"""The formats of a model folder: recognised by their files, opened by the library they belong to."""

from pathlib import Path
from typing import Literal

from kmed_bench.asr.runtimes.backend import Backend
from kmed_bench.asr.runtimes.faster_whisper import FasterWhisperBackend
from kmed_bench.asr.runtimes.openai import OpenAIBackend
from kmed_bench.asr.runtimes.transformers import TransformersBackend
from kmed_bench.config import EvalConfig
from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import read_json

Format = Literal["openai", "hf", "ct2"]


def detect_format(folder: Path) -> Format:
    """Return the format of a model folder: ``hf``, ``ct2`` or, for one ``.pt`` file, ``openai``.

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
    formats: list[Format] = []
    if any(any(folder.glob(pattern)) for pattern in ("model*.safetensors", "pytorch_model*.bin")):
        formats.append("hf")
    if (folder / "model.bin").is_file():
        formats.append("ct2")
    if len(list(folder.glob("*.pt"))) == 1:
        formats.append("openai")
    if len(formats) != 1:
        held = "several models" if formats else "no model"
        raise KmedError(
            f"{folder} holds {held}: expected either a Hugging Face model (config.json and *.safetensors), or a "
            "CTranslate2 model (model.bin), or one .pt file of openai-whisper."
        )
    if formats == ["hf"]:
        content = read_json(folder / "config.json")
        model_type = content.get("model_type") if isinstance(content, dict) else None
        if model_type != "whisper":
            raise KmedError(f"{folder} holds a model of type {model_type!r}; only Whisper's architecture is evaluated.")
    return formats[0]


def open_folder(folder: Path, config: EvalConfig) -> Backend:
    """Return the backend that belongs to a folder's format.

    Raises
    ------
    KmedError
        When the folder is of no known format, is incomplete, or its library is not installed.
    """
    fmt = detect_format(folder)
    if fmt == "hf":
        return TransformersBackend(folder, config)
    if fmt == "ct2":
        return FasterWhisperBackend(folder, config)
    return OpenAIBackend(next(folder.glob("*.pt")), config)

"""whisper.cpp: its model files, written and checked, and whisper.cpp itself as a backend.

The layout is the one that whisper.cpp's README of models and its loader (``whisper_model_load``) describe: a magic
number, eleven dimensions, the mel filters, the vocabulary's bytes, and every tensor with its shape reversed.
"""

import importlib.metadata
import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
import whisper
from whisper.audio import mel_filters
from whisper.model import ModelDimensions

from kmed_bench.asr.model.tensor_checks import check_finite, check_names, read_dimensions, tensor_shapes
from kmed_bench.asr.model.tokenizer import N_VOCAB, korean_tokenizer
from kmed_bench.asr.model.whisper import Whisper
from kmed_bench.asr.runtimes.backend import SampleBackend
from kmed_bench.asr.runtimes.hf_format import check_vocabulary
from kmed_bench.asr.runtimes.libraries import missing_library
from kmed_bench.config import EvalConfig
from kmed_bench.core.errors import KmedError, brief

_MAGIC = struct.pack("<i", 0x67676D6C)  # "ggml"
# Order of the dimensions in the file; the number format of the matrices follows them.
_AUDIO = ("n_audio_ctx", "n_audio_state", "n_audio_head", "n_audio_layer")
_DIMS = ("n_vocab", *_AUDIO, "n_text_ctx", "n_text_state", "n_text_head", "n_text_layer", "n_mels")
_FLOAT32, _FLOAT16 = 0, 1
_KINDS = {_FLOAT32: "<f4", _FLOAT16: "<f2"}


def is_ggml(path: Path) -> bool:
    """Return whether a file begins as whisper.cpp's models do."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(len(_MAGIC)) == _MAGIC


def write_ggml(model: Whisper, path: Path) -> None:
    """Write a multilingual model for whisper.cpp: matrices in float16, biases, norms and positions in float32.

    Raises
    ------
    KmedError
        When the vocabulary is not the multilingual one of 51,865 tokens.
    """
    check_vocabulary(model.dims.n_vocab)
    filters = mel_filters("cpu", model.dims.n_mels).numpy()
    codec = korean_tokenizer().encoding
    tokens = [token for _, token in sorted((codec.encode_single_token(t), t) for t in codec.token_byte_values())]
    with path.open("wb") as stream:
        stream.write(_MAGIC + struct.pack("<11i", *(getattr(model.dims, name) for name in _DIMS), _FLOAT16))
        stream.write(struct.pack("<2i", *filters.shape) + filters.astype("<f4").tobytes())
        stream.write(struct.pack("<i", len(tokens)))
        for token in tokens:
            stream.write(struct.pack("<i", len(token)) + token)
        for name, tensor in model.state_dict().items():
            _write_tensor(stream, name, tensor.detach().cpu().float().numpy())


def _write_tensor(stream: BinaryIO, name: str, values: np.ndarray) -> None:
    is_matrix = values.ndim > 1 and not name.endswith("positional_embedding")
    if name in ("encoder.conv1.bias", "encoder.conv2.bias"):
        values = values[:, None]  # whisper.cpp adds it to (channels, frames)
    encoded, kind = name.encode(), _FLOAT16 if is_matrix else _FLOAT32
    stream.write(struct.pack("<3i", values.ndim, len(encoded), kind))
    stream.write(struct.pack(f"<{values.ndim}i", *values.shape[::-1]) + encoded)
    stream.write(values.astype(_KINDS[kind]).tobytes())


def read_ggml(path: Path) -> dict[str, np.ndarray]:
    """Return the tensors of a float16 or float32 file by name.

    whisper.cpp ends the process, without a word, where a file is not what its dimensions say; so all is checked here.

    Raises
    ------
    KmedError
        When the file is not whisper.cpp's, is quantized or damaged, lacks tensors, or has weights that are not finite.
    """
    try:
        dims, tensors = _parse(path.read_bytes())
    except ValueError as error:
        raise KmedError(
            f"{path} can't be opened as a model of whisper.cpp ({brief(error)}); export the model again, or fetch "
            "the file again in its float16 form."
        ) from None
    shapes = tensor_shapes(dims)
    check_names(tensors, shapes, path)
    for name, shape in shapes.items():
        if tensors[name].squeeze().shape != torch.Size(shape):
            raise KmedError(
                f"{path} has {name} of shape {tensors[name].shape}, and its dimensions ask for {tuple(shape)}; "
                "export the model again."
            )
    check_finite(tensors, path)
    return tensors


def _parse(content: bytes) -> tuple[ModelDimensions, dict[str, np.ndarray]]:
    """Return a file's dimensions and tensors; raise ValueError where it does not follow the layout."""
    at = 0

    def read(n: int) -> bytes:
        nonlocal at
        if not 0 <= n <= len(content) - at:
            raise ValueError(f"an entry at byte {at:,} has {n:,} bytes, of the file's {len(content):,}")
        at += n
        return content[at - n : at]

    def numbers(n: int) -> tuple[int, ...]:
        return struct.unpack(f"<{n}i", read(4 * n))

    if read(4) != _MAGIC:
        raise ValueError("it does not begin with 'ggml'")
    dims = read_dimensions(dict(zip(_DIMS, numbers(11), strict=False)))
    if dims.n_vocab != N_VOCAB:
        raise ValueError(f"it has {dims.n_vocab} tokens, and Whisper's multilingual vocabulary {N_VOCAB}")
    n_mels, n_bins = numbers(2)
    read(4 * n_mels * n_bins)
    for _ in range(numbers(1)[0]):
        read(numbers(1)[0])
    tensors = {}
    while at < len(content):
        n_axes, n_name, kind = numbers(3)
        if not 1 <= n_axes <= 3 or kind not in _KINDS:
            raise ValueError(f"a tensor has {n_axes} axes and number format {kind}, not float32 (0) or float16 (1)")
        shape, name = numbers(n_axes)[::-1], read(n_name).decode("utf-8", "replace")
        if min(shape) < 1:
            raise ValueError(f"{name:.80} has the shape {shape}")
        kept = read(math.prod(shape) * np.dtype(_KINDS[kind]).itemsize)
        tensors[name] = np.frombuffer(kept, _KINDS[kind]).reshape(shape)
    return dims, tensors


class GgmlBackend(SampleBackend):
    """whisper.cpp through pywhispercpp: one clip at a time, greedy, without fallback, on the CPU."""

    name = "whisper.cpp"
    batch_size = 1
    uses_torch = False

    def __init__(self, path: Path, config: EvalConfig) -> None:
        try:
            from pywhispercpp.model import Model
        except ImportError as error:
            raise missing_library("pywhispercpp", "A model of whisper.cpp", error, extra="ggml") from None
        self.version = f"pywhispercpp {importlib.metadata.version('pywhispercpp')}"
        fixed = "encoder.positional_embedding"
        self.parameters = sum(tensor.size for name, tensor in read_ggml(path).items() if name != fixed)
        self.model_bytes = path.stat().st_size
        threads = torch.get_num_threads()  # as many as the other libraries use
        self._options: dict[str, Any] = {
            "language": "ko",
            "translate": False,
            "no_timestamps": True,
            "single_segment": True,
            "no_context": True,
            "suppress_blank": True,
            "suppress_nst": True,
            "temperature": 0.0,
            "temperature_inc": 0.0,
            "no_speech_thold": 2.0,  # no probability: clips would be skipped as silence
            "max_tokens": config.max_new_tokens - 1,  # whisper.cpp stops after one more
            "greedy": {"best_of": 1},
        }
        self._model = Model(
            str(path),
            redirect_whispercpp_logs_to=None,
            context_params={"use_gpu": False},
            n_threads=threads,
            print_progress=False,
            **self._options,
        )
        self.settings = {
            **self._options,
            "batch_size": 1,
            "device": "cpu",
            "threads": threads,
            "window_s": 30,
            "window_filled_with": "silence",
            "timed": "the runtime's features and decoding, without reading the audio",
        }

    def transcribe(self, clips: Sequence[np.ndarray]) -> list[str]:
        """Return the transcripts, decoded one clip after another."""
        found = [self._model.transcribe(whisper.pad_or_trim(samples)) for samples in clips]
        return ["".join(segment.text for segment in segments).strip() for segments in found]

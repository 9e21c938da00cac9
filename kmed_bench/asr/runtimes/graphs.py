"""onnxruntime and OpenVINO as backends: folders of graphs that `graph_writer` wrote."""

import functools
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import whisper

from kmed_bench.asr.model.tensor_checks import read_dimensions
from kmed_bench.asr.model.tokenizer import korean_tokenizer
from kmed_bench.asr.runtimes.backend import SampleBackend
from kmed_bench.asr.runtimes.graph_format import GRAPH, cache_names
from kmed_bench.asr.runtimes.libraries import missing_library
from kmed_bench.config import EvalConfig
from kmed_bench.core.errors import KmedError, brief

_Arrays = Mapping[str, np.ndarray]


class GraphBackend(SampleBackend):
    """Greedy decoding, on the CPU, in fp32: openai-whisper's features, prompt and suppressed tokens."""

    suffixes: tuple[str, ...]  # of each graph's files
    uses_torch = False

    def __init__(self, folder: Path, config: EvalConfig) -> None:
        self._folder = folder
        self._record = GRAPH.read(folder / "graph.json")
        try:
            self._dims = read_dimensions(self._record["dims"])
        except ValueError as error:
            raise KmedError(f"{folder / 'graph.json'} can't be read: {error}; export the model again.") from None
        self.parameters = self._record["parameters"]
        files = [folder / f"{name}{suffix}" for name in ("encoder", "decoder") for suffix in self.suffixes]
        absent = [path.name for path in files if not path.is_file()]
        if absent:
            raise KmedError(f"{folder} lacks {' and '.join(absent)}; export the model again.")
        self.model_bytes = sum(path.stat().st_size for path in files)
        self.batch_size = config.batch_size
        self._limit = min(config.max_new_tokens, self._dims.n_text_ctx // 2)
        threads = torch.get_num_threads()  # as many as the other libraries use
        try:
            self._encoder, self._decoder = (self._open(folder, name, threads) for name in ("encoder", "decoder"))
        except KmedError:
            raise
        except Exception as error:  # each library has types of its own for a file that it can't read
            reason = brief(error)
            raise KmedError(f"{folder} can't be opened by {self.name} ({reason}); export the model again.") from None
        self.settings = {
            "decoding": "greedy",
            "batch_size": config.batch_size,
            "max_new_tokens": self._limit,
            "precision": "fp32",
            "device": "cpu",
            "threads": threads,
            "window_s": 30,
            "language": "ko",
            "timed": "openai-whisper's features, encoder and decoding, without reading the audio",
        }

    @abstractmethod
    def _open(self, folder: Path, name: str, threads: int) -> Any:
        """Return a graph that `_run` takes."""

    @abstractmethod
    def _run(self, graph: Any, inputs: _Arrays) -> list[np.ndarray]:
        """Return a graph's outputs in their order."""

    def transcribe(self, clips: Sequence[np.ndarray]) -> list[str]:
        """Return the transcripts; the encoder gets one clip after another, the decoder all that have not ended."""
        tokenizer = korean_tokenizer()
        names = cache_names("audio", self._dims.n_text_layer)
        encoded = [self._run(self._encoder, {"mel": _log_mel(samples)}) for samples in clips]
        audio = {name: np.concatenate(parts) for name, *parts in zip(names, *encoded, strict=True)}
        return [tokenizer.decode(tokens).strip() for tokens in self._decode(audio, len(clips))]

    def _decode(self, audio: dict[str, np.ndarray], n_clips: int) -> list[list[int]]:
        past = self._empty_cache(n_clips)
        for token in self._record["prompt"]:
            logits, past = self._step(np.full((n_clips, 1), token), audio, past)
        texts: list[list[int]] = [[] for _ in range(n_clips)]
        active = np.arange(n_clips)
        for n_written in range(self._limit):
            logits[:, self._record["suppressed"]] = -np.inf
            if n_written == 0:
                logits[:, self._record["suppressed_first"]] = -np.inf
            best = logits.argmax(axis=-1)
            alive = best != self._record["end"]
            for clip, token in zip(active[alive], best[alive], strict=True):
                texts[clip].append(int(token))
            if not alive.any() or n_written + 1 == self._limit:
                break
            if not alive.all():
                active, best = active[alive], best[alive]
                audio, past = ({name: x[alive] for name, x in cache.items()} for cache in (audio, past))
            logits, past = self._step(best[:, None], audio, past)
        return texts

    def _empty_cache(self, n_clips: int) -> dict[str, np.ndarray]:
        n_head, n_layer = self._dims.n_text_head, self._dims.n_text_layer
        empty = np.zeros((n_clips, n_head, 0, self._dims.n_text_state // n_head), np.float32)
        return dict.fromkeys(cache_names("past", n_layer), empty)

    def _step(self, tokens: np.ndarray, audio: _Arrays, past: _Arrays) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return the logits after each text's new token, shape (n_clips, n_vocab), and the longer cache."""
        logits, *present = self._run(self._decoder, {"token": tokens.astype(np.int64), **audio, **past})
        if not np.isfinite(logits).all():
            raise KmedError(f"{self._folder} computes logits that are not finite numbers; export the model again.")
        return logits, dict(zip(past, present, strict=True))


class OnnxBackend(GraphBackend):
    """onnxruntime on ``encoder.onnx`` and ``decoder.onnx``."""

    name = "onnxruntime"
    suffixes = (".onnx",)

    def _open(self, folder: Path, name: str, threads: int) -> Any:
        try:
            import onnxruntime
        except ImportError as error:
            raise missing_library("onnxruntime", "A folder of ONNX graphs", error, extra="onnx") from None
        self.version = onnxruntime.__version__
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors
        return onnxruntime.InferenceSession(folder / f"{name}.onnx", options, providers=["CPUExecutionProvider"])

    def _run(self, graph: Any, inputs: _Arrays) -> list[np.ndarray]:
        outputs: list[np.ndarray] = graph.run(None, inputs)
        return outputs


class OpenVinoBackend(GraphBackend):
    """OpenVINO on ``encoder.xml`` and ``decoder.xml``, each with its ``.bin``."""

    name = "openvino"
    suffixes = (".xml", ".bin")

    def _open(self, folder: Path, name: str, threads: int) -> Any:
        openvino = import_openvino()
        self.version = openvino.__version__
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",  # by default 16 bits where the processor has them
            "INFERENCE_NUM_THREADS": threads,
            # With it, release 2026.4 computes wrong values on CPUs once a cache that grows by one has 16 positions.
            "SNIPPETS_MODE": "DISABLE",
        }
        return _openvino_core().compile_model(folder / f"{name}.xml", "CPU", settings)

    def _run(self, graph: Any, inputs: _Arrays) -> list[np.ndarray]:
        found = graph(dict(inputs), share_inputs=True)
        return [np.array(found[i]) for i in range(len(found))]  # copies: the next call overwrites the outputs


def import_openvino() -> Any:
    """Return the openvino module; raise KmedError when it is not installed."""
    try:
        import openvino
    except ImportError as error:
        raise missing_library("openvino", "The OpenVINO format", error, extra="openvino") from None
    return openvino


@functools.cache
def _openvino_core() -> Any:
    """Return the process's one Core.

    Each Core of release 2026.4 sets a stack for signal handlers and, when it goes, the one that it found: of two that
    go in the order in which they came, the second sets one that is freed, and the next signal ends the process.
    """
    return import_openvino().Core()


def convert_to_openvino(folder: Path) -> None:
    """Replace a folder's ONNX graphs by OpenVINO's, in float32."""
    openvino = import_openvino()
    core = _openvino_core()
    for name in ("encoder", "decoder"):
        path = folder / f"{name}.onnx"
        openvino.save_model(core.read_model(path), path.with_suffix(".xml"), compress_to_fp16=False)
        path.unlink()


def _log_mel(samples: np.ndarray) -> np.ndarray:
    """Return the log-mel frames of a clip in its 30 s window, shape (1, 80, 3000)."""
    return whisper.log_mel_spectrogram(whisper.pad_or_trim(torch.from_numpy(samples)))[None].numpy()

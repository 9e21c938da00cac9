"""faster-whisper as a backend: a CTranslate2 folder."""

import importlib.metadata
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import whisper

from kmed_bench.asr.model.device import pick_device
from kmed_bench.asr.model.offline_wheel import read_variables
from kmed_bench.asr.model.tensor_checks import check_ct2_depth, check_ct2_layers, check_finite
from kmed_bench.asr.runtimes.backend import SampleBackend
from kmed_bench.asr.runtimes.libraries import missing_library
from kmed_bench.config import EvalConfig
from kmed_bench.core.errors import KmedError, brief
from kmed_bench.core.files import read_json

log = logging.getLogger(__name__)


class FasterWhisperBackend(SampleBackend):
    """faster-whisper on a CTranslate2 folder: one clip at a time, beam 1, no fallback, no voice detection."""

    name = "faster-whisper"
    batch_size = 1
    uses_torch = False

    def __init__(self, folder: Path, config: EvalConfig) -> None:
        try:
            import ctranslate2
            from faster_whisper import WhisperModel
        except ImportError as error:
            raise missing_library("faster-whisper", "A CTranslate2 folder", error) from None
        if not (folder / "tokenizer.json").is_file():
            raise KmedError(
                f"{folder} lacks tokenizer.json, without which faster-whisper would download one; copy it from "
                "the Hugging Face folder that the model was converted from, or use `kmed-bench export`."
            )
        self.version = f"{importlib.metadata.version('faster-whisper')}, ctranslate2 {ctranslate2.__version__}"
        device = pick_device().type
        threads = torch.get_num_threads()  # as many as the other libraries use
        logging.getLogger("faster_whisper").setLevel(logging.WARNING)
        try:
            self._model = WhisperModel(str(folder), device=device, compute_type="default", cpu_threads=threads)
        except Exception as error:  # of CTranslate2, of tokenizers and of the JSON beside the model
            raise KmedError(f"{folder} can't be opened by faster-whisper {self.version} ({brief(error)}).") from None
        self.model_bytes = (folder / "model.bin").stat().st_size
        self.parameters = _check_and_count(folder)
        self._options: dict[str, Any] = {
            "language": "ko" if self._model.model.is_multilingual else "en",
            "task": "transcribe",
            "beam_size": 1,
            "temperature": 0.0,
            "without_timestamps": True,
            "condition_on_previous_text": False,
            "vad_filter": False,
            # With these set, clips of low probability would be skipped as silence.
            "no_speech_threshold": None,
            "log_prob_threshold": None,
            "compression_ratio_threshold": None,
            "max_new_tokens": config.max_new_tokens,
        }
        self.settings = {
            **self._options,
            "batch_size": 1,
            "compute_type": self._model.model.compute_type,
            "device": device,
            "threads": threads,
            "window_s": 30,
            "window_filled_with": "silence",
            "timed": "the runtime's features and decoding, without reading the audio",
        }

    def transcribe(self, clips: Sequence[np.ndarray]) -> list[str]:
        """Return the transcripts, decoded one clip after another."""
        texts = []
        for samples in clips:
            # faster-whisper would fill the window with zeros in the log-mel features, a loud hiss to the model that
            # changes 23 of 60 transcripts of Whisper base. Whisper was trained on silence.
            segments, _ = self._model.transcribe(whisper.pad_or_trim(samples), **self._options)
            texts.append("".join(segment.text for segment in segments).strip())
        return texts


def _check_and_count(folder: Path) -> int | None:
    """Return the number of a folder's learned parameters; None for an unknown layout, which can't be checked.

    The zero biases of the keys are counted too (0.01 % in base); int8 scales and the encoder's fixed positions are not.

    Raises
    ------
    KmedError
        When layers or variables of them are missing, or weights are not finite numbers.
    """
    path = folder / "model.bin"
    try:
        variables = read_variables(path.read_bytes())
    except KmedError as error:
        log.warning(f"The weights of {path} can't be checked for missing layers and non-finite numbers: {error}")
        return None
    check_ct2_layers(variables, path)
    check_ct2_depth(variables, _alignment_heads(folder), path)
    check_finite(variables, path)
    fixed = ("encoder/position_encodings/encodings", "decoder/projection/weight")  # the latter is the embedding
    n_parameters = sum(
        value.size
        for name, value in variables.items()
        if value.ndim > 0 and name not in fixed and not name.endswith("_scale") and "alignment" not in name
    )
    exported = read_json(folder / "export.json").get("parameters") if (folder / "export.json").is_file() else None
    if exported not in (None, n_parameters):
        raise KmedError(
            f"{path} has {n_parameters:,} parameters and had {exported:,} when it was exported (export.json): it is "
            "damaged or was replaced; export the model again."
        )
    return n_parameters


def _alignment_heads(folder: Path) -> list[tuple[int, int]]:
    """Return [layer, head] of the heads that ``config.json`` names; none where it is missing or names none."""
    path = folder / "config.json"
    heads = read_json(path).get("alignment_heads") or [] if path.is_file() else []
    return [(int(layer), int(head)) for layer, head in heads]

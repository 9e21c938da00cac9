"""openai-whisper itself as a backend: a ``.pt`` file."""

import dataclasses
import importlib.metadata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import whisper

from kmed_bench.asr.model.device import pick_device
from kmed_bench.asr.model.weights import load_weights
from kmed_bench.asr.runtimes.backend import SampleBackend
from kmed_bench.config import EvalConfig


class OpenAIBackend(SampleBackend):
    """openai-whisper itself, as ``whisper.load_model`` opens a file."""

    name = "openai-whisper"

    def __init__(self, path: Path, config: EvalConfig) -> None:
        self.version = importlib.metadata.version("openai-whisper")
        load_weights(
            path
        )  # raises a readable error for a file that doesn't fit; openai-whisper checks names and shapes only
        self._model = whisper.load_model(str(path), device=str(pick_device()))
        self.batch_size = config.batch_size
        self.parameters = sum(p.numel() for p in self._model.parameters())
        self.model_bytes = path.stat().st_size
        self._options = whisper.DecodingOptions(
            language="ko", without_timestamps=True, fp16=False, sample_len=config.max_new_tokens
        )
        self.settings = {
            **{k: v for k, v in dataclasses.asdict(self._options).items() if v not in (None, "")},
            "batch_size": config.batch_size,
            "device": self._model.device.type,
            "window_s": 30,
            "timed": "the runtime's features and decoding, without reading the audio",
        }

    def transcribe(self, clips: Sequence[np.ndarray]) -> list[str]:
        """Return the transcripts; the clips are one batch."""
        mels = [whisper.log_mel_spectrogram(whisper.pad_or_trim(samples)) for samples in clips]
        results = whisper.decode(self._model, torch.stack(mels).to(self._model.device), self._options)
        return [result.text for result in results]

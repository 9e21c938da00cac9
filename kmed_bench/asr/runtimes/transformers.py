"""transformers' Whisper as a backend: a Hugging Face folder."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from whisper.audio import SAMPLE_RATE

from kmed_bench.asr.model.device import pick_device
from kmed_bench.asr.model.tokenizer import N_VOCAB
from kmed_bench.asr.runtimes.backend import SampleBackend
from kmed_bench.asr.runtimes.hf_format import load_hf_network
from kmed_bench.asr.runtimes.libraries import import_transformers
from kmed_bench.config import EvalConfig
from kmed_bench.core.errors import KmedError, brief


class TransformersBackend(SampleBackend):
    """transformers' Whisper: batched ``generate``, greedy, fp32."""

    name = "transformers"

    def __init__(self, folder: Path, config: EvalConfig) -> None:
        transformers = import_transformers()
        _check_processor(folder)
        self.version = transformers.__version__
        self._logging = transformers.utils.logging
        self._device = pick_device()
        try:
            with self._quiet():
                self._processor = transformers.WhisperProcessor.from_pretrained(
                    folder, local_files_only=True, trust_remote_code=False
                )
        except Exception as error:  # tokenizers raise Exception itself, transformers a dozen types
            raise KmedError(
                f"The tokenizer or feature extractor of {folder} can't be opened by transformers {self.version} "
                f"({brief(error)}); save the processor there again."
            ) from None
        self._model: Any = load_hf_network(folder)
        self._model.to(self._device).eval()
        self.batch_size = config.batch_size
        # transformers keeps the encoder's fixed positions as a parameter; they were not learned.
        self.parameters = sum(
            p.numel() for name, p in self._model.named_parameters() if "encoder.embed_positions" not in name
        )
        # Folders often hold the same weights in several formats; one of them is read.
        kinds = ("model.safetensors", "model-*.safetensors", "pytorch_model.bin", "pytorch_model-*.bin")
        read = next((files for kind in kinds if (files := list(folder.glob(kind)))), [])
        self.model_bytes = sum(file.stat().st_size for file in read)
        self._options, described = self._prepare(config)
        self.settings = {
            "decoding": "greedy",
            "batch_size": config.batch_size,
            "precision": "fp32",
            "device": self._device.type,
            "window_s": 30,
            "return_timestamps": False,
            **described,
            "timed": "the runtime's features and decoding, without reading the audio",
        }

    def _prepare(self, config: EvalConfig) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the options of ``generate`` and their description; repair an outdated generation config."""
        generation = self._model.generation_config
        large = self._model.config.vocab_size >= N_VOCAB
        multilingual = getattr(generation, "is_multilingual", None)
        multilingual = large if multilingual is None else multilingual  # an outdated config lacks it
        limit = min(config.max_new_tokens, self._model.config.max_target_positions // 2)
        described: dict[str, Any] = {"max_new_tokens": limit, "language": None}
        # Forced ids of another language or task would override the options.
        if getattr(generation, "forced_decoder_ids", None) or getattr(self._model.config, "forced_decoder_ids", None):
            generation.forced_decoder_ids = None
            self._model.config.forced_decoder_ids = None
            described["removed"] = "forced_decoder_ids"
        options: dict[str, Any] = {
            "max_new_tokens": limit,
            "max_length": None,
            "num_beams": 1,
            "do_sample": False,
            "return_timestamps": False,
        }
        if multilingual:
            options |= {"language": "ko", "task": "transcribe"}
            described |= {"language": "ko", "task": "transcribe"}
            if not hasattr(generation, "lang_to_id"):
                self._complete_tokens(generation)
                described["added"] = "language and task tokens, which the generation config lacks"
        return options, described

    def _complete_tokens(self, generation: Any) -> None:
        """Add to an outdated generation config what ``generate`` needs to accept a language."""
        tokenizer = self._processor.tokenizer
        ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("ko", "transcribe", "translate")}
        generation.is_multilingual = True
        generation.lang_to_id = {"<|ko|>": ids["ko"]}
        generation.task_to_id = {task: ids[task] for task in ("transcribe", "translate")}
        generation.no_timestamps_token_id = tokenizer.convert_tokens_to_ids("<|notimestamps|>")

    def transcribe(self, clips: Sequence[np.ndarray]) -> list[str]:
        """Return the transcripts; the clips are one batch."""
        inputs = self._processor.feature_extractor(
            list(clips), sampling_rate=SAMPLE_RATE, return_tensors="pt", padding="max_length"
        )
        with torch.inference_mode(), self._quiet():
            tokens = self._model.generate(inputs.input_features.to(self._device), **self._options)
        texts = self._processor.tokenizer.batch_decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return [text.strip() for text in texts]

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """Keep transformers' advice to developers off the terminal."""
        before = self._logging.get_verbosity()
        self._logging.set_verbosity_error()
        try:
            yield
        finally:
            self._logging.set_verbosity(before)


def _check_processor(folder: Path) -> None:
    """Raise KmedError when the tokenizer or the features' settings are missing.

    Without these files transformers silently makes a tokenizer with an empty vocabulary.
    """
    for names in (("tokenizer.json", "vocab.json"), ("preprocessor_config.json", "processor_config.json")):
        if not any((folder / name).is_file() for name in names):
            raise KmedError(
                f"{folder} has neither {names[0]} nor {names[1]}; a whole Hugging Face folder holds the model, its "
                "tokenizer and its feature extractor: save the processor there too (`processor.save_pretrained`)."
            )

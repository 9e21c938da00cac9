"""Decoding by other runtimes: transformers, faster-whisper (CTranslate2), and openai-whisper itself.

Each gets the same samples as our own decoding, in the same 30 s window, greedy, Korean where the model knows
languages, and keeps the rest of its ways: features, padding, suppressed tokens.
"""

import dataclasses
import importlib.metadata
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
import whisper
from whisper.audio import N_SAMPLES, SAMPLE_RATE

from kmed_bench.asr.features.audio import decode_audio
from kmed_bench.asr.model.device import pick_device
from kmed_bench.asr.model.offline_wheel import read_variables
from kmed_bench.asr.runtimes.hf_format import import_transformers, missing_library
from kmed_bench.config import EvalConfig
from kmed_bench.core.batching import chunks
from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import read_json
from kmed_bench.core.predictions import Prediction
from kmed_bench.corpus.archives.reader import AudioReader

Kind = Literal["hf", "ct2", "openai"]
N_VOCAB_MULTILINGUAL = 51865  # and above; openai-whisper's own test


class Runtime(ABC):
    """A model in a runtime of its own.

    Attributes
    ----------
    name, version : str
        The library that decodes.
    settings : dict
        What it was told, for ``scores.json``.
    batch_size : int
        Clips per call of ``transcribe``.
    parameters : int or None
        Learned numbers; None where the file does not tell.
    model_bytes : int
        Size of the weights on disk.
    """

    name: str
    version: str
    settings: dict[str, Any]
    batch_size: int
    parameters: int | None
    model_bytes: int

    @abstractmethod
    def transcribe(self, clips: Sequence[np.ndarray]) -> list[str]:
        """Return the transcripts of clips: mono float32 samples at 16 kHz, at most 30 s of each."""

    def describe(self) -> dict[str, Any]:
        """Return what decoded and how, as ``scores.json`` records it."""
        return {"name": self.name, "version": self.version, "settings": self.settings, "audio_context": "full"}


def predict_samples(
    runtime: Runtime, part: pd.DataFrame, *, progress: Callable[[int, int], None] | None = None
) -> list[Prediction]:
    """Return a part's predictions in the part's order, the longest clips decoded first.

    A first batch is decoded untimed (warm-up). Reading and resampling is not timed; the runtime's own features are.

    Raises
    ------
    KmedError
        When a clip can't be read.
    """
    ordered = part.sort_values(["duration_s", "utterance_id"], ascending=[False, True]).to_dict("records")
    decoded: dict[str, Prediction] = {}
    with AudioReader() as reader:
        for batch in chunks(ordered, runtime.batch_size):
            clips = [decode_audio(reader.read(row["audio"]), row["utterance_id"])[:N_SAMPLES] for row in batch]
            if not decoded:
                runtime.transcribe(clips)
            started = time.perf_counter()
            texts = runtime.transcribe(clips)
            seconds = (time.perf_counter() - started) / len(batch)
            for row, text in zip(batch, texts, strict=True):
                decoded[row["utterance_id"]] = Prediction.from_row(row, text, seconds)
            if progress:
                progress(len(decoded), len(part))
    return [decoded[name] for name in part["utterance_id"]]


def detect_kind(folder: Path) -> Kind:
    """Return the format of a model folder: ``hf``, ``ct2`` or, for one ``.pt`` file, ``openai``.

    Raises
    ------
    KmedError
        When the files are those of no format, of two, of adapters, or of a model that is not Whisper.
    """
    if (folder / "adapter_config.json").is_file():
        raise KmedError(
            f"{folder} holds adapters, not a whole model; merge them into their base model first "
            "(peft's `merge_and_unload`) and save that."
        )
    found: list[Kind] = []
    if any(any(folder.glob(pattern)) for pattern in ("model*.safetensors", "pytorch_model*.bin")):
        found.append("hf")
    if (folder / "model.bin").is_file():
        found.append("ct2")
    if len(list(folder.glob("*.pt"))) == 1:
        found.append("openai")
    if len(found) != 1:
        held = "several models" if found else "no model"
        raise KmedError(
            f"{folder} holds {held}: expected either a Hugging Face model (config.json and *.safetensors), or a "
            "CTranslate2 model (model.bin), or one .pt file of openai-whisper."
        )
    if found == ["hf"]:
        content = read_json(folder / "config.json")
        model_type = content.get("model_type") if isinstance(content, dict) else None
        if model_type != "whisper":
            raise KmedError(f"{folder} holds a model of type {model_type!r}; only Whisper's architecture is evaluated.")
    return found[0]


def open_folder(folder: Path, config: EvalConfig) -> Runtime:
    """Return the runtime that belongs to a folder's format.

    Raises
    ------
    KmedError
        When the folder is of no known format, is incomplete, or its library is not installed.
    """
    kind = detect_kind(folder)
    if kind == "hf":
        return TransformersRuntime(folder, config)
    if kind == "ct2":
        return FasterWhisperRuntime(folder, config)
    return OpenAIRuntime(next(folder.glob("*.pt")), config)


def _check_processor(folder: Path) -> None:
    """Raise KmedError when the tokenizer or the features' settings are missing.

    Without its files transformers makes a tokenizer that knows no word, and says nothing.
    """
    for names in (("tokenizer.json", "vocab.json"), ("preprocessor_config.json", "processor_config.json")):
        if not any((folder / name).is_file() for name in names):
            raise KmedError(
                f"{folder} has neither {names[0]} nor {names[1]}; a whole Hugging Face folder holds the model, its "
                "tokenizer and its feature extractor: save the processor there too (`processor.save_pretrained`)."
            )


class TransformersRuntime(Runtime):
    """transformers' Whisper: batched ``generate``, greedy, fp32."""

    name = "transformers"

    def __init__(self, folder: Path, config: EvalConfig) -> None:
        transformers = import_transformers()
        from safetensors import SafetensorError  # transformers brings it

        _check_processor(folder)
        self.version = transformers.__version__
        self._logging = transformers.utils.logging
        self._device = pick_device()
        try:
            with self._quiet():
                self._processor = transformers.WhisperProcessor.from_pretrained(folder, local_files_only=True)
                self._model = transformers.WhisperForConditionalGeneration.from_pretrained(
                    folder, local_files_only=True, dtype=torch.float32
                )
        except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
            raise KmedError(
                f"{folder} can't be opened by transformers {self.version} ({str(error).partition(chr(10))[0]}); save "
                "the model there again."
            ) from None
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
        self._options, told = self._prepare(config)
        self.settings = {
            "decoding": "greedy",
            "batch_size": config.batch_size,
            "precision": "fp32",
            "device": self._device.type,
            "window_s": 30,
            "return_timestamps": False,
            **told,
            "timed": "the runtime's features and decoding, without reading the audio",
        }

    def _prepare(self, config: EvalConfig) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the options of ``generate`` and their account; mend what old fine-tunings left behind."""
        generation = self._model.generation_config
        large = self._model.config.vocab_size >= N_VOCAB_MULTILINGUAL
        multilingual = getattr(generation, "is_multilingual", None)
        multilingual = large if multilingual is None else multilingual  # an outdated config does not say
        limit = min(config.max_new_tokens, self._model.config.max_target_positions // 2)
        told: dict[str, Any] = {"max_new_tokens": limit, "language": None}
        # Forced ids of another language or task would win over what is asked for here.
        if getattr(generation, "forced_decoder_ids", None) or getattr(self._model.config, "forced_decoder_ids", None):
            generation.forced_decoder_ids = None
            self._model.config.forced_decoder_ids = None
            told["removed"] = "forced_decoder_ids"
        options: dict[str, Any] = {
            "max_new_tokens": limit,
            "max_length": None,
            "num_beams": 1,
            "do_sample": False,
            "return_timestamps": False,
        }
        if multilingual:
            options |= {"language": "ko", "task": "transcribe"}
            told |= {"language": "ko", "task": "transcribe"}
            if not hasattr(generation, "lang_to_id"):
                self._complete_tokens(generation)
                told["added"] = "language and task tokens, which the generation config lacks"
        return options, told

    def _complete_tokens(self, generation: Any) -> None:
        """Give an outdated generation config what ``generate`` needs in order to take a language."""
        tokenizer = self._processor.tokenizer
        ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("ko", "transcribe", "translate")}
        generation.is_multilingual = True
        generation.lang_to_id = {"<|ko|>": ids["ko"]}
        generation.task_to_id = {task: ids[task] for task in ("transcribe", "translate")}
        generation.no_timestamps_token_id = tokenizer.convert_tokens_to_ids("<|notimestamps|>")

    def transcribe(self, clips: Sequence[np.ndarray]) -> list[str]:
        """Return transcripts, all clips in one batch."""
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


class FasterWhisperRuntime(Runtime):
    """faster-whisper on a CTranslate2 folder: one clip at a time, beam 1, no fallback, no voice detection."""

    name = "faster-whisper"
    batch_size = 1

    def __init__(self, folder: Path, config: EvalConfig) -> None:
        try:
            import ctranslate2
            from faster_whisper import WhisperModel
        except ImportError as error:
            raise missing_library("faster-whisper", "A CTranslate2 folder", error) from None
        if not (folder / "tokenizer.json").is_file():
            raise KmedError(
                f"{folder} lacks tokenizer.json, without which faster-whisper asks the internet for one; copy it from "
                "the Hugging Face folder that the model was converted from, or make it with `kmed-bench export`."
            )
        self.version = f"{importlib.metadata.version('faster-whisper')}, ctranslate2 {ctranslate2.__version__}"
        device = pick_device().type
        threads = torch.get_num_threads()  # the same number as the other runtimes have
        logging.getLogger("faster_whisper").setLevel(logging.WARNING)
        try:
            self._model = WhisperModel(str(folder), device=device, compute_type="default", cpu_threads=threads)
        except (RuntimeError, ValueError, OSError) as error:
            raise KmedError(f"{folder} can't be opened by faster-whisper {self.version} ({error}).") from None
        self.model_bytes = (folder / "model.bin").stat().st_size
        self.parameters = _count_parameters(folder / "model.bin")
        self._options: dict[str, Any] = {
            "language": "ko" if self._model.model.is_multilingual else "en",
            "task": "transcribe",
            "beam_size": 1,
            "temperature": 0.0,
            "without_timestamps": True,
            "condition_on_previous_text": False,
            "vad_filter": False,
            # With these, a clip that the model finds doubtful would be skipped as silence.
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
        """Return transcripts, one clip after another."""
        texts = []
        for samples in clips:
            # By itself faster-whisper fills the window with zeros of log-mel, which is a loud hiss to the model:
            # 23 of 60 transcripts of Whisper base change. Silence is what Whisper was trained on.
            segments, _ = self._model.transcribe(whisper.pad_or_trim(samples), **self._options)
            texts.append("".join(segment.text for segment in segments).strip())
        return texts


class OpenAIRuntime(Runtime):
    """openai-whisper itself, as ``whisper.load_model`` opens a file."""

    name = "openai-whisper"

    def __init__(self, path: Path, config: EvalConfig) -> None:
        self.version = importlib.metadata.version("openai-whisper")
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
        """Return transcripts, all clips in one batch."""
        mels = [whisper.log_mel_spectrogram(whisper.pad_or_trim(samples)) for samples in clips]
        found = whisper.decode(self._model, torch.stack(mels).to(self._model.device), self._options)
        return [result.text for result in found]


def _count_parameters(path: Path) -> int | None:
    """Return the numbers in a ``model.bin`` that were learned; None for a layout that is not known.

    Its zero biases of the keys count as well (0.01 % in base), scales of int8 and the encoder's fixed positions
    do not.
    """
    try:
        variables = read_variables(path.read_bytes())
    except KmedError:
        return None
    fixed = "encoder/position_encodings/encodings"
    return sum(
        value.size
        for name, value in variables.items()
        if value.ndim > 0 and name != fixed and not name.endswith("_scale") and "alignment" not in name
    )

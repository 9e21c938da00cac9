"""The peers of `train.py`: the original benchmark's recipe, and transformers' trainer as its guide sets it up.

Both take openai-whisper's weights of the same checkpoint and the same clips in the same order as ours. Needs
``pip install librosa transformers accelerate``, for this benchmark alone. Without librosa, which the original reads
audio with, torchaudio resamples; ``LOADED_WITH`` says which of them it is.
"""

import importlib.util
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import soundfile
import torch
import torchaudio
import transformers
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, WhisperFeatureExtractor
from whisper.audio import SAMPLE_RATE
from whisper.model import Whisper

from kmed_bench.asr.features.audio import decode_audio
from kmed_bench.asr.model.tokenizer import korean_tokenizer
from kmed_bench.asr.runtimes.hf_format import tensor_names, write_hf_folder
from kmed_bench.corpus.archives.reader import AudioReader
from kmed_bench.training.batches import Example
from kmed_bench.training.original_recipe import original_batch, original_optimizer, original_step

DOWNLOAD_RATE_HZ = 48_000
"""Rate of 208's recordings, from which the original resamples in each step."""

LOADED_WITH = "librosa" if importlib.util.find_spec("librosa") else "soundfile and torchaudio"

Pace = Callable[[], None]


def load_audio(path: Path) -> np.ndarray:
    """Return a recording's samples at 16 kHz."""
    if LOADED_WITH == "librosa":
        import librosa

        return librosa.load(path, sr=SAMPLE_RATE)[0]
    samples, rate_hz = soundfile.read(path, dtype="float32")
    return torchaudio.functional.resample(torch.from_numpy(samples), rate_hz, SAMPLE_RATE).numpy()


def write_recordings(part: pd.DataFrame, folder: Path) -> dict[str, Path]:
    """Write a part's recordings as the original reads them, wave files at 48 kHz; return them by utterance."""
    folder.mkdir(parents=True)
    paths: dict[str, Path] = {}
    with AudioReader() as reader:
        for name, place in zip(part["utterance_id"], part["audio"], strict=True):
            samples = torch.from_numpy(decode_audio(reader.read(place), name))
            wide = torchaudio.functional.resample(samples, SAMPLE_RATE, DOWNLOAD_RATE_HZ)
            paths[name] = folder / f"{len(paths):05}.wav"
            soundfile.write(paths[name], wide.clamp(-1, 1).numpy(), DOWNLOAD_RATE_HZ, subtype="PCM_16")
    return paths


def train_original(
    model: Whisper,
    batches: Iterable[Sequence[Example]],
    paths: dict[str, Path],
    *,
    lr: float,
    max_len: int,
    pace: Pace,
) -> None:
    """Train as the original does, fp32: read, resample and pad each clip to 30 s in each step, labels to max_len.

    Its CER of the training texts, computed at an epoch's end, is left out, which makes it faster than it was.
    """
    extractor, tokenizer = WhisperFeatureExtractor(), korean_tokenizer()
    optimizer = original_optimizer(model, lr)
    model.train()
    for examples in batches:
        clips = []
        for example in examples:
            samples = load_audio(paths[example.utterance_id])
            clips.append(extractor(samples, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features[0])
        original_step(model, optimizer, original_batch(examples, torch.stack(clips), max_len, tokenizer))
        pace()


def prepare_transformers(examples: Sequence[Example], paths: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """Return each utterance's features and labels, made once, as the guide does with ``map``.

    They are kept in memory, where the guide's data set reads Arrow files: faster than the guide's.
    """
    extractor = WhisperFeatureExtractor()
    rows = {}
    for example in examples:
        samples = load_audio(paths[example.utterance_id])
        features = extractor(samples, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features[0]
        rows[example.utterance_id] = {"input_features": features, "labels": list(example.tokens)}
    return rows


def collate(rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Return a batch as the guide's collator makes it: labels padded with -100, the start token left to the model."""
    labels = [torch.tensor(row["labels"][1:]) for row in rows]
    padded = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100)
    return {"input_features": torch.stack([row["input_features"] for row in rows]), "labels": padded}


class _Paced(transformers.TrainerCallback):
    def __init__(self, pace: Pace) -> None:
        self._pace = pace

    def on_step_end(self, *_args: Any, **_kwargs: Any) -> None:
        self._pace()


def train_transformers(
    model: Whisper,
    batches: Sequence[Sequence[Example]],
    rows: dict[str, dict[str, Any]],
    *,
    lr: float,
    bf16: bool,
    pace: Pace,
    compiled: bool = False,
) -> None:
    """Train with Seq2SeqTrainer; the given model has the trained weights afterwards.

    As the guide to fine-tuning Whisper has it, but for what keeps the comparison even: ours learning rate and batch
    size, no warm-up, our order; no evaluation; and no gradient checkpointing, which would make it slower. ``compiled``
    sets the trainer's ``torch_compile``.
    """
    names = tensor_names(model.dims)
    with tempfile.TemporaryDirectory() as folder:
        write_hf_folder(model, Path(folder))
        network = transformers.WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        network.config.use_cache = False
        arguments = Seq2SeqTrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=max(map(len, batches)),
            learning_rate=lr,
            lr_scheduler_type="constant",
            num_train_epochs=1,
            bf16=bf16,
            torch_compile=compiled,
            use_cpu=model.device.type == "cpu",
            train_sampling_strategy="sequential",
            remove_unused_columns=False,
            label_names=["labels"],
            dataloader_pin_memory=model.device.type != "cpu",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = Seq2SeqTrainer(
            model=network,
            args=arguments,
            train_dataset=[rows[example.utterance_id] for batch in batches for example in batch],
            data_collator=collate,
            callbacks=[_Paced(pace)],
        )
        trainer.train()
    state = network.state_dict()
    model.load_state_dict({ours: state[theirs] for ours, theirs in names.items()})

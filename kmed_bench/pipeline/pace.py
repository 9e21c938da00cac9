"""The pace of this machine: features of a few clips, a few training steps and a few decoded clips, timed."""

import dataclasses
import time
from pathlib import Path

import pandas as pd
import torch
from whisper.audio import N_SAMPLES

from kmed_bench.asr.decoding.decode import predict_part
from kmed_bench.asr.decoding.options import DecodingOptions
from kmed_bench.asr.features.audio import decode_audio
from kmed_bench.asr.model.device import pick_device
from kmed_bench.asr.model.tokenizer import korean_tokenizer
from kmed_bench.asr.model.weights import Weights, load_weights
from kmed_bench.asr.runtimes.backend import Backend
from kmed_bench.config import Config
from kmed_bench.core.batching import chunks
from kmed_bench.core.progress import track
from kmed_bench.corpus.archives.reader import AudioReader
from kmed_bench.corpus.splitting.split import Split
from kmed_bench.pipeline.export import spread_clips
from kmed_bench.training.batches import n_learned
from kmed_bench.training.epochs import FeaturizedSplit, featurize_split, training_examples
from kmed_bench.training.fit import fit
from kmed_bench.training.sources import LogMelSource
from kmed_bench.training.state import random_states, restore_random_states

N_STEPS = 3
"""Training steps that are timed, after one that is not."""
WORTH = 10
"""Work is measured beforehand if it takes at least this many times the steps or clips that measuring takes."""
_N_CLIPS, _N_GPU_CLIPS = 4, 32
_now = time.perf_counter


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pace:
    """What one size takes on this machine.

    Attributes
    ----------
    step_s : float
        A training step.
    loss_s : float
        The validation loss of a clip.
    untouched_s : float
        Decoding a clip with the untouched model, its loops included.
    tuned_s : float
        Decoding a clip with a fine-tuned model, whose transcript is taken to be as long as the longest label.
    weights_bytes : int
        The model's weights in fp32.
    """

    step_s: float
    loss_s: float
    untouched_s: float
    tuned_s: float
    weights_bytes: int

    def shared(self, n_processes: int) -> "Pace":
        """Return the pace of processes that share each kind of work equally."""
        times = {name: getattr(self, name) / n_processes for name in ("step_s", "loss_s", "untouched_s", "tuned_s")}
        return dataclasses.replace(self, **times)


def sample_speech(split: Split, config: Config, folder: Path) -> tuple[FeaturizedSplit, float]:
    """Return a few training and valid clips, and the seconds that a second of their audio took to be featurized.

    Parameters
    ----------
    folder : Path
        Where their features are written.
    """
    n_train = (N_STEPS + 1) * config.train.batch_size
    parts = {
        "train": spread_clips(split.parts["train"], n_train),
        "valid": spread_clips(split.parts["valid"], _n_clips()),
    }
    plain = dataclasses.replace(config, train=dataclasses.replace(config.train, speed_factors=()))
    started = _now()
    speech = featurize_split(dataclasses.replace(split, parts=parts), folder, plain)
    taken_s = _now() - started
    return speech, taken_s / max(1.0, sum(float(rows["duration_s"].sum()) for rows in parts.values()))


def measure_pace(weights: Weights, sample: FeaturizedSplit, config: Config) -> Pace | None:
    """Return the pace of one size on a few clips; None if they are too few for two training steps.

    The random generators are as they were afterwards, and nothing is written.
    """
    before = random_states()
    try:
        return _measure(weights, sample, config)
    finally:
        restore_random_states(before)


@track("Measuring the pace")
def _measure(weights: Weights, sample: FeaturizedSplit, config: Config) -> Pace | None:
    (train, _), (valid, _) = (training_examples(sample, part, config) for part in ("train", "valid"))
    if len(train) <= config.train.batch_size or not valid:
        return None
    model, rows, store = load_weights(weights.path, str(pick_device())), sample.split.parts["valid"], sample.stores
    options = DecodingOptions.from_config(config.eval)
    longest = max(n_learned(example, korean_tokenizer()) for example in valid)
    short = dataclasses.replace(options, max_new_tokens=min(longest, options.max_new_tokens))
    predict_part(model, rows.iloc[:1], store["valid"], dataclasses.replace(options, max_new_tokens=1))  # warm-up
    decode_s = []
    for chosen in (options, short):
        started = _now()
        predict_part(model, rows, store["valid"], chosen)
        decode_s.append((_now() - started) / len(rows))
    moments: list[float] = []

    def note(*_: int) -> None:
        if model.device.type == "cuda":  # a step is only launched so far
            torch.cuda.synchronize(model.device)
        moments.append(_now())

    once = dataclasses.replace(config.train, epochs=1)
    source = LogMelSource(store["train"])
    epochs = fit(model, train, source, valid, store["valid"], once, seed=0, progress=note)
    (loss_s,) = ((_now() - moments[-1]) / len(valid) for _ in epochs)
    return Pace(
        step_s=(moments[-1] - moments[0]) / (len(moments) - 1),
        loss_s=loss_s,
        untouched_s=decode_s[0],
        tuned_s=decode_s[1],
        weights_bytes=sum(p.numel() * p.element_size() for p in model.parameters()),
    )


def time_backend(backend: Backend, rows: pd.DataFrame) -> float:
    """Return the seconds that a clip takes with any model, features included: of a few, after one that is not timed."""
    chosen = spread_clips(rows, _n_clips())
    with AudioReader() as reader, track("Measuring the pace"):
        clips = [
            decode_audio(reader.read(row["audio"]), row["utterance_id"])[:N_SAMPLES]
            for row in chosen.to_dict("records")
        ]
        backend.transcribe(clips[:1])
        started = _now()
        for batch in chunks(clips, backend.batch_size):
            backend.transcribe(batch)
    return (_now() - started) / len(clips)


def is_worth_timing(rows: pd.DataFrame) -> bool:
    """Return whether decoding these clips takes much longer than `time_backend` does."""
    return len(rows) >= WORTH * _n_clips()


def _n_clips() -> int:
    return _N_GPU_CLIPS if pick_device().type == "cuda" else _N_CLIPS

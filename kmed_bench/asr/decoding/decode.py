"""Decoding of clips and whole parts in batches."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence

import pandas as pd
import torch

from kmed_bench.asr.decoding.beam import decode_beam
from kmed_bench.asr.decoding.greedy import decode_greedy
from kmed_bench.asr.decoding.options import DecodingOptions
from kmed_bench.asr.features.store import FeatureSource
from kmed_bench.asr.model.device import autocast, without_cudnn_attention
from kmed_bench.asr.model.tokenizer import korean_tokenizer
from kmed_bench.asr.model.whisper import Whisper
from kmed_bench.asr.model.windows import DECODING, Window
from kmed_bench.core.batching import chunks
from kmed_bench.core.predictions import Prediction


@dataclasses.dataclass(frozen=True)
class DecodingResult:
    """One clip's transcript.

    Attributes
    ----------
    decode_s : float
        Its share of the batch's time, encoder included.
    ngram_blocked : bool
        As in `DecodedTokens`.
    """

    utterance_id: str
    text: str
    decode_s: float
    ngram_blocked: bool


def decode_clips(
    model: Whisper, features: FeatureSource, utterance_ids: Sequence[str], options: DecodingOptions
) -> Iterator[DecodingResult]:
    """Yield each clip's transcript; clips of similar length are decoded together, the longest first."""
    tokenizer, device = korean_tokenizer(), model.device
    search = decode_greedy if options.beam_size == 1 else decode_beam
    ordered = sorted(utterance_ids, key=lambda name: (-features.n_frames(name), name))
    for names in chunks(ordered, options.batch_size):
        started = time.perf_counter()
        window = Window.for_clips(options.context, features.n_frames(names[0]), DECODING)
        mel = features.window(names, window.n_frames).to(device)
        with torch.inference_mode(), without_cudnn_attention(device):
            with autocast(options.precision, device):
                audio = model.encode(mel, window)
            with autocast("fp32" if device.type == "cpu" else options.precision, device):  # see Whisper.start_cache
                decoded = search(model, audio, options)
        decode_s = (time.perf_counter() - started) / len(names)
        for name, clip in zip(names, decoded, strict=True):
            yield DecodingResult(name, tokenizer.decode(clip.tokens).strip(), decode_s, clip.ngram_blocked)


def predict_part(
    model: Whisper,
    part: pd.DataFrame,
    features: FeatureSource,
    options: DecodingOptions,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> list[Prediction]:
    """Return a part's predictions in the part's order, references as labelled.

    Parameters
    ----------
    progress : callable
        Called with (clips done, clips in all).
    """
    was_training = model.training
    model.eval()
    results: dict[str, DecodingResult] = {}
    for result in decode_clips(model, features, part["utterance_id"].tolist(), options):
        results[result.utterance_id] = result
        if progress:
            progress(len(results), len(part))
    model.train(was_training)
    ordered = [(row, results[row["utterance_id"]]) for row in part.to_dict("records")]
    return [Prediction.from_row(row, r.text, r.decode_s, r.ngram_blocked) for row, r in ordered]

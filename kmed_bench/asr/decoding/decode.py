"""Decoding of whole parts in batches; the same text as openai-whisper's ``decode``, greedy or with beams."""

import dataclasses
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd
import torch
from whisper.model import Whisper
from whisper.tokenizer import Tokenizer

from kmed_bench.asr.decoding.beam import decode_beam
from kmed_bench.asr.decoding.kv_cache import DecoderCache, fill_gaps, next_logits
from kmed_bench.asr.decoding.logit_filters import DecodedTokens, LogitFilters, suppressed_tokens
from kmed_bench.asr.features.store import FeatureSource
from kmed_bench.asr.model.device import Precision, autocast, no_plan_per_shape
from kmed_bench.asr.model.tokenizer import korean_tokenizer
from kmed_bench.asr.model.whisper import encode, encode_thinned
from kmed_bench.asr.model.windows import DECODING, bucket_frames, chunks, window_frames
from kmed_bench.config import Context, EvalConfig
from kmed_bench.core.predictions import Prediction

__all__ = ["DecodingResult", "decode_clips", "decode_greedy", "encode", "predict_part", "suppressed_tokens"]


@torch.inference_mode()
def decode_greedy(
    model: Whisper,
    audio_features: torch.Tensor,
    tokenizer: Tokenizer,
    *,
    max_new_tokens: int,
    no_repeat_ngram_size: int | None = None,
    bias: torch.Tensor | None = None,
) -> list[DecodedTokens]:
    """Return the most likely token at each step for each clip.

    Parameters
    ----------
    audio_features : torch.Tensor
        Encoder output, shape (batch, n_audio_ctx, n_state).
    max_new_tokens : int
        Where decoding stops; openai-whisper stops at half of the text positions, which is 224.
    no_repeat_ngram_size : int, optional
        See ``LogitFilters``.
    bias : torch.Tensor, optional
        See ``DecoderCache``.
    """
    rules = LogitFilters(tokenizer, no_repeat_ngram_size=no_repeat_ngram_size)
    prompt = torch.tensor(tokenizer.sot_sequence_including_notimestamps, device=audio_features.device)
    max_new_tokens = min(max_new_tokens, model.dims.n_text_ctx // 2)
    cache = DecoderCache(model, audio_features, len(prompt) + max_new_tokens, bias)
    texts: list[list[int]] = [[] for _ in audio_features]
    ngram_blocked = [False] * len(texts)
    active, tokens = list(range(len(texts))), prompt.expand(len(texts), -1)
    for _ in range(max_new_tokens):
        logits = next_logits(model, tokens, cache)
        hits = rules.apply(logits, [texts[clip] for clip in active])
        best = logits.argmax(dim=-1).tolist()
        for clip, token, hit in zip(active, best, hits, strict=True):
            ngram_blocked[clip] |= hit
            if token != tokenizer.eot:
                texts[clip].append(token)
        alive = [token != tokenizer.eot for token in best]
        if not all(alive):
            order = fill_gaps(alive)
            cache.keep(order)
            active, best = [active[slot] for slot in order], [best[slot] for slot in order]
        if not active:
            break
        tokens = torch.tensor(best, device=prompt.device)[:, None]
    return [DecodedTokens(text, hit) for text, hit in zip(texts, ngram_blocked, strict=True)]


@dataclasses.dataclass(frozen=True)
class DecodingResult:
    """One clip's transcript.

    Attributes
    ----------
    decode_s : float
        Its share of the batch's time, encoder included.
    ngram_blocked : bool
        Whether the repetition guard took away a token that the search would have considered.
    """

    utterance_id: str
    text: str
    decode_s: float
    ngram_blocked: bool = False


def decode_clips(
    model: Whisper,
    store: FeatureSource,
    utterance_ids: Sequence[str],
    *,
    batch_size: int,
    context: Context,
    precision: Precision,
    max_new_tokens: int,
    beam_size: int = 1,
    no_repeat_ngram_size: int | None = None,
) -> Iterator[DecodingResult]:
    """Yield each clip's transcript, clips of like length together, the longest first.

    Parameters
    ----------
    precision : {"fp32", "bf16", "fp16"}
        Arithmetic of the encoder, and on GPUs of the decoder; a CPU decodes in fp32.
    context : str
        What the encoder computes: ``full``, the 30 s window; ``dynamic``, the batch's own length and few positions
        that stand for the window's silence (``thin.DECODING``).
    beam_size : int
        Hypotheses followed at a time; 1 is greedy.
    no_repeat_ngram_size : int, optional
        See ``LogitFilters``.
    """
    tokenizer = korean_tokenizer()
    ordered = sorted(utterance_ids, key=lambda name: (-store.n_frames(name), name))
    device = model.device
    limits = {"max_new_tokens": max_new_tokens, "no_repeat_ngram_size": no_repeat_ngram_size}
    search = partial(decode_greedy, **limits) if beam_size == 1 else partial(decode_beam, beam_size=beam_size, **limits)
    for names in chunks(ordered, batch_size):
        started = time.perf_counter()
        n_frames = bucket_frames(store.n_frames(names[0]))
        mel = store.window(names, window_frames(context, n_frames, DECODING)).to(device)
        with torch.inference_mode(), no_plan_per_shape(device):
            with autocast(precision, device):
                if context == "dynamic":
                    features, bias = encode_thinned(model, mel, n_frames, DECODING)
                else:
                    features, bias = encode(model, mel), None
            with autocast("fp32" if device.type == "cpu" else precision, device):  # see DecoderCache
                written = search(model, features, tokenizer, bias=bias)
        seconds = (time.perf_counter() - started) / len(names)
        for name, clip in zip(names, written, strict=True):
            yield DecodingResult(name, tokenizer.decode(clip.tokens).strip(), seconds, clip.ngram_blocked)


def predict_part(
    model: Whisper,
    part: pd.DataFrame,
    store: FeatureSource,
    *,
    batch_size: int,
    context: Context,
    precision: Precision,
    max_new_tokens: int,
    beam_size: int = 1,
    no_repeat_ngram_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Prediction]:
    """Return a part's predictions in the part's order, references raw.

    Parameters
    ----------
    progress : callable
        Called with (clips done, clips in all).
    """
    was_training = model.training
    model.eval()
    decoded: dict[str, DecodingResult] = {}
    names = part["utterance_id"].tolist()
    clips = decode_clips(
        model,
        store,
        names,
        batch_size=batch_size,
        context=context,
        precision=precision,
        max_new_tokens=max_new_tokens,
        beam_size=beam_size,
        no_repeat_ngram_size=no_repeat_ngram_size,
    )
    for done, clip in enumerate(clips, start=1):
        decoded[clip.utterance_id] = clip
        if progress:
            progress(done, len(names))
    model.train(was_training)
    rows = part.to_dict("records")
    return [_prediction(row, decoded[row["utterance_id"]]) for row in rows]


def predict_as_set(
    model: Whisper,
    part: pd.DataFrame,
    store: FeatureSource,
    config: EvalConfig,
    progress: Callable[[int, int], None] | None = None,
) -> list[Prediction]:
    """Return ``predict_part`` under the settings of evaluation."""
    return predict_part(
        model,
        part,
        store,
        batch_size=config.batch_size,
        context=config.audio_context,
        precision=config.precision,
        max_new_tokens=config.max_new_tokens,
        beam_size=config.beam_size,
        no_repeat_ngram_size=config.no_repeat_ngram_size,
        progress=progress,
    )


def _prediction(row: Mapping[Hashable, Any], clip: DecodingResult) -> Prediction:
    copied = ("utterance_id", "speaker_id", "sentence_id", "gender", "age", "dialect", "region", "role")
    return Prediction(
        **{name: str(row[name]) for name in copied},
        reference=str(row["text"]),
        hypothesis=clip.text,
        duration_s=float(row["duration_s"]),
        decode_s=clip.decode_s,
        ngram_blocked=clip.ngram_blocked,
    )

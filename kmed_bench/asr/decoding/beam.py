"""Batched beam search; the same text as openai-whisper's ``decode`` with ``beam_size``.

The rules are those of its BeamSearchDecoder and MaximumLikelihoodRanker: each hypothesis offers its
beam_size + 1 best tokens, the best beam_size that go on stay, those that end are set aside until
there are round(beam_size × patience), and the best sum of log probabilities per token wins.
"""

import dataclasses

import numpy as np
import torch
from whisper.model import Whisper
from whisper.tokenizer import Tokenizer

from kmed_bench.asr.decoding.kv_cache import DecoderCache, fill_gaps, next_logits
from kmed_bench.asr.decoding.logit_filters import DecodedTokens, LogitFilters

Text = tuple[int, ...]


@dataclasses.dataclass
class _Clip:
    """A clip's search: hypotheses that go on, and those that have ended, with their log probabilities."""

    row: int
    live: list[Text]
    scores: list[float]
    ended: dict[Text, float] = dataclasses.field(default_factory=dict)
    ngram_blocked: bool = False


@torch.inference_mode()
def decode_beam(
    model: Whisper,
    audio_features: torch.Tensor,
    tokenizer: Tokenizer,
    *,
    max_new_tokens: int,
    beam_size: int,
    patience: float = 1.0,
    no_repeat_ngram_size: int | None = None,
    bias: torch.Tensor | None = None,
) -> list[DecodedTokens]:
    """Return the most likely text that the search found for each clip.

    A clip's text is what it is alone: clips that have their hypotheses leave the batch.

    Parameters
    ----------
    audio_features : torch.Tensor
        Encoder output, shape (batch, n_audio_ctx, n_state).
    beam_size : int
        Hypotheses that are followed at a time.
    patience : float
        How many ended hypotheses a clip waits for, in multiples of beam_size (Kasai et al. 2022,
        A Call for Clarity in Beam Search).
    no_repeat_ngram_size : int, optional
        See ``LogitFilters``.
    bias : torch.Tensor, optional
        See ``DecoderCache``.
    """
    rules = LogitFilters(tokenizer, no_repeat_ngram_size=no_repeat_ngram_size, n_candidates=beam_size + 1)
    prompt = torch.tensor(tokenizer.sot_sequence_including_notimestamps, device=audio_features.device)
    max_new_tokens = min(max_new_tokens, model.dims.n_text_ctx // 2)
    cache = DecoderCache(model, audio_features, len(prompt) + max_new_tokens, bias)
    clips = [_Clip(row, [()], [0.0]) for row in range(len(audio_features))]
    active, tokens = clips, prompt.expand(len(clips), -1)
    for _ in range(max_new_tokens):
        logits = next_logits(model, tokens, cache)
        hits = rules.apply(logits, [text for clip in active for text in clip.live])
        rows = _advance_all(active, logits, hits, tokenizer.eot, beam_size, round(beam_size * patience))
        if cache.width == 1:  # the prompt's step had one hypothesis a clip: all would have been the same
            cache.widen(beam_size)
            rows = [(row // beam_size) * beam_size for row in range(len(rows))]
        cache.reorder(rows)
        alive = [len(clip.ended) < round(beam_size * patience) for clip in active]
        if not all(alive):
            order = fill_gaps(alive)
            cache.keep(order)
            active = [active[slot] for slot in order]
        if not active:
            break
        tokens = torch.tensor([[text[-1]] for clip in active for text in clip.live], device=prompt.device)
    return [DecodedTokens(_best(clip, beam_size), clip.ngram_blocked) for clip in clips]


def _advance_all(
    active: list[_Clip], logits: torch.Tensor, hits: list[bool], eot: int, beam_size: int, n_ended: int
) -> list[int]:
    """Take every clip one token on; return the row that each of its new hypotheses continues."""
    scores = torch.tensor([score for clip in active for score in clip.scores], device=logits.device)
    best = logits.log_softmax(dim=-1).topk(beam_size + 1)
    totals, tokens = (scores[:, None] + best.values).tolist(), best.indices.tolist()
    rows: list[int] = []
    start = 0
    for clip in active:
        end = start + len(clip.live)
        clip.ngram_blocked |= any(hits[start:end])
        sources = _advance(clip, totals[start:end], tokens[start:end], eot, beam_size, n_ended)
        rows += [start + source for source in sources]
        start = end
    return rows


def _advance(
    clip: _Clip, totals: list[list[float]], tokens: list[list[int]], eot: int, beam_size: int, n_ended: int
) -> list[int]:
    offers = [
        (total, source, token)
        for source, (row, names) in enumerate(zip(totals, tokens, strict=True))
        for total, token in zip(row, names, strict=True)
    ]
    chosen: list[tuple[float, int, int]] = []
    # The sort is stable, as openai-whisper's is: of equals, the earlier hypothesis's better token first.
    for offer in sorted(offers, key=lambda offer: offer[0], reverse=True):
        total, source, token = offer
        if token != eot:
            chosen.append(offer)
        elif len(clip.ended) < n_ended:
            clip.ended[clip.live[source]] = total
        if len(chosen) == beam_size:
            break
    clip.live = [(*clip.live[source], token) for _, source, token in chosen]
    clip.scores = [total for total, _, _ in chosen]
    return [source for _, source, _ in chosen]


def _best(clip: _Clip, beam_size: int) -> list[int]:
    """Return the text with the highest log probability per token, its end counted in the sum alone."""
    for i in np.argsort(clip.scores)[::-1]:
        if len(clip.ended) >= beam_size:
            break
        clip.ended[clip.live[i]] = clip.scores[i]
    best, _ = max(clip.ended.items(), key=lambda item: item[1] / len(item[0]))
    return list(best)

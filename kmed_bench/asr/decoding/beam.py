"""Batched beam search; the same texts as openai-whisper's ``decode`` with ``beam_size``, several times as fast.

The rules are those of its BeamSearchDecoder and MaximumLikelihoodRanker: each hypothesis offers its beam_size + 1 most
likely tokens, the best beam_size continuations remain, those that end are set aside until there are beam_size of them,
and the one with the highest log probability per token wins. docs/decisions/013-beams.md says why it is not delegated.
"""

import dataclasses

import numpy as np
import torch

from kmed_bench.asr.decoding.logit_filters import DecodedTokens, LogitFilters
from kmed_bench.asr.decoding.options import DecodingOptions
from kmed_bench.asr.model.kv_cache import fill_gaps
from kmed_bench.asr.model.tokenizer import korean_tokenizer
from kmed_bench.asr.model.whisper import EncoderOutput, Whisper

Text = tuple[int, ...]


@dataclasses.dataclass
class _Clip:
    """A clip's search: live hypotheses, and those that have ended, with their log probabilities."""

    live: list[Text]
    scores: list[float]
    ended: dict[Text, float] = dataclasses.field(default_factory=dict)
    ngram_blocked: bool = False


@torch.inference_mode()
def decode_beam(model: Whisper, audio: EncoderOutput, options: DecodingOptions) -> list[DecodedTokens]:
    """Return the most likely text that the search found for each clip.

    A clip's text does not depend on the others: clips that have enough hypotheses leave the batch.
    """
    tokenizer, beam_size = korean_tokenizer(), options.beam_size
    filters = LogitFilters(tokenizer, no_repeat_ngram_size=options.no_repeat_ngram_size, n_candidates=beam_size + 1)
    prompt = torch.tensor(tokenizer.sot_sequence_including_notimestamps, device=audio.features.device)
    max_new_tokens = min(options.max_new_tokens, model.dims.n_text_ctx // 2)
    cache = model.start_cache(audio, len(prompt) + max_new_tokens)
    clips = [_Clip([()], [0.0]) for _ in audio.features]
    active, tokens = clips, prompt.expand(len(clips), -1)
    for _ in range(max_new_tokens):
        logits = model.next_logits(tokens, cache)
        blocked = filters.apply(logits, [text for clip in active for text in clip.live])
        sources = _advance_all(active, logits, blocked, tokenizer.eot, beam_size)
        if cache.width == 1:  # the prompt's step had one hypothesis a clip, which all new ones continue
            cache.widen(beam_size)
            sources = list(range(len(sources)))
        cache.reorder(sources)
        alive = [len(clip.ended) < beam_size for clip in active]
        if not all(alive):
            order = fill_gaps(alive)
            cache.keep(order)
            active = [active[slot] for slot in order]
        if not active:
            break
        tokens = torch.tensor([[text[-1]] for clip in active for text in clip.live], device=prompt.device)
    return [DecodedTokens(_best(clip, beam_size), clip.ngram_blocked) for clip in clips]


def _advance_all(active: list[_Clip], logits: torch.Tensor, blocked: list[bool], eot: int, beam_size: int) -> list[int]:
    """Extend every clip's hypotheses by a token; return the row that each new hypothesis continues."""
    scores = torch.tensor([score for clip in active for score in clip.scores], device=logits.device)
    best = logits.log_softmax(dim=-1).topk(beam_size + 1)
    totals, tokens = (scores[:, None] + best.values).tolist(), best.indices.tolist()
    sources: list[int] = []
    start = 0
    for clip in active:
        end = start + len(clip.live)
        clip.ngram_blocked |= any(blocked[start:end])
        sources += [start + source for source in _advance(clip, totals[start:end], tokens[start:end], eot, beam_size)]
        start = end
    return sources


def _advance(clip: _Clip, totals: list[list[float]], tokens: list[list[int]], eot: int, beam_size: int) -> list[int]:
    """Extend a clip's hypotheses by a token; return the index of the one that each new hypothesis continues."""
    offers = [
        (total, source, token)
        for source, row in enumerate(zip(totals, tokens, strict=True))
        for total, token in zip(*row, strict=True)
    ]
    chosen: list[tuple[float, int, int]] = []
    # The sort is stable, as openai-whisper's is: among equals, the earlier hypothesis's better token comes first.
    for total, source, token in sorted(offers, key=lambda offer: offer[0], reverse=True):
        if token != eot:
            chosen.append((total, source, token))
        elif len(clip.ended) < beam_size:
            clip.ended[clip.live[source]] = total
        if len(chosen) == beam_size:
            break
    clip.live = [(*clip.live[source], token) for _, source, token in chosen]
    clip.scores = [total for total, _, _ in chosen]
    return [source for _, source, _ in chosen]


def _best(clip: _Clip, beam_size: int) -> list[int]:
    """Return the text with the highest log probability per token; the end counts in the sum but not as a token."""
    for i in np.argsort(clip.scores)[::-1]:
        if len(clip.ended) >= beam_size:
            break
        clip.ended[clip.live[i]] = clip.scores[i]
    best, _ = max(clip.ended.items(), key=lambda item: item[1] / len(item[0]))
    return list(best)

"""Batched greedy decoding; the same texts as openai-whisper's ``decode``."""

import torch

from kmed_bench.asr.decoding.logit_filters import DecodedTokens, LogitFilters
from kmed_bench.asr.decoding.options import DecodingOptions
from kmed_bench.asr.model.kv_cache import fill_gaps
from kmed_bench.asr.model.tokenizer import korean_tokenizer
from kmed_bench.asr.model.whisper import EncoderOutput, Whisper


@torch.inference_mode()
def decode_greedy(model: Whisper, audio: EncoderOutput, options: DecodingOptions) -> list[DecodedTokens]:
    """Return each clip's tokens, the most likely one at each step; clips that end leave the batch."""
    tokenizer = korean_tokenizer()
    filters = LogitFilters(tokenizer, no_repeat_ngram_size=options.no_repeat_ngram_size)
    prompt = torch.tensor(tokenizer.sot_sequence_including_notimestamps, device=audio.features.device)
    max_new_tokens = min(options.max_new_tokens, model.dims.n_text_ctx // 2)
    cache = model.start_cache(audio, len(prompt) + max_new_tokens)
    texts: list[list[int]] = [[] for _ in audio.features]
    ngram_blocked = [False] * len(texts)
    active, tokens = list(range(len(texts))), prompt.expand(len(texts), -1)
    for _ in range(max_new_tokens):
        logits = model.next_logits(tokens, cache)
        blocked = filters.apply(logits, [texts[clip] for clip in active])
        best = logits.argmax(dim=-1).tolist()
        for clip, token, was_blocked in zip(active, best, blocked, strict=True):
            ngram_blocked[clip] |= was_blocked
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
    return [DecodedTokens(*clip) for clip in zip(texts, ngram_blocked, strict=True)]

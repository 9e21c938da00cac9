"""Batched greedy decoding with a key-value cache; the same text as openai-whisper's ``decode``.

openai-whisper re-concatenates its cache at every token and keeps finished clips in the batch.
Here the cross-attention keys are made once, the cache is written in place, and finished clips
leave the batch.
"""

import dataclasses
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from whisper.audio import N_FRAMES
from whisper.model import MultiHeadAttention, Whisper
from whisper.tokenizer import Tokenizer

from kmed_bench.asr.batches import chunks, korean_tokenizer
from kmed_bench.asr.device import Precision, autocast
from kmed_bench.asr.features import FrameStore
from kmed_bench.config import Context
from kmed_bench.records import Prediction


def encode(model: Whisper, mel: torch.Tensor) -> torch.Tensor:
    """Return encoder output, shape (batch, n_frames / 2, n_state), for a window of any even length.

    The same as ``model.encoder(mel)`` on 3,000 frames; on fewer, the positional embeddings are cut.
    """
    encoder = model.encoder
    x = F.gelu(encoder.conv1(mel))
    x = F.gelu(encoder.conv2(x)).permute(0, 2, 1)
    x = (x + encoder.positional_embedding[: x.shape[1]]).to(x.dtype)
    for block in encoder.blocks:
        x = block(x)
    return encoder.ln_post(x)


def suppressed_tokens(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Return what openai-whisper's default options never write, and what they never start with."""
    never = {
        *tokenizer.non_speech_tokens,
        tokenizer.transcribe,
        tokenizer.translate,
        tokenizer.sot,
        tokenizer.sot_prev,
        tokenizer.sot_lm,
    }
    if tokenizer.no_speech is not None:
        never.add(tokenizer.no_speech)
    return sorted(never), [*tokenizer.encode(" "), tokenizer.eot]


@torch.inference_mode()
def decode_greedy(
    model: Whisper, audio_features: torch.Tensor, tokenizer: Tokenizer, *, max_new_tokens: int
) -> list[list[int]]:
    """Return the most likely token at each step, without the end-of-text token, for each clip.

    Parameters
    ----------
    audio_features : torch.Tensor
        Encoder output, shape (batch, n_audio_ctx, n_state).
    max_new_tokens : int
        Where decoding stops; openai-whisper stops at 224.
    """
    never, never_first = suppressed_tokens(tokenizer)
    prompt = torch.tensor(tokenizer.sot_sequence_including_notimestamps, device=audio_features.device)
    cache = _Cache(model, audio_features, len(prompt) + max_new_tokens)
    texts: list[list[int]] = [[] for _ in audio_features]
    active = list(range(len(texts)))
    tokens = prompt.expand(len(texts), -1)
    for step in range(max_new_tokens):
        logits = _next_logits(model, tokens, cache)
        logits[:, never] = -torch.inf
        if step == 0:
            logits[:, never_first] = -torch.inf
        best = logits.argmax(dim=-1)
        keep = best != tokenizer.eot
        for row, token in zip(active, best.tolist(), strict=True):
            if token != tokenizer.eot:
                texts[row].append(token)
        if not keep.all():
            cache.keep(keep)
            active = [row for row, on in zip(active, keep.tolist(), strict=True) if on]
            best = best[keep]
        if not active:
            break
        tokens = best[:, None]
    return texts


class _Cache:
    """Keys and values of a batch: cross-attention's made once, self-attention's filled in place."""

    def __init__(self, model: Whisper, audio_features: torch.Tensor, n_tokens: int) -> None:
        n_batch, dtype = len(audio_features), audio_features.dtype
        self.length = 0
        self.dtype = dtype
        self.cross, self.own = [], []
        n_tokens = min(n_tokens, model.dims.n_text_ctx)
        for block in model.decoder.blocks:
            attention = block.cross_attn
            self.cross.append(
                [_heads(linear(audio_features), attention.n_head) for linear in (attention.key, attention.value)]
            )
            shape = (n_batch, attention.n_head, n_tokens, model.dims.n_text_state // attention.n_head)
            # Keys and values come out of the linear layers in their type (bf16 under autocast).
            like = self.cross[-1][0]
            self.own.append([like.new_empty(shape), like.new_empty(shape)])

    def keep(self, rows: torch.Tensor) -> None:
        """Drop the clips that have ended."""
        self.cross = [[tensor[rows] for tensor in pair] for pair in self.cross]
        self.own = [[tensor[rows] for tensor in pair] for pair in self.own]


def _heads(x: torch.Tensor, n_head: int) -> torch.Tensor:
    """Reshape (batch, length, n_state) to (batch, n_head, length, n_state / n_head)."""
    return x.unflatten(-1, (n_head, -1)).transpose(1, 2)


def _attend(
    attention: MultiHeadAttention, x: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, causal: bool
) -> torch.Tensor:
    queries = _heads(attention.query(x), attention.n_head)
    mixed = F.scaled_dot_product_attention(queries, keys, values, is_causal=causal)
    return attention.out(mixed.transpose(1, 2).flatten(start_dim=2))


def _next_logits(model: Whisper, tokens: torch.Tensor, cache: _Cache) -> torch.Tensor:
    """Run the decoder on new tokens, shape (batch, n_new); return the last one's logits (batch, n_vocab)."""
    decoder, start = model.decoder, cache.length
    end = start + tokens.shape[1]
    x = decoder.token_embedding(tokens) + decoder.positional_embedding[start:end]
    x = x.to(cache.dtype)
    for block, cross, own in zip(decoder.blocks, cache.cross, cache.own, strict=True):
        normed = block.attn_ln(x)
        for store, linear in zip(own, (block.attn.key, block.attn.value), strict=True):
            store[:, :, start:end] = _heads(linear(normed), block.attn.n_head)
        # Only the prompt has several new tokens, and it stands at the start.
        x = x + _attend(block.attn, normed, own[0][:, :, :end], own[1][:, :, :end], causal=tokens.shape[1] > 1)
        x = x + _attend(block.cross_attn, block.cross_attn_ln(x), cross[0], cross[1], causal=False)
        x = x + block.mlp(block.mlp_ln(x))
    cache.length = end
    last = decoder.ln(x[:, -1])
    return F.linear(last, decoder.token_embedding.weight.to(last.dtype)).float()


@dataclasses.dataclass(frozen=True)
class Decoded:
    """One clip's transcript.

    Attributes
    ----------
    decode_s : float
        Its share of the batch's time, encoder included.
    """

    utterance_id: str
    text: str
    decode_s: float


def decode_clips(
    model: Whisper,
    store: FrameStore,
    utterance_ids: Sequence[str],
    *,
    batch_size: int,
    context: Context,
    precision: Precision,
    max_new_tokens: int,
) -> Iterator[Decoded]:
    """Yield each clip's transcript, clips of like length together, the longest first."""
    tokenizer = korean_tokenizer()
    ordered = sorted(utterance_ids, key=lambda name: (-store.n_frames(name), name))
    device = model.device
    for names in chunks(ordered, batch_size):
        started = time.perf_counter()
        n_frames = N_FRAMES if context == "full" else store.n_frames(names[0])
        mel = store.window(names, n_frames).to(device)
        with torch.inference_mode(), autocast(precision, device):
            features = encode(model, mel)
            tokens = decode_greedy(model, features, tokenizer, max_new_tokens=max_new_tokens)
        seconds = (time.perf_counter() - started) / len(names)
        for name, clip in zip(names, tokens, strict=True):
            yield Decoded(name, tokenizer.decode(clip).strip(), seconds)


def predict_part(
    model: Whisper,
    part: pd.DataFrame,
    store: FrameStore,
    *,
    batch_size: int,
    context: Context,
    precision: Precision,
    max_new_tokens: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[Prediction]:
    """Return a part's predictions in the part's order, references raw."""
    was_training = model.training
    model.eval()
    decoded: dict[str, Decoded] = {}
    names = part["utterance_id"].tolist()
    clips = decode_clips(
        model,
        store,
        names,
        batch_size=batch_size,
        context=context,
        precision=precision,
        max_new_tokens=max_new_tokens,
    )
    for done, clip in enumerate(clips, start=1):
        decoded[clip.utterance_id] = clip
        if progress:
            progress(done, len(names))
    model.train(was_training)
    rows = part.to_dict("records")
    return [_prediction(row, decoded[row["utterance_id"]]) for row in rows]


def _prediction(row: Mapping[Hashable, Any], clip: Decoded) -> Prediction:
    copied = ("utterance_id", "speaker_id", "sentence_id", "gender", "age", "dialect", "region", "role")
    return Prediction(
        **{name: str(row[name]) for name in copied},
        reference=str(row["text"]),
        hypothesis=clip.text,
        duration_s=float(row["duration_s"]),
        decode_s=clip.decode_s,
    )

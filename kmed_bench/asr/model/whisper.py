"""Whisper's forward pass."""

import contextlib
import functools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from whisper.audio import N_FRAMES
from whisper.model import MultiHeadAttention, Whisper

from kmed_bench.asr.model.patching import patched_methods
from kmed_bench.asr.model.windows import STRIDE, ContextThinning


def split_heads(x: torch.Tensor, n_head: int) -> torch.Tensor:
    """Reshape (batch, length, n_state) to (batch, n_head, length, n_state / n_head)."""
    return x.unflatten(-1, (n_head, -1)).transpose(1, 2)


def attend(
    attention: MultiHeadAttention,
    x: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    *,
    causal: bool = False,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return what the positions of x, shape (batch, length, n_state), take from keys and values.

    Parameters
    ----------
    bias : torch.Tensor, optional
        Added to the logits of each key, shape (n_keys,).
    """
    queries = split_heads(attention.query(x), attention.n_head).to(keys.dtype)
    mask = None if bias is None else bias.to(queries.dtype)[None, None, None]
    mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, is_causal=causal)
    return attention.out(mixed.transpose(1, 2).flatten(start_dim=2).to(x.dtype))


def encode(model: Whisper, mel: torch.Tensor) -> torch.Tensor:
    """Return encoder output, shape (batch, n_frames / 2, n_state), for a window of any even length.

    The same as ``model.encoder(mel)`` on 3,000 frames; on fewer, the positional embeddings are cut.
    """
    encoder = model.encoder
    x = F.gelu(encoder.conv1(mel))
    # Laid out by position, or every layer behind would lay it out again.
    x = F.gelu(encoder.conv2(x)).permute(0, 2, 1).contiguous()
    x = (x + encoder.positional_embedding[: x.shape[1]]).to(x.dtype)
    for block in encoder.blocks:
        x = block(x)
    return encoder.ln_post(x)


def encode_thinned(
    model: Whisper, mel: torch.Tensor, n_frames: int, thinning: ContextThinning
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return encoder output, shape (batch, n_positions, n_state), and what attention adds for each position.

    Parameters
    ----------
    mel : torch.Tensor
        The window's first frames, shape (batch, 80, at least ``thinning.frames(n_frames)``).
    n_frames : int
        Frames of the longest clip; later ones hold silence.
    """
    encoder = model.encoder
    chosen, _ = thinning.positions(n_frames)
    x = F.gelu(encoder.conv1(mel[:, :, : thinning.frames(n_frames)]))
    x = F.gelu(encoder.conv2(x)).permute(0, 2, 1)
    if x.shape[1] < N_FRAMES // STRIDE:
        # Silence sounds the same wherever it is, so that the convolutions need not hear all of it.
        n_whole = n_frames // STRIDE + thinning.margin
        silence = x[:, n_whole : n_whole + 1].expand(-1, len(chosen) - n_whole, -1)
        x = torch.cat([x[:, :n_whole], silence], dim=1)
    x = (x + encoder.positional_embedding[chosen]).to(x.dtype)
    bias = thinning.bias(n_frames).to(x.device)
    with biased_attention(model):
        for block in encoder.blocks:
            x = block(x, mask=bias)
    return encoder.ln_post(x), bias


def biased_attention(model: Whisper) -> contextlib.AbstractContextManager[None]:
    """Let attention to audio take a bias of the keys, shape (n_keys,), for what Whisper calls its mask.

    That of the encoder and cross-attention. openai-whisper's own take a mask for the sign that later positions are
    hidden. Attentions that are replaced already are left alone.
    """
    to_audio = [*(block.attn for block in model.encoder.blocks), *(block.cross_attn for block in model.decoder.blocks)]
    own = [attention for attention in to_audio if "qkv_attention" not in vars(attention)]
    return patched_attention(own, F.scaled_dot_product_attention)


def patched_attention(
    attentions: Sequence[MultiHeadAttention], mix: Callable[..., torch.Tensor]
) -> contextlib.AbstractContextManager[None]:
    """Let attentions mix values by ``mix(q, k, v, bias)``, heads apart; what Whisper calls their mask is the bias."""
    return patched_methods(attentions, "qkv_attention", lambda a: functools.partial(_attend, mix, a.n_head))


def _attend(
    mix: Callable[..., torch.Tensor],
    n_head: int,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None = None,
) -> tuple[torch.Tensor, None]:
    """Stand in for ``MultiHeadAttention.qkv_attention``; a mask of one dimension is a bias of the keys."""
    q, k, v = (split_heads(x, n_head) for x in (q, k, v))
    if mask is not None:  # the decoder's is made for all of its positions
        mask = (mask[None] if mask.dim() == 1 else mask[: q.shape[2], : k.shape[2]]).to(q.dtype)
    return mix(q, k, v, mask).transpose(1, 2).flatten(start_dim=2), None


def decoder_states(
    model: Whisper, embedded: torch.Tensor, features: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the decoder's states before its last layer norm, shape (batch, n_tokens, n_state).

    ``decoder.ln`` of them, times the embedding, is what ``model.decoder(tokens, features)`` returns.

    Parameters
    ----------
    embedded : torch.Tensor
        The tokens' embeddings, shape (batch, n_tokens, n_state).
    bias : torch.Tensor, optional
        What cross-attention adds to the logits of each position of the features, shape (n_positions,).
    """
    decoder = model.decoder
    x = (embedded + decoder.positional_embedding[: embedded.shape[1]]).to(features.dtype)
    for block in decoder.blocks:
        if bias is None:
            x = block(x, features, mask=decoder.mask)
            continue
        # The block's own forward has no place for a bias (``biased_attention``).
        x = x + block.attn(block.attn_ln(x), mask=decoder.mask)[0]
        x = x + block.cross_attn(block.cross_attn_ln(x), features, mask=bias)[0]
        x = x + block.mlp(block.mlp_ln(x))
    return x

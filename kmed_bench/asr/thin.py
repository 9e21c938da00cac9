"""The 30 s window at a fraction of its cost: of the silence after a clip, one position in several is computed.

Whisper hears a clip of 4 s followed by 26 s of silence, and most of its encoder's work goes into that
silence. Leaving it out changes what an untouched model writes, and what a model learns. Here the positions
beyond the clip are thinned instead: of each group one stays, with its own positional embedding, and
stands for its group in every attention, as if its key and value were there once for each (the logarithm of the
count is added to its logits). What is computed is close to the full window's and not equal to it, so that this is
no replacement where texts must be openai-whisper's: CER and texts beside the full window's are measured
by ``benchmarks/decode.py``, what a model learns so by ``benchmarks/train.py --quality``.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from whisper.audio import N_FRAMES
from whisper.model import MultiHeadAttention, Whisper

from kmed_bench.asr.cache import split_heads
from kmed_bench.asr.replaced import methods_replaced

MARGIN = 50  # positions of 20 ms kept whole after the clip, where its sound still echoes
GROUP = 8
"""Positions of a group where texts shall stay: of 303 clips, 257 read as in the full window, 220 with groups of 32."""
TRAINING_GROUP = 32
"""What is learned is no worse for larger groups, and steps are shorter (docs/decisions/010-training-context.md)."""

# The second convolution halves the frames and, with the first, sees two frames on either side.
_STRIDE, _REACH = 2, 2


def thinned_frames(n_frames: int) -> int:
    """Return how many frames of the window ``encode_thinned`` reads: the rest is silence like that before it."""
    n_whole = n_frames // _STRIDE + MARGIN
    return min(N_FRAMES, _STRIDE * n_whole + 2 * _REACH)


def encode_thinned(
    model: Whisper, mel: torch.Tensor, n_frames: int, *, group: int = GROUP
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return encoder output, shape (batch, n_positions, n_state), and what attention adds for each position.

    Parameters
    ----------
    mel : torch.Tensor
        The window's first frames, shape (batch, 80, at least ``thinned_frames(n_frames)``).
    n_frames : int
        Frames of the longest clip; later ones hold silence.
    group : int
        Positions of silence of which one is computed.
    """
    encoder = model.encoder
    x = F.gelu(encoder.conv1(mel[:, :, : thinned_frames(n_frames)]))
    x = F.gelu(encoder.conv2(x)).permute(0, 2, 1)
    n_positions = len(encoder.positional_embedding)
    if x.shape[1] < n_positions:
        n_whole = n_frames // _STRIDE + MARGIN
        chosen, counts = thin_positions(n_positions, n_whole, group)
        # Silence sounds the same wherever it is, so that the convolutions need not hear all of it.
        silence = x[:, n_whole : n_whole + 1].expand(-1, len(chosen) - n_whole, -1)
        x = torch.cat([x[:, :n_whole], silence], dim=1)
    else:
        chosen, counts = thin_positions(n_positions, n_positions, group)
    x = (x + encoder.positional_embedding[chosen]).to(x.dtype)
    bias = torch.tensor([math.log(n) for n in counts], device=x.device)
    with biased_attention(model):
        for block in encoder.blocks:
            x = block(x, mask=bias)
    return encoder.ln_post(x), bias


def thin_positions(n_positions: int, n_whole: int, group: int) -> tuple[list[int], list[int]]:
    """Return the positions that are computed, and how many each of them stands for."""
    n_whole = min(n_whole, n_positions)
    alike = [range(start, min(start + group, n_positions)) for start in range(n_whole, n_positions, group)]
    chosen = [*range(n_whole), *(positions[len(positions) // 2] for positions in alike)]
    return chosen, [1] * n_whole + [len(positions) for positions in alike]


def biased_attention(model: Whisper) -> contextlib.AbstractContextManager[None]:
    """Let attention to audio take a bias of the keys, shape (n_keys,), for what Whisper calls its mask.

    That of the encoder and cross-attention. openai-whisper's own take a mask for the sign that later positions are
    hidden. Attentions that are replaced already are left alone.
    """
    to_audio = [*(block.attn for block in model.encoder.blocks), *(block.cross_attn for block in model.decoder.blocks)]
    own = [attention for attention in to_audio if "qkv_attention" not in vars(attention)]
    return attention_replaced(own, F.scaled_dot_product_attention)


def attention_replaced(
    attentions: Sequence[MultiHeadAttention], mix: Callable[..., torch.Tensor]
) -> contextlib.AbstractContextManager[None]:
    """Let attentions mix values by ``mix(q, k, v, bias)``, heads apart; what Whisper calls their mask is the bias."""
    return methods_replaced(attentions, "qkv_attention", lambda a: functools.partial(_attend, mix, a.n_head))


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

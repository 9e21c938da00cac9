"""``dynamic``: the 30 s window at a fraction of its cost, since few positions stand for the silence after a clip.

Whisper hears a clip of 4 s followed by 26 s of silence, and most of its encoder's work goes into that
silence. Leaving it out changes what an untouched model writes, and what a model learns. Here the positions
beyond the clip are thinned instead: of each group one stays, with its own positional embedding, and
stands for its group in every attention, as if its key and value were there once for each (the logarithm of the
count is added to its logits). What is computed is close to the full window's and not equal to it, so that this is
no replacement where texts must be openai-whisper's: CER and texts beside the full window's are measured
by ``benchmarks/decode.py``, what a model learns so by ``benchmarks/train.py --quality``.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from whisper.audio import N_FRAMES
from whisper.model import MultiHeadAttention, Whisper

from kmed_bench.asr.cache import split_heads
from kmed_bench.asr.replaced import methods_replaced

# The second convolution halves the frames and, with the first, sees two frames on either side.
_STRIDE, _REACH = 2, 2


@dataclasses.dataclass(frozen=True)
class Thinning:
    """How much of the silence after a clip is computed.

    Attributes
    ----------
    margin : int
        Positions of 20 ms after the clip that are computed, since its sound still echoes there.
    groups : int
        Positions, at most, that stand for all others.
    """

    margin: int
    groups: int

    def frames(self, n_frames: int) -> int:
        """Return how many frames of the window are read for a clip of n_frames: the rest is silence like theirs."""
        return min(N_FRAMES, _STRIDE * (n_frames // _STRIDE + self.margin) + 2 * _REACH)

    def positions(self, n_frames: int) -> tuple[list[int], list[int]]:
        """Return the positions that are computed for a clip of n_frames, and how many each of them stands for."""
        n_positions = N_FRAMES // _STRIDE
        n_whole = n_positions if self.frames(n_frames) == N_FRAMES else n_frames // _STRIDE + self.margin
        size = max(1, math.ceil((n_positions - n_whole) / self.groups))
        alike = [range(start, min(start + size, n_positions)) for start in range(n_whole, n_positions, size)]
        chosen = [*range(n_whole), *(positions[len(positions) // 2] for positions in alike)]
        return chosen, [1] * n_whole + [len(positions) for positions in alike]

    def bias(self, n_frames: int) -> torch.Tensor:
        """Return what attention adds to the logits of each computed position, shape (n_positions,)."""
        return torch.tensor(self.positions(n_frames)[1]).log()


TRAINING = Thinning(margin=16, groups=16)
"""What is learned is no worse than with more of the silence (docs/decisions/010-training-context.md). Beside a clip of
whole buckets, 32 positions keep shapes few and rows of the matrix unit's tiles full."""
DECODING = Thinning(margin=50, groups=144)
"""Texts shall stay: of 303 clips, 258 read as in the full window, and 201 as training has it."""


def encode_thinned(
    model: Whisper, mel: torch.Tensor, n_frames: int, thinning: Thinning
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
    if x.shape[1] < N_FRAMES // _STRIDE:
        # Silence sounds the same wherever it is, so that the convolutions need not hear all of it.
        n_whole = n_frames // _STRIDE + thinning.margin
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

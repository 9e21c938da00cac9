"""The 30 s window at a fraction of its cost: of the silence after a clip, one position in several is computed.

Whisper hears a clip of 4 s followed by 26 s of silence, and most of its encoder's work goes into that
silence. Leaving it out changes what an untouched model writes. Here the positions beyond the clip are
thinned instead: of each group of ``GROUP`` one stays, with its own positional embedding, and stands for its
group in every attention, as if its key and value were there ``GROUP`` times (the logarithm of the count is
added to its logits). What is computed is close to the full window's and not equal to it, so that this is
no replacement where texts must be openai-whisper's: CER and texts beside the full window's are measured
by ``benchmarks/decode.py``.
"""

import math

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from whisper.model import Whisper

from kmed_bench.asr.cache import attend, split_heads

MARGIN = 50  # positions of 20 ms kept whole after the clip, where its sound still echoes
GROUP = 8


def encode_thinned(model: Whisper, mel: torch.Tensor, n_frames: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return encoder output, shape (batch, n_positions, n_state), and what attention adds for each position.

    Parameters
    ----------
    mel : torch.Tensor
        The full window, shape (batch, 80, 3000).
    n_frames : int
        Frames of the longest clip; later ones hold silence.
    """
    encoder = model.encoder
    x = F.gelu(encoder.conv1(mel))
    x = F.gelu(encoder.conv2(x)).permute(0, 2, 1)
    chosen, counts = thin_positions(x.shape[1], n_frames // 2 + MARGIN)
    x = (x[:, chosen] + encoder.positional_embedding[chosen]).to(x.dtype)
    bias = torch.tensor([math.log(n) for n in counts], device=x.device)
    for block in encoder.blocks:
        normed, attention = block.attn_ln(x), block.attn
        keys, values = (split_heads(linear(normed), attention.n_head) for linear in (attention.key, attention.value))
        x = x + attend(attention, normed, keys, values, bias=bias)
        x = x + block.mlp(block.mlp_ln(x))
    return encoder.ln_post(x), bias


def thin_positions(n_positions: int, n_whole: int) -> tuple[list[int], list[int]]:
    """Return the positions that are computed, and how many each of them stands for."""
    n_whole = min(n_whole, n_positions)
    groups = [range(start, min(start + GROUP, n_positions)) for start in range(n_whole, n_positions, GROUP)]
    chosen = [*range(n_whole), *(group[len(group) // 2] for group in groups)]
    return chosen, [1] * n_whole + [len(group) for group in groups]

"""The text decoder one step at a time, with keys and values kept from step to step.

openai-whisper re-concatenates its cache at every token and keeps finished clips in the batch. Here
the cross-attention keys are made once, hypotheses of a clip share them, the cache is written in
place, and a clip that ends gives its slot to the last one, which is one copy whatever the batch.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from whisper.model import Whisper

from kmed_bench.asr.model.whisper import attend, split_heads

# The likeliest tokens at a step. Rounding to bf16 moves a logit by some hundredths; those below 32nd place stay there.
_RECOMPUTED = 32


class DecoderCache:
    """Keys and values of a batch: cross-attention's made once, self-attention's filled in place.

    Parameters
    ----------
    audio_features : torch.Tensor
        Encoder output, shape (n_clips, n_audio_ctx, n_state). Its type is that of cross-attention's keys and values, by
        far the largest that a step reads.
    n_tokens : int
        Most tokens that a hypothesis will have, prompt included.
    bias : torch.Tensor, optional
        What cross-attention adds to the logits of each position, shape (n_audio_ctx,).

    Attributes
    ----------
    width : int
        Hypotheses of a clip. Rows are clip by clip: row ``clip * width + hypothesis``.
    length : int
        Tokens seen so far.
    """

    def __init__(
        self, model: Whisper, audio_features: torch.Tensor, n_tokens: int, bias: torch.Tensor | None = None
    ) -> None:
        self.width, self.length, self.bias = 1, 0, bias
        # A CPU computes a step's few rows faster in fp32: it waits for the weights, and these are fp32.
        self.dtype = torch.float32 if audio_features.device.type == "cpu" else audio_features.dtype
        # Where the encoder is in bf16, so is a first pass over the vocabulary (``_output_logits``).
        narrow = audio_features.dtype != self.dtype
        self.output = model.decoder.token_embedding.weight.to(audio_features.dtype) if narrow else None
        self.cross: list[list[torch.Tensor]] = []
        self.own: list[list[torch.Tensor]] = []
        n_tokens = min(n_tokens, model.dims.n_text_ctx)
        for block in model.decoder.blocks:
            attention = block.cross_attn
            # Each head's behind one another, as every step reads them.
            pair = [
                split_heads(linear(audio_features), attention.n_head).contiguous()
                for linear in (attention.key, attention.value)
            ]
            self.cross.append(pair)
            shape = (len(audio_features), attention.n_head, n_tokens, pair[0].shape[-1])
            self.own.append([pair[0].new_empty(shape, dtype=self.dtype) for _ in pair])

    def widen(self, width: int) -> None:
        """Copy the one hypothesis of each clip, so that there are width of them."""
        self.own = [[store.repeat_interleave(width, dim=0) for store in pair] for pair in self.own]
        self.width = width

    def reorder(self, rows: Sequence[int]) -> None:
        """Let each row go on from what the given row has seen; both are of the same clip."""
        if list(rows) == list(range(len(rows))):
            return
        for pair in self.own:
            for store in pair:
                store[:, :, : self.length] = store[:, :, : self.length][list(rows)]

    def keep(self, order: Sequence[int]) -> None:
        """Keep the clips that ``fill_gaps`` names, in its order."""
        for pairs, n in ((self.cross, 1), (self.own, self.width)):
            for pair in pairs:
                for i, store in enumerate(pair):
                    for new, old in enumerate(order):
                        if new != old:
                            store[new * n : (new + 1) * n] = store[old * n : (old + 1) * n]
                    pair[i] = store[: len(order) * n]


def fill_gaps(alive: Sequence[bool]) -> list[int]:
    """Return the old slot of each new one: those that live stay, gaps are filled from the end."""
    n_left = sum(alive)
    movers = (slot for slot in range(n_left, len(alive)) if alive[slot])
    return [slot if alive[slot] else next(movers) for slot in range(n_left)]


def next_logits(model: Whisper, tokens: torch.Tensor, cache: DecoderCache) -> torch.Tensor:
    """Run the decoder on new tokens, shape (rows, n_new); return the last one's logits (rows, n_vocab), fp32."""
    decoder, start = model.decoder, cache.length
    end = start + tokens.shape[1]
    x = decoder.token_embedding(tokens) + decoder.positional_embedding[start:end]
    x = x.to(cache.dtype)
    for block, cross, own in zip(decoder.blocks, cache.cross, cache.own, strict=True):
        normed = block.attn_ln(x)
        for store, linear in zip(own, (block.attn.key, block.attn.value), strict=True):
            store[:, :, start:end] = split_heads(linear(normed), block.attn.n_head)
        # Only the prompt has several new tokens, and it stands at the start.
        x = x + attend(block.attn, normed, own[0][:, :, :end], own[1][:, :, :end], causal=tokens.shape[1] > 1)
        # A clip's hypotheses ask the same keys, as if they were one longer text.
        asking = block.cross_attn_ln(x).unflatten(0, (-1, cache.width)).flatten(1, 2)
        x = x + attend(block.cross_attn, asking, cross[0], cross[1], bias=cache.bias).reshape(x.shape)
        x = x + block.mlp(block.mlp_ln(x))
    cache.length = end
    return _output_logits(decoder.ln(x[:, -1]), decoder.token_embedding.weight, cache.output)


def _output_logits(states: torch.Tensor, weight: torch.Tensor, narrow: torch.Tensor | None) -> torch.Tensor:
    """Return the logits of all tokens, shape (rows, n_vocab), fp32.

    The vocabulary's weight is most of what a CPU reads at a token. With a copy of it in bf16 (``narrow``) the logits
    are bf16's, but for the likeliest, which are computed again in fp32, so that no rounding decides between them.
    """
    if narrow is None:
        return F.linear(states, weight).float()  # autocast casts the weight once a batch, ``to`` at every token
    logits = F.linear(states.to(narrow.dtype), narrow).float()
    likely = logits.topk(_RECOMPUTED, dim=-1).indices
    exact = torch.einsum("rcs,rs->rc", F.embedding(likely, weight), states)
    return logits.scatter_(-1, likely, exact)

"""How Whisper's blocks are computed: exchangeable kernels that give the same values up to rounding."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch.utils.checkpoint import checkpoint
from whisper.model import LayerNorm, MultiHeadAttention


def torch_attention(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, bias: torch.Tensor | None, causal: bool
) -> torch.Tensor:
    """Return softmax(queries keysᵀ / √d + bias) values, by torch's fastest kernel for the device."""
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias, is_causal=causal)


def torch_layer_norm(norm: LayerNorm, x: torch.Tensor) -> torch.Tensor:
    """Return the normalized input, computed in fp32, in the input's type."""
    return norm(x)


def project(attention: MultiHeadAttention, x: torch.Tensor, *names: str) -> list[torch.Tensor]:
    """Return the named projections of x, heads apart: each of shape (batch, n_head, length, n_state / n_head)."""
    return [split_heads(getattr(attention, name)(x), attention.n_head) for name in names]


def split_heads(x: torch.Tensor, n_head: int) -> torch.Tensor:
    """Return (batch, length, n_state) as (batch, n_head, length, n_state / n_head)."""
    return x.unflatten(-1, (n_head, -1)).transpose(1, 2)


@dataclasses.dataclass(frozen=True)
class Execution:
    """How blocks are computed: every choice gives the same values up to rounding.

    Attributes
    ----------
    attention : callable
        ``attention(queries, keys, values, bias, causal)``. Queries and the result have shape (batch, n_head, n_queries,
        d), keys and values (batch, n_head, n_keys, d), the bias, if any, (1, n_keys) in the queries' type.
    layer_norm : callable
        ``layer_norm(module, x)``.
    recompute : bool
        Keep only each block's input for backward and compute the rest again (Chen et al. 2016): less memory, about a
        third more time, the same gradients.
    project : callable
        ``project(attention, x, *names)``, as the function of that name.
    project_audio : callable, optional
        ``project_audio(blocks, features)`` returns the keys and values of the encoder's output for all decoder blocks
        at once; None: each block computes its own.
    compiled : callable, optional
        Returns a faster version of a function of fixed shapes; only for the full window.
    """

    attention: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None, bool], torch.Tensor] = (
        torch_attention
    )
    layer_norm: Callable[[LayerNorm, torch.Tensor], torch.Tensor] = torch_layer_norm
    recompute: bool = False
    project: Callable[..., list[torch.Tensor]] = project
    project_audio: Callable[..., list[list[torch.Tensor]]] | None = None
    compiled: Callable[[Callable[..., Any]], Callable[..., Any]] | None = None

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function compiled, or as it is."""
        return function if self.compiled is None else self.compiled(function)

    def run(self, block: Callable[..., torch.Tensor], *args: Any) -> torch.Tensor:
        """Return ``block(*args)``, its activations kept for backward or not."""
        block = self.compile(block)
        if not (self.recompute and torch.is_grad_enabled()):
            return block(*args)
        # No block draws random numbers, so their state need not be kept and restored.
        return checkpoint(block, *args, use_reentrant=False, preserve_rng_state=False)


STANDARD = Execution()

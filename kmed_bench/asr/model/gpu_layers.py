"""Layers for a GPU: fewer and larger kernels than torch's own layers launch."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch.nn.attention import SDPBackend, sdpa_kernel
from whisper.model import MultiHeadAttention, ResidualAttentionBlock

from kmed_bench.asr.model.execution import Execution, project, split_heads, torch_attention
from kmed_bench.asr.model.windows import N_POSITIONS
from kmed_bench.core.batching import chunks

_ANY = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


def fused_projections(attention: MultiHeadAttention, x: torch.Tensor, *names: str) -> list[torch.Tensor]:
    """Return the named projections of x as one matrix product, heads apart."""
    layers = [getattr(attention, name) for name in names]
    if len(layers) == 1 or any(map(_is_adapted, layers)):
        return project(attention, x, *names)
    return [split_heads(part, attention.n_head) for part in _product(layers, x)]


def project_audio(blocks: Sequence[ResidualAttentionBlock], features: torch.Tensor) -> list[list[torch.Tensor]]:
    """Return cross-attention's keys and values for each decoder block, from one matrix product for all of them."""
    attentions = [block.cross_attn for block in blocks]
    layers = [layer for attention in attentions for layer in (attention.key, attention.value)]
    if any(map(_is_adapted, layers)):
        return [project(attention, features, "key", "value") for attention in attentions]
    return list(chunks([split_heads(part, attentions[0].n_head) for part in _product(layers, features)], 2))


def _is_adapted(layer: torch.nn.Module) -> bool:
    return hasattr(layer, "base_layer")  # peft's: its weight is not all that it computes


def _product(layers: Sequence[torch.nn.Linear], x: torch.Tensor) -> Sequence[torch.Tensor]:
    weight = torch.cat([layer.weight for layer in layers])
    biases = [torch.zeros_like(layer.weight[:, 0]) if layer.bias is None else layer.bias for layer in layers]
    return F.linear(x, weight.to(x.dtype), torch.cat(biases).to(x.dtype)).chunk(len(layers), dim=-1)


def attention(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, bias: torch.Tensor | None, causal: bool
) -> torch.Tensor:
    """Return what ``torch_attention`` does; in the encoder's 30 s window by cuDNN, for 16 bits.

    cuDNN's kernels are the fastest there, but cuDNN spends more time planning a new shape than a step takes. The 30 s
    window always has the same shape.
    """
    if bias is None and queries.shape[2] == keys.shape[2] == N_POSITIONS:
        with sdpa_kernel(_ANY):
            return torch_attention(queries, keys, values, None, causal)
    return torch_attention(queries, keys, values, bias, causal)


GPU = Execution(attention, project=fused_projections, project_audio=project_audio)

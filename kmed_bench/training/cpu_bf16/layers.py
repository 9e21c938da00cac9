"""bf16 on a CPU that multiplies it natively: attention and layer norm that keep up with the matrix products.

With AMX the matrix products of a step take about a third of its time, and openai-whisper's other layers most of the
rest: each layer norm copies its input to fp32 and its output back, and the backward pass of torch's attention for CPUs
takes longer than all products of the layer. The functions here compute the same with other kernels;
docs/decisions/011-native-bf16.md has the measurements.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from whisper.model import LayerNorm

from kmed_bench.asr.model.execution import torch_attention

_ROWS = 1024
"""Positions of which fp32 copies are held at a time; these stay in the processor's cache."""

_HEADS, _SCORES = 8, 2**20
"""Heads whose scores are computed at a time, in reused buffers: eight (36 MB in 30 s, 1.4 MB in 6 s), or as many as
have a million scores together, so the decoder's few positions take one call. All groups have the same size, since each
shape is compiled."""


def attention(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, bias: torch.Tensor | None, causal: bool
) -> torch.Tensor:
    """Return softmax(queries keysᵀ / √d + bias) values, as ``Execution.attention`` requires."""
    if causal:
        n = queries.shape[2]
        bias = queries.new_full((n, n), -torch.inf).triu_(1)
    if not torch.is_grad_enabled():  # torch's kernel is the faster one without a backward pass
        return torch_attention(queries, keys, values, bias, False)
    return Attention.apply(queries, keys, values, bias)


def layer_norm(norm: LayerNorm, x: torch.Tensor) -> torch.Tensor:
    """Return the normalized input in its own type, as ``Execution.layer_norm`` requires."""
    return Normalization.apply(x, norm.weight, norm.bias, norm.eps)


class Normalization(torch.autograd.Function):
    """Layer norm of bf16 input, shape (..., n_state), in fp32 arithmetic without an fp32 copy of the whole input.

    The result has the input's type, as in openai-whisper. torch's own backward for bf16 input and fp32 weights sums the
    weights' gradients in bf16, which is wrong by a tenth over the rows of a batch
    (tests/training/test_cpu_bf16_layers.py).
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> torch.Tensor:
        """Return the normalized input."""
        normalized, mean, scale = torch.native_layer_norm(x, weight.shape, weight, bias, eps)
        ctx.save_for_backward(x, weight, bias, mean, scale)
        return normalized

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None]:
        """Return the gradients of input, weight and bias."""
        x, weight, bias, mean, scale = ctx.saved_tensors
        shape = x.shape
        x, grad, mean, scale = (t.reshape(-1, t.shape[-1]) for t in (x, grad, mean, scale))
        grad_x, grad_weight, grad_bias = torch.empty_like(x), torch.zeros_like(weight), torch.zeros_like(bias)
        for start in range(0, len(x), _ROWS):
            rows = slice(start, start + _ROWS)
            gradients = torch.ops.aten.native_layer_norm_backward(
                grad[rows].float(), x[rows].float(), weight.shape, mean[rows], scale[rows], weight, bias, [True] * 3
            )
            grad_x[rows] = gradients[0]
            grad_weight += gradients[1]
            grad_bias += gradients[2]
        return grad_x.view(shape), grad_weight, grad_bias, None


class Attention(torch.autograd.Function):
    """softmax(q kᵀ / √d + bias) v as batched matrix products, the attention weights kept for backward.

    q and the result have shape (batch, n_head, n_queries, d), k and v (batch, n_head, n_keys, d), the bias, if any,
    (n_queries or 1, n_keys). The weights are batch × n_head × n_queries × n_keys numbers of q's type: in bf16, 144 MB
    for each layer of the encoder and four clips of base in 30 s.
    """

    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the values mixed by attention."""
        shape = q.shape
        q, k, v = (x.flatten(0, 1) for x in (q, k, v))
        n, n_queries, d = q.shape
        weights, mixed = q.new_empty(n, n_queries, k.shape[1]), torch.empty_like(q)
        scores = torch.empty_like(weights[: _group_size(weights)])
        scale = 1 / math.sqrt(d)
        for heads in _groups(weights):
            added, beta = (scores, 0) if bias is None else (bias, 1)
            torch.baddbmm(added, q[heads], k[heads].transpose(1, 2), beta=beta, alpha=scale, out=scores)
            torch.softmax(scores, -1, out=weights[heads])
            torch.bmm(weights[heads], v[heads], out=mixed[heads])
        ctx.save_for_backward(q, k, v, weights)
        return mixed.view(shape)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None]:
        """Return the gradients of q, k and v."""
        q, k, v, weights = ctx.saved_tensors
        shapes, grad = (grad.shape, (*grad.shape[:2], *k.shape[1:])), grad.flatten(0, 1)
        grad_q, grad_k, grad_v = (torch.empty_like(x) for x in (q, k, v))
        grad_weights = torch.empty_like(weights[: _group_size(weights)])
        grad_scores = torch.empty_like(grad_weights)
        for heads in _groups(weights):
            torch.bmm(weights[heads].transpose(1, 2), grad[heads], out=grad_v[heads])
            torch.bmm(grad[heads], v[heads].transpose(1, 2), out=grad_weights)
            # The backward that autograd itself calls for a softmax; a reused buffer saves the step's largest tensors.
            torch.ops.aten._softmax_backward_data.out(
                grad_weights, weights[heads], -1, weights.dtype, grad_input=grad_scores
            )
            torch.bmm(grad_scores, k[heads], out=grad_q[heads])
            torch.bmm(grad_scores.transpose(1, 2), q[heads], out=grad_k[heads])
        scale = 1 / math.sqrt(q.shape[-1])
        return grad_q.mul_(scale).view(shapes[0]), grad_k.mul_(scale).view(shapes[1]), grad_v.view(shapes[1]), None


def _group_size(weights: torch.Tensor) -> int:
    n, limit = len(weights), max(_HEADS, _SCORES // weights[0].numel())
    return max(size for size in range(1, min(n, limit) + 1) if n % size == 0)


def _groups(weights: torch.Tensor) -> Iterator[slice]:
    n, size = len(weights), _group_size(weights)
    for start in range(0, n, size):
        yield slice(start, start + size)

"""bf16 on a CPU that multiplies it natively: the layers between the matrix products, made as fast as these.

With AMX the products of a step take about a third of it, and openai-whisper's own layers most of the rest: each layer
norm copies its input to fp32 and its output back, and torch's attention for the CPU takes longer in backward than
all products of the layer. Both are replaced, for the time of a step, by the same arithmetic in other kernels;
docs/decisions/011-native-bf16.md has the measurements. Whatever else trains (fp32, fp16, a GPU) is left as it is.
"""

import contextlib
import functools
import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from whisper.model import LayerNorm, MultiHeadAttention, Whisper

from kmed_bench.asr.model.device import Precision, bf16_on_cpu
from kmed_bench.asr.model.patching import patched_methods
from kmed_bench.asr.model.whisper import biased_attention, patched_attention

_ROWS = 1024
"""Positions of which fp32 copies are held at a time, which stay in the processor's cache."""

_HEADS, _SCORES = 8, 2**20
"""Heads of which scores are computed at a time, in buffers that are used again: eight (36 MB in 30 s, 1.4 MB in 6 s),
or as many as have a million scores together, so that the decoder's few positions take one call; groups are of one
size, since each shape is compiled."""


@contextlib.contextmanager
def training_layers(model: Whisper, precision: Precision) -> Iterator[None]:
    """Let a model train and validate: in faster layers where there are any (bf16 on a CPU), and in any window."""
    if not bf16_on_cpu(precision, model.device):
        with biased_attention(model):  # here, since backward may compute a block's forward again
            yield
        return
    norms = [module for module in model.modules() if isinstance(module, LayerNorm)]
    attentions = [module for module in model.modules() if isinstance(module, MultiHeadAttention)]
    with (
        patched_methods(norms, "forward", lambda norm: functools.partial(_normalise, norm)),
        patched_attention(attentions, _mix),
    ):
        yield


def _normalise(norm: LayerNorm, x: torch.Tensor) -> torch.Tensor:
    normalised: torch.Tensor = Normalisation.apply(x, norm.weight, norm.bias, norm.eps)
    return normalised


def _mix(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    # Without a backward torch's kernel is the faster one.
    mixed: torch.Tensor = (Attention.apply if torch.is_grad_enabled() else F.scaled_dot_product_attention)(
        q, k, v, bias
    )
    return mixed


class Normalisation(torch.autograd.Function):
    """Layer norm of bf16, shape (..., n_state), in fp32 arithmetic, without fp32 copies of the whole.

    The result is in the input's type, as in openai-whisper. torch's own backward for bf16 with fp32 weights would sum
    the weights' gradients in bf16, which is wrong by a tenth over the rows of a batch (tests/test_native.py).
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> torch.Tensor:
        """Return the normalised input."""
        normalised, mean, scale = torch.native_layer_norm(x, weight.shape, weight, bias, eps)
        ctx.save_for_backward(x, weight, bias, mean, scale)
        return normalised

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None]:
        """Return the gradients of input, weight and bias."""
        x, weight, bias, mean, scale = ctx.saved_tensors
        shape = x.shape
        x, grad, mean, scale = (t.reshape(-1, t.shape[-1]) for t in (x, grad, mean, scale))
        of_x, of_weight, of_bias = torch.empty_like(x), torch.zeros_like(weight), torch.zeros_like(bias)
        for start in range(0, len(x), _ROWS):
            rows = slice(start, start + _ROWS)
            found = torch.ops.aten.native_layer_norm_backward(
                grad[rows].float(), x[rows].float(), weight.shape, mean[rows], scale[rows], weight, bias, [True] * 3
            )
            of_x[rows] = found[0]
            of_weight += found[1]
            of_bias += found[2]
        return of_x.view(shape), of_weight, of_bias, None


class Attention(torch.autograd.Function):
    """softmax(q kᵀ / √d + bias) v over all positions, as batched products whose weights are kept for backward.

    q and the result have shape (batch, n_head, n_queries, d), k and v (batch, n_head, n_keys, d), the bias, if any,
    (n_queries or 1, n_keys). What is kept beside them are the attention weights, batch × n_head × n_queries × n_keys
    numbers in their type: in bf16, 144 MB a layer of the encoder for four clips of base in 30 s.
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
        scores = torch.empty_like(weights[: _at_once(weights)])
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
        of_q, of_k, of_v = (torch.empty_like(x) for x in (q, k, v))
        of_weights = torch.empty_like(weights[: _at_once(weights)])
        of_scores = torch.empty_like(of_weights)
        for heads in _groups(weights):
            torch.bmm(weights[heads].transpose(1, 2), grad[heads], out=of_v[heads])
            torch.bmm(grad[heads], v[heads].transpose(1, 2), out=of_weights)
            # What autograd itself calls for a softmax; in-place, it spares the largest tensors of the step.
            torch.ops.aten._softmax_backward_data.out(
                of_weights, weights[heads], -1, weights.dtype, grad_input=of_scores
            )
            torch.bmm(of_scores, k[heads], out=of_q[heads])
            torch.bmm(of_scores.transpose(1, 2), q[heads], out=of_k[heads])
        scale = 1 / math.sqrt(q.shape[-1])
        return of_q.mul_(scale).view(shapes[0]), of_k.mul_(scale).view(shapes[1]), of_v.view(shapes[1]), None


def _at_once(weights: torch.Tensor) -> int:
    n, most = len(weights), max(_HEADS, _SCORES // weights[0].numel())
    return max(size for size in range(1, min(n, most) + 1) if n % size == 0)


def _groups(weights: torch.Tensor) -> Iterator[slice]:
    n, size = len(weights), _at_once(weights)
    for start in range(0, n, size):
        yield slice(start, start + size)

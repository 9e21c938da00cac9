"""The output layer and its cross-entropy as one function, for bf16 on a CPU, with the vocabulary as rows.

Whisper's output layer has a third of base's weights, and a training step on short clips spent a fifth of its time
there. A matrix product whose larger factor comes first does not rearrange that factor, which halves its time; and fp32
logits are turned into their gradient in place (docs/decisions/011-native-bf16.md has the measurements).
"""

from typing import Any

import torch

from kmed_bench.core.batching import round_up
from kmed_bench.training.batches import IGNORED

_PART = 512  # tokens searched for the most likely one, once their maximum is known to be the largest


def output_loss(rows: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what ``training.loss.output_loss`` does."""
    loss, best = OutputLoss.apply(rows, weight, labels)
    return loss, best


class OutputLoss(torch.autograd.Function):
    """Cross-entropy of states under an output layer of fp32 weights, in bf16, and the most likely tokens.

    The factors of products and the logits are rounded to bf16 and the rest is fp32, as under autocast. The weights in
    bf16 and an fp32 number for each row and token of the vocabulary are kept for backward.
    """

    @staticmethod
    def forward(
        ctx: Any, rows: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the cross-entropy summed over the rows (nats), and the most likely token of each, shape (n_rows,).

        Parameters
        ----------
        rows : torch.Tensor
            The decoder's last states, shape (n_rows, n_state); fp32 where its input is stored encoder output.
        weight : torch.Tensor
            The token embedding, fp32, shape (n_vocab, n_state).
        labels : torch.Tensor
            Shape (n_rows,); rows labelled ``IGNORED`` have no loss.
        """
        ctx.dtype, rows, copied = rows.dtype, rows.bfloat16(), weight.bfloat16()
        logits = torch.empty(round_up(len(weight), _PART), len(rows))
        logits[: len(weight)] = copied @ rows.t()
        logits[len(weight) :] = -torch.inf  # padding
        largest, best = _most_likely(logits.view(-1, _PART, len(rows)))
        learned = labels != IGNORED
        picked = torch.where(learned, labels, 0), torch.arange(len(rows))
        label_logits = logits[picked]
        sums = logits.sub_(largest).exp_().sum(0)
        loss = torch.where(learned, sums.log() + largest - label_logits, 0.0).sum()
        # Divided by the sums this is the gradient: each token's probability, minus one for the label.
        logits[picked] -= sums
        ctx.save_for_backward(rows, copied, logits[: len(weight)], learned / sums)
        ctx.mark_non_differentiable(best)
        return loss, best

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor, _: None) -> tuple[torch.Tensor, torch.Tensor | None, None]:
        """Return the gradients of rows and weight."""
        rows, copied, unscaled, scale = ctx.saved_tensors
        grad_logits = torch.mul(unscaled, scale * grad, out=torch.empty_like(unscaled, dtype=rows.dtype))
        grad_rows = (grad_logits.t() @ copied).to(ctx.dtype)
        return grad_rows, (grad_logits @ rows).float() if ctx.needs_input_grad[1] else None, None


def _most_likely(parts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each row's largest logit and the first token that has it, from logits of shape (n_parts, size, n_rows).

    torch's argmax over all of them takes three times as long.
    """
    largest, part = parts.amax(1).max(0)
    within = parts[part, :, torch.arange(parts.shape[2])].argmax(-1)
    return largest, part * parts.shape[1] + within

"""The output layer and its cross-entropy in one, for bf16 on a CPU, with the vocabulary as rows.

Whisper's output layer holds a third of base's weights, and a training step of short clips spent a fifth of its time
there. A product whose larger factor is the first needs no rearranging of it, which is half of its time; and logits in
fp32 are turned into their gradient where they are (docs/decisions/011-native-bf16.md has the measurements).
"""

from typing import Any

import torch

from kmed_bench.asr.model.windows import round_up
from kmed_bench.training.batches import IGNORED

_SEARCHED = 512  # tokens among which the likeliest is looked for, once their maximum is known to be the largest


class OutputLoss(torch.autograd.Function):
    """Cross-entropy of states under an output layer of fp32 weights, in bf16, and the likeliest tokens.

    The factors of products and the logits are rounded to bf16 and the rest is fp32, as under autocast. Kept for
    backward are the weights in bf16, and a number in fp32 for each row and token of the vocabulary.
    """

    @staticmethod
    def forward(
        ctx: Any, rows: torch.Tensor, weight: torch.Tensor, wanted: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the cross-entropy summed over the rows (nats), and the most likely token of each, shape (n_rows,).

        Parameters
        ----------
        rows : torch.Tensor
            The decoder's last states, shape (n_rows, n_state), in fp32 where its input is stored encoder output.
        weight : torch.Tensor
            The token embedding, fp32, shape (n_vocab, n_state).
        wanted : torch.Tensor
            Shape (n_rows,); rows that want ``IGNORED`` have no loss.
        """
        ctx.dtype, rows, copied = rows.dtype, rows.bfloat16(), weight.bfloat16()
        logits = torch.empty(round_up(len(weight), _SEARCHED), len(rows))
        logits[: len(weight)] = copied @ rows.t()
        logits[len(weight) :] = -torch.inf  # of no token
        largest, best = _likeliest(logits.view(-1, _SEARCHED, len(rows)))
        learned = wanted != IGNORED
        picked = torch.where(learned, wanted, 0), torch.arange(len(rows))
        of_wanted = logits[picked]
        sums = logits.sub_(largest).exp_().sum(0)
        loss = (sums.log() + largest - of_wanted)[learned].sum()
        # Over the sums this is the gradient: each token's likelihood, less one where it is the wanted token.
        logits[picked] -= sums
        ctx.save_for_backward(rows, copied, logits[: len(weight)], learned / sums)
        ctx.mark_non_differentiable(best)
        return loss, best

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor, _: None) -> tuple[torch.Tensor, torch.Tensor | None, None]:
        """Return the gradients of rows and weight."""
        rows, copied, unscaled, scale = ctx.saved_tensors
        of_logits = torch.mul(unscaled, scale * grad, out=torch.empty_like(unscaled, dtype=rows.dtype))
        of_rows = (of_logits.t() @ copied).to(ctx.dtype)
        return of_rows, (of_logits @ rows).float() if ctx.needs_input_grad[1] else None, None


def _likeliest(parts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each row's largest logit and the first token that has it, from logits of shape (n_parts, size, n_rows).

    torch's argmax takes three times as long over all of them.
    """
    largest, part = parts.amax(1).max(0)
    within = parts[part, :, torch.arange(parts.shape[2])].argmax(-1)
    return largest, part * parts.shape[1] + within

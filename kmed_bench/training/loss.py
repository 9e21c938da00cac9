"""Whisper with its loss, computing only what training uses."""

import dataclasses
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)

from kmed_bench.asr.model.device import Precision, autocast
from kmed_bench.asr.model.execution import STANDARD
from kmed_bench.asr.model.whisper import EncoderOutput, Whisper
from kmed_bench.asr.model.windows import FULL_WINDOW, Window
from kmed_bench.training import cpu_bf16, cuda
from kmed_bench.training.batches import IGNORED


class LossNetwork(torch.nn.Module):
    """Whisper with its loss as one module, which is what data-parallel training wraps.

    Parameters
    ----------
    recompute : bool
        Whether activations are computed again in backward instead of kept (``Execution.recompute``).
    compiled : bool
        Whether a GPU's layers are compiled, which takes half a minute; only for the full window.
    """

    def __init__(
        self, model: Whisper, precision: Precision, *, recompute: bool = False, compiled: bool = False
    ) -> None:
        super().__init__()
        self.model, self.precision = model, precision
        execution, self._output_loss = STANDARD, output_loss
        if cpu_bf16.applies(precision, model.device):
            execution, self._output_loss = cpu_bf16.EXECUTION, cpu_bf16.output_loss
        elif cuda.applies(precision, model.device):
            execution = cuda.execution(compiled=compiled)
            self._output_loss = execution.compile(cuda.output_loss)
        self._execution = dataclasses.replace(execution, recompute=recompute)

    def forward(
        self,
        audio: torch.Tensor | EncoderOutput,
        inputs: torch.Tensor,
        targets: torch.Tensor,
        learned: torch.Tensor,
        window: Window = FULL_WINDOW,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the cross-entropy summed over the learned tokens (nats), and the most likely token for each of them.

        The most likely tokens have shape (n_rows,), in the order of ``learned``; those of its padding mean nothing. The
        parameters are those of `Batch`. Nothing is read from the device.
        """
        model, execution = self.model, self._execution
        with autocast(self.precision, model.device):
            if not isinstance(audio, EncoderOutput):
                audio = model.encode(audio, window, execution)
            embedded, weight = TiedEmbedding.apply(model.decoder.token_embedding.weight, inputs)
            states = model.decoder_states(embedded, audio, execution)
            # Whisper's output layer has 51,865 rows; it is computed for learned tokens only. The prompt and the padding
            # have no loss, so the mean is over words and end-of-text.
            rows = execution.layer_norm(model.decoder.ln, states.flatten(0, 1).index_select(0, learned))
            loss, best = self._output_loss(rows, weight, targets.flatten().index_select(0, learned))
        return loss, best


def output_loss(rows: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the cross-entropy summed over the rows (nats), and the most likely token of each, shape (n_rows,).

    Parameters
    ----------
    rows : torch.Tensor
        The decoder's last states, shape (n_rows, n_state).
    weight : torch.Tensor
        The token embedding, shape (n_vocab, n_state).
    labels : torch.Tensor
        Shape (n_rows,); rows labelled ``IGNORED`` have no loss.
    """
    logits = F.linear(rows, weight).float()
    loss = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
    return loss, logits.detach().argmax(dim=-1)


class TiedEmbedding(torch.autograd.Function):
    """Whisper's token embedding, whose weight is also the output layer's, with both gradients in one tensor.

    Separately, the gradient of the few embedded tokens would also have the vocabulary's size; allocating, zeroing and
    adding it at every step takes longer than a layer.
    """

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the tokens' embeddings, shape (batch, n_tokens, n_state), and the weight for the output layer."""
        ctx.save_for_backward(tokens)
        return F.embedding(tokens, weight), weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, grad_embedded: torch.Tensor, grad_weight: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Return the weight's gradient; the output layer's is added to in place, since nothing else uses it."""
        (tokens,) = ctx.saved_tensors
        return grad_weight.index_put_((tokens,), grad_embedded, accumulate=True), None

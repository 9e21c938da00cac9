"""Whisper with its loss, computing no more than training uses."""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from whisper.model import Whisper

from kmed_bench.asr.model.device import Precision, autocast, bf16_on_cpu
from kmed_bench.asr.model.whisper import decoder_states, encode, encode_thinned
from kmed_bench.asr.model.windows import TRAINING, round_up
from kmed_bench.training.batches import IGNORED
from kmed_bench.training.cpu_bf16.output_loss import OutputLoss

LEARNED_STEP = 32
"""Learned tokens of a batch are padded to a multiple of this, for the reason that batches are (``asr.batches``)."""


class LossNetwork(torch.nn.Module):
    """Whisper with its loss as one module, which is what data-parallel engines wrap.

    Parameters
    ----------
    encoded : bool
        Whether it is given encoder output instead of log-mel frames.
    """

    def __init__(self, model: Whisper, precision: Precision, *, encoded: bool = False) -> None:
        super().__init__()
        self.model, self.precision, self.encoded = model, precision, encoded

    def forward(
        self, audio: torch.Tensor, inputs: torch.Tensor, targets: torch.Tensor, *, thin_after: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the cross-entropy summed over the learned tokens (nats), and the most likely token of each.

        Parameters
        ----------
        audio : torch.Tensor
            Log-mel frames (batch, 80, n_frames), or encoder output (batch, n_positions, n_state).
        inputs, targets : torch.Tensor
            Shape (batch, n_tokens), as in `Batch`. The most likely tokens have shape (n_learned,), row by row.
        thin_after : int, optional
            Frames after which the window's silence is thinned out, as in `Batch`.
        """
        # The prompt and the padding have no loss, so that the mean is one over words and end-of-text.
        learned = targets != IGNORED
        decoder = self.model.decoder
        with autocast(self.precision, self.model.device):
            features, bias = self._hear(audio, thin_after)
            embedded, weight = TiedEmbedding.apply(decoder.token_embedding.weight, inputs)
            states = decoder_states(self.model, embedded, features, bias)
            # Whisper's output layer has 51,865 rows: it is computed where a token is learned, and nowhere else.
            rows, wanted = states[learned], targets[learned]
            n_learned = len(rows)
            n_more = round_up(n_learned, LEARNED_STEP) - n_learned
            rows = decoder.ln(F.pad(rows, (0, 0, 0, n_more)))
            wanted = F.pad(wanted, (0, n_more), value=IGNORED)
            if bf16_on_cpu(self.precision, self.model.device):
                loss, best = OutputLoss.apply(rows, weight, wanted)
                return loss, best[:n_learned]
            logits = F.linear(rows, weight)
        logits = logits.float()
        loss = F.cross_entropy(logits, wanted, ignore_index=IGNORED, reduction="sum")
        return loss, logits[:n_learned].detach().argmax(dim=-1)

    def _hear(self, audio: torch.Tensor, thin_after: int | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return encoder output and what cross-attention adds for each of its positions."""
        if self.encoded:
            return audio, None if thin_after is None else TRAINING.bias(thin_after).to(audio.device)
        if thin_after is None:
            return encode(self.model, audio), None
        return encode_thinned(self.model, audio, thin_after, TRAINING)


class TiedEmbedding(torch.autograd.Function):
    """Whisper's token embedding, whose weight is also its output layer's: both gradients in one tensor.

    Apart, the few tokens that are embedded would have a gradient of the vocabulary's size too, made, filled with zeros
    and added at every step, which takes longer than a layer.
    """

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the tokens' embeddings, shape (batch, n_tokens, n_state), and the weight for the output layer."""
        ctx.save_for_backward(tokens)
        return F.embedding(tokens, weight), weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, of_embedded: torch.Tensor, of_weight: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Return the weight's gradient; the output layer's is added to in place, since nothing else holds it."""
        (tokens,) = ctx.saved_tensors
        return of_weight.index_put_((tokens,), of_embedded, accumulate=True), None

"""The output layer's loss for training in 16 bits on a GPU."""

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)

from kmed_bench.core.batching import round_up
from kmed_bench.training.batches import IGNORED

# Rows of 16-bit matrices that the matrix unit's kernels read must be whole multiples of 16 bytes; Whisper's vocabulary
# is odd, and torch then takes kernels of an older generation.
_ALIGNED = 64


def output_loss(rows: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what ``training.loss.output_loss`` does."""
    n_vocab = len(weight)
    padded = F.pad(weight.to(rows.dtype), (0, 0, 0, round_up(n_vocab, _ALIGNED) - n_vocab))
    logits = F.linear(rows, padded)[:, :n_vocab].float()
    loss = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
    return loss, logits.detach().argmax(dim=-1)

"""The learned positions of targets that a test made itself."""

import torch

from kmed_bench.training.batches import IGNORED


def learned_positions(targets: torch.Tensor) -> torch.Tensor:
    """Return the positions in the flattened targets that have a loss, without padding."""
    return torch.nonzero(targets.flatten() != IGNORED).flatten()

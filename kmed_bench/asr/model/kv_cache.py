"""The decoder's keys and values, kept from step to step in memory that is allocated once.

openai-whisper re-concatenates its cache at every token and keeps finished clips in the batch. Here a clip's hypotheses
share cross-attention's keys, which are computed once; self-attention's are written in place; and a finished clip's slot
is refilled by the last one, which copies one clip whatever the batch.
"""

import dataclasses
from collections.abc import Sequence

import torch


@dataclasses.dataclass
class LayerCache:
    """Keys and values of one decoder layer, heads apart.

    Attributes
    ----------
    audio : list of torch.Tensor
        Cross-attention's keys and values, shape (n_clips, n_head, n_positions, n_state / n_head).
    text : list of torch.Tensor
        Self-attention's, shape (n_rows, n_head, longest text, n_state / n_head), filled up to the cache's ``length``.
    """

    audio: list[torch.Tensor]
    text: list[torch.Tensor]

    def append(self, new: Sequence[torch.Tensor], start: int | torch.Tensor, end: int) -> list[torch.Tensor]:
        """Write the keys and values of new tokens; return views of all keys and values before ``end``.

        The tokens stand from ``start`` to ``end`` in every row; where ``start`` is a tensor, shape (n_rows,), each row
        has one, at its own position.
        """
        for kept, added in zip(self.text, new, strict=True):
            if isinstance(start, torch.Tensor):
                kept.scatter_(2, start[:, None, None, None].expand_as(added), added)
            else:
                kept[:, :, start:end] = added
        return [kept[:, :, :end] for kept in self.text]


@dataclasses.dataclass
class KVCache:
    """Keys and values of a batch; ``Whisper.start_cache`` or ``start_slots`` makes it.

    Attributes
    ----------
    log_counts : torch.Tensor or None
        As in `EncoderOutput`.
    narrow_output : torch.Tensor or None
        The token embedding in a 16-bit type, where a step first computes all logits in that type.
    width : int
        Hypotheses of a clip, which share its audio. Row ``clip * width + hypothesis`` is a hypothesis's.
    length : int
        Tokens of each text so far, prompt included; 0 for slots, whose texts differ in length.
    """

    layers: list[LayerCache]
    log_counts: torch.Tensor | None
    narrow_output: torch.Tensor | None
    width: int = 1
    length: int = 0

    def widen(self, width: int) -> None:
        """Copy each clip's only hypothesis so there are ``width`` of them."""
        for layer in self.layers:
            layer.text = [kept.repeat_interleave(width, dim=0) for kept in layer.text]
        self.width = width

    def reorder(self, rows: Sequence[int]) -> None:
        """Make each row continue the text of the row in its place in ``rows``, which is of the same clip."""
        if list(rows) == list(range(len(rows))):
            return
        for layer in self.layers:
            for kept in layer.text:
                kept[:, :, : self.length] = kept[:, :, : self.length][list(rows)]

    def keep(self, order: Sequence[int]) -> None:
        """Keep the clips in the slots that `fill_gaps` returns, in its order."""
        for layer in self.layers:
            layer.audio = [_keep(kept, order, 1) for kept in layer.audio]
            layer.text = [_keep(kept, order, self.width) for kept in layer.text]


def _keep(kept: torch.Tensor, order: Sequence[int], n: int) -> torch.Tensor:
    for new, old in enumerate(order):
        if new != old:
            kept[new * n : (new + 1) * n] = kept[old * n : (old + 1) * n]
    return kept[: len(order) * n]


def fill_gaps(alive: Sequence[bool]) -> list[int]:
    """Return the old slot of each new one: live clips stay where they are, and gaps are filled from the end."""
    n_left = sum(alive)
    movers = (slot for slot in range(n_left, len(alive)) if alive[slot])
    return [slot if alive[slot] else next(movers) for slot in range(n_left)]

"""What optimizer steps found, read from the device for several of them at once."""

import dataclasses
from collections.abc import Callable, Sequence

import torch
from whisper.tokenizer import Tokenizer

from kmed_bench.scoring.edits import token_text_cer
from kmed_bench.training.batches import Batch, Example, n_learned

MakeBatch = Callable[[Sequence[Example]], Batch]


@dataclasses.dataclass
class Sums:
    """Sums of an epoch; each rate is one division at the end."""

    loss: float = 0.0
    tokens: int = 0
    errors: int = 0
    characters: int = 0

    def add(self, other: "Sums") -> None:
        """Add another's sums to these."""
        self.loss += other.loss
        self.tokens += other.tokens
        self.errors += other.errors
        self.characters += other.characters


@dataclasses.dataclass(frozen=True)
class TakenStep:
    """A step whose results are on the device.

    Attributes
    ----------
    parts : list
        The examples of each micro-batch; empty if they counted nothing (see ``Stepper.take``).
    values : torch.Tensor
        The loss of each micro-batch, and the gradient's norm.
    best : list of torch.Tensor
        The most likely tokens of each micro-batch.
    """

    examples: Sequence[Example]
    make: MakeBatch
    where: str
    parts: list[list[Example]]
    values: torch.Tensor
    best: list[torch.Tensor]


def read_results(
    taken: Sequence[TakenStep], tokenizer: Tokenizer, check: Callable[[TakenStep, float, float], None]
) -> list[tuple[Sums, float]]:
    """Return each step's sums and its gradient's norm; all numbers are read in one transfer, all tokens in another.

    Parameters
    ----------
    check : callable
        Called with each step, its loss and its gradient's norm, in the order of steps.
    """
    if not taken:
        return []
    results = []
    values = torch.cat([step.values for step in taken]).tolist()
    tokens = [part for step in taken for part in step.best]
    best = torch.cat(tokens).cpu().split([len(part) for part in tokens])
    n_values, n_parts = 0, 0
    for step in taken:
        *losses, norm = values[n_values:][: len(step.values)]
        check(step, sum(losses), norm)
        sums = Sums()
        for part, loss, likely in zip(step.parts, losses, best[n_parts:], strict=False):
            errors, characters = _teacher_forced_errors(part, likely, tokenizer)
            sums.add(Sums(loss, sum(n_learned(e, tokenizer) for e in part), errors, characters))
        results.append((sums, norm))
        n_values, n_parts = n_values + len(step.values), n_parts + len(step.best)
    return results


def _teacher_forced_errors(part: Sequence[Example], best: torch.Tensor, tokenizer: Tokenizer) -> tuple[int, int]:
    counts = [n_learned(example, tokenizer) for example in part]
    texts = [
        tokenizer.decode([token for token in tokens.tolist() if token < tokenizer.eot])
        for tokens in best[: sum(counts)].split(counts)
    ]
    return token_text_cer([example.text for example in part], texts)

"""Training examples and batches: which tokens go in, which are learned, how long a batch is."""

import dataclasses
from collections.abc import Callable, Sequence

import pandas as pd
import torch
from whisper.tokenizer import Tokenizer

from kmed_bench.asr.features.store import FeatureSource
from kmed_bench.asr.model.tokenizer import N_TEXT_CTX
from kmed_bench.asr.model.windows import TRAINING, bucket_frames, chunks, round_up, thinned_after, window_frames
from kmed_bench.config import Context
from kmed_bench.core.errors import KmedError
from kmed_bench.text.marks import Policy, resolve_marks

IGNORED = -100  # cross_entropy's mark for positions without a loss

_TOKENS = 8

# Clips of like length go together within pools of this many batches: dynamic batches hold
# little padding, and the order stays as good as random.
_BATCHES_PER_POOL = 16


@dataclasses.dataclass(frozen=True)
class Example:
    """One utterance ready for training.

    Attributes
    ----------
    tokens : tuple of int
        ``<|startoftranscript|><|ko|><|transcribe|><|notimestamps|>`` text ``<|endoftext|>``.
    text : str
        What the tokens say: the label with its marks resolved.
    n_frames : int
        Frames of 10 ms.
    """

    utterance_id: str
    tokens: tuple[int, ...]
    text: str
    n_frames: int


@dataclasses.dataclass(frozen=True)
class Batch:
    """Tensors of one step.

    Attributes
    ----------
    mel : torch.Tensor
        Shape (batch, 80, n_frames).
    inputs, targets : torch.Tensor
        Shape (batch, n_tokens), n_tokens a multiple of 8; targets are the inputs one step on, ``IGNORED`` on the
        prompt and beyond the end-of-text token, which itself is learned.
    thin_after : int, optional
        Frames after which the window's silence is thinned out (``thin.TRAINING``); None: it is computed as it is.
    """

    examples: tuple[Example, ...]
    mel: torch.Tensor
    inputs: torch.Tensor
    targets: torch.Tensor
    thin_after: int | None = None


def build_examples(
    part: pd.DataFrame, store: FeatureSource, *, policy: Policy, max_len: int, tokenizer: Tokenizer
) -> tuple[list[Example], list[str]]:
    """Return the examples of a part, and the ids whose label has more than max_len tokens.

    Parameters
    ----------
    max_len : int
        Limit on text tokens and the end-of-text token together.

    Raises
    ------
    KmedError
        When no label fits.
    """
    prompt = tokenizer.sot_sequence_including_notimestamps
    limit = min(max_len, N_TEXT_CTX - len(prompt))
    examples, too_long = [], []
    for name, label in zip(part["utterance_id"], part["text"], strict=True):
        text = resolve_marks(label, policy)
        # Whisper writes a space before the first word; without it the first token would be a stranger.
        tokens = tokenizer.encode(" " + text.strip())
        if len(tokens) + 1 > limit:
            too_long.append(name)
        else:
            examples.append(Example(name, (*prompt, *tokens, tokenizer.eot), text, store.n_frames(name)))
    if not examples:
        raise KmedError(f"All {len(part)} labels have more than max_len={max_len} tokens; raise train.max_len.")
    return examples, too_long


def make_batch(
    examples: Sequence[Example],
    frames: FeatureSource,
    context: Context,
    tokenizer: Tokenizer,
    *,
    among: Sequence[Example] | None = None,
) -> Batch:
    """Return the tensors of some examples, in the window that a context gives their batch.

    Parameters
    ----------
    among : sequence of Example, optional
        The batch that the examples are a piece of: its longest clip sets the window, so that pieces
        compute what the whole would.
    """
    longest = bucket_frames(max(frames.n_frames(e.utterance_id) for e in among or examples))
    mel = frames.window([e.utterance_id for e in examples], window_frames(context, longest, TRAINING))
    inputs, targets = label_tensors(examples, tokenizer)
    return Batch(tuple(examples), mel, inputs, targets, thin_after=thinned_after(context, longest))


def label_tensors(examples: Sequence[Example], tokenizer: Tokenizer) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the decoder's inputs and targets, shape (batch, n_tokens), as `Batch` describes them."""
    n_tokens = round_up(max(len(e.tokens) for e in examples) - 1, _TOKENS)
    n_prompt = len(tokenizer.sot_sequence_including_notimestamps)
    inputs = torch.full((len(examples), n_tokens), tokenizer.eot)
    targets = torch.full((len(examples), n_tokens), IGNORED)
    for i, example in enumerate(examples):
        tokens = torch.tensor(example.tokens)
        inputs[i, : len(tokens) - 1] = tokens[:-1]
        targets[i, n_prompt - 1 : len(tokens) - 1] = tokens[n_prompt:]
    return inputs, targets


def n_learned(example: Example, tokenizer: Tokenizer) -> int:
    """Return how many tokens of an example have a loss: all after the prompt."""
    return len(example.tokens) - len(tokenizer.sot_sequence_including_notimestamps)


def epoch_order(
    examples: Sequence[Example],
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    group: Callable[[Example], int] | None = None,
) -> list[list[Example]]:
    """Return the batches of an epoch: a shuffle that depends on (seed, epoch) alone, lengths bucketed.

    Parameters
    ----------
    group : callable, optional
        Batches hold only examples for which it gives the same number, such as the same window.
    """
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    shuffled = [examples[i] for i in torch.randperm(len(examples), generator=generator).tolist()]
    batches: list[list[Example]] = []
    if group is None:
        pool = batch_size * _BATCHES_PER_POOL
        pools = [sorted(pooled, key=lambda e: e.n_frames) for pooled in chunks(shuffled, pool)]
    else:
        kinds = sorted({group(e) for e in examples})
        pools = [[e for e in shuffled if group(e) == kind] for kind in kinds]
    for pooled in pools:
        batches += chunks(pooled, batch_size)
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def by_length(examples: Sequence[Example], batch_size: int) -> list[list[Example]]:
    """Return batches in order of length, longest first, so that a lack of memory shows at once."""
    return list(chunks(sorted(examples, key=lambda e: (-e.n_frames, e.utterance_id)), batch_size))

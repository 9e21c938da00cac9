"""Training examples and batches: which tokens go in, which are learned, how long a batch is."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

import pandas as pd
import torch
from whisper.audio import N_FRAMES
from whisper.tokenizer import Tokenizer, get_tokenizer

from kmed_bench.asr.thin import TRAINING, Thinning
from kmed_bench.config import Context
from kmed_bench.records import KmedError
from kmed_bench.text.marks import Policy, resolve_marks

T = TypeVar("T")

IGNORED = -100  # cross_entropy's mark for positions without a loss
N_TEXT_CTX = 448  # Whisper's text positions, prompt and end-of-text included

# A processor's library compiles its matrix products for every new shape, which took a third of a step of base while
# each batch had its own (docs/LOG.md, 2026-11-26). Lengths are rounded up, so that few shapes occur.
_BUCKET = 64  # frames of 10 ms: 32 encoder positions, a row of tiles of the matrix unit
_TOKENS = 8

# Clips of like length go together within pools of this many batches: dynamic batches hold
# little padding, and the order stays as good as random.
_BATCHES_PER_POOL = 16


def korean_tokenizer() -> Tokenizer:
    """Return openai-whisper's multilingual tokenizer set to Korean transcription."""
    return get_tokenizer(multilingual=True, num_languages=99, language="ko", task="transcribe")


class Frames(Protocol):
    """Where batches take a clip's log-mel frames from: a frame store, or one epoch's choice among several."""

    def n_frames(self, utterance_id: str) -> int:
        """Return the frames of a clip, 10 ms each."""

    def window(self, utterance_ids: Sequence[str], n_frames: int) -> torch.Tensor:
        """Return clips padded with their own silence, shape (batch, 80, n_frames)."""


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
    part: pd.DataFrame, store: Frames, *, policy: Policy, max_len: int, tokenizer: Tokenizer
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
    frames: Frames,
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


def bucket_frames(n_frames: int) -> int:
    """Return a length in frames rounded up to whole buckets of 0.64 s, at most 30 s."""
    return min(round_up(n_frames, _BUCKET), N_FRAMES)


def thinned_after(context: Context, longest: int) -> int | None:
    """Return the frames after which silence is thinned out; None: nowhere, as where a clip fills the window."""
    return longest if context == "dynamic" and longest < N_FRAMES else None


def window_frames(context: Context, longest: int, thinning: Thinning) -> int:
    """Return the frames of a batch's tensor: 30 s (full), or its longest clip's and some silence (dynamic).

    Parameters
    ----------
    longest : int
        The longest clip's length in whole buckets (``bucket_frames``).
    """
    return thinning.frames(longest) if context == "dynamic" else N_FRAMES


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


def round_up(n: int, step: int) -> int:
    """Return the smallest multiple of step that is not below n."""
    return -(-n // step) * step


def chunks(items: Sequence[T], size: int) -> Iterator[list[T]]:
    """Yield lists of size items, the last one shorter."""
    for start in range(0, len(items), size):
        yield list(items[start : start + size])

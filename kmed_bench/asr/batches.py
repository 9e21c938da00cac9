"""Training examples and batches: which tokens go in, which are learned, how long a batch is."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TypeVar

import pandas as pd
import torch
from whisper.audio import N_FRAMES
from whisper.tokenizer import Tokenizer, get_tokenizer

from kmed_bench.asr.features import FrameStore
from kmed_bench.config import Context
from kmed_bench.records import KmedError
from kmed_bench.text.marks import Policy, resolve_marks

T = TypeVar("T")

IGNORED = -100  # cross_entropy's mark for positions without a loss
N_TEXT_CTX = 448  # Whisper's text positions, prompt and end-of-text included

# Clips of like length go together within pools of this many batches: dynamic batches hold
# little padding, and the order stays as good as random.
_BATCHES_PER_POOL = 16


def korean_tokenizer() -> Tokenizer:
    """Return openai-whisper's multilingual tokenizer set to Korean transcription."""
    return get_tokenizer(multilingual=True, num_languages=99, language="ko", task="transcribe")


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
        Shape (batch, n_tokens); targets are the inputs one step on, ``IGNORED`` on the prompt and
        beyond the end-of-text token, which itself is learned.
    """

    examples: tuple[Example, ...]
    mel: torch.Tensor
    inputs: torch.Tensor
    targets: torch.Tensor


def build_examples(
    part: pd.DataFrame, store: FrameStore, *, policy: Policy, max_len: int, tokenizer: Tokenizer
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


def make_batch(examples: Sequence[Example], store: FrameStore, context: Context, tokenizer: Tokenizer) -> Batch:
    """Return the tensors of some examples, padded to 30 s (full) or to the longest (dynamic)."""
    n_frames = N_FRAMES if context == "full" else max(e.n_frames for e in examples)
    mel = store.window([e.utterance_id for e in examples], n_frames)
    n_tokens = max(len(e.tokens) for e in examples) - 1
    n_prompt = len(tokenizer.sot_sequence_including_notimestamps)
    inputs = torch.full((len(examples), n_tokens), tokenizer.eot)
    targets = torch.full((len(examples), n_tokens), IGNORED)
    for i, example in enumerate(examples):
        tokens = torch.tensor(example.tokens)
        inputs[i, : len(tokens) - 1] = tokens[:-1]
        targets[i, n_prompt - 1 : len(tokens) - 1] = tokens[n_prompt:]
    return Batch(tuple(examples), mel, inputs, targets)


def epoch_order(examples: Sequence[Example], batch_size: int, *, seed: int, epoch: int) -> list[list[Example]]:
    """Return the batches of an epoch: a shuffle that depends on (seed, epoch) alone, lengths bucketed."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    shuffled = [examples[i] for i in torch.randperm(len(examples), generator=generator).tolist()]
    pool = batch_size * _BATCHES_PER_POOL
    batches: list[list[Example]] = []
    for start in range(0, len(shuffled), pool):
        batches += chunks(sorted(shuffled[start : start + pool], key=lambda e: e.n_frames), batch_size)
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def by_length(examples: Sequence[Example], batch_size: int) -> list[list[Example]]:
    """Return batches in order of length, longest first, so that a lack of memory shows at once."""
    return list(chunks(sorted(examples, key=lambda e: (-e.n_frames, e.utterance_id)), batch_size))


def chunks(items: Sequence[T], size: int) -> Iterator[list[T]]:
    """Yield lists of size items, the last one shorter."""
    for start in range(0, len(items), size):
        yield list(items[start : start + size])

"""Training examples, their tokens as tensors, and the order of batches in an epoch."""

import dataclasses
from collections.abc import Callable, Sequence

import pandas as pd
import torch
from whisper.tokenizer import Tokenizer

from kmed_bench.asr.features.store import FeatureSource
from kmed_bench.asr.model.tokenizer import N_TEXT_CTX, korean_tokenizer
from kmed_bench.asr.model.whisper import EncoderOutput
from kmed_bench.asr.model.windows import TRAINING, Window
from kmed_bench.config import Context
from kmed_bench.core.batching import chunks, round_up
from kmed_bench.core.errors import KmedError
from kmed_bench.text.marks import Policy, resolve_marks

IGNORED = -100  # cross_entropy's mark for positions without a loss

# The decoder's tokens are padded to a multiple of this, since each shape is compiled (`asr.model.windows`).
_TOKENS_STEP = 8

LEARNED_STEP = 32
"""The learned positions of a batch are padded to a multiple of this, as lengths are (`asr.model.windows`)."""

# Clips are sorted by length within pools of this many batches: dynamic batches then hold little padding, and the order
# is still nearly random.
_BATCHES_PER_POOL = 16


@dataclasses.dataclass(frozen=True)
class Example:
    """One utterance ready for training.

    Attributes
    ----------
    tokens : tuple of int
        ``<|startoftranscript|><|ko|><|transcribe|><|notimestamps|>`` text ``<|endoftext|>``.
    text : str
        The label with its marks resolved, which the tokens encode.
    n_frames : int
        Frames of 10 ms, at the speed of the epoch.
    """

    utterance_id: str
    tokens: tuple[int, ...]
    text: str
    n_frames: int


@dataclasses.dataclass(frozen=True)
class Batch:
    """What one forward pass of training reads.

    Attributes
    ----------
    audio : torch.Tensor or EncoderOutput
        Log-mel frames, shape (batch, 80, ``window.n_frames``), or the output of a frozen encoder for the same window,
        its features of shape (batch, n_positions, n_state).
    window : Window
        The part of the 30 s audio window that is computed; every part of a batch has the batch's window.
    inputs, targets : torch.Tensor
        Shape (batch, n_tokens), n_tokens a multiple of 8. Targets are the inputs one step on, ``IGNORED`` on the prompt
        and after the end-of-text token, which itself is learned.
    learned : torch.Tensor
        Positions in the flattened targets that are learned, row by row, padded with 0, which is a position of the
        prompt; shape (n_rows,), n_rows a multiple of ``LEARNED_STEP``.
    """

    examples: tuple[Example, ...]
    audio: torch.Tensor | EncoderOutput
    window: Window
    inputs: torch.Tensor
    targets: torch.Tensor
    learned: torch.Tensor

    def tensors(self) -> tuple[torch.Tensor, ...]:
        """Return what changes from batch to batch of a shape: the audio, inputs, targets and learned."""
        audio = self.audio.features if isinstance(self.audio, EncoderOutput) else self.audio
        return audio, self.inputs, self.targets, self.learned


def build_examples(
    part: pd.DataFrame, features: FeatureSource, *, policy: Policy, max_len: int, tokenizer: Tokenizer
) -> tuple[list[Example], list[str]]:
    """Return a part's examples, and the ids of the utterances whose label has more than max_len tokens.

    Parameters
    ----------
    max_len : int
        Maximum number of text tokens plus the end-of-text token.

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
        # Whisper's transcripts start with a space; without it the first token is one that it never saw there.
        tokens = tokenizer.encode(" " + text.strip())
        if len(tokens) + 1 > limit:
            too_long.append(name)
        else:
            examples.append(Example(name, (*prompt, *tokens, tokenizer.eot), text, features.n_frames(name)))
    if not examples:
        raise KmedError(f"All {len(part)} labels have more than max_len={max_len} tokens; raise train.max_len.")
    return examples, too_long


def batch_window(examples: Sequence[Example], context: Context) -> Window:
    """Return the window in which training computes a batch."""
    return Window.for_clips(context, max(e.n_frames for e in examples), TRAINING)


def make_batch(
    examples: Sequence[Example], audio: torch.Tensor | EncoderOutput, window: Window, *, pad_to: int | None = None
) -> Batch:
    """Return examples with their audio for a window as a batch, or as part of one; ``pad_to`` as in `label_tensors`."""
    n_missing = (pad_to or 0) - len(examples)
    if n_missing > 0:
        audio = _with_copies(audio, n_missing)
    return Batch(tuple(examples), audio, window, *label_tensors(examples, korean_tokenizer(), pad_to=pad_to))


def _with_copies(audio: torch.Tensor | EncoderOutput, n: int) -> torch.Tensor | EncoderOutput:
    """Return the audio with n copies of its last clip, which is finite; nothing is learned from them."""
    if isinstance(audio, EncoderOutput):
        features = _with_copies(audio.features, n)
        return dataclasses.replace(audio, features=features)
    return torch.cat([audio, audio[-1:].expand(n, *audio.shape[1:])])


def label_tensors(
    examples: Sequence[Example], tokenizer: Tokenizer, *, pad_to: int | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the decoder's inputs, its targets and the learned positions, as `Batch` describes them.

    Parameters
    ----------
    pad_to : int, optional
        Number of clips that the tensors have room for; those beyond the examples are not learned. n_tokens alone then
        determines all shapes, as CUDA graphs want: there is room for every position that could be learned.
    """
    n_tokens = round_up(max(len(e.tokens) for e in examples) - 1, _TOKENS_STEP)
    n_prompt = len(tokenizer.sot_sequence_including_notimestamps)
    inputs, targets, learned = [], [], list[int]()
    for row, example in enumerate(examples):
        tokens, start = list(example.tokens), row * n_tokens
        padding = n_tokens - len(tokens) + 1
        inputs.append(tokens[:-1] + [tokenizer.eot] * padding)
        targets.append([IGNORED] * (n_prompt - 1) + tokens[n_prompt:] + [IGNORED] * padding)
        learned += range(start + n_prompt - 1, start + len(tokens) - 1)
    n_rows = len(learned)
    if pad_to is not None:
        n_missing, n_rows = pad_to - len(examples), pad_to * (n_tokens - n_prompt + 1)
        inputs += [[tokenizer.eot] * n_tokens] * n_missing
        targets += [[IGNORED] * n_tokens] * n_missing
    learned += [0] * (round_up(n_rows, LEARNED_STEP) - len(learned))
    return torch.tensor(inputs), torch.tensor(targets), torch.tensor(learned)


def n_learned(example: Example, tokenizer: Tokenizer) -> int:
    """Return the number of an example's tokens that have a loss: all after the prompt."""
    return len(example.tokens) - len(tokenizer.sot_sequence_including_notimestamps)


def epoch_order(
    examples: Sequence[Example],
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    group: Callable[[Example], int] | None = None,
) -> list[list[Example]]:
    """Return an epoch's batches, shuffled as (seed, epoch) determine, clips of similar length together.

    Parameters
    ----------
    group : callable, optional
        A batch holds only examples for which it returns the same number, such as their bucket.
    """
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    shuffled = [examples[i] for i in torch.randperm(len(examples), generator=generator).tolist()]
    batches: list[list[Example]] = []
    if group is None:
        pool = batch_size * _BATCHES_PER_POOL
        pools = [sorted(pooled, key=lambda e: e.n_frames) for pooled in chunks(shuffled, pool)]
    else:
        keys = sorted({group(e) for e in examples})
        pools = [[e for e in shuffled if group(e) == key] for key in keys]
    for pooled in pools:
        batches += chunks(pooled, batch_size)
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def by_length(examples: Sequence[Example], batch_size: int) -> list[list[Example]]:
    """Return batches in order of length, the longest first: if memory is short, the first one shows it."""
    return list(chunks(sorted(examples, key=lambda e: (-e.n_frames, e.utterance_id)), batch_size))

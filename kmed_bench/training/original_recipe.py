"""The original benchmark's loss and CER, computed its way and logged next to ours under other names.

Its labels are the prompt, the text and end-of-text, padded to ``max_len`` with end-of-text; the decoder reads one
end-of-text token and then these labels except the last. Every position has a loss: prompt, text and padding. Its
validation pass uses the training clips. What it calls CER compares the most likely token at each position, given the
true ones before it, with the label: no transcript is decoded. Here the labels are ours (marks resolved, a space before
the first word) and the features come from the store; the original resampled the audio in each epoch.
"""

import dataclasses
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from whisper.audio import N_FRAMES
from whisper.model import Whisper
from whisper.tokenizer import Tokenizer

from kmed_bench.asr.features.store import FeatureSource
from kmed_bench.asr.model.tokenizer import korean_tokenizer
from kmed_bench.config import TrainConfig
from kmed_bench.core.batching import chunks
from kmed_bench.core.progress import track
from kmed_bench.scoring.edits import count_errors
from kmed_bench.training.batches import Example


@dataclasses.dataclass(frozen=True)
class OriginalBatch:
    """Tensors of one of the original's steps.

    Attributes
    ----------
    mel : torch.Tensor
        Shape (batch, 80, 3000): always 30 s.
    inputs, labels : torch.Tensor
        Shape (batch, max_len), or as wide as a longer label, for which the original would have failed.
    """

    mel: torch.Tensor
    inputs: torch.Tensor
    labels: torch.Tensor


def original_batch(examples: Sequence[Example], mel: torch.Tensor, max_len: int, tokenizer: Tokenizer) -> OriginalBatch:
    """Return the original's tensors for some examples.

    Parameters
    ----------
    mel : torch.Tensor
        Their features, shape (batch, 80, 3000).
    """
    width = max(max_len, *(len(e.tokens) for e in examples))
    labels = torch.full((len(examples), width), tokenizer.eot)
    for row, example in zip(labels, examples, strict=True):
        row[: len(example.tokens)] = torch.tensor(example.tokens)
    start = torch.full((len(examples), 1), tokenizer.eot)
    return OriginalBatch(mel, torch.cat([start, labels[:, :-1]], dim=1), labels)


def original_loss(model: Whisper, batch: OriginalBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean cross-entropy over all positions, padding included, and the most likely tokens; fp32."""
    logits = model.decoder(batch.inputs.to(model.device), model.encoder(batch.mel.to(model.device)))
    loss = F.cross_entropy(logits.flatten(0, 1), batch.labels.to(model.device).flatten())
    return loss, logits.detach().argmax(dim=-1)


def original_optimizer(model: Whisper, lr: float) -> torch.optim.Optimizer:
    """Return the original's AdamW, that of transformers at the time: no weight decay, not fused.

    Its script trains with a rate of 1e-5 whatever its settings are; the published rate is 2e-5.
    """
    return torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)


def original_step(model: Whisper, optimizer: torch.optim.Optimizer, batch: OriginalBatch) -> tuple[float, torch.Tensor]:
    """Take one of the original's training steps; return its loss and the most likely tokens."""
    optimizer.zero_grad()
    loss, best = original_loss(model, batch)
    loss.backward()
    optimizer.step()
    return loss.item(), best


@torch.inference_mode()
def original_losses(
    model: Whisper, examples: Sequence[Example], features: FeatureSource, config: TrainConfig
) -> tuple[float, float]:
    """Return loss and teacher-forced CER as the original's validation pass computes them, without training.

    For the training part this is what the original logs as valid_loss and valid_cer, except that the CER is a fraction
    and not a percentage.

    Parameters
    ----------
    examples : sequence of Example
        Computed in their order in batches of ``batch_size``; the original shuffles, which only changes the last,
        smaller batch.

    Returns
    -------
    tuple of float
        Mean over batches of their mean cross-entropy in nats per position; errors divided by characters over all
        clips, texts as decoded, spaces and punctuation counted.
    """
    tokenizer = korean_tokenizer()
    losses: list[float] = []
    references: list[str] = []
    hypotheses: list[str] = []
    with track("Original's validation") as tick:
        for chosen in chunks(examples, config.batch_size):
            mel = features.window([e.utterance_id for e in chosen], N_FRAMES)
            batch = original_batch(chosen, mel, config.max_len, tokenizer)
            loss, best = original_loss(model, batch)
            losses.append(loss.item())
            references += texts_of(batch.labels, tokenizer)
            hypotheses += texts_of(best, tokenizer)
            tick(len(references), len(examples))
    return sum(losses) / len(losses), original_cer(references, hypotheses)


def texts_of(tokens: torch.Tensor, tokenizer: Tokenizer) -> list[str]:
    """Return the text of each row without special tokens at any position, as the original decodes it."""
    rows = ([token for token in row if token < tokenizer.eot] for row in tokens.tolist())
    # Our labels start with a space, the original's do not.
    return [tokenizer.decode(row).removeprefix(" ") for row in rows]


def original_cer(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Return (S + D + I) / N over all clips as a fraction, texts not normalized."""
    rate = count_errors(references, hypotheses).rate
    assert rate is not None  # labels without a character are rejected at ingest
    return rate

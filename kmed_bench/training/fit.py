"""The training loop: a function that yields one result per epoch and knows nothing of tracking."""

import dataclasses
import random
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from whisper.model import Whisper
from whisper.tokenizer import Tokenizer

from kmed_bench.asr.batches import IGNORED, Batch, Example, by_length, epoch_order, korean_tokenizer, make_batch
from kmed_bench.asr.decode import encode
from kmed_bench.asr.device import Precision, autocast, resolve_precision
from kmed_bench.asr.features import FrameStore
from kmed_bench.config import TrainConfig
from kmed_bench.records import KmedError
from kmed_bench.scoring.errors import token_text_cer


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpochResult:
    """What one pass over the training part came to.

    Attributes
    ----------
    epoch : int
        1 for the first.
    train_loss, valid_loss : float
        Cross-entropy in nats per token, end-of-text included: summed, then divided once.
    train_cer_teacher_forced : float
        CER of the most likely token at each position given the right tokens before it, over the
        texts as they were trained on; what the original benchmark called CER.
    epoch_s : float
        Seconds of training, without validation.
    """

    epoch: int
    train_loss: float
    train_cer_teacher_forced: float
    valid_loss: float
    epoch_s: float


@dataclasses.dataclass
class _Sums:
    """Sums of an epoch; each rate is one division at the end."""

    loss: float = 0.0
    tokens: int = 0
    errors: int = 0
    characters: int = 0


def fit(
    model: Whisper,
    train: Sequence[Example],
    train_store: FrameStore,
    valid: Sequence[Example],
    valid_store: FrameStore,
    config: TrainConfig,
    *,
    seed: int,
    progress: Callable[[int, int, int], None] | None = None,
) -> Iterator[EpochResult]:
    """Yield each epoch's result; the model holds that epoch's weights until the next is asked for.

    Parameters
    ----------
    progress : callable
        Called with (epoch, steps done, steps of the epoch).

    Raises
    ------
    KmedError
        When the loss is not finite; names the step and the utterances.
    """
    seed_everything(seed)
    tokenizer, device = korean_tokenizer(), model.device
    precision = resolve_precision(config.precision, device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    )
    for epoch in range(1, config.epochs + 1):
        model.train()
        started = time.perf_counter()
        sums = _Sums()
        order = epoch_order(train, config.batch_size, seed=seed, epoch=epoch)
        for step, examples in enumerate(order, start=1):
            batch = make_batch(examples, train_store, config.audio_context, tokenizer)
            _train_step(
                model, batch, sums, optimizer, config, precision, tokenizer, where=f"epoch {epoch}, step {step}"
            )
            schedule.step()
            if progress:
                progress(epoch, step, len(order))
        epoch_s = time.perf_counter() - started
        yield EpochResult(
            epoch=epoch,
            train_loss=sums.loss / sums.tokens,
            train_cer_teacher_forced=sums.errors / sums.characters,
            valid_loss=mean_loss(model, valid, valid_store, config, precision),
            epoch_s=epoch_s,
        )


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch, so that a seed names a run."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _train_step(
    model: Whisper,
    batch: Batch,
    sums: _Sums,
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
    precision: Precision,
    tokenizer: Tokenizer,
    *,
    where: str,
) -> None:
    loss_sum, n_tokens, best = _forward(model, batch, precision)
    if not torch.isfinite(loss_sum):
        ids = ", ".join(example.utterance_id for example in batch.examples)
        raise KmedError(
            f"The loss is {loss_sum.item()} at {where} (utterances {ids}); lower train.lr (now {config.lr}), set "
            "train.precision=fp32 or train.grad_clip=1.0, and check these recordings."
        )
    optimizer.zero_grad(set_to_none=True)
    (loss_sum / n_tokens).backward()
    if config.grad_clip is not None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
    optimizer.step()
    errors, characters = _teacher_forced_errors(batch, best, tokenizer)
    sums.loss += loss_sum.item()
    sums.tokens += n_tokens
    sums.errors += errors
    sums.characters += characters


def _forward(model: Whisper, batch: Batch, precision: Precision) -> tuple[torch.Tensor, int, torch.Tensor]:
    """Return the summed cross-entropy, the tokens it is summed over, and the most likely tokens."""
    device = model.device
    targets = batch.targets.to(device)
    with autocast(precision, device):
        logits = model.decoder(batch.inputs.to(device), encode(model, batch.mel.to(device)))
    # The prompt and the padding have no loss, so that the mean is one over words and end-of-text.
    learned = targets != IGNORED
    loss = F.cross_entropy(logits[learned].float(), targets[learned], reduction="sum")
    return loss, int(learned.sum()), logits.detach().argmax(dim=-1)


def _teacher_forced_errors(batch: Batch, best: torch.Tensor, tokenizer: Tokenizer) -> tuple[int, int]:
    texts = []
    for row, targets in zip(best.cpu(), batch.targets, strict=True):
        tokens = row[targets != IGNORED].tolist()
        texts.append(tokenizer.decode([token for token in tokens if token < tokenizer.eot]))
    return token_text_cer([example.text for example in batch.examples], texts)


@torch.inference_mode()
def mean_loss(
    model: Whisper, examples: Sequence[Example], store: FrameStore, config: TrainConfig, precision: Precision
) -> float:
    """Return the cross-entropy in nats per token over examples, in evaluation mode and training's context."""
    model.eval()
    tokenizer = korean_tokenizer()
    total, n_tokens = 0.0, 0
    for chosen in by_length(examples, config.batch_size):
        loss, n, _ = _forward(model, make_batch(chosen, store, config.audio_context, tokenizer), precision)
        total += loss.item()
        n_tokens += n
    return total / n_tokens

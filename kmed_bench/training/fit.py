"""The training loop: a function that yields one result per epoch and knows nothing of tracking."""

import contextlib
import dataclasses
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from whisper.model import Whisper

from kmed_bench.asr.features.store import FeatureSource, FeatureStore
from kmed_bench.asr.model.device import Precision, no_plan_per_shape, resolve_precision
from kmed_bench.asr.model.tokenizer import korean_tokenizer
from kmed_bench.asr.model.windows import bucket_frames, thinned_after
from kmed_bench.config import TrainConfig
from kmed_bench.core.console import Tick
from kmed_bench.core.errors import KmedError
from kmed_bench.training import adapt, augment
from kmed_bench.training.batches import Batch, Example, by_length, epoch_order, label_tensors, n_learned
from kmed_bench.training.batches import make_batch as make_frames_batch
from kmed_bench.training.cpu_bf16.layers import training_layers
from kmed_bench.training.cpu_bf16.malloc import retain_freed_memory
from kmed_bench.training.encoder_outputs import EncoderOutputStore
from kmed_bench.training.loss import LossNetwork
from kmed_bench.training.parallel import Parallel
from kmed_bench.training.schedule import rate_factor
from kmed_bench.training.speed_perturbation import SpeedPerturbedFeatures, step_generator
from kmed_bench.training.state import (
    Interrupted,
    Position,
    StateKeeper,
    deferred_interrupts,
    random_states,
    restore_random_states,
)
from kmed_bench.training.step import MakeBatch, Stepper, Sums


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


Stores = Mapping[float, FeatureStore]


def fit(
    model: Whisper,
    train: Sequence[Example],
    train_store: FeatureStore | Stores | EncoderOutputStore,
    valid: Sequence[Example],
    valid_store: FeatureSource,
    config: TrainConfig,
    *,
    seed: int,
    progress: Tick | None = None,
    states: StateKeeper | None = None,
    parallel: Parallel | None = None,
) -> Iterator[EpochResult]:
    """Yield each epoch's result; the model holds that epoch's weights until the next is asked for.

    Parameters
    ----------
    train_store : FeatureStore, mapping or EncoderOutputStore
        The training part's frames; frames by speed where ``speed_factors`` are set; or the output of an
        encoder that is frozen.
    progress : callable
        Called with the steps done and those of all epochs.
    states : StateKeeper, optional
        Saves the state every ``checkpoint_steps`` steps and after each epoch; a state it found is gone on
        from, so that the epochs before it are not yielded again.
    parallel : Parallel, optional
        The processes that train together; None: this one alone.

    Raises
    ------
    KmedError
        When the loss is not finite or memory runs out; names the step and the utterances.
    Interrupted
        After Ctrl-C or SIGTERM, when the step in progress is done and the state saved.
    """
    loop = _Loop(model, train, train_store, config, seed, states, parallel or Parallel())
    start = loop.restore()
    with retain_freed_memory(model.device):
        for epoch in range(start.epoch, config.epochs + 1):
            loop.train_epoch(epoch, start.step if epoch == start.epoch else 0, progress)
            try:
                valid_loss = mean_loss(model, valid, valid_store, config, loop.precision, parallel=loop.parallel)
                yield loop.result(epoch, valid_loss)
            except (GeneratorExit, KeyboardInterrupt):
                # Stopped while validating: the epoch's steps are done and need not be done again.
                loop.save(Position(epoch, loop.n_steps))
                raise
            loop.forget_epoch()
            loop.save(Position(epoch + 1))


class _Loop:
    """What training holds between two steps, and how that is saved and restored."""

    def __init__(
        self,
        model: Whisper,
        train: Sequence[Example],
        source: FeatureStore | Stores | EncoderOutputStore,
        config: TrainConfig,
        seed: int,
        states: StateKeeper | None,
        parallel: Parallel,
    ) -> None:
        seed_everything(seed)
        self.model, self.train, self.source, self.config, self.seed = model, train, source, config, seed
        self.states, self.parallel = states, parallel
        self.precision = resolve_precision(config.precision, model.device)
        trained = adapt.prepare(model, config)
        optimizer = torch.optim.AdamW(trained, lr=config.lr, weight_decay=config.weight_decay, fused=True)
        network = LossNetwork(model, self.precision, encoded=isinstance(source, EncoderOutputStore))
        folder = states.folder if states else None
        self.stepper = Stepper(
            model, parallel.wrap(network), optimizer, config, self.precision, parallel, folder=folder
        )
        self.n_steps = len(self.order(1)[0])
        self.rate = rate_factor(config, self.n_steps * config.epochs)
        self.forget_epoch()

    def forget_epoch(self) -> None:
        """Begin the sums and the clock of an epoch."""
        self.sums, self.elapsed_s = Sums(), 0.0

    def order(self, epoch: int) -> tuple[list[list[Example]], FeatureSource | None]:
        """Return an epoch's batches and where its frames come from (None: from encoder output)."""
        arrange: dict[str, Any] = {"seed": self.seed, "epoch": epoch}
        if isinstance(self.source, EncoderOutputStore):
            group = (lambda e: bucket_frames(e.n_frames)) if self.config.audio_context == "dynamic" else None
            return epoch_order(self.train, self.config.batch_size, group=group, **arrange), None
        if isinstance(self.source, Mapping):
            names = [e.utterance_id for e in self.train]
            speeds = augment.choose_speeds(names, tuple(self.source), self.seed, epoch)
            frames: FeatureSource = SpeedPerturbedFeatures(self.source, dict(zip(names, speeds, strict=True)))
        else:
            frames = self.source
        heard = [dataclasses.replace(e, n_frames=frames.n_frames(e.utterance_id)) for e in self.train]
        return epoch_order(heard, self.config.batch_size, **arrange), frames

    def train_epoch(self, epoch: int, done: int, progress: Tick | None) -> None:
        """Take the steps of an epoch that are not done yet."""
        self.model.train()
        order, frames = self.order(epoch)
        checkpointing = self.config.gradient_checkpointing
        with (
            deferred_interrupts() as asked,
            no_plan_per_shape(self.model.device),
            training_layers(self.model, self.precision),
            adapt.checkpointed(self.model) if checkpointing else contextlib.nullcontext(),
        ):
            for step in range(done + 1, len(order) + 1):
                started = time.perf_counter()
                self._step(epoch, step, order[step - 1], frames)
                self.elapsed_s += time.perf_counter() - started
                if progress:
                    progress((epoch - 1) * self.n_steps + step, self.n_steps * self.config.epochs)
                if self.parallel.total(float(asked()))[0]:  # one process was asked: all stop after the same step
                    self.save(Position(epoch, step))
                    raise Interrupted(self._saved_at(epoch, step))
                if step % self.config.checkpoint_steps == 0 and step < len(order):
                    self.save(Position(epoch, step))

    def _step(self, epoch: int, step: int, examples: list[Example], frames: FeatureSource | None) -> None:
        lr = self.config.lr * self.rate((epoch - 1) * self.n_steps + step - 1)
        make = self._maker(epoch, step, examples, frames)
        own = self.stepper.take(examples, make, lr=lr, where=f"epoch {epoch}, step {step}")
        # Summed over the processes at once, so that the state, which one of them saves, holds the whole.
        loss, *counts = self.parallel.total(own.loss, own.tokens, own.errors, own.characters)
        self.sums.add(Sums(loss, *map(int, counts)))

    def _maker(self, epoch: int, step: int, examples: list[Example], frames: FeatureSource | None) -> MakeBatch:
        tokenizer, context = korean_tokenizer(), self.config.audio_context
        if frames is None:
            assert isinstance(self.source, EncoderOutputStore)
            store = self.source

            def from_encoded(piece: Sequence[Example]) -> Batch:
                audio = store.window([e.utterance_id for e in piece])
                after = thinned_after(context, bucket_frames(piece[0].n_frames))
                return Batch(tuple(piece), audio, *label_tensors(piece, tokenizer), thin_after=after)

            return from_encoded

        def from_frames(piece: Sequence[Example]) -> Batch:
            batch = make_frames_batch(piece, frames, context, tokenizer, among=examples)
            if not self.config.spec_augment:
                return batch
            # A clip's own draws, so that its masks don't depend on the piece it is computed in.
            masked = [
                augment.spec_augment(
                    batch.mel[i : i + 1],
                    torch.tensor([e.n_frames]),
                    step_generator(self.seed, epoch, step * 4096 + examples.index(e)),
                )
                for i, e in enumerate(piece)
            ]
            return dataclasses.replace(batch, mel=torch.cat(masked))

        return from_frames

    def result(self, epoch: int, valid_loss: float) -> EpochResult:
        """Return the epoch's result over all processes."""
        sums = self.sums
        return EpochResult(
            epoch=epoch,
            train_loss=sums.loss / sums.tokens,
            train_cer_teacher_forced=sums.errors / sums.characters,
            valid_loss=valid_loss,
            epoch_s=self.elapsed_s,
        )

    def save(self, position: Position) -> None:
        """Save the state, from the process that writes; nothing without a keeper."""
        if self.states is None or not self.parallel.is_main:
            return
        self.states.save(
            {
                "position": dataclasses.asdict(position),
                "sums": dataclasses.asdict(self.sums),
                "elapsed_s": self.elapsed_s,
                "model": self.model.state_dict(),
                "optimizer": self.stepper.optimizer.state_dict(),
                "scaler": self.stepper.scaler.state_dict(),
                "micro_batches": self.stepper.micro_batches,
                "random": random_states(),
            }
        )

    def restore(self) -> Position:
        """Return where training stands: at its start, or where the state that was found says."""
        state = self.states.load() if self.states else None
        if state is None:
            return Position()
        position = Position(**state["position"])
        if position.step > self.n_steps:
            raise KmedError(
                f"The state stands at step {position.step} of an epoch that has {self.n_steps}: the training part "
                "has changed; choose another folder to start anew."
            )
        self.sums, self.elapsed_s = Sums(**state["sums"]), state["elapsed_s"]
        self.model.load_state_dict(state["model"])
        self.stepper.optimizer.load_state_dict(state["optimizer"])
        self.stepper.scaler.load_state_dict(state["scaler"])
        self.stepper.micro_batches = max(self.config.micro_batches, state["micro_batches"])
        restore_random_states(state["random"])
        return position

    def _saved_at(self, epoch: int, step: int) -> str:
        where = f"epoch {epoch}, step {step} of {self.n_steps}"
        if self.states is None:
            return f"interrupted at {where}."
        return f"interrupted at {where}; the state is saved in {self.states.folder}. Continue with --resume."


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch, so that a seed names a run."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@torch.inference_mode()
def mean_loss(
    model: Whisper,
    examples: Sequence[Example],
    store: FeatureSource,
    config: TrainConfig,
    precision: Precision,
    *,
    parallel: Parallel | None = None,
) -> float:
    """Return the cross-entropy in nats per token over examples, in evaluation mode and training's context."""
    model.eval()
    network, tokenizer = LossNetwork(model, precision), korean_tokenizer()
    parallel = parallel or Parallel()
    total, n_tokens = 0.0, 0
    with no_plan_per_shape(model.device), training_layers(model, precision):
        for chosen in parallel.share(by_length(examples, config.batch_size)):
            batch = make_frames_batch(chosen, store, config.audio_context, tokenizer)
            tensors = (t.to(model.device) for t in (batch.mel, batch.inputs, batch.targets))
            loss, _ = network(*tensors, thin_after=batch.thin_after)
            total += loss.item()
            n_tokens += sum(n_learned(e, tokenizer) for e in chosen)
    total, n = parallel.total(total, n_tokens)
    return total / n

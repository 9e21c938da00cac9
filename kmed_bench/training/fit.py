"""The training loop: a function that yields one result per epoch and knows nothing of tracking."""

import dataclasses
import random
import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from kmed_bench.asr.features.store import FeatureSource
from kmed_bench.asr.model.device import (
    Precision,
    deterministic,
    gpu_kernels,
    resolve_precision,
    send,
)
from kmed_bench.asr.model.tokenizer import korean_tokenizer
from kmed_bench.asr.model.whisper import Whisper
from kmed_bench.config import TrainConfig
from kmed_bench.core.errors import KmedError
from kmed_bench.core.progress import Tick, track
from kmed_bench.training import adapt, cuda
from kmed_bench.training.batches import Batch, Example, batch_window, by_length, make_batch, n_learned
from kmed_bench.training.cpu_bf16.malloc import retain_freed_memory
from kmed_bench.training.curves import StepCurve
from kmed_bench.training.loss import LossNetwork
from kmed_bench.training.parallel import Parallel
from kmed_bench.training.schedule import rate_factor
from kmed_bench.training.sources import Step, TrainingSource
from kmed_bench.training.state import (
    Interrupted,
    Position,
    StateKeeper,
    deferred_interrupts,
    random_states,
    restore_random_states,
)
from kmed_bench.training.step import Stepper
from kmed_bench.training.step_results import Sums

_GPU_VALID_BATCH = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpochResult:
    """The result of one pass over the training part.

    Attributes
    ----------
    epoch : int
        1 for the first.
    train_loss, valid_loss : float
        Cross-entropy in nats per token, end-of-text included: summed, then divided once.
    train_cer_teacher_forced : float
        CER of the most likely token at each position given the true tokens before it, on the texts that were trained
        on; what the original benchmark called CER.
    epoch_s : float
        Duration of training, without validation.
    """

    epoch: int
    train_loss: float
    train_cer_teacher_forced: float
    valid_loss: float
    epoch_s: float


def fit(
    model: Whisper,
    train: Sequence[Example],
    source: TrainingSource,
    valid: Sequence[Example],
    valid_features: FeatureSource,
    config: TrainConfig,
    *,
    seed: int,
    progress: Tick | None = None,
    states: StateKeeper | None = None,
    parallel: Parallel | None = None,
    curve: StepCurve | None = None,
) -> Iterator[EpochResult]:
    """Yield each epoch's result; the model holds that epoch's weights until the next is requested.

    Parameters
    ----------
    source : TrainingSource
        What the training examples' audio is read from.
    progress : callable
        Called with the steps done and those of all epochs.
    states : StateKeeper, optional
        Saves the state every ``checkpoint_steps`` steps and after each epoch. If a saved state exists, training resumes
        from it and earlier epochs are not yielded again.
    parallel : Parallel, optional
        The processes that train together; None: only this one.
    curve : StepCurve, optional
        Is given each step's figures when they are read.

    Raises
    ------
    KmedError
        When the loss is not finite or memory runs out; the message names the step and the utterances.
    Interrupted
        After Ctrl-C or SIGTERM, once the step in progress is done and the state is saved.
    """
    loop = _Loop(model, train, source, config, seed, states, parallel or Parallel(), curve)
    start = loop.restore()
    with retain_freed_memory(model.device):
        for epoch in range(start.epoch, config.epochs + 1):
            loop.train_epoch(epoch, start.step if epoch == start.epoch else 0, progress)
            try:
                valid_loss = mean_loss(model, valid, valid_features, config, loop.precision, parallel=loop.parallel)
                yield loop.result(epoch, valid_loss)
            except (GeneratorExit, KeyboardInterrupt):
                # Stopped while validating: the epoch's steps are done and need not be repeated.
                loop.save(Position(epoch, loop.n_steps))
                raise
            loop.forget_epoch()
            loop.save(Position(epoch + 1))


class _Loop:
    """The state of training between two steps, and how it is saved and restored."""

    def __init__(
        self,
        model: Whisper,
        train: Sequence[Example],
        source: TrainingSource,
        config: TrainConfig,
        seed: int,
        states: StateKeeper | None,
        parallel: Parallel,
        curve: StepCurve | None,
    ) -> None:
        seed_everything(seed)
        self.model, self.train, self.source, self.config, self.seed = model, train, source, config, seed
        self.states, self.parallel, self.curve = states, parallel, curve
        self.waiting: list[tuple[int, float]] = []  # number over all epochs and learning rate of uncollected steps
        self.precision = resolve_precision(config.precision, model.device)
        trained = adapt.prepare(model, config)
        optimizer = torch.optim.AdamW(trained, lr=config.lr, weight_decay=config.weight_decay, fused=True)
        self.n_steps = len(self.order(1))
        network = LossNetwork(
            model,
            self.precision,
            recompute=config.gradient_checkpointing,
            compiled=cuda.compiling_pays(config, self.n_steps * config.epochs),
        )
        folder = states.folder if states else None
        self.stepper = Stepper(
            model, parallel.wrap(network), optimizer, config, self.precision, parallel, folder=folder
        )
        self.rate = rate_factor(config, self.n_steps * config.epochs)
        self.forget_epoch()

    def forget_epoch(self) -> None:
        """Reset the sums and the clock of an epoch."""
        self.sums, self.elapsed_s = Sums(), 0.0

    def order(self, epoch: int) -> list[list[Example]]:
        """Return an epoch's batches."""
        return self.source.order(self.train, self.config, seed=self.seed, epoch=epoch)

    def train_epoch(self, epoch: int, done: int, progress: Tick | None) -> None:
        """Take the steps of an epoch after the first ``done`` ones."""
        self.model.train()
        order = self.order(epoch)
        on_gpu = self.model.device.type != "cpu"
        with (
            deferred_interrupts() as interrupted,
            gpu_kernels(self.model.device),
            deterministic(on_gpu and self.config.deterministic),
        ):
            for number in range(done + 1, len(order) + 1):
                started = time.perf_counter()
                self._take_step(Step(order[number - 1], self.config, self.seed, epoch, number))
                if number % self.stepper.read_every == 0 or number == len(order):
                    self._collect()
                self.elapsed_s += time.perf_counter() - started
                if progress:
                    progress((epoch - 1) * self.n_steps + number, self.n_steps * self.config.epochs)
                if self.parallel.total(float(interrupted()))[0]:  # in one process: all stop after the same step
                    self.save(Position(epoch, number))
                    raise Interrupted(self._saved_at(epoch, number))
                if number % self.config.checkpoint_steps == 0 and number < len(order):
                    self.save(Position(epoch, number))

    def _take_step(self, step: Step) -> None:
        before = (step.epoch - 1) * self.n_steps + step.number - 1
        lr = self.config.lr * self.rate(before)
        self.waiting.append((before + 1, lr))
        window = batch_window(step.batch, self.config.audio_context)

        def make(examples: Sequence[Example]) -> Batch:
            audio = self.source.audio(examples, window, step)
            return make_batch(examples, audio, window, pad_to=self.stepper.pad_to)

        self.stepper.take(step.batch, make, lr=lr, where=f"epoch {step.epoch}, step {step.number}")

    def _collect(self) -> None:
        """Add the sums of the steps since the last call to the epoch's."""
        if not self.stepper.n_waiting:
            return
        sums = self.stepper.collect()
        if self.curve is not None:
            for (number, lr), (own, norm) in zip(self.waiting, self.stepper.collected, strict=True):
                self.curve.add(number, lr, own, norm)
        self.waiting.clear()
        # Summed over the processes at once, so the state, which one of them saves, holds the total.
        loss, *counts = self.parallel.total(sums.loss, sums.tokens, sums.errors, sums.characters)
        self.sums.add(Sums(loss, *map(int, counts)))

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
        """Save the state, if there is a keeper and this is the process that writes."""
        self._collect()
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
        """Restore a saved state, if there is one; return the position to train from."""
        state = self.states.load() if self.states else None
        if state is None:
            return Position()
        position = Position(**state["position"])
        if position.step > self.n_steps:
            raise KmedError(
                f"The saved state is at step {position.step} of an epoch that now has {self.n_steps}: the training "
                "part has changed; choose another folder to start over."
            )
        self.sums, self.elapsed_s = Sums(**state["sums"]), state["elapsed_s"]
        self.model.load_state_dict(state["model"])
        self.stepper.load_optimizer(state["optimizer"])
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
    """Seed Python, NumPy and torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@torch.inference_mode()
def mean_loss(
    model: Whisper,
    examples: Sequence[Example],
    features: FeatureSource,
    config: TrainConfig,
    precision: Precision,
    *,
    parallel: Parallel | None = None,
) -> float:
    """Return the cross-entropy over examples in nats per token, in evaluation mode and training's window."""
    model.eval()
    network, tokenizer = LossNetwork(model, precision), korean_tokenizer()
    parallel = parallel or Parallel()
    losses, n_tokens = [torch.zeros((), device=model.device)], 0
    share = parallel.share(by_length(examples, _valid_batch_size(config, model.device)))
    with gpu_kernels(model.device), track("Validation loss") as tick:
        for done, chosen in enumerate(share, start=1):
            window = batch_window(chosen, config.audio_context)
            mel = features.window([e.utterance_id for e in chosen], window.n_frames)
            batch = make_batch(chosen, mel, window)
            losses.append(network(*(send(x, model.device) for x in batch.tensors()), window)[0])
            n_tokens += sum(n_learned(e, tokenizer) for e in chosen)
            tick(done, len(share))
    # Read once: a GPU would wait at every batch.
    total, n = parallel.total(sum(torch.stack(losses).tolist()), n_tokens)
    return total / n


def _valid_batch_size(config: TrainConfig, device: torch.device) -> int:
    # In the 30 s window a clip's loss does not depend on the batch, and a batch of 4 is too little for a GPU.
    if device.type == "cpu" or config.audio_context != "full":
        return config.batch_size
    return max(config.batch_size, _GPU_VALID_BATCH)

"""What training takes its audio from: log-mel frames, frames at varying speeds, or a frozen encoder's output."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch

from kmed_bench.asr.features.store import FeatureSource
from kmed_bench.asr.model.whisper import EncoderOutput
from kmed_bench.asr.model.windows import Window, bucket_frames
from kmed_bench.config import TrainConfig
from kmed_bench.training.augment import choose_speeds, spec_augment
from kmed_bench.training.batches import Example, epoch_order
from kmed_bench.training.encoder_outputs import EncoderOutputStore


@dataclasses.dataclass(frozen=True)
class Step:
    """A training step's batch and its place in training, which determine everything that is drawn at random."""

    batch: Sequence[Example]
    config: TrainConfig
    seed: int
    epoch: int
    number: int

    def generator(self, example: Example) -> torch.Generator:
        """Return the generator of a clip's draws; they don't depend on the part of the batch it is computed in."""
        clip = self.number * 4096 + self.batch.index(example)
        return torch.Generator().manual_seed(((self.seed * 1_000_003 + self.epoch) * 1_000_003 + clip) % 2**63)


class TrainingSource(Protocol):
    """What `fit` reads the training part's audio from."""

    def order(self, examples: Sequence[Example], config: TrainConfig, *, seed: int, epoch: int) -> list[list[Example]]:
        """Return an epoch's batches, each example with its length in that epoch."""

    def audio(self, examples: Sequence[Example], window: Window, step: Step) -> torch.Tensor | EncoderOutput:
        """Return the audio of some of a step's examples, as `Batch` describes it."""


class LogMelSource:
    """Log-mel frames as recorded, masked by SpecAugment if the settings ask for it."""

    def __init__(self, features: FeatureSource) -> None:
        self._features = features

    def order(self, examples: Sequence[Example], config: TrainConfig, *, seed: int, epoch: int) -> list[list[Example]]:
        """Return an epoch's batches."""
        return epoch_order(examples, config.batch_size, seed=seed, epoch=epoch)

    def audio(self, examples: Sequence[Example], window: Window, step: Step) -> torch.Tensor:
        """Return log-mel frames, shape (batch, 80, ``window.n_frames``)."""
        mel = self._frames(examples, window.n_frames, step)
        if not step.config.spec_augment:
            return mel
        clips = zip(mel.split(1), examples, strict=True)
        return torch.cat([spec_augment(clip, [e.n_frames], step.generator(e)) for clip, e in clips])

    def _frames(self, examples: Sequence[Example], n_frames: int, step: Step) -> torch.Tensor:  # noqa: ARG002
        return self._features.window([e.utterance_id for e in examples], n_frames)


class SpeedPerturbedSource(LogMelSource):
    """Log-mel frames of each clip at a speed that is drawn for each epoch.

    Parameters
    ----------
    stores : mapping
        Speed to the whole part's frames at that speed.
    """

    def __init__(self, stores: Mapping[float, FeatureSource]) -> None:
        self._stores = stores

    def order(self, examples: Sequence[Example], config: TrainConfig, *, seed: int, epoch: int) -> list[list[Example]]:
        """Return an epoch's batches, lengths being those at the epoch's speeds."""
        stores = self._chosen(examples, seed, epoch)
        perturbed = [
            dataclasses.replace(example, n_frames=store.n_frames(example.utterance_id))
            for example, store in zip(examples, stores, strict=True)
        ]
        return super().order(perturbed, config, seed=seed, epoch=epoch)

    def _frames(self, examples: Sequence[Example], n_frames: int, step: Step) -> torch.Tensor:
        stores = self._chosen(examples, step.seed, step.epoch)
        clips = zip(stores, examples, strict=True)
        return torch.cat([store.window([example.utterance_id], n_frames) for store, example in clips])

    def _chosen(self, examples: Sequence[Example], seed: int, epoch: int) -> list[FeatureSource]:
        speeds = choose_speeds([e.utterance_id for e in examples], tuple(self._stores), seed, epoch)
        return [self._stores[speed] for speed in speeds]


class EncoderOutputSource:
    """The stored output of an encoder that is frozen, so it is computed once for all epochs."""

    def __init__(self, store: EncoderOutputStore) -> None:
        self._store = store

    def order(self, examples: Sequence[Example], config: TrainConfig, *, seed: int, epoch: int) -> list[list[Example]]:
        """Return an epoch's batches, each of one bucket: stored output can't be padded to another window."""
        group = (lambda e: bucket_frames(e.n_frames)) if config.audio_context == "dynamic" else None
        return epoch_order(examples, config.batch_size, seed=seed, epoch=epoch, group=group)

    def audio(self, examples: Sequence[Example], window: Window, step: Step) -> EncoderOutput:  # noqa: ARG002
        """Return the encoder's output for the window."""
        return self._store.load([e.utterance_id for e in examples], window)

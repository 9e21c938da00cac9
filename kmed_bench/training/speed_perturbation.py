"""How training hears each clip in one epoch: at which speed, with what masked."""

from collections.abc import Mapping, Sequence

import torch

from kmed_bench.asr.features.store import FeatureStore


class SpeedPerturbedFeatures:
    """One epoch's choice of a speed for each clip, read from the store of that speed.

    Parameters
    ----------
    stores : mapping
        Speed to the frame store of the whole part at that speed.
    speeds : mapping
        Utterance id to its speed in this epoch.
    """

    def __init__(self, stores: Mapping[float, FeatureStore], speeds: Mapping[str, float]) -> None:
        self._stores, self._speeds = stores, speeds

    def n_frames(self, utterance_id: str) -> int:
        """Return the frames of a clip at its speed, 10 ms each."""
        return self._stores[self._speeds[utterance_id]].n_frames(utterance_id)

    def window(self, utterance_ids: Sequence[str], n_frames: int) -> torch.Tensor:
        """Return clips at their speeds, padded with their own silence, shape (batch, 80, n_frames)."""
        clips = [self._stores[self._speeds[name]].window([name], n_frames) for name in utterance_ids]
        return torch.cat(clips)


def step_generator(seed: int, epoch: int, step: int) -> torch.Generator:
    """Return the generator of one step's draws: it depends on nothing but where training stands."""
    return torch.Generator().manual_seed(((seed * 1_000_003 + epoch) * 1_000_003 + step) % 2**63)

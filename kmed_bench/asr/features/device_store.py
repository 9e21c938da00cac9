"""A store's frames in the memory of the device that trains, so that a batch is gathered there and not copied."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from kmed_bench.asr.features.log_mel import N_MELS
from kmed_bench.asr.features.store import FeatureStore

MAX_SHARE = 0.25
"""Share of a GPU's free memory for frames; weights, optimizer states and activations, whose peak comes later, need the
rest. An hour of audio takes 58 MB in fp16, so a quarter of 80 GB holds about 350 hours."""

_PIECE_BYTES = 64 << 20


def fits(n_bytes: int, device: torch.device) -> bool:
    """Return whether frames may be kept on a device: on a GPU, if they take at most a quarter of its free memory.

    Never on a CPU, where a `FeatureStore` is mapped into the same memory already.

    Parameters
    ----------
    n_bytes : int
        Size of all stores to be kept, such as the sum of their ``n_bytes``.
    """
    if device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return n_bytes <= MAX_SHARE * free


class DeviceFeatures:
    """Frames of a store's clips on a device: a `FeatureSource`.

    Parameters
    ----------
    utterance_ids : sequence of str
        The clips that are kept.
    """

    def __init__(self, store: FeatureStore, utterance_ids: Sequence[str], device: torch.device) -> None:
        self.device = device
        self._rows = {name: row for row, name in enumerate(utterance_ids)}
        self._n_frames = [store.n_frames(name) for name in utterance_ids]
        lengths = torch.tensor(self._n_frames, dtype=torch.int64)
        self._starts = (lengths.cumsum(0) - lengths).to(device)
        self._lengths = lengths.to(device)
        dtype = torch.float16 if store.dtype == "fp16" else torch.float32
        pads = [store.pad_value(name) for name in utterance_ids]
        self._pads = torch.tensor(pads, dtype=dtype, device=device)  # rounded to it in the store already
        self._frames = torch.empty((sum(self._n_frames), N_MELS), dtype=dtype, device=device)
        start = 0
        for piece in _pieces(store, utterance_ids):
            self._frames[start : start + len(piece)] = torch.from_numpy(piece)
            start += len(piece)

    def n_frames(self, utterance_id: str) -> int:
        """Return a clip's number of frames of 10 ms."""
        return self._n_frames[self._rows[utterance_id]]

    def rows(self, utterance_ids: Sequence[str]) -> torch.Tensor:
        """Return what ``gather`` takes for these clips, int64, shape (batch,).

        On the CPU, pinned if the device is a GPU, so that the copy to it does not wait.
        """
        rows = [self._rows[name] for name in utterance_ids]
        return torch.tensor(rows, dtype=torch.int64, pin_memory=self.device.type == "cuda")

    def gather(self, rows: torch.Tensor, n_frames: int) -> torch.Tensor:
        """Return the window of the clips, on the device, fp32, shape (batch, 80, n_frames).

        Nothing is read back from the device and no shape depends on values, so a CUDA graph can hold it.

        Parameters
        ----------
        rows : torch.Tensor
            From ``rows``, moved to the device.
        """
        offsets = torch.arange(n_frames, device=self.device)
        lengths = self._lengths[rows][:, None]
        places = self._starts[rows][:, None] + torch.minimum(offsets, lengths - 1)
        pads = self._pads[rows][:, None, None]
        return torch.where((offsets < lengths)[:, :, None], self._frames[places], pads).float().transpose(1, 2)

    def window(self, utterance_ids: Sequence[str], n_frames: int) -> torch.Tensor:
        """Return clips padded with their own silence, on the device, fp32, shape (batch, 80, n_frames).

        Equal to the bit to ``FeatureStore.window``: fp16 numbers are fp32 numbers too.
        """
        return self.gather(self.rows(utterance_ids).to(self.device, non_blocking=True), n_frames)


def _pieces(store: FeatureStore, utterance_ids: Sequence[str]) -> Iterator[np.ndarray]:
    """Yield the clips' frames one after the other, joined to a few large arrays."""
    joined: list[np.ndarray] = []
    n_bytes = 0
    for name in utterance_ids:
        joined.append(store.frames(name))
        n_bytes += joined[-1].nbytes
        if n_bytes >= _PIECE_BYTES:
            yield np.concatenate(joined)
            joined, n_bytes = [], 0
    if joined:
        yield np.concatenate(joined)

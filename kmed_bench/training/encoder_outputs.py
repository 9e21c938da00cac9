"""Encoder output, computed once and kept on disk: what a decoder needs to train on a frozen encoder.

An encoded store is a folder of ``encoded.f32`` or ``encoded.f16`` (all clips' positions behind one another)
and ``index.json``; ``asr.stores`` sees to it that it is whole.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from whisper.audio import N_FRAMES
from whisper.model import Whisper

from kmed_bench.asr.features.store import DTYPES, Dtype, FeatureStore
from kmed_bench.asr.model.whisper import encode, encode_thinned
from kmed_bench.asr.model.windows import TRAINING, bucket_frames, chunks
from kmed_bench.config import Context, digest
from kmed_bench.core.array_cache import INDEX, get_or_create
from kmed_bench.core.errors import KmedError

ENCODED_VERSION = "1"
_FILES: dict[Dtype, str] = {"fp32": "encoded.f32", "fp16": "encoded.f16"}
_BATCH = 8


class EncoderOutputStore:
    """Encoder output of many clips in one memory-mapped file.

    Parameters
    ----------
    folder : Path
        A folder that ``build_encoder_outputs`` wrote.
    """

    def __init__(self, folder: Path) -> None:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        self.key = folder.name
        self._rows = {name: row for row, name in enumerate(index["utterance_ids"])}
        self._starts = np.concatenate([[0], np.cumsum(index["positions"])])
        dtype: Dtype = index["dtype"]
        shape = (int(self._starts[-1]), index["n_state"])
        self._encoded = np.memmap(folder / _FILES[dtype], dtype=DTYPES[dtype], mode="r", shape=shape)

    def positions(self, utterance_id: str) -> int:
        """Return the encoder positions of a clip, 20 ms each."""
        row = self._rows[utterance_id]
        return int(self._starts[row + 1] - self._starts[row])

    def window(self, utterance_ids: Sequence[str]) -> torch.Tensor:
        """Return what the encoder gives for clips of one window, fp32, shape (batch, positions, n_state).

        Raises
        ------
        ValueError
            When the clips have different windows: there is no padding that the encoder would have heard.
        """
        lengths = {self.positions(name) for name in utterance_ids}
        if len(lengths) != 1:
            raise ValueError(
                f"The clips have windows of {sorted(lengths)} positions; batch those of one bucket_frames."
            )
        rows = [self._rows[name] for name in utterance_ids]
        clips = [self._encoded[self._starts[row] : self._starts[row + 1]] for row in rows]
        return torch.from_numpy(np.stack(clips).astype(np.float32, copy=False))


def build_encoder_outputs(
    model: Whisper,
    frames: FeatureStore,
    utterance_ids: Sequence[str],
    cache: Path,
    *,
    context: Context,
    dtype: Dtype = "fp32",
    budget_bytes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> EncoderOutputStore:
    """Return the encoder's output for clips, computed in fp32 if the cache has none for the same content.

    Parameters
    ----------
    model : Whisper
        Its encoder must not change while the store is used; another encoder's weights make another store.
    cache : Path
        Folder of stores. A clip takes 2 bytes (fp16) or 4 (fp32) for each of n_state values (384, 512, 768 for
        tiny, base, small) at each position: 1,500 of them in the full context, 50 a second and 32 in the dynamic
        one. For base in fp32 that is 3.1 MB a clip, or 0.1 MB a second.
    context : {"full", "dynamic"}
        full: each clip in the whole 30 s; dynamic: each in its own bucket (``bucket_frames``), as training hears it.
    budget_bytes : int, optional
        What the cache's stores may take together; None: what the disk has.
    progress : callable
        Called with (clips done, clips in all).

    Raises
    ------
    KmedError
        When the budget or the disk has no room, or an output does not fit fp16.
    """
    windows = {
        name: bucket_frames(frames.n_frames(name)) if context == "dynamic" else N_FRAMES for name in utterance_ids
    }
    n_state = model.dims.n_audio_state
    folder = get_or_create(
        cache,
        f"encoded-{_key(model, frames, windows, dtype)}",
        lambda aside: _write_store(model, frames, windows, aside, dtype, progress),
        what=f"The encoder outputs of {len(windows)} clips",
        needed_bytes=sum(map(_n_positions, windows.values())) * n_state * DTYPES[dtype].itemsize + _index_room(windows),
        budget_bytes=budget_bytes,
    )
    return EncoderOutputStore(folder)


def _index_room(windows: dict[str, int]) -> int:
    """Return more bytes than the index takes: an id, a number and the signs between them for each clip."""
    return 1_000 + sum(6 * len(name) + 20 for name in windows)


@torch.inference_mode()
def _write_store(
    model: Whisper,
    frames: FeatureStore,
    windows: dict[str, int],
    folder: Path,
    dtype: Dtype,
    progress: Callable[[int, int], None] | None,
) -> None:
    # The longest first, so that a lack of memory shows at once. The order, and so each batch, follows from the
    # content alone: a store that was lost comes back bit for bit.
    ordered = sorted(windows, key=lambda name: (-windows[name], name))
    with (folder / _FILES[dtype]).open("wb") as stream:
        done = 0
        for window, group in groupby(ordered, key=windows.__getitem__):
            for names in chunks(list(group), _BATCH):
                encoded = _encode(model, frames, names, window).cpu().numpy()
                _check_range(names, encoded, dtype)
                stream.write(encoded.astype(DTYPES[dtype], copy=False).tobytes())
                done += len(names)
                if progress:
                    progress(done, len(ordered))
    index = {
        "version": ENCODED_VERSION,
        "dtype": dtype,
        "n_state": model.dims.n_audio_state,
        "utterance_ids": ordered,
        "positions": [_n_positions(windows[name]) for name in ordered],
    }
    (folder / INDEX).write_text(json.dumps(index), encoding="utf-8")


@functools.cache
def _n_positions(window: int) -> int:
    return len(TRAINING.positions(window)[0])


def _encode(model: Whisper, frames: FeatureStore, names: Sequence[str], window: int) -> torch.Tensor:
    mel = frames.window(names, TRAINING.frames(window)).to(model.device)
    return encode(model, mel) if window == N_FRAMES else encode_thinned(model, mel, window, TRAINING)[0]


def _check_range(names: Sequence[str], encoded: np.ndarray, dtype: Dtype) -> None:
    limit = np.finfo(DTYPES[dtype]).max
    largest = np.abs(encoded).max(axis=(1, 2))
    bad = [name for name, value in zip(names, largest, strict=True) if not value <= limit]  # NaN is under no limit
    if not bad:
        return
    if not np.isfinite(encoded).all():
        raise KmedError(f"The encoder's output is not finite for {', '.join(bad)}; check these recordings and weights.")
    raise KmedError(
        f"The encoder's output reaches {largest.max():.0f} for {', '.join(bad)}, and {dtype} ends at {limit:.0f}; set "
        "features.dtype=fp32."
    )


def _key(model: Whisper, frames: FeatureStore, windows: dict[str, int], dtype: Dtype) -> str:
    """Return a key of what goes in: the clips' frames and windows, the encoder's weights, the number format."""
    how = {"version": ENCODED_VERSION, "dtype": dtype, "frames": frames.key, "encoder": _encoder_sha256(model)}
    return digest({**how, "windows": windows, "thinning": dataclasses.asdict(TRAINING)})


def _encoder_sha256(model: Whisper) -> str:
    total = hashlib.sha256()
    for name, tensor in model.encoder.state_dict().items():
        total.update(f"{name} {tuple(tensor.shape)}".encode())
        total.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()

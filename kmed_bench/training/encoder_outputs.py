"""A frozen encoder's output, computed once and kept on disk.

A store is a folder with ``encoded.f32`` or ``encoded.f16`` (all clips' positions, one clip after the other) and
``index.json``; ``core.array_cache`` makes sure that it is complete.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import torch

from kmed_bench.asr.features.store import DTYPES, Dtype, FeatureStore
from kmed_bench.asr.model.whisper import EncoderOutput, Whisper
from kmed_bench.asr.model.windows import TRAINING, Window
from kmed_bench.config import Context, digest
from kmed_bench.core.array_cache import INDEX, get_or_create
from kmed_bench.core.batching import chunks
from kmed_bench.core.errors import KmedError

ENCODED_VERSION = "2"
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
        """Return a clip's number of encoder positions."""
        row = self._rows[utterance_id]
        return int(self._starts[row + 1] - self._starts[row])

    def load(self, utterance_ids: Sequence[str], window: Window) -> EncoderOutput:
        """Return the encoder's output for clips, fp32, features of shape (batch, n_positions, n_state).

        Raises
        ------
        ValueError
            When a clip was encoded in another window: there is no padding that the encoder would have computed.
        """
        lengths = {self.positions(name) for name in utterance_ids}
        if lengths != {len(window.counts)}:
            raise ValueError(
                f"The clips were encoded in windows of {sorted(lengths)} positions, not of {len(window.counts)}; batch "
                "those of one bucket_frames."
            )
        rows = [self._rows[name] for name in utterance_ids]
        clips = [self._encoded[self._starts[row] : self._starts[row + 1]] for row in rows]
        features = torch.from_numpy(np.stack(clips).astype(np.float32, copy=False))
        return EncoderOutput(features, window.log_counts(features.device))


def build_encoder_outputs(
    model: Whisper,
    features: FeatureStore,
    utterance_ids: Sequence[str],
    cache: Path,
    *,
    context: Context,
    dtype: Dtype = "fp32",
    budget_bytes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> EncoderOutputStore:
    """Return the encoder's output for clips, computed in fp32 unless the cache already has it.

    Parameters
    ----------
    model : Whisper
        Its encoder must not change while the store is used; other weights give another store.
    cache : Path
        Folder of stores. A clip takes 2 bytes (fp16) or 4 (fp32) for each of n_state values (384, 512, 768 for
        tiny, base, small) at each position: 1,500 positions with the full context, 50 a second and 32 more with the
        dynamic one. For base in fp32 that is 3.1 MB a clip, or 0.1 MB a second.
    context : {"full", "dynamic"}
        full: each clip in the whole 30 s; dynamic: each in the window of its own bucket (``Window.for_clips``).
    budget_bytes : int, optional
        Maximum size of all stores in the cache; None: the free disk space.
    progress : callable
        Called with (clips done, clips in all).

    Raises
    ------
    KmedError
        When the budget or the disk has no room, or an output does not fit fp16.
    """
    windows = {name: Window.for_clips(context, features.n_frames(name), TRAINING) for name in utterance_ids}
    n_positions = sum(len(window.counts) for window in windows.values())
    folder = get_or_create(
        cache,
        f"encoded-{_key(model, features, windows, dtype)}",
        lambda aside: _write_store(model, features, windows, aside, dtype, progress),
        what=f"The encoder outputs of {len(windows)} clips",
        needed_bytes=n_positions * model.dims.n_audio_state * DTYPES[dtype].itemsize + _index_room(windows),
        budget_bytes=budget_bytes,
    )
    return EncoderOutputStore(folder)


def _index_room(utterance_ids: Iterable[str]) -> int:
    """Return an upper bound of the index's size in bytes: an id, a number and punctuation for each clip."""
    return 1_000 + sum(6 * len(name) + 20 for name in utterance_ids)


@torch.inference_mode()
def _write_store(
    model: Whisper,
    features: FeatureStore,
    windows: Mapping[str, Window],
    folder: Path,
    dtype: Dtype,
    progress: Callable[[int, int], None] | None,
) -> None:
    # The longest first: if memory is short, the first batch shows it. The content determines the order, and so each
    # batch: a store that was lost is written again bit for bit.
    ordered = sorted(windows, key=lambda name: (-windows[name].n_frames, name))
    with (folder / _FILES[dtype]).open("wb") as stream:
        done = 0
        for window, group in groupby(ordered, key=windows.__getitem__):
            for names in chunks(list(group), _BATCH):
                mel = features.window(names, window.n_frames).to(model.device)
                encoded = model.encode(mel, window).features.cpu().numpy()
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
        "positions": [len(windows[name].counts) for name in ordered],
    }
    (folder / INDEX).write_text(json.dumps(index), encoding="utf-8")


def _check_range(names: Sequence[str], encoded: np.ndarray, dtype: Dtype) -> None:
    limit = np.finfo(DTYPES[dtype]).max
    largest = np.abs(encoded).max(axis=(1, 2))
    bad = [
        name for name, value in zip(names, largest, strict=True) if not value <= limit
    ]  # NaN is not at most the limit
    if not bad:
        return
    if not np.isfinite(encoded).all():
        raise KmedError(f"The encoder's output is not finite for {', '.join(bad)}; check these recordings and weights.")
    raise KmedError(
        f"The encoder's output reaches {largest.max():.0f} for {', '.join(bad)}, and {dtype} ends at {limit:.0f}; set "
        "features.dtype=fp32."
    )


def _key(model: Whisper, features: FeatureStore, windows: Mapping[str, Window], dtype: Dtype) -> str:
    """Return a key of what goes in: the clips' frames and windows, the encoder's weights, the number format."""
    how = {"version": ENCODED_VERSION, "dtype": dtype, "frames": features.key, "encoder": _encoder_sha256(model)}
    frames = {name: window.n_frames for name, window in windows.items()}
    return digest({**how, "windows": frames, "pooling": dataclasses.asdict(TRAINING)})


def _encoder_sha256(model: Whisper) -> str:
    total = hashlib.sha256()
    for name, tensor in model.encoder.state_dict().items():
        total.update(f"{name} {tuple(tensor.shape)}".encode())
        total.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()

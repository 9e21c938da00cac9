"""Log-mel features, computed once for a part and kept on disk without the window's silence.

A feature store is a folder with ``frames.f32`` or ``frames.f16`` (all clips' frames, one after the other) and
``index.json``; ``core.array_cache`` makes sure that it is complete.
"""

import contextlib
import glob
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd
import torch
from whisper.audio import HOP_LENGTH, N_SAMPLES, SAMPLE_RATE

from kmed_bench.asr.features.audio import change_speed, decode_audio
from kmed_bench.asr.features.log_mel import N_MELS, log_mel, pad_value
from kmed_bench.asr.features.threads import count_cores, map_in_order
from kmed_bench.config import digest
from kmed_bench.core.array_cache import INDEX, get_or_create
from kmed_bench.core.errors import KmedError
from kmed_bench.corpus.archives.reader import SEPARATOR, AudioReader
from kmed_bench.corpus.archives.spans import parse_piece

FEATURE_VERSION = "3"


# On disk. Log-mel is between -1.5 and about 2, where fp16's error is at most 2**-11 (2**-10 above 2).
Dtype = Literal["fp32", "fp16"]
DTYPES: dict[Dtype, np.dtype[Any]] = {"fp32": np.dtype(np.float32), "fp16": np.dtype(np.float16)}
_FILES: dict[Dtype, str] = {"fp32": "frames.f32", "fp16": "frames.f16"}


class FeatureStore:
    """Frames of many clips in one memory-mapped file.

    Parameters
    ----------
    folder : Path
        A folder that ``build_features`` wrote.

    Attributes
    ----------
    key : str
        Digest of the store's content.
    dtype : {"fp32", "fp16"}
        Number format of the frames.
    n_bytes : int
        Size of the frames.
    """

    def __init__(self, folder: Path) -> None:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        self.key = folder.name
        self._rows = {name: row for row, name in enumerate(index["utterance_ids"])}
        self._starts = np.concatenate([[0], np.cumsum(index["n_frames"])])
        self._pads: list[float] = index["pad_values"]
        shape = (int(self._starts[-1]), N_MELS)
        self.dtype: Dtype = index["dtype"]
        self._frames = np.memmap(folder / _FILES[self.dtype], dtype=DTYPES[self.dtype], mode="r", shape=shape)
        self.n_bytes = self._frames.nbytes

    def n_frames(self, utterance_id: str) -> int:
        """Return a clip's number of frames of 10 ms."""
        row = self._rows[utterance_id]
        return int(self._starts[row + 1] - self._starts[row])

    def frames(self, utterance_id: str) -> np.ndarray:
        """Return a clip's frames as they are on disk, shape (n_frames, 80)."""
        row = self._rows[utterance_id]
        return self._frames[self._starts[row] : self._starts[row + 1]]

    def pad_value(self, utterance_id: str) -> float:
        """Return the value of the silence after a clip."""
        return self._pads[self._rows[utterance_id]]

    def window(self, utterance_ids: Sequence[str], n_frames: int) -> torch.Tensor:
        """Return clips padded with their own silence, fp32, shape (batch, 80, n_frames)."""
        return pad_to_window([(self.frames(name), self.pad_value(name)) for name in utterance_ids], n_frames)


def pad_to_window(clips: Sequence[tuple[np.ndarray, float]], n_frames: int) -> torch.Tensor:
    """Return clips' frames, each with the value of its padding, in one window, fp32, shape (batch, 80, n_frames)."""
    batch = np.empty((len(clips), n_frames, N_MELS), dtype=np.float32)
    for i, (frames, pad) in enumerate(clips):
        frames = frames[:n_frames]
        batch[i, : len(frames)] = frames
        batch[i, len(frames) :] = pad
    return torch.from_numpy(batch).transpose(1, 2)


def build_features(
    part: pd.DataFrame,
    cache: Path,
    *,
    dtype: Dtype = "fp32",
    speed: float = 1.0,
    budget_bytes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    n_threads: int | None = None,
) -> FeatureStore:
    """Return a part's features, computed unless the cache already has them.

    Parameters
    ----------
    part : pandas.DataFrame
        Rows of a manifest.
    cache : Path
        Folder of stores; a second of audio takes 32 kB as fp32, 16 kB as fp16.
    dtype : {"fp32", "fp16"}
        Number format on disk. fp16 halves the size; its error is at most 0.001 (2**-10).
    speed : float
        Factor by which the clips play faster.
    budget_bytes : int, optional
        Maximum size of all stores in the cache; None: the free disk space.
    progress : callable
        Called with (clips done, clips in all).
    n_threads : int, optional
        Number of clips that are computed at a time; the store is the same to the bit. None: one for each core.

    Raises
    ------
    KmedError
        When a clip can't be read or would last longer than 30 s at the speed, or the budget or the disk is used up.
    """
    _check_lengths(part, speed)
    # A frame centered on either end, and one to make them even, are less than the second added to each clip.
    seconds = float(part["duration_s"].sum()) / speed + len(part)
    folder = get_or_create(
        cache,
        _name(part, dtype, speed),
        lambda aside: _write_store(part, aside, dtype, speed, n_threads or count_cores(), progress),
        what=f"The features of {len(part)} clips",
        needed_bytes=features_bytes(seconds, dtype),
        budget_bytes=budget_bytes,
    )
    return FeatureStore(folder)


def has_features(part: pd.DataFrame, cache: Path, *, dtype: Dtype = "fp32", speed: float = 1.0) -> bool:
    """Return whether the cache has a part's features, without a look at whether they are whole."""
    return (cache / _name(part, dtype, speed) / INDEX).is_file()


def features_bytes(duration_s: float, dtype: Dtype) -> int:
    """Return the size of the features of so much audio."""
    return int(duration_s * SAMPLE_RATE / HOP_LENGTH * N_MELS * DTYPES[dtype].itemsize)


def _check_lengths(part: pd.DataFrame, speed: float) -> None:
    """Raise KmedError if slowed clips exceed the window, which would cut their audio but not their labels."""
    limit_s = N_SAMPLES / SAMPLE_RATE
    too_long = part[(part["duration_s"] <= limit_s) & (part["duration_s"] / speed > limit_s)]
    if len(too_long):
        raise KmedError(
            f"{len(too_long)} clips would last longer than Whisper's window of {limit_s:.0f} s at speed {speed:g} (the "
            f"longest is {too_long['duration_s'].max():.1f} s as recorded); leave {speed:g} out of "
            f"train.speed_factors, or set data.max_duration_s to {limit_s * speed:.1f}."
        )


def _write_store(
    part: pd.DataFrame,
    folder: Path,
    dtype: Dtype,
    speed: float,
    n_threads: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    n_frames, pads = [], []
    names = part["utterance_id"].tolist()
    clips = zip(names, part["audio"].tolist(), strict=True)

    def compute(clip: tuple[str, str]) -> tuple[np.ndarray, float]:
        name, location = clip
        samples = decode_audio(reader.read(location), name)
        return rounded_frames(samples if speed == 1 else change_speed(samples, speed), dtype)

    with (
        AudioReader() as reader,
        (folder / _FILES[dtype]).open("wb") as stream,
        contextlib.closing(map_in_order(compute, clips, n_threads)) as computed,
    ):
        for done, (frames, pad) in enumerate(computed, start=1):
            stream.write(frames.tobytes())
            n_frames.append(len(frames))
            pads.append(pad)
            if progress:
                progress(done, len(names))
    index = {"dtype": dtype, "speed": speed, "utterance_ids": names, "n_frames": n_frames, "pad_values": pads}
    (folder / INDEX).write_text(json.dumps({"version": FEATURE_VERSION, **index}), encoding="utf-8")


def rounded_frames(samples: np.ndarray, dtype: Dtype) -> tuple[np.ndarray, float]:
    """Return a clip's frames in a number format, and the value of the silence after it, rounded alike."""
    frames = log_mel(samples)
    return frames.astype(DTYPES[dtype]), float(DTYPES[dtype].type(pad_value(frames)))


def _name(part: pd.DataFrame, dtype: Dtype, speed: float) -> str:
    """Return the name of a store, with a digest of what is read and how: ids, locations, files' sizes and times."""
    stamps = []
    for name in sorted({str(location).split(SEPARATOR, 1)[0] for location in part["audio"]}):
        for file in _files_behind(Path(name)):
            stat = file.stat()
            stamps.append((str(file), stat.st_size, stat.st_mtime_ns))
    rows = list(zip(part["utterance_id"], part["audio"], strict=True))
    how = {"version": FEATURE_VERSION, "dtype": dtype, "speed": float(speed)}
    return f"frames-{digest({**how, 'rows': rows, 'files': stamps})}"


def _files_behind(path: Path) -> list[Path]:
    """Return the file itself, or the downloader's pieces if they are not joined."""
    files = (
        [path]
        if path.exists()
        else sorted(p for p in path.parent.glob(f"{glob.escape(path.name)}.*") if parse_piece(p.name))
    )
    if not files:
        encoding = sys.getfilesystemencoding()
        if encoding != "utf-8" and not str(path).isascii():
            raise KmedError(
                f"Audio file {str(path)!a} can't be found: file names are read in this locale's encoding "
                f"({encoding}), which has no letters for it; set PYTHONUTF8=1, or a locale with UTF-8."
            )
        raise KmedError(f"Audio file {path} is gone; run `kmed-bench ingest` again.")
    return files


class FeatureSource(Protocol):
    """What log-mel frames are read from: a `FeatureStore`, or frames in memory."""

    def n_frames(self, utterance_id: str) -> int:
        """Return a clip's number of frames of 10 ms."""

    def window(self, utterance_ids: Sequence[str], n_frames: int) -> torch.Tensor:
        """Return clips padded with their own silence, shape (batch, 80, n_frames)."""

"""Log-mel features, computed once a split part and kept on disk without the silence of the window.

A frame store is a folder of ``frames.f32`` or ``frames.f16`` (all clips' frames behind one another,
frame by frame) and ``index.json``; ``asr.stores`` sees to it that it is whole.
"""

import glob
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import soundfile
import torch
import torchaudio
import whisper
from whisper.audio import HOP_LENGTH, N_FFT, N_FRAMES, N_SAMPLES, SAMPLE_RATE

from kmed_bench.asr.stores import INDEX, obtain_store
from kmed_bench.config import digest
from kmed_bench.corpus.archives import SEPARATOR, AudioReader
from kmed_bench.records import KmedError

FEATURE_VERSION = "2"
N_MELS = 80  # of tiny, base and small alike, so that the sizes share one store

# Log-mel of silence in openai-whisper's scale: log10(1e-10) is -10, then (x + 4) / 4; and the
# floor of 8 below a clip's maximum becomes 2 in that scale.
_SILENCE = (-10.0 + 4.0) / 4.0
_DYNAMIC_RANGE = 8.0 / 4.0

# On disk. Log-mel lies between -1.5 and about 2, where fp16 is off by at most 2**-11 (2**-10 from 2 on).
Dtype = Literal["fp32", "fp16"]
DTYPES: dict[Dtype, np.dtype[Any]] = {"fp32": np.dtype(np.float32), "fp16": np.dtype(np.float16)}
_FILES: dict[Dtype, str] = {"fp32": "frames.f32", "fp16": "frames.f16"}


def decode_audio(content: bytes, name: str) -> np.ndarray:
    """Return the samples of an audio file, mono, 16 kHz, float32, shape (n_samples,).

    Parameters
    ----------
    content : bytes
        Any format that libsndfile reads. Channels are averaged.
    name : str
        What an error calls the file; an utterance id rather than a path.

    Raises
    ------
    KmedError
        When the bytes are no audio, or hold none.
    """
    try:
        samples, rate_hz = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise KmedError(f"The audio of {name} can't be decoded ({error}); run `kmed-bench ingest` again.") from None
    if len(samples) == 0:
        raise KmedError(f"The audio of {name} is empty (0 samples); run `kmed-bench ingest` again.")
    mono = torch.from_numpy(samples.mean(axis=1))
    if rate_hz != SAMPLE_RATE:
        mono = torchaudio.functional.resample(mono, rate_hz, SAMPLE_RATE)
    return mono.numpy()


def log_mel(samples: np.ndarray) -> np.ndarray:
    """Return the log-mel frames of a clip's own length, shape (n_frames, 80), float32.

    Equal to the first frames of ``whisper.log_mel_spectrogram(whisper.pad_or_trim(samples))``;
    every later frame of that window is ``pad_value`` of these. The number of frames is even, as
    the encoder's second convolution has stride 2.
    """
    samples = samples[:N_SAMPLES]
    # Frames are centred, so a clip's last sample reaches half a window further.
    n_frames = -(-(len(samples) + N_FFT // 2) // HOP_LENGTH)
    n_frames = min(n_frames + n_frames % 2, N_FRAMES)
    # Zeros up to the last frame's end and beyond, so that the transform's mirrored edge holds silence;
    # a full window ends as openai-whisper's does.
    n_padded = min((n_frames + 3) * HOP_LENGTH + N_FFT, N_SAMPLES)
    padded = np.pad(samples, (0, max(n_padded - len(samples), 0)))
    mel = whisper.log_mel_spectrogram(torch.from_numpy(padded), n_mels=N_MELS)
    return np.ascontiguousarray(mel[:, :n_frames].T.numpy())


def pad_value(frames: np.ndarray) -> float:
    """Return what openai-whisper's log-mel has where the window holds only silence."""
    return max(float(frames.max()) - _DYNAMIC_RANGE, _SILENCE)


def change_speed(samples: np.ndarray, speed: float) -> np.ndarray:
    """Return samples that play faster (over 1) or slower, pitch included; shape (n_samples / speed,).

    The same as ``torchaudio.functional.speed`` at 16 kHz, save that the rate is rounded instead of cut:
    1.15 would become 18,399 Hz there, which has no common divisor with 16,000.
    """
    rate_hz = round(speed * SAMPLE_RATE)
    changed: np.ndarray = torchaudio.functional.resample(torch.from_numpy(samples), rate_hz, SAMPLE_RATE).numpy()
    return changed


class FrameStore:
    """Frames of many clips in one memory-mapped file.

    Parameters
    ----------
    folder : Path
        A folder that ``build_frames`` wrote.

    Attributes
    ----------
    key : str
        Stands for the store's content; equal for equal content.
    """

    def __init__(self, folder: Path) -> None:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        self.key = folder.name
        self._rows = {name: row for row, name in enumerate(index["utterance_ids"])}
        self._starts = np.concatenate([[0], np.cumsum(index["n_frames"])])
        self._pads: list[float] = index["pad_values"]
        shape = (int(self._starts[-1]), N_MELS)
        dtype: Dtype = index["dtype"]
        self._frames = np.memmap(folder / _FILES[dtype], dtype=DTYPES[dtype], mode="r", shape=shape)

    def n_frames(self, utterance_id: str) -> int:
        """Return the frames of a clip, 10 ms each."""
        row = self._rows[utterance_id]
        return int(self._starts[row + 1] - self._starts[row])

    def window(self, utterance_ids: Sequence[str], n_frames: int) -> torch.Tensor:
        """Return clips padded with their own silence, fp32, shape (batch, 80, n_frames)."""
        batch = np.empty((len(utterance_ids), n_frames, N_MELS), dtype=np.float32)
        for i, name in enumerate(utterance_ids):
            row = self._rows[name]
            frames = self._frames[self._starts[row] : self._starts[row + 1]][:n_frames]
            batch[i, : len(frames)] = frames
            batch[i, len(frames) :] = self._pads[row]
        return torch.from_numpy(batch).transpose(1, 2)


def build_frames(
    part: pd.DataFrame,
    cache: Path,
    *,
    dtype: Dtype = "fp32",
    speed: float = 1.0,
    budget_bytes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> FrameStore:
    """Return the frame store of a part, made if the cache has none for the same content.

    Parameters
    ----------
    part : pandas.DataFrame
        Rows of a manifest.
    cache : Path
        Folder of stores; one clip second takes 32 kB as fp32, 16 kB as fp16.
    dtype : {"fp32", "fp16"}
        Number format on disk. fp16 halves it and is off by at most 0.001 (2**-10).
    speed : float
        At which the clips play.
    budget_bytes : int, optional
        What the cache's stores may take together; None: what the disk has.
    progress : callable
        Called with (clips done, clips in all).

    Raises
    ------
    KmedError
        When a clip can't be read or would last longer than 30 s at the speed, or the budget or the disk
        has no room.
    """
    _check_lengths(part, speed)
    # A frame centred on either end, and one to make them even, are less than the second added to each clip.
    seconds = float(part["duration_s"].sum()) / speed + len(part)
    folder = obtain_store(
        cache,
        f"frames-{_key(part, dtype, speed)}",
        lambda aside: _write_store(part, aside, dtype, speed, progress),
        what=f"The features of {len(part)} clips",
        needed_bytes=int(seconds * SAMPLE_RATE / HOP_LENGTH * N_MELS * DTYPES[dtype].itemsize),
        budget_bytes=budget_bytes,
    )
    return FrameStore(folder)


def _check_lengths(part: pd.DataFrame, speed: float) -> None:
    """Refuse to slow clips beyond the window, which would cut their audio and not their labels."""
    limit_s = N_SAMPLES / SAMPLE_RATE
    too_long = part[(part["duration_s"] <= limit_s) & (part["duration_s"] / speed > limit_s)]
    if len(too_long):
        raise KmedError(
            f"{len(too_long)} clips would last longer than Whisper's window of {limit_s:.0f} s at speed {speed:g} (the "
            f"longest is {too_long['duration_s'].max():.1f} s as recorded); leave {speed:g} out of "
            f"train.speed_factors, or set data.max_duration_s to {limit_s * speed:.1f}."
        )


def _write_store(
    part: pd.DataFrame, folder: Path, dtype: Dtype, speed: float, progress: Callable[[int, int], None] | None
) -> None:
    n_frames, pads = [], []
    names, places = part["utterance_id"].tolist(), part["audio"].tolist()
    with AudioReader() as reader, (folder / _FILES[dtype]).open("wb") as stream:
        for done, (name, place) in enumerate(zip(names, places, strict=True), start=1):
            samples = decode_audio(reader.read(place), name)
            frames = log_mel(samples if speed == 1 else change_speed(samples, speed))
            kept = frames.astype(DTYPES[dtype])
            stream.write(kept.tobytes())
            n_frames.append(len(kept))
            # Rounded as the frames are, so that the padding is the silence of the clip itself.
            pads.append(float(DTYPES[dtype].type(pad_value(frames))))
            if progress:
                progress(done, len(names))
    index = {"dtype": dtype, "speed": speed, "utterance_ids": names, "n_frames": n_frames, "pad_values": pads}
    (folder / INDEX).write_text(json.dumps({"version": FEATURE_VERSION, **index}), encoding="utf-8")


def _key(part: pd.DataFrame, dtype: Dtype, speed: float) -> str:
    """Return a key of what is read and how: ids, places and each containing file's size and time."""
    stamps = []
    for name in sorted({str(place).split(SEPARATOR, 1)[0] for place in part["audio"]}):
        for file in _files_behind(Path(name)):
            stat = file.stat()
            stamps.append((str(file), stat.st_size, stat.st_mtime_ns))
    rows = list(zip(part["utterance_id"], part["audio"], strict=True))
    how = {"version": FEATURE_VERSION, "dtype": dtype, "speed": float(speed)}
    return digest({**how, "rows": rows, "files": stamps})


def _files_behind(path: Path) -> list[Path]:
    """Return the file of a location, or the downloader's pieces where it is not joined."""
    found = [path] if path.exists() else sorted(path.parent.glob(f"{glob.escape(path.name)}.part*"))
    if not found:
        raise KmedError(f"Audio file {path} is gone; run `kmed-bench ingest` again.")
    return found

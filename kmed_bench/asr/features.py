"""Log-mel features, computed once a split part and kept on disk without the silence of the window.

A frame store is a folder ``<key>/`` of ``frames.f32`` (all clips' frames behind one another,
frame by frame) and ``index.json``. It is written aside and renamed when whole, so that a killed
or concurrent writer never leaves half a store behind.
"""

import glob
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
import torch
import torchaudio
import whisper
from whisper.audio import HOP_LENGTH, N_FFT, N_FRAMES, N_SAMPLES, SAMPLE_RATE

from kmed_bench.config import digest
from kmed_bench.corpus.archives import SEPARATOR, AudioReader
from kmed_bench.records import KmedError

FEATURE_VERSION = "1"
N_MELS = 80  # of tiny, base and small alike, so that the sizes share one store

# Log-mel of silence in openai-whisper's scale: log10(1e-10) is -10, then (x + 4) / 4; and the
# floor of 8 below a clip's maximum becomes 2 in that scale.
_SILENCE = (-10.0 + 4.0) / 4.0
_DYNAMIC_RANGE = 8.0 / 4.0


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


class FrameStore:
    """Frames of many clips in one memory-mapped file.

    Parameters
    ----------
    folder : Path
        A folder that ``build_frames`` wrote.
    """

    def __init__(self, folder: Path) -> None:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        self._rows = {name: row for row, name in enumerate(index["utterance_ids"])}
        self._starts = np.concatenate([[0], np.cumsum(index["n_frames"])])
        self._pads: list[float] = index["pad_values"]
        shape = (int(self._starts[-1]), N_MELS)
        self._frames = np.memmap(folder / "frames.f32", dtype=np.float32, mode="r", shape=shape)

    def n_frames(self, utterance_id: str) -> int:
        """Return the frames of a clip, 10 ms each."""
        row = self._rows[utterance_id]
        return int(self._starts[row + 1] - self._starts[row])

    def window(self, utterance_ids: Sequence[str], n_frames: int) -> torch.Tensor:
        """Return clips padded with their own silence, shape (batch, 80, n_frames)."""
        batch = np.empty((len(utterance_ids), n_frames, N_MELS), dtype=np.float32)
        for i, name in enumerate(utterance_ids):
            row = self._rows[name]
            frames = self._frames[self._starts[row] : self._starts[row + 1]][:n_frames]
            batch[i, : len(frames)] = frames
            batch[i, len(frames) :] = self._pads[row]
        return torch.from_numpy(batch).transpose(1, 2)


def build_frames(part: pd.DataFrame, cache: Path, *, progress: Callable[[int, int], None] | None = None) -> FrameStore:
    """Return the frame store of a part, made if the cache has none for the same content.

    Parameters
    ----------
    part : pandas.DataFrame
        Rows of a manifest.
    cache : Path
        Folder of stores; one clip second takes 32 kB.
    progress : callable
        Called with (clips done, clips in all).

    Raises
    ------
    KmedError
        When a clip can't be read, or the disk has no room.
    """
    folder = cache / f"frames-{_key(part)}"
    if not (folder / "index.json").is_file():
        cache.mkdir(parents=True, exist_ok=True)
        _check_room(part, cache)
        aside = Path(tempfile.mkdtemp(dir=cache, prefix=".frames-"))
        try:
            _write_store(part, aside, progress)
            _rename_into_place(aside, folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return FrameStore(folder)


def _write_store(part: pd.DataFrame, folder: Path, progress: Callable[[int, int], None] | None) -> None:
    n_frames, pads = [], []
    names, places = part["utterance_id"].tolist(), part["audio"].tolist()
    with AudioReader() as reader, (folder / "frames.f32").open("wb") as stream:
        for done, (name, place) in enumerate(zip(names, places, strict=True), start=1):
            frames = log_mel(decode_audio(reader.read(place), name))
            stream.write(frames.tobytes())
            n_frames.append(len(frames))
            pads.append(pad_value(frames))
            if progress:
                progress(done, len(names))
        stream.flush()
        os.fsync(stream.fileno())
    index = {"version": FEATURE_VERSION, "utterance_ids": names, "n_frames": n_frames, "pad_values": pads}
    (folder / "index.json").write_text(json.dumps(index), encoding="utf-8")


def _rename_into_place(aside: Path, folder: Path) -> None:
    try:
        aside.rename(folder)
    except OSError:
        # Another writer was first; its store has the same key and so the same content.
        if not (folder / "index.json").is_file():
            raise


def _key(part: pd.DataFrame) -> str:
    """Return a key of what is read: ids, places and each containing file's size and time."""
    stamps = []
    for name in sorted({str(place).split(SEPARATOR, 1)[0] for place in part["audio"]}):
        for file in _files_behind(Path(name)):
            stat = file.stat()
            stamps.append((str(file), stat.st_size, stat.st_mtime_ns))
    rows = list(zip(part["utterance_id"], part["audio"], strict=True))
    return digest({"version": FEATURE_VERSION, "rows": rows, "files": stamps})


def _files_behind(path: Path) -> list[Path]:
    """Return the file of a location, or the downloader's pieces where it is not joined."""
    found = [path] if path.exists() else sorted(path.parent.glob(f"{glob.escape(path.name)}.part*"))
    if not found:
        raise KmedError(f"Audio file {path} is gone; run `kmed-bench ingest` again.")
    return found


def _check_room(part: pd.DataFrame, cache: Path) -> None:
    frames_per_s = SAMPLE_RATE / HOP_LENGTH
    needed = float(part["duration_s"].sum() + len(part)) * frames_per_s * N_MELS * 4
    free = shutil.disk_usage(cache).free
    if needed > free * 0.95:
        raise KmedError(
            f"The features of {len(part)} clips need {needed / 2**30:.1f} GiB in {cache}, which has "
            f"{free / 2**30:.1f} GiB free; make room or set KMED_CACHE to a larger disk."
        )

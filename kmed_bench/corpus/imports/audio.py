"""The audio of imported recordings: measured where it is, or copied to a plain file that every later step reads.

WAV, FLAC, OGG and MP3 stay where they are. Others (m4a, 3gp, webm, headerless samples, cells of a table) and
clips of a longer recording are copied: WAV, 16 bits, the rate and the channels of the source.
"""

import dataclasses
import functools
import hashlib
import io
import math
import re
import wave
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

from kmed_bench.core.files import write_bytes_atomically
from kmed_bench.corpus.archives.media import MediaError, open_media
from kmed_bench.corpus.archives.reader import MAX_AUDIO_BYTES
from kmed_bench.corpus.archives.wav import MAX_RATE_HZ, MIN_RATE_HZ, WavError, is_wav, read_header, read_samples
from kmed_bench.corpus.imports.records import Audio, Record
from kmed_bench.corpus.ingest.aihub import is_utf8
from kmed_bench.corpus.ingest.entries import NOT_UTF8
from kmed_bench.corpus.ingest.scan import measure_level

PCM_RATE_HZ = 16_000
_SPARE_S = 1.0
"""How much more than the longest usable clip is kept of a longer one, whose length is only counted."""
_COMPARED_SAMPLES = 256


@dataclasses.dataclass(slots=True)
class Measured:
    """A clip's file and what it holds: the columns of ``scan.AUDIO_SCHEMA``, and its path.

    Attributes
    ----------
    copied_bytes : int
        Size of the copy; 0 where the recording stays where it is.
    """

    path: str
    duration_s: float = math.nan
    missing_s: float = 0.0
    rate_hz: int = 0
    channels: int = 0
    bits: int = 0
    loudest: float = math.nan
    clipped: float = math.nan
    cancelled: float = math.nan
    first: int = 0
    fault: str = ""
    copied_bytes: int = 0


@dataclasses.dataclass(slots=True)
class _Clip:
    """A part of a recording that is being read: its first and last frame, and what was read of it."""

    target: Path
    start: int
    end: int
    held: list[np.ndarray] = dataclasses.field(default_factory=list)
    n_frames: int = 0

    def take(self, block: np.ndarray, position: int, limit: int) -> None:
        """Take what a block that begins at a frame has of the clip; beyond the limit, frames are only counted."""
        part = block[max(0, self.start - position) : max(0, self.end - position)]
        if self.n_frames < limit:
            self.held.append(part.copy())
        self.n_frames += len(part)


def prepare_audio(records: Sequence[Record], folder: Path, max_duration_s: float) -> Iterator[Measured]:
    """Yield each record's audio in their order, measured, and copied where it has to be.

    A copy that a call that was stopped has made is found again. Records of one recording should follow one another: it
    is then read once.

    Parameters
    ----------
    records : sequence of Record
        All with ``audio``.
    folder : Path
        Where copies go.
    max_duration_s : float
        Longer clips are measured, and not copied.
    """
    start = 0
    while start < len(records):
        end = start + 1
        while end < len(records) and records[end].audio == records[start].audio:
            end += 1
        yield from _prepare(records[start:end], folder, max_duration_s)
        start = end


def _prepare(records: Sequence[Record], folder: Path, max_duration_s: float) -> list[Measured]:
    """Return the audio of records that share one recording."""
    audio = records[0].audio
    assert audio is not None
    if not is_utf8(str(audio.path)):
        shown = str(audio.path).encode(errors="backslashreplace").decode()
        return [Measured(shown, fault=NOT_UTF8) for _ in records]
    try:
        if audio.kind == "file" and all(map(_is_whole, records)) and _is_plain(audio.path):
            return [_measure(audio.path)] * len(records)
        source = audio.path if audio.kind == "file" else _content(audio)
        if isinstance(source, bytes) and audio.kind != "pcm" and _is_whole(records[0]) and (kind := _kind(source)):
            return [_store(source, _target(records[0], audio, folder, kind))] * len(records)
        return _copy(source, records, [_target(record, audio, folder, ".wav") for record in records], max_duration_s)
    except (MediaError, WavError, soundfile.SoundFileError, pa.ArrowException) as error:
        return [Measured(str(audio.path), fault=str(error)) for _ in records]


def _is_whole(record: Record) -> bool:
    return math.isnan(record.start_s) and math.isnan(record.end_s)


def _is_plain(path: Path) -> bool:
    """Return whether every later step reads a file as it is: WAV, or what libsndfile reads."""
    try:
        with path.open("rb") as stream:
            return bool(_kind(stream.read(1 << 12)))
    except OSError as error:
        raise MediaError(f"it can't be opened: {error.strerror}") from None


def _kind(content: bytes) -> str:
    """Return the ending of a format that is kept as it is, by the first bytes; empty for others."""
    if is_wav(content):
        return ".wav"
    kinds = {b"fLaC": ".flac", b"OggS": ".ogg", b"ID3": ".mp3", b"\xff\xfb": ".mp3", b"\xff\xf3": ".mp3"}
    return next((ending for head, ending in kinds.items() if content.startswith(head)), "")


def _target(record: Record, audio: Audio, folder: Path, ending: str) -> Path:
    """Return the path of a copy: the utterance's name, and a digest of what it is made of."""
    found = audio.path.stat()
    made_of = (str(audio), found.st_size, found.st_mtime_ns, record.start_s, record.end_s)
    digest = hashlib.blake2b(repr(made_of).encode(), digest_size=6).hexdigest()
    return folder.absolute() / f"{re.sub(r'[^0-9A-Za-z가-힣._-]', '_', record.utterance_id)[:60]}-{digest}{ending}"


def _store(content: bytes, target: Path) -> Measured:
    if not target.exists():
        write_bytes_atomically(target, content, private=True)
    return dataclasses.replace(_measure(target), copied_bytes=len(content))


def _measure(path: Path) -> Measured:
    """Return what a plain file holds; raises MediaError or WavError where it can't be read."""
    try:
        n_bytes = path.stat().st_size
        if n_bytes > MAX_AUDIO_BYTES:
            raise MediaError(
                f"it has {n_bytes:,} bytes; the limit is {MAX_AUDIO_BYTES:,}: list its clips by start and end"
            )
        content = path.read_bytes()
    except OSError as error:
        raise MediaError(f"it can't be opened: {error.strerror}") from None
    found = Measured(str(path))
    if is_wav(content):
        header = read_header(content, len(content))
        samples, found.rate_hz = read_samples(content)
        found.missing_s, found.bits = header.missing_s, header.bits
    else:
        with open_media(content) as media:
            samples, found.rate_hz = (
                np.concatenate([np.empty((0, media.channels), np.float32), *media.blocks]),
                media.rate_hz,
            )
    _describe(found, samples, len(samples))
    return found


def _describe(found: Measured, samples: np.ndarray, n_frames: int) -> None:
    """Note what the samples show; fewer samples than frames: the rest was only counted."""
    if not MIN_RATE_HZ <= found.rate_hz <= MAX_RATE_HZ:
        raise MediaError(f"its rate is {found.rate_hz:,} Hz; {MIN_RATE_HZ:,} to {MAX_RATE_HZ:,} Hz are read")
    found.duration_s, found.channels = n_frames / found.rate_hz, samples.shape[1]
    if len(samples) == n_frames:
        found.loudest, found.clipped, found.cancelled = measure_level(samples)
    found.first = zlib.crc32(samples[:_COMPARED_SAMPLES].tobytes())


def _copy(
    source: Path | bytes, records: Sequence[Record], targets: list[Path], max_duration_s: float
) -> list[Measured]:
    """Return the clips of one recording, of which those that are not there yet are cut, in one reading."""
    waiting = [(record, target) for record, target in zip(records, targets, strict=True) if not target.exists()]
    cut = dict(zip((target for _, target in waiting), _cut(source, waiting, max_duration_s), strict=True))
    return [cut.get(target) or _copied(target) for target in targets]


def _cut(source: Path | bytes, wanted: Sequence[tuple[Record, Path]], max_duration_s: float) -> list[Measured]:
    """Return clips that were cut out of a recording, which is read up to the end of the last one."""
    if not wanted:
        return []
    with open_media(source) as media:
        rate_hz, limit = media.rate_hz, round((max_duration_s + _SPARE_S) * media.rate_hz)
        clips = [_clip(record, target, rate_hz) for record, target in wanted]
        position, fault = 0, ""
        made: dict[int, Measured] = {}  # written as soon as they are whole, so that few are held at a time
        try:
            for block in media.blocks:
                for n, clip in enumerate(clips):
                    if clip.start < position + len(block) and position < clip.end:
                        clip.take(block, position, limit)
                    if n not in made and clip.end <= position + len(block):
                        made[n] = _finish(clip, rate_hz, limit, "", clip.end / rate_hz)
                        clip.held.clear()
                position += len(block)
                if len(made) == len(clips):
                    break
        except MediaError as error:
            fault = str(error)
        rest = {n: clip for n, clip in enumerate(clips) if n not in made}
        made |= {n: _finish(clip, rate_hz, limit, fault, position / rate_hz) for n, clip in rest.items()}
        return [made[n] for n in range(len(clips))]


def _clip(record: Record, target: Path, rate_hz: int) -> _Clip:
    start = 0 if math.isnan(record.start_s) else round(record.start_s * rate_hz)
    return _Clip(target, start, 1 << 62 if math.isnan(record.end_s) else round(record.end_s * rate_hz))


def _finish(clip: _Clip, rate_hz: int, limit: int, fault: str, length_s: float) -> Measured:
    """Write a clip unless it is too long, and return what it holds."""
    found = Measured(str(clip.target), rate_hz=rate_hz, bits=16, fault=fault)
    if not fault and not clip.n_frames:
        found.fault = f"the clip begins at {clip.start / rate_hz:.3f} s, and the recording lasts {length_s:.3f} s"
    if found.fault:
        return found
    samples = np.concatenate(clip.held)
    try:
        if samples.size:
            measure_level(samples)  # before they are clipped
        # As read_samples scales it, so that 16-bit samples stay as they are; libsndfile's writer scales otherwise.
        pcm = np.clip(np.rint(samples * 2.0**15), -(2**15), 2**15 - 1).astype("<i2")
        _describe(found, (pcm / 2.0**15).astype(np.float32), clip.n_frames)
    except (MediaError, WavError) as error:
        return dataclasses.replace(found, fault=str(error))
    if clip.n_frames <= limit:
        write_bytes_atomically(clip.target, _wav_bytes(pcm.tobytes(), rate_hz, samples.shape[1]), private=True)
        found.copied_bytes = clip.target.stat().st_size
    return found


def _copied(target: Path) -> Measured:
    return dataclasses.replace(_measure(target), copied_bytes=target.stat().st_size)


def _wav_bytes(pcm: bytes, rate_hz: int, channels: int) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((channels, 2, rate_hz, 0, "NONE", ""))
        file.writeframes(pcm)
    return buffer.getvalue()


def _content(audio: Audio) -> bytes:
    """Return the bytes of headerless samples, as a WAV file, or of a table's cell."""
    if audio.kind == "pcm":
        content = audio.path.read_bytes()
        return _wav_bytes(content[: len(content) // 2 * 2], PCM_RATE_HZ, 1)
    column, row = _cells(audio.path, audio.kind, audio.group, audio.column), audio.row
    cell: Any = column[row].as_py()
    held = cell.get("bytes") if isinstance(cell, dict) else cell
    if isinstance(held, bytes) and held:
        return held
    named = (cell or {}).get("path") if isinstance(cell, dict) else None
    if named and (path := audio.path.parent / str(named)).is_file():
        return path.read_bytes()
    raise MediaError("its cell holds neither the bytes of audio nor the path of a file")


@functools.lru_cache(maxsize=1)  # rows come in order, and a row group is what is read at once
def _cells(path: Path, kind: str, group: int, column: str) -> Any:
    if kind == "parquet":
        with pq.ParquetFile(path) as file:
            return file.read_row_group(group, columns=[column])[column].combine_chunks()
    return read_arrow(path)[column].combine_chunks()


def read_arrow(path: Path) -> pa.Table:
    """Return an Arrow file's table, of the streaming format that Hugging Face data sets have or the file format."""
    try:
        return pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
    except pa.ArrowInvalid:
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all()

"""Recordings of any common format, read block by block.

WAV is read by ``wav``, FLAC, OGG, MP3 and AIFF by libsndfile. What telephones, browsers and cameras write (m4a, mp4,
3gp, amr, aac, webm and others) is read by FFmpeg's decoders in PyAV's wheels, which the extra ``recordings`` installs.
"""

import contextlib
import dataclasses
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import soundfile

from kmed_bench.core.surroundings import interrupts_wait
from kmed_bench.corpus.archives.spans import open_plain
from kmed_bench.corpus.archives.wav import HEADER_BYTES, WavError, is_wav, read_header, sample_blocks

if TYPE_CHECKING:
    from av import AudioFrame, AudioStream
    from av.container import InputContainer

_ENDINGS = (
    "3g2 3gp aac aif aiff amr avi caf flac m4a m4b mka mkv mov mp3 mp4 oga ogg opus rf64 w64 wav weba webm wma wmv"
)
MEDIA_SUFFIXES = frozenset(f".{ending}" for ending in _ENDINGS.split())
"""Endings by which recordings are found in a folder; a file that is named is read whatever it is called."""

_BLOCK_VALUES = 1 << 20
_MAX_CHANNELS = 64
# FFmpeg also reads playlists and lists of parts, whose content names other files and addresses: these would be opened.
_DEMUXERS = "aac,ac3,aiff,amr,amrnb,amrwb,asf,au,avi,caf,flac,flv,matroska,mov,mp3,mpeg,mpegts,ogg,w64,wav,webm"
_CUT_S = 0.5  # how much less than its header says a recording may last
_UNKNOWN = 1 << 62  # libsndfile's length of a stream that does not state one, or more


class MediaError(ValueError):
    """Why a recording can't be read, in words for a report."""


@dataclasses.dataclass(frozen=True)
class Media:
    """An open recording.

    Attributes
    ----------
    stated_s : float or None
        Length that the file states; None if it does not.
    blocks : iterator of numpy.ndarray
        The samples, float32 of full scale 1, shape (n_frames, channels); raises MediaError where the file is damaged
        or ends before its stated end.
    """

    rate_hz: int
    channels: int
    stated_s: float | None
    blocks: Iterator[np.ndarray]


@contextlib.contextmanager
def open_media(source: Path | bytes) -> Iterator[Media]:
    """Yield a recording, given by its path or its whole content.

    Raises
    ------
    MediaError
        When it can't be opened, is of no format that is read, has no sound, or is protected (DRM).
    """
    with _opened(source) as stream:
        head = stream.read(HEADER_BYTES)
        stream.seek(0)
        if not head:
            raise MediaError("it is empty (0 bytes)")
        if is_wav(head):
            yield _checked(_wav(stream))
            return
        with contextlib.ExitStack() as stack:
            try:
                media = stack.enter_context(_libsndfile(stream))
            except soundfile.LibsndfileError:
                stream.seek(0)
                media = stack.enter_context(_ffmpeg(stream))
            yield _checked(media)


def _checked(media: Media) -> Media:
    """Return a recording whose blocks raise MediaError at the first sample that is no number."""

    def blocks() -> Iterator[np.ndarray]:
        for block in media.blocks:
            if not np.isfinite(block).all():
                raise MediaError("it holds samples that are no numbers (NaN or infinite)")
            yield block

    return dataclasses.replace(media, blocks=blocks())


@contextlib.contextmanager
def _opened(source: Path | bytes) -> Iterator[IO[bytes]]:
    if isinstance(source, bytes):
        yield io.BytesIO(source)
        return
    try:
        stream = os.fdopen(open_plain(str(source)), "rb")
    except OSError as error:
        raise MediaError(f"it can't be opened: {error.strerror}") from None
    with stream:
        yield stream


class _FileView:
    """A file's bytes, read where they are asked for."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._size = stream.seek(0, io.SEEK_END)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, place: slice) -> bytes:
        start, stop, _ = place.indices(self._size)
        self._stream.seek(start)
        return self._stream.read(max(stop - start, 0))


def _wav(stream: IO[bytes]) -> Media:
    content = _FileView(stream)
    try:
        header = read_header(content, len(content))
    except WavError as error:
        raise MediaError(str(error)) from None
    if header.missing_s > _CUT_S:
        raise MediaError(_cut(header.duration_s, header.duration_s + header.missing_s))
    return Media(header.rate_hz, header.channels, header.duration_s, sample_blocks(content, _BLOCK_VALUES))


@contextlib.contextmanager
def _libsndfile(stream: IO[bytes]) -> Iterator[Media]:
    with interrupts_wait():
        file = soundfile.SoundFile(stream)
    with file:
        stated_s = None if file.frames >= _UNKNOWN else file.frames / file.samplerate
        yield Media(file.samplerate, file.channels, stated_s, _sound_blocks(file, stated_s))


def _sound_blocks(file: soundfile.SoundFile, stated_s: float | None) -> Iterator[np.ndarray]:
    n_read = 0
    while True:
        try:
            with interrupts_wait():
                block = file.read(_BLOCK_VALUES // file.channels, dtype="float32", always_2d=True)
        except (soundfile.LibsndfileError, RuntimeError) as error:
            raise MediaError(f"it is damaged after {n_read / file.samplerate:.1f} s ({error})") from None
        n_read += len(block)
        if len(block):
            yield block
            continue
        seconds = n_read / file.samplerate
        if stated_s is not None and file.format != "MP3" and seconds < stated_s - _CUT_S:  # an MP3's may be a guess
            raise MediaError(_cut(seconds, stated_s))
        return


@contextlib.contextmanager
def _ffmpeg(stream: IO[bytes]) -> Iterator[Media]:
    av = _import_av()
    _check_boxes(stream)
    with contextlib.ExitStack() as stack:
        try:
            container = stack.enter_context(av.open(stream, metadata_errors="replace", options=_OPTIONS))
            track = container.streams.best("audio")
        except (av.FFmpegError, ValueError) as error:
            raise MediaError(f"it is of no format that is read, or its beginning is damaged ({_say(error)})") from None
        if track is None:
            raise MediaError("it has no sound")
        context = track.codec_context
        if context is None or not context.sample_rate or not 1 <= context.channels <= _MAX_CHANNELS:
            raise MediaError("its sound is of a kind that FFmpeg does not decode")
        yield Media(context.sample_rate, context.channels, _stated_s(container, track), _decoded(container, track))


_OPTIONS = {"format_whitelist": _DEMUXERS}


def _import_av() -> Any:
    try:
        import av
    except ImportError:
        raise MediaError(
            "it is no WAV, FLAC, OGG or MP3, and other formats need PyAV: pip install 'kmed-bench[recordings]'"
        ) from None
    return av


def _stated_s(container: "InputContainer", track: "AudioStream") -> float | None:
    """Return the length in seconds that the container states or FFmpeg estimates; a video may last longer."""
    if track.duration is not None and track.time_base is not None:
        return float(track.duration * track.time_base)
    return None if container.duration is None else container.duration / 1e6


def _decoded(container: "InputContainer", track: "AudioStream") -> Iterator[np.ndarray]:
    """Yield what FFmpeg decodes, its short frames joined to blocks."""
    rate_hz, channels = track.codec_context.sample_rate, track.codec_context.channels
    joined: list[np.ndarray] = []
    n_joined = n_yielded = 0
    try:
        for frame in container.decode(track):
            if (frame.sample_rate, frame.layout.nb_channels) != (rate_hz, channels):
                raise MediaError(f"its rate or its channels change after {(n_yielded + n_joined) / rate_hz:.1f} s")
            joined.append(_floats(frame))
            n_joined += len(joined[-1])
            if n_joined * channels >= _BLOCK_VALUES:
                yield np.concatenate(joined)
                n_yielded, n_joined, joined = n_yielded + n_joined, 0, []
    except MediaError:
        raise
    except OSError as error:
        raise MediaError(f"it can't be read: {error.strerror}") from None
    except (_import_av().FFmpegError, ValueError) as error:
        seconds = (n_yielded + n_joined) / rate_hz
        raise MediaError(f"it is damaged or cut off after {seconds:.1f} s ({_say(error)})") from None
    if joined:
        yield np.concatenate(joined)
    # The index of a Matroska file is at its beginning, so a cut one reads without an error.
    alone = "matroska" in container.format.name and len(container.streams) == 1
    stated_s, seconds = _stated_s(container, track), (n_yielded + n_joined) / rate_hz
    if alone and stated_s is not None and seconds < stated_s - _CUT_S:
        raise MediaError(_cut(seconds, stated_s))


def _floats(frame: "AudioFrame") -> np.ndarray:
    """Return a frame's samples as float32 of full scale 1, shape (n_frames, channels)."""
    values = frame.to_ndarray()
    values = values.T if frame.format.is_planar else values.reshape(-1, frame.layout.nb_channels)
    if values.dtype == np.uint8:
        return (values.astype(np.float32) - 128) / 128
    full_scale = 1.0 if values.dtype.kind == "f" else 2.0 ** (8 * values.itemsize - 1)
    return (values / full_scale).astype(np.float32)


def _check_boxes(stream: IO[bytes]) -> None:
    """Raise MediaError for an MP4 (ISO/IEC 14496-12) that is cut off, lacks its index or is protected (DRM).

    FFmpeg says of all of these that the data is invalid, or gives noise.
    """
    names: set[bytes] = set()
    size, start = stream.seek(0, io.SEEK_END), 0
    while start + 8 <= size:
        stream.seek(start)
        head = stream.read(16)
        length, name = int.from_bytes(head[:4], "big"), head[4:8]
        if not names and name not in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"):
            break
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        end = start + length if length else size
        if length and length < 8:
            break
        if end > size:
            raise MediaError(f"it is cut off: {end:,} bytes are stated, and {size:,} are there")
        if name == b"moov":
            stream.seek(start)
            if b"sinf" in (content := stream.read(length or size - start)) and b"schm" in content:
                raise MediaError("it is protected (DRM); export it without protection from what plays it")
        names.add(name)
        start = end
    if b"mdat" in names and b"moov" not in names:
        raise MediaError("it lacks its index (moov), as when a recording is interrupted; recover it with the recorder")
    stream.seek(0)


def _cut(present_s: float, stated_s: float) -> str:
    return f"it is cut off: {stated_s:.1f} s are stated, and {present_s:.1f} s are there"


def _say(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).partition("\n")[0]

"""WAV files as recorders write them: where the samples are, from the first bytes, and the samples themselves.

At a million files a decoder per file is too slow, and a member of a deflated zip has no cheap end; the first few
hundred bytes and the file's size are all that the manifest needs. ``read_samples`` uses the same header, so the
features of a file are as long as the manifest says, and both refuse the same files.

RIFF (and big-endian RIFX), RF64 and BW64 (EBU Tech 3306, ITU-R BS.2088) and Sony's Wave64 are read. Fields that many
recorders get wrong are not relied on: the file's own size, BlockAlign, ByteRate, a missing pad byte, and a size of the
samples that was never filled in.
"""

import io
import struct
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
import soundfile

from kmed_bench.core.surroundings import interrupts_wait

HEADER_BYTES = 512
"""Enough for nearly every header; ``HEADER_LIMIT`` for those with comment chunks; the whole file for the rest."""
HEADER_LIMIT = 1 << 16
MAX_LEVEL = 2.0
"""Largest sample of a file of floats: 1 is full scale, which the peaks of a decoder may pass."""
CANCELLED = 0.1
"""Channels cancel each other where the peak of their mean is below this share of the channels' own peak."""
MIN_RATE_HZ, MAX_RATE_HZ = 4_000, 384_000
"""From half the telephone's rate to that of the fastest recorders."""

_MAX_CHANNELS = 64
_MAX_CHUNKS = 1_000  # a file of nothing but empty chunks would take minutes
_EXTENSIBLE = 0xFFFE
_SUBFORMAT = bytes.fromhex("00000000100080 0000aa00389b71")  # after the tag, in the format's GUID
# libsndfile's name of the samples, by format tag and bits.
_ENCODINGS = {
    (1, 8): "PCM_U8",
    (1, 16): "PCM_16",
    (1, 24): "PCM_24",
    (1, 32): "PCM_32",
    (3, 32): "FLOAT",
    (3, 64): "DOUBLE",
    (6, 8): "ALAW",
    (7, 8): "ULAW",
}
# Writers that can't seek back leave 0, or a number near 2**31 or 2**32 (minus the header, or rounded to a buffer), as
# the size: the samples run to the file's end. No file that is accepted is that long.
_PLACEHOLDER = 0x7FFF_0000
_TAIL_BYTES = 1 << 12  # if more than this follows the samples, it is searched for further samples
_ZEROS_BYTES = 1 << 16
_W64_RIFF = b"riff" + bytes.fromhex("2e91cf11a5d628db04c10000")
_W64_GUID = bytes.fromhex("f3acd3118cd100c04f8edb8a")  # after the four letters, in a chunk's GUID


class WavError(ValueError):
    """Why a header can't be read, in words for `detail` of rejects.csv."""


class HeaderTooShort(WavError):  # noqa: N818 (a request for more bytes before it is an error)
    """The given bytes end before the header does."""


class ByteView(Protocol):
    """Bytes of a file that are read where they are asked for."""

    def __len__(self) -> int: ...
    def __getitem__(self, place: slice, /) -> bytes: ...


class WavHeader(NamedTuple):
    """What a WAV header states.

    Attributes
    ----------
    duration_s : float
        Of the samples that are there. (The fields' order is that of ``AUDIO_SCHEMA`` in scan.)
    missing_s : float
        Length of samples that the header states and the file lacks; 0 for a whole file.
    """

    duration_s: float
    missing_s: float
    rate_hz: int
    channels: int
    bits: int


class _Format(NamedTuple):
    encoding: str
    rate_hz: int
    channels: int
    bits: int
    frame_bytes: int


class _Layout(NamedTuple):
    """Where the samples are: `n_bytes` of whole frames from `start`, of `stated` bytes."""

    form: _Format
    big_endian: bool
    start: int
    n_bytes: int
    stated: int


class _Chunk(NamedTuple):
    name: bytes
    start: int
    size: int


def read_header(head: ByteView, n_bytes: int) -> WavHeader:
    """Return what a WAV header states.

    Parameters
    ----------
    head : bytes
        The file's first bytes.
    n_bytes : int
        Size of the whole file.

    Raises
    ------
    HeaderTooShort
        When `head` is not the whole file and more of it is needed.
    WavError
        When this is no WAV file that the package reads.
    """
    form, _, _, present, stated = _find_samples(head, n_bytes)
    n_frames, n_stated = present // form.frame_bytes, stated // form.frame_bytes
    missing_s = max(n_stated - n_frames, 0) / form.rate_hz
    return WavHeader(n_frames / form.rate_hz, missing_s, form.rate_hz, form.channels, form.bits)


def read_samples(content: bytes) -> tuple[np.ndarray, int]:
    """Return a WAV file's samples, float32 of full scale 1, shape (n_frames, channels), and their rate in Hz.

    Raises
    ------
    WavError
        For the same reasons as in ``read_header``.
    """
    layout = _find_samples(content, len(content))
    return _decode(content[layout.start : layout.start + layout.n_bytes], layout), layout.form.rate_hz


def sample_blocks(content: ByteView, n_values: int) -> Iterator[np.ndarray]:
    """Yield the same samples in blocks of about `n_values` numbers, so that a long file is never held whole.

    Raises
    ------
    WavError
        For the same reasons as in ``read_header``, before the first block.
    """
    layout = _find_samples(content, len(content))
    step = max(n_values // layout.form.channels, 1) * layout.form.frame_bytes
    for start in range(layout.start, layout.start + layout.n_bytes, step):
        yield _decode(content[start : min(start + step, layout.start + layout.n_bytes)], layout)


@interrupts_wait()
def _decode(raw: bytes, layout: _Layout) -> np.ndarray:
    """Return whole frames as float32 of full scale 1, shape (n_frames, channels)."""
    form = layout.form
    if not raw:
        return np.empty((0, form.channels), np.float32)
    samples: np.ndarray = soundfile.read(
        io.BytesIO(raw),
        dtype="float32",
        always_2d=True,
        format="RAW",
        subtype=form.encoding,
        endian="BIG" if layout.big_endian else "LITTLE",
        samplerate=form.rate_hz,
        channels=form.channels,
    )[0]
    return samples


def is_wav(content: ByteView) -> bool:
    """Return whether the bytes begin like a file of the WAV family."""
    return content[:16] == _W64_RIFF or (
        content[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and content[8:12] == b"WAVE"
    )


def _find_samples(head: ByteView, n_bytes: int) -> _Layout:
    """Return the format and the place of the samples."""
    if n_bytes == 0:
        raise WavError("the file is empty (0 bytes)")
    if len(head) < 16 and len(head) < n_bytes:
        raise HeaderTooShort("the header is cut off")
    if not is_wav(head):
        raise WavError(f"not a RIFF/WAVE file (starts with {head[:4].hex() or 'nothing'})")
    big_endian = head[:4] == b"RIFX"
    form: _Format | None = None
    wide = 0  # the samples' bytes in RF64, whose own field is too narrow
    empty: _Layout | None = None
    for chunk in _chunks(head, n_bytes, big_endian):
        body = head[chunk.start : chunk.start + min(chunk.size, 64)]
        if chunk.name == b"fmt ":
            found = _read_format(body, min(chunk.size, 64), n_bytes - chunk.start, big_endian)
            if form is not None and form != found:
                raise WavError("it has two formats")
            form = found
        elif chunk.name == b"ds64" and len(body) >= 16:
            wide = int.from_bytes(body[8:16], "little")
        elif chunk.name == b"data":
            if form is None:
                raise WavError("the samples come before their format")
            size = wide if wide and _is_placeholder(chunk.size) else chunk.size
            if size == 0 and _is_chunk(head, chunk.start, n_bytes, big_endian):
                empty = _Layout(form, big_endian, chunk.start, 0, 0)
                continue
            return _measure(form, big_endian, _Chunk(b"data", chunk.start, size), head, n_bytes)
    if empty is not None:
        return empty
    raise WavError(f"no samples within its {n_bytes:,} bytes")


def _chunks(head: ByteView, n_bytes: int, big_endian: bool) -> Iterator[_Chunk]:
    """Yield the chunks in order; raise HeaderTooShort where more of the file is needed."""
    wave64 = head[:4] == b"riff"
    order, field, position = "big" if big_endian else "little", 24 if wave64 else 8, 40 if wave64 else 12
    for _ in range(_MAX_CHUNKS):
        if position + field > n_bytes:
            return
        if position + field > len(head):
            raise HeaderTooShort("the header is cut off")
        name, start = head[position : position + 4], position + field
        if not any(head[position:start]):  # fill up a block of the card, and are no chunks
            position = _skip_zeros(head, start)
            continue
        if wave64:
            size = max(int.from_bytes(head[position + 16 : start], "little") - 24, 0)
            if head[position + 4 : position + 16] != _W64_GUID:
                name = b""
            step = size + -size % 8
        else:
            size = int.from_bytes(head[position + 4 : start], order)  # type: ignore[arg-type]  # one of two words
            unpadded = size % 2 and head[start + size : start + size + 4] in (b"fmt ", b"data")
            step = size if unpadded else size + size % 2
        yield _Chunk(name, start, size)
        position = start + step
    raise WavError(f"more than {_MAX_CHUNKS:,} chunks, the most that are searched for samples")


def _skip_zeros(head: ByteView, start: int) -> int:
    """Return the place of the next byte that is not 0, or the end."""
    for place in range(start, len(head), _ZEROS_BYTES):
        block = head[place : place + _ZEROS_BYTES]
        if rest := block.lstrip(b"\0"):
            return place + len(block) - len(rest)
    return len(head)


def _is_placeholder(size: int) -> bool:
    return size == 0 or size >= _PLACEHOLDER


def _is_chunk(head: ByteView, at: int, n_bytes: int, big_endian: bool) -> bool:
    """Return whether another chunk begins here, so that a size of 0 before it is real and not a placeholder."""
    if at + 8 > len(head) and at + 8 <= n_bytes:
        raise HeaderTooShort("the header is cut off")
    name, size = head[at : at + 4], int.from_bytes(head[at + 4 : at + 8], "big" if big_endian else "little")
    return at + 8 <= n_bytes and all(33 <= c < 127 or c == 32 for c in name) and at + 8 + size <= n_bytes


def _read_format(chunk: bytes, stated: int, present: int, big_endian: bool) -> _Format:
    """Return the content of the format chunk, given as much of it as is needed."""
    if stated < 16:
        raise WavError("the format chunk is too short")
    if len(chunk) < stated:
        raise WavError("the format chunk is cut off") if present < stated else HeaderTooShort("the header is cut off")
    mark = ">" if big_endian else "<"
    tag, channels, rate_hz, byte_rate, frame_bytes, bits = struct.unpack_from(f"{mark}HHIIHH", chunk)
    if tag == _EXTENSIBLE and len(chunk) >= 40 and chunk[26:40] == _SUBFORMAT:
        (tag,) = struct.unpack_from(f"{mark}H", chunk, 24)
    if tag in (6, 7):  # one byte a sample by definition; some writers state the size after decoding
        bits = 8
    packed = byte_rate == 3 * channels * rate_hz
    if (tag, bits) == (1, 24) and frame_bytes == 4 * channels and not packed:  # the upper three of four bytes
        bits = 32
    encoding = _ENCODINGS.get((tag, bits))
    if encoding is None:
        raise WavError(
            f"samples of format {tag:#06x} with {bits} bits; PCM, float, A-law and µ-law are read: convert the file"
        )
    if not 1 <= channels <= _MAX_CHANNELS:
        raise WavError(f"impossible format: {channels} channels; 1 to {_MAX_CHANNELS} are read")
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise WavError(f"impossible format: {rate_hz:,} Hz; {MIN_RATE_HZ:,} to {MAX_RATE_HZ:,} Hz are read")
    return _Format(encoding, rate_hz, channels, bits, channels * bits // 8)


def _measure(form: _Format, big_endian: bool, data: _Chunk, head: ByteView, n_bytes: int) -> _Layout:
    """Return where the samples of a data chunk are, limited to what the file holds."""
    present = max(n_bytes - data.start, 0)
    stated = present if _is_placeholder(data.size) else data.size
    whole = min(stated, present) // form.frame_bytes * form.frame_bytes
    if present - stated > _TAIL_BYTES:
        _refuse_more_samples(head, n_bytes, big_endian)
    return _Layout(form, big_endian, data.start, whole, stated)


def _refuse_more_samples(head: ByteView, n_bytes: int, big_endian: bool) -> None:
    """Raise WavError for a file with several chunks of samples, of which reading only the first would drop speech."""
    if len(head) < n_bytes:
        raise HeaderTooShort("more may follow the samples")
    filled = [chunk for chunk in _chunks(head, n_bytes, big_endian) if chunk.name == b"data" and chunk.size]
    if len(filled) > 1:
        raise WavError(f"it has {len(filled)} chunks of samples; join them (sox, ffmpeg)")

"""RIFF/WAVE headers, read from the first bytes of a file.

At a million files a decoder per file is too slow, and a member of a deflated zip has no cheap
end; the first few hundred bytes and the file's size say all that the manifest needs.
"""

import struct
from typing import NamedTuple

HEADER_BYTES = 512
"""Enough for nearly every header; ``HEADER_LIMIT`` for those with long comment chunks."""
HEADER_LIMIT = 1 << 16

_PCM, _FLOAT, _EXTENSIBLE = 0x0001, 0x0003, 0xFFFE
# Writers that could not seek back leave the data size at one of these: it runs to the file's end.
_STREAMED = (0, 0xFFFFFFFF, 0x7FFFFFFF)


class WavError(ValueError):
    """Why a header can't be read, in words for `detail` of rejects.csv."""


class HeaderTooShort(WavError):  # noqa: N818 (a request for more bytes before it is an error)
    """The given bytes end before the header does."""


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


def read_header(head: bytes, n_bytes: int) -> WavHeader:
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
        When `head` is not the whole file and ends before the samples begin.
    WavError
        When this is no WAV file that the package reads.
    """
    if n_bytes == 0:
        raise WavError("the file is empty (0 bytes)")
    if len(head) < 12 and len(head) < n_bytes:
        raise HeaderTooShort("the header is cut off")
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        raise WavError(f"not a RIFF/WAVE file (starts with {head[:4].hex() or 'nothing'})")
    layout: tuple[int, int, int, int] | None = None
    position = 12
    while position + 8 <= len(head):
        name, size = head[position : position + 4], int.from_bytes(head[position + 4 : position + 8], "little")
        position += 8
        if name == b"fmt ":
            layout = _read_format(head[position : position + size], whole=len(head) == n_bytes)
        elif name == b"data":
            if layout is None:
                raise WavError("the samples come before their format")
            return _measure(layout, size, n_bytes - position)
        position += size + size % 2
    if len(head) < n_bytes and position < HEADER_LIMIT:
        raise HeaderTooShort("the header is cut off")
    raise WavError(f"no samples within the first {min(n_bytes, HEADER_LIMIT)} bytes")


def _read_format(chunk: bytes, *, whole: bool) -> tuple[int, int, int, int]:
    """Return rate, channels, bits, bytes per frame."""
    if len(chunk) < 16:
        raise WavError("the format chunk is too short") if whole else HeaderTooShort("the header is cut off")
    tag, channels, rate_hz, _, frame_bytes, bits = struct.unpack_from("<HHIIHH", chunk)
    if tag == _EXTENSIBLE and len(chunk) >= 26:
        tag = int.from_bytes(chunk[24:26], "little")
    if (tag, bits) not in ((_PCM, 8), (_PCM, 16), (_PCM, 24), (_PCM, 32), (_FLOAT, 32), (_FLOAT, 64)):
        raise WavError(f"samples of format {tag:#06x} with {bits} bits; PCM or float are read: convert the file")
    if not 1 <= channels <= 64 or not 1_000 <= rate_hz <= 768_000 or frame_bytes != channels * bits // 8:
        raise WavError(f"impossible format: {channels} channels, {rate_hz} Hz, {frame_bytes} bytes a frame")
    return rate_hz, channels, bits, frame_bytes


def _measure(layout: tuple[int, int, int, int], stated: int, present: int) -> WavHeader:
    rate_hz, channels, bits, frame_bytes = layout
    if stated in _STREAMED:
        stated = max(present, 0)
    n_frames, n_stated = max(min(stated, present), 0) // frame_bytes, stated // frame_bytes
    return WavHeader(n_frames / rate_hz, (n_stated - n_frames) / rate_hz, rate_hz, channels, bits)

"""Our WAV reader against libsndfile's over thousands of changed headers: who reads what, and why they differ.

    python benchmarks/wav_readers.py --files 20000

Each file is generated from its own seed: a container, an encoding, chunks around the samples, then some faults that
recorders are known for, and flipped bytes of the header. Ours is asked twice, for the header as ``ingest`` does and for
the samples as the features do; that these agree is checked for every file.
"""

import argparse
import collections
import io
import random
import re
import struct
from typing import NamedTuple

import numpy as np
import soundfile

from kmed_bench.corpus.archives.wav import (
    HEADER_BYTES,
    HEADER_LIMIT,
    HeaderTooShort,
    WavError,
    WavHeader,
    read_header,
    read_samples,
)

PLACEHOLDERS = (0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000, 0x80000000, 0xFFFFFFDB, 0x7FFFFFDB, 0xFFFFFFD3, 0xFFFFFF00)
ENCODINGS = ((1, 8), (1, 16), (1, 24), (1, 32), (3, 32), (3, 64), (6, 8), (7, 8))
RATES = (8_000, 16_000, 44_100, 48_000, 44_101, 22_049, 8_001, 1, 4_000_000)
_GUID = bytes.fromhex("000000001000800000aa00389b71")
_W64 = bytes.fromhex("f3acd3118cd100c04f8edb8a")


class Verdict(NamedTuple):
    """How the two readers compare on a file: agreed, stricter, looser or differs (from libsndfile), and why."""

    kind: str
    why: str


def chunk(name: bytes, body: bytes, size: int | None = None, mark: str = "<") -> bytes:
    """Return a RIFF chunk, padded to an even length."""
    return name + struct.pack(f"{mark}I", len(body) if size is None else size) + body + b"\0" * (len(body) % 2)


def form(
    tag: int = 1, bits: int = 16, channels: int = 1, rate_hz: int = 16_000, *, mark: str = "<", **fields: int
) -> bytes:
    """Return the body of a format chunk; `align`, `byte_rate` and `extensible` are taken from `fields`."""
    align = fields.get("align", channels * bits // 8)
    byte_rate = fields.get("byte_rate", rate_hz * align) & 0xFFFFFFFF
    extensible = fields.get("extensible", 0)
    body = struct.pack(f"{mark}HHIIHH", 0xFFFE if extensible else tag, channels, rate_hz, byte_rate, align, bits)
    return body + struct.pack(f"{mark}HHIH", 22, bits, 0, tag) + _GUID if extensible else body


def wrap(chunks: bytes, container: bytes = b"RIFF", size: int | None = None) -> bytes:
    """Return a whole RIFF, RIFX, RF64 or BW64 file around its chunks."""
    mark = ">" if container == b"RIFX" else "<"
    whole = 4 + len(chunks) if size is None else size
    return container + struct.pack(f"{mark}I", whole & 0xFFFFFFFF) + b"WAVE" + chunks


def wave64(body: bytes, data: bytes) -> bytes:
    """Return a Wave64 file of a format chunk's body and samples."""
    chunks = b"".join(
        name + _W64 + struct.pack("<Q", 24 + len(part)) + part + b"\0" * (-len(part) % 8)
        for name, part in ((b"fmt ", body), (b"data", data))
    )
    head = b"riff" + bytes.fromhex("2e91cf11a5d628db04c10000")
    return head + struct.pack("<Q", 40 + len(chunks)) + b"wave" + _W64 + chunks


def tone(tag: int, bits: int, n_samples: int, *, big_endian: bool = False) -> bytes:
    """Return a tone's samples as bytes of an encoding."""
    wave = 0.5 * np.sin(np.arange(n_samples) * 0.3)
    order = ">" if big_endian else "<"
    if tag == 3:
        return wave.astype(f"{order}f{bits // 8}").tobytes()
    if bits == 8:
        return (wave * 127 + 128).astype(np.uint8).tobytes()
    wide = (wave * (2.0**31 - 1)).astype(f"{order}i4").view(np.uint8).reshape(-1, 4)
    kept = wide[:, : bits // 8] if big_endian else wide[:, 4 - bits // 8 :]
    return kept.tobytes()


def make_file(seed: int) -> bytes:
    """Return a WAV file, sound or with some faults, that the seed decides."""
    draw = random.Random(seed)
    container = draw.choice((b"RIFF", b"RIFF", b"RIFF", b"RIFF", b"RF64", b"RIFX", b"W64 "))
    big = container == b"RIFX"
    mark = ">" if big else "<"
    tag, bits = draw.choice(ENCODINGS)
    channels = draw.choice((1, 1, 1, 2, 3))
    data = tone(tag, bits, channels * draw.choice((0, 1, 160, 999, 4_000)), big_endian=big)
    fields = {}
    if draw.random() < 0.2:
        fields["align"] = draw.choice((0, 1, 4 * channels, 7))
    if draw.random() < 0.2:
        fields["byte_rate"] = draw.choice((0, 1, 0xFFFFFFFF))
    if draw.random() < 0.2 and not big:
        fields["extensible"] = 1
    body = form(tag, bits, channels, draw.choice(RATES[: 3 if draw.random() < 0.7 else None]), mark=mark, **fields)
    if container == b"W64 ":
        return _flip(draw, wave64(body, data))
    chunks = b""
    if container == b"RF64":
        chunks += chunk(b"ds64", struct.pack("<QQQI", 0, draw.choice((len(data), len(data), 0)), 0, 0))
    if draw.random() < 0.3:
        chunks += chunk(
            draw.choice((b"JUNK", b"bext", b"LIST")), bytes(draw.choice((3, 28, 602, 9_000, 70_000))), mark=mark
        )
    chunks += chunk(b"fmt ", body, mark=mark)
    if draw.random() < 0.2:
        chunks += chunk(draw.choice((b"fact", b"id3 ", b"cue ")), bytes(draw.choice((4, 5, 600, 66_000))), mark=mark)
    size = 0xFFFFFFFF if container == b"RF64" else None
    if draw.random() < 0.3:
        size = draw.choice((*PLACEHOLDERS, len(data) // 2, len(data) + 36, 2 * len(data)))
    chunks += chunk(b"data", data, size, mark)
    if draw.random() < 0.2:
        chunks += chunk(draw.choice((b"LIST", b"data", b"id3 ")), bytes(draw.choice((0, 26, 6_000))), mark=mark)
    return _flip(draw, wrap(chunks, container, draw.choice((None, None, 0, 0xFFFFFFFF))))


def _flip(draw: random.Random, content: bytes) -> bytes:
    """Return the file with, now and then, flipped bytes of its header or a cut end."""
    changed = bytearray(content)
    if draw.random() < 0.3:
        for _ in range(draw.choice((1, 1, 2, 5))):
            changed[draw.randrange(min(len(changed), 60))] = draw.randrange(256)
    if draw.random() < 0.2:
        del changed[draw.randrange(len(changed) + 1) :]
    return bytes(changed)


def header_as_ingest(content: bytes) -> WavHeader:
    """Return the header, read from more and more of the file as ``ingest`` does."""
    for limit in (HEADER_BYTES, HEADER_LIMIT):
        try:
            return read_header(content[:limit], len(content))
        except HeaderTooShort:
            continue
    return read_header(content, len(content))


def ours(content: bytes) -> tuple[np.ndarray | None, str]:
    """Return our samples, or None and the reason; AssertionError where header and samples don't agree."""
    try:
        header = header_as_ingest(content)
    except WavError as error:
        return None, _refuses_samples(content, str(error))
    samples, rate_hz = read_samples(content)
    assert (samples.shape[1], rate_hz) == (header.channels, header.rate_hz)
    assert round(header.duration_s * header.rate_hz) == len(samples)
    return samples, ""


def _refuses_samples(content: bytes, reason: str) -> str:
    try:
        read_samples(content)
    except WavError as error:
        if str(error) == reason:
            return reason
        raise AssertionError(f"the header is refused for {reason!r}, the samples for {str(error)!r}") from None
    raise AssertionError(f"samples of a file whose header is refused: {reason}")


def compare(content: bytes) -> Verdict:
    """Return how our reader and libsndfile compare on a file."""
    mine, reason = ours(content)
    try:
        theirs, _ = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError, ValueError, MemoryError) as error:
        if mine is None or not len(mine):
            return Verdict("agreed", "neither reads it")
        return Verdict("looser", re.sub(r"^Error opening .*?: ", "", str(error)))
    if mine is None:
        kind = "stricter" if len(theirs) else "agreed"
        return Verdict(kind, re.sub(r"[\d,]+|0x\w+", "N", reason) if len(theirs) else "no samples")
    if mine.shape == theirs.shape and np.array_equal(mine, theirs, equal_nan=True):
        return Verdict("agreed", "the same samples" if len(mine) else "no samples")
    if not len(theirs):
        return Verdict("looser", "libsndfile reads 0 frames: the size was never filled in")
    container = content[:4].decode("latin-1")
    if container == "riff":
        return Verdict(
            "differs", "Wave64: libsndfile counts the padding as samples, or overlooks the extensible subformat"
        )
    if container == "RF64":
        return Verdict("differs", "RF64: libsndfile believes ds64 even where the data chunk has a size of its own")
    at = content.find(b"fmt ") + 22
    if content[at : at + 2] in (b"\x18\0", b"\0\x18"):
        return Verdict("differs", "24 bits in 4 bytes: libsndfile guesses from the samples what the 4 bytes are")
    if b"cue " in content:
        return Verdict("differs", "cue: libsndfile believes the chunk's number of points over its size")
    return Verdict("differs", "unexplained")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=5_000)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    args = parser.parse_args()
    counts = collections.Counter[Verdict]()
    example: dict[Verdict, int] = {}
    for seed in range(args.first, args.first + args.files):
        verdict = compare(make_file(seed))
        counts[verdict] += 1
        example.setdefault(verdict, seed)
    kinds = collections.Counter[str]()
    for verdict, n in counts.items():
        kinds[verdict.kind] += n
    print(f"{args.files:,} files, libsndfile {soundfile.__libsndfile_version__}: {dict(kinds)}")
    for verdict, n in sorted(counts.items(), key=lambda item: (item[0].kind, -item[1])):
        print(f"{n:7,}  {verdict.kind:9} {verdict.why}  (first: seed {example[verdict]})")


if __name__ == "__main__":
    main()

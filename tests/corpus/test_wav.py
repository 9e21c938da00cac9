"""WAV files as recorders write them: what is read, how long it is, and the same in the manifest and the features."""

import io
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from downloads import label, stem, write_tree
from fault_table import fault
from hypothesis import given, settings
from hypothesis import strategies as st

from kmed_bench.asr.features.audio import decode_audio
from kmed_bench.config import DataConfig
from kmed_bench.core.errors import KmedError
from kmed_bench.core.schema import read_manifest
from kmed_bench.corpus.archives.wav import WavError, read_header, read_samples
from kmed_bench.corpus.ingest.manifest import ingest

BENCHMARKS = str(Path(__file__).resolve().parents[2] / "benchmarks")
sys.path.insert(0, BENCHMARKS)
try:
    from wav_readers import PLACEHOLDERS, chunk, compare, form, header_as_ingest, make_file, tone, wave64, wrap
finally:
    sys.path.remove(BENCHMARKS)

DATA = tone(1, 16, 8_000)
EXPECTED = np.frombuffer(DATA, "<i2") / 32768


def file(
    body: bytes | None = None, *, before: bytes = b"", data: bytes = DATA, size: Any = None, after: bytes = b""
) -> bytes:
    """Return a RIFF file of half a second at 16 kHz, or with other parts."""
    return wrap(chunk(b"fmt ", form() if body is None else body) + before + chunk(b"data", data, size) + after)


def ds64(size: int) -> bytes:
    return chunk(b"ds64", struct.pack("<QQQI", 0, size, 0, 0))


def in_rf64(stated: int, size: int = 0xFFFFFFFF, container: bytes = b"RF64") -> bytes:
    return wrap(ds64(stated) + chunk(b"fmt ", form()) + chunk(b"data", DATA, size), container, 0xFFFFFFFF)


def with_chunk64(whole: bytes, content: bytes) -> bytes:
    """Return a Wave64 file with one more chunk before the others, padded to eight bytes."""
    guid = whole[44:56]  # of the format's chunk
    more = b"junk" + guid + struct.pack("<Q", 24 + len(content)) + content + bytes(-len(content) % 8)
    return whole[:40] + more + whole[40:]


WIDE = b"".join(b"\0\0" + DATA[i : i + 2] for i in range(0, len(DATA), 2))
# Files whose samples are those of EXPECTED.
READ = {
    "plain": file(),
    **{f"size {size:#x}": file(size=size) for size in PLACEHOLDERS},
    "file size 0 as well": wrap(chunk(b"fmt ", form()) + chunk(b"data", DATA, 0), size=0),
    "file size is wrong": wrap(chunk(b"fmt ", form()) + chunk(b"data", DATA), size=4),
    "bext of 602 bytes": file(before=chunk(b"bext", bytes(602))),
    "iXML of 9 kB": file(before=chunk(b"iXML", bytes(9_000))),
    "a cover of 300 kB": file(before=chunk(b"id3 ", bytes(300_000))),
    "300 kB before the format": wrap(chunk(b"JUNK", bytes(300_000)) + chunk(b"fmt ", form()) + chunk(b"data", DATA)),
    "odd chunk without its pad byte": file(before=b"JUNK\3\0\0\0abc"),
    "BlockAlign 0": file(form(align=0)),
    "BlockAlign 1": file(form(align=1)),
    "BlockAlign of two channels": file(form(align=4)),
    "ByteRate 0": file(form(byte_rate=0)),
    "ByteRate 1": file(form(byte_rate=1)),
    "extensible": file(form(extensible=1)),
    "24 bits in 4 bytes": file(form(1, 24, align=4), data=WIDE),
    "24 valid bits of 32, extensible": file(form(1, 32, extensible=1), data=WIDE),
    "32 bits": file(form(1, 32), data=WIDE),
    "RF64": in_rf64(len(DATA)),
    "RF64, size 0 in ds64": in_rf64(0),
    "RF64, size in the chunk": in_rf64(0, len(DATA)),
    "BW64": in_rf64(len(DATA), container=b"BW64"),
    "Wave64": wave64(form(), DATA),
    "Wave64, a chunk of 13 bytes and its padding": with_chunk64(wave64(form(), DATA), bytes(13)),
    "RIFX": wrap(
        chunk(b"fmt ", form(mark=">"), mark=">") + chunk(b"data", tone(1, 16, 8_000, big_endian=True), mark=">"),
        b"RIFX",
    ),
    "chunks after the samples": file(after=chunk(b"LIST", b"INFOISFT\4\0\0\0abcd") + chunk(b"id3 ", bytes(9_000))),
    "zeros up to a block of 100 kB": file() + bytes(100_001),
    "an empty chunk of samples first": file(before=chunk(b"data", b"")),
}


RECORDED = [
    pytest.param(content, id=name, marks=fault(f"WAV: {name}", sees="nothing: it is read", survives="all samples"))
    for name, content in READ.items()
]


@pytest.mark.parametrize("content", RECORDED)
def test_readable_files_are_whole_in_header_samples_and_features(content: bytes) -> None:
    header = header_as_ingest(content)
    assert (header.duration_s, header.missing_s, header.rate_hz, header.channels) == (0.5, 0, 16_000, 1)
    samples, rate_hz = read_samples(content)
    assert rate_hz == 16_000
    assert np.array_equal(samples[:, 0], EXPECTED)
    assert np.array_equal(decode_audio(content, "clip"), EXPECTED)


@pytest.mark.parametrize(("tag", "bits", "error"), [(3, 32, 1e-7), (3, 64, 1e-7), (1, 8, 2e-2), (1, 24, 1e-6)])
def test_encodings_give_the_tone(tag: int, bits: int, error: float) -> None:
    samples, _ = read_samples(file(form(tag, bits), data=tone(tag, bits, 8_000)))
    assert np.abs(samples[:, 0] - 0.5 * np.sin(np.arange(8_000) * 0.3)).max() <= error
    assert header_as_ingest(file(form(tag, bits), data=tone(tag, bits, 8_000))).duration_s == 0.5


def test_24_bits_with_another_blockalign_are_packed_where_the_byterate_says_so() -> None:
    content = file(form(1, 24, align=4, byte_rate=3 * 16_000), data=tone(1, 24, 8_000))
    assert header_as_ingest(content).duration_s == 0.5
    assert np.array_equal(read_samples(content)[0], read_samples(file(form(1, 24), data=tone(1, 24, 8_000)))[0])


@pytest.mark.parametrize(("subtype", "tag"), [("ALAW", 6), ("ULAW", 7)])
@pytest.mark.parametrize("bits", [8, 16])
def test_companded_samples_are_one_byte_whatever_the_bits_say(subtype: str, tag: int, bits: int) -> None:
    stream = io.BytesIO()
    soundfile.write(stream, EXPECTED, 16_000, format="RAW", subtype=subtype)
    content = file(form(tag, bits, align=1), data=stream.getvalue())
    assert np.abs(read_samples(content)[0][:, 0] - EXPECTED).max() < 0.02
    assert header_as_ingest(content).duration_s == 0.5


REFUSED = {
    "two chunks of samples": (file(after=chunk(b"data", DATA)), "2 chunks of samples; join them"),
    "two chunks of samples, zeros between": (file() + bytes(50_000) + chunk(b"data", DATA), "2 chunks of samples"),
    "two formats": (file(before=chunk(b"fmt ", form(rate_hz=8_000))), "two formats"),
    "1 Hz": (file(form(rate_hz=1)), r": 1 Hz; 4,000 to 384,000 Hz are read"),
    "4 MHz": (file(form(rate_hz=4_000_000)), r": 4,000,000 Hz; 4,000 to"),
    "65 channels": (file(form(channels=65)), "65 channels; 1 to 64 are read"),
    "ADPCM": (file(form(2, 4)), "format 0x0002 with 4 bits"),
    "20 bits": (file(form(1, 20)), "0x0001 with 20 bits"),
    "another extensible format": (file(form(extensible=1)[:-4] + b"abcd"), "0xfffe"),
    "format cut off": (file()[:30], "the format chunk is cut off"),
    "short format": (wrap(chunk(b"fmt ", form()[:14]) + chunk(b"data", DATA)), "the format chunk is too short"),
    "a chunk beyond the end": (wrap(chunk(b"fmt ", form()) + chunk(b"JUNK", b"", 1 << 30)), "no samples within"),
    "nothing but chunks": (wrap(chunk(b"JUNK", b"") * 5_000), "more than 1,000 chunks"),
    "FLAC": (b"fLaC" + bytes(100), "not a RIFF/WAVE file"),
}


REJECTED = [
    pytest.param(content, said, id=name, marks=fault(f"WAV: {name}", sees=f"reject audio_unreadable: …{said}…"))
    for name, (content, said) in REFUSED.items()
]


@pytest.mark.parametrize(("content", "message"), REJECTED)
def test_refused_files_say_why_in_header_and_samples(content: bytes, message: str) -> None:
    for read in (header_as_ingest, read_samples):
        with pytest.raises(WavError, match=message):
            read(content)


@fault(
    "WAV: the end is cut off",
    sees="reject audio_truncated with the seconds that are missing, by its header or its label",
)
def test_cut_samples_are_missing_and_a_streamed_file_lacks_nothing() -> None:
    whole, streamed = file(), file(size=0xFFFFFFFF)
    assert read_header(whole[:512], len(whole) - 6_400).missing_s == pytest.approx(0.2)
    assert read_header(streamed[:512], len(streamed) - 6_400)[:2] == pytest.approx((0.3, 0))


@pytest.mark.parametrize("after", [b"", chunk(b"LIST", b"INFOISFT\4\0\0\0abcd")])
def test_no_samples_are_none_even_before_other_chunks(after: bytes) -> None:
    assert header_as_ingest(file(data=b"", after=after)).duration_s == 0
    with pytest.raises(KmedError, match="is empty"):
        decode_audio(file(data=b"", after=after), "clip")


# Where the two may part, with the reason that benchmarks/wav_readers.py gives; anything else fails the test.
PARTED = {
    "looser": (
        "libsndfile reads 0 frames",
        "Error in ",
        "Internal error : SF_INFO struct incomplete",
        "Unspecified internal error",
        "File contains data in an unimplemented format",
    ),
    "stricter": (
        "impossible format: N",
        "samples of format N",
        "no samples within",
        "it has N chunks",
        "it has two formats",
    ),
    "differs": ("Wave64: ", "RF64: ", "24 bits in 4 bytes: ", "cue: "),
}


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32))
def test_header_and_samples_agree_and_part_from_libsndfile_for_known_reasons(seed: int) -> None:
    verdict = compare(make_file(seed))  # raises where our header and samples don't agree
    assert verdict.kind == "agreed" or verdict.why.startswith(PARTED[verdict.kind]), verdict


def test_ingest_and_features_take_what_recorders_write(tmp_path: Path) -> None:
    contents = [*READ.values(), *(content for content, _ in REFUSED.values())]
    names = [stem(prompt=i) for i in range(len(contents))]
    files = {f"{name}.json": label(f"문장 {i}", "0.5", "16000") for i, name in enumerate(names)}
    files |= {f"{name}.wav": content for name, content in zip(names, contents, strict=True)}
    for decode in (False, True):
        quality = ingest([write_tree(tmp_path / "in", files)], tmp_path / "out", DataConfig(decode=decode))
        assert quality["rejected"] == {"audio_unreadable": len(REFUSED)}
        assert list(read_manifest(tmp_path / "out" / "manifest.parquet")["utterance_id"]) == names[: len(READ)]


@fault(
    "WAV: two channels that cancel each other",
    sees="warning opposite_channels with data.decode",
    survives="the utterance too",
)
@fault(
    "WAV: samples that are NaN or infinite", sees="reject audio_unreadable with data.decode; without, features name it"
)
def test_decoding_finds_channels_that_cancel_and_samples_that_are_no_numbers(tmp_path: Path) -> None:
    wave = 0.5 * np.sin(np.arange(8_000) * 0.3)
    nan = np.where(np.arange(8_000) == 4_000, np.nan, wave)
    sounds = {"opposed": np.stack([wave, -wave], 1), "nan": nan, "plain": wave}
    names = {kind: stem(prompt=i) for i, kind in enumerate(sounds)}
    for kind, samples in sounds.items():
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"{names[kind]}.json").write_bytes(label(kind, "0.5", "16000"))
        soundfile.write(tmp_path / "in" / f"{names[kind]}.wav", samples, 16_000, subtype="FLOAT")
    quality = ingest([tmp_path / "in"], tmp_path / "out", DataConfig(decode=True))
    assert quality["warning_examples"]["opposite_channels"] == [names["opposed"]]
    assert quality["reject_examples"] == {"audio_unreadable": [names["nan"]]}
    with pytest.raises(
        KmedError, match=r"audio of clip has samples that are not finite numbers .* --data\.decode true"
    ):
        decode_audio((tmp_path / "in" / f"{names['nan']}.wav").read_bytes(), "clip")

"""Recordings of common formats: what is read of them, and the one sentence that damaged ones get."""

import builtins
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from fault_table import fault
from recordings import KINDS, encode, tone

from kmed_bench.corpus.archives.media import MediaError, open_media


def read(source: Path | bytes) -> tuple[np.ndarray, int]:
    with open_media(source) as media:
        samples = np.concatenate(list(media.blocks))
        assert samples.dtype == np.float32
        assert samples.shape[1] == media.channels
        return samples, media.rate_hz


def pitch(samples: np.ndarray, rate_hz: int) -> float:
    spectrum = np.abs(np.fft.rfft(samples[:, 0] * np.hanning(len(samples))))
    return float(spectrum.argmax() * rate_hz / len(samples))


@pytest.mark.parametrize("name", KINDS)
def test_a_tone_comes_back_from_every_format(tmp_path: Path, name: str) -> None:
    rate_hz = KINDS[name][2]
    path = encode(tmp_path / name, tone(1.5, rate_hz), KINDS[name])
    samples, found_hz = read(path)
    assert found_hz == rate_hz
    assert len(samples) / rate_hz == pytest.approx(1.5, abs=0.08)  # codecs pad the ends
    assert pitch(samples, rate_hz) == pytest.approx(440, abs=2)
    assert np.sqrt((samples**2).mean()) == pytest.approx(0.3 / np.sqrt(2), rel=0.25)  # of AMR, made for speech
    assert np.array_equal(read(path.read_bytes())[0], samples)


def test_the_sound_of_a_video_is_read(tmp_path: Path) -> None:
    path = encode(tmp_path / "consultation.mp4", tone(1.0, 16_000), ("mp4", "aac", 16_000), video=True)
    samples, rate_hz = read(path)
    assert pitch(samples, rate_hz) == pytest.approx(440, abs=2)


@pytest.mark.parametrize(("kind", "subtype"), [("WAV", "PCM_24"), ("WAV", "FLOAT"), ("FLAC", "PCM_16"), ("AIFF", None)])
def test_blocks_are_the_file(tmp_path: Path, kind: str, subtype: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kmed_bench.corpus.archives.media._BLOCK_VALUES", 999)
    content = np.random.default_rng(0).uniform(-0.5, 0.5, (5_000, 2))
    path = tmp_path / "x"  # the ending does not matter
    soundfile.write(path, content, 11_025, format=kind, subtype=subtype)
    samples, rate_hz = read(path)
    assert rate_hz == 11_025
    np.testing.assert_allclose(samples, content, atol=1 / 2**15)
    with open_media(path) as media:
        assert [len(block) for block in media.blocks] == [499] * 10 + [10]


def encoded(name: str, folder: Path, **options: str) -> bytes:
    return encode(folder / name, tone(3.0, KINDS[name][2]), KINDS[name], **options).read_bytes()


def flac() -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.random.default_rng(0).uniform(-0.5, 0.5, 80_000), 16_000, format="FLAC")
    return buffer.getvalue()


def wav() -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(3.0, 8_000), 8_000, format="WAV")
    return buffer.getvalue()


PROTECTION = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "0" * 32, "encryption_kid": "1" * 32}
DAMAGED = {
    "empty": (lambda folder: b"", "it is empty"),
    "text": (lambda folder: b"hello, this is no sound" * 50, "of no format that is read"),
    "wav, cut": (lambda folder: wav()[:30_000], r"cut off: 3\.0 s are stated, and 1\.9 s are there"),
    "wav, header alone": (lambda folder: wav()[:20], "no samples|cut off"),
    "flac, cut": (lambda folder: flac()[:100_000], "cut off|damaged after"),
    "m4a, cut": (lambda folder: encoded("call.m4a", folder)[:20_000], "cut off: .* bytes are stated, and 20,000 are"),
    "mp4, cut, index first": (
        lambda folder: encoded("clip.mp4", folder, movflags="faststart")[:15_000],
        "cut off: .* bytes are stated",
    ),
    "m4a, index lost": (
        lambda folder: encoded("call.m4a", folder).replace(b"moov", b"free"),
        r"lacks its index \(moov\)",
    ),
    "webm, cut": (lambda folder: encoded("browser.webm", folder)[:15_000], "cut off: 3.0 s are stated"),
    "amr, cut": (lambda folder: encoded("note.amr", folder)[:1_001], "cut off after 1"),
    "protected": (lambda folder: encoded("clip.mp4", folder, **PROTECTION), r"protected \(DRM\)"),
    "video without sound": (
        lambda folder: encode(folder / "x", np.empty(0), KINDS["clip.mp4"], video=True).read_bytes(),
        "it has no sound",
    ),
}


def damaged(what: str) -> Any:
    make, said = DAMAGED[what]
    seen = said.replace("\\", "").replace("|", " or ").replace(".*", "…")
    mark = fault(f"a recording: {what}", sees=f"one line with the file: {seen}", survives="the call's other recordings")
    return pytest.param(make, said, id=what, marks=mark)


@pytest.mark.parametrize(("make", "said"), [damaged(what) for what in DAMAGED])
def test_a_damaged_recording_gets_one_sentence(tmp_path: Path, make, said: str) -> None:
    path = tmp_path / "recording"
    path.write_bytes(make(tmp_path))
    for source in (path, path.read_bytes()):
        with pytest.raises(MediaError, match=said) as caught:
            read(source)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: None])
def test_what_is_no_file_gets_one_sentence(tmp_path: Path, make) -> None:
    make(tmp_path / "x.wav")
    with pytest.raises(MediaError, match="it can't be opened: "):
        read(tmp_path / "x.wav")


@pytest.mark.parametrize(
    "content",
    [
        "ffconcat version 1.0\nfile other.aac\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:9,\nother.aac\n#EXT-X-ENDLIST\n",
    ],
    ids=["a list of parts", "a playlist"],
)
def test_a_file_can_not_name_others_to_be_read(tmp_path: Path, content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    encode(tmp_path / "other.aac", tone(1.0, 22_050), KINDS["radio.aac"])
    (tmp_path / "call.m4a").write_text(content, encoding="ascii")
    with pytest.raises(MediaError, match="of no format that is read"):
        read(Path("call.m4a"))


def test_without_pyav_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = encode(tmp_path / "call.m4a", tone(0.5, 44_100), KINDS["call.m4a"])
    real = builtins.__import__

    def without_av(name: str, *rest, **more):
        if name == "av":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without_av)
    with pytest.raises(MediaError, match=r"pip install 'kmed-bench\[recordings\]'"):
        read(path)
    soundfile.write(tmp_path / "a.flac", tone(0.1, 8_000), 8_000)
    assert len(read(tmp_path / "a.flac")[0]) == 800

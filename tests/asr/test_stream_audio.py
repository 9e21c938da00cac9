"""Long recordings, read minute by minute: the same samples as of a file that is read whole."""

import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile
from recordings import KINDS, encode, tone

from kmed_bench.asr.features.audio import decode_audio, stream_audio
from kmed_bench.core.errors import KmedError


def write(path: Path, samples: np.ndarray, rate_hz: int) -> Path:
    soundfile.write(path, samples, rate_hz, subtype="PCM_16")
    return path


def noise(seconds: float, rate_hz: int, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(3).uniform(-0.5, 0.5, (int(seconds * rate_hz), channels))


@pytest.mark.parametrize(
    ("rate_hz", "seconds"), [(16_000, 5.0), (16_000, 7.0), (8_000, 8.0003), (11_025, 9.7), (4_001, 4.5)]
)
def test_a_long_recording_is_resampled_as_in_one_piece(
    tmp_path: Path, rate_hz: int, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kmed_bench.asr.features.audio._STREAMED_S", 4)
    path = write(tmp_path / "long.wav", noise(seconds, rate_hz), rate_hz)
    blocks = list(stream_audio(path))
    assert max(map(len, blocks)) <= 4 * 16_000
    whole = decode_audio(path.read_bytes(), "long")
    np.testing.assert_allclose(np.concatenate(blocks), whole, atol=2e-6)


@pytest.mark.parametrize("name", ["call.m4a", "note.amr"])
def test_a_short_recording_is_to_the_bit_what_a_clip_is(tmp_path: Path, name: str) -> None:
    path = encode(tmp_path / name, tone(2.0, KINDS[name][2]), KINDS[name])
    (block,) = stream_audio(path)
    assert np.array_equal(block, decode_audio(path.read_bytes(), name))


def test_many_channels_are_read_in_shorter_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kmed_bench.asr.features.audio._STREAMED_VALUES", 3 * 8_000 * 8)
    path = write(tmp_path / "many.wav", noise(7.5, 8_000, channels=8), 8_000)
    blocks = list(stream_audio(path))
    assert [len(block) for block in blocks] == [48_000, 48_000, 24_000]
    np.testing.assert_allclose(np.concatenate(blocks), decode_audio(path.read_bytes(), "many"), atol=2e-6)


def test_channels_in_opposite_phase_are_named_and_the_loudest_is_heard(tmp_path: Path, caplog) -> None:
    left = tone(61.0, 8_000)
    path = write(tmp_path / "antiphase.wav", np.stack([left, -0.98 * left], axis=1), 8_000)
    with caplog.at_level(logging.WARNING, "kmed_bench"):
        heard = np.concatenate(list(stream_audio(path)))
    assert np.abs(heard).max() == pytest.approx(0.3, abs=0.01)
    assert "opposite phase" in caplog.text


@pytest.mark.parametrize(
    ("write_bad", "said"),
    [
        (lambda path: path.write_bytes(b"no sound"), "bad.wav can't be read: it is of no format that is read"),
        (lambda path: write(path, np.zeros((0, 1)), 8_000), r"bad.wav can't be read: it holds no sound \(0 samples\)"),
        (lambda path: cut(encode(path, tone(1.0, 44_100), KINDS["call.m4a"])), "is cut off"),
    ],
)
def test_a_bad_recording_is_named(tmp_path: Path, write_bad, said: str) -> None:
    write_bad(tmp_path / "bad.wav")
    with pytest.raises(KmedError, match=said):
        list(stream_audio(tmp_path / "bad.wav"))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2_000])

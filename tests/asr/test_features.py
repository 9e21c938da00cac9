import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
import whisper
from whisper.audio import N_FRAMES

from kmed_bench.asr.features import store as features
from kmed_bench.asr.features.audio import change_speed, decode_audio
from kmed_bench.asr.features.log_mel import log_mel, pad_value
from kmed_bench.asr.features.resampling import resample
from kmed_bench.asr.features.store import build_features
from kmed_bench.asr.features.threads import map_in_order
from kmed_bench.core.errors import KmedError


def noise(n_samples: int, scale: float = 0.1) -> np.ndarray:
    return (np.random.default_rng(n_samples).standard_normal(n_samples) * scale).astype(np.float32)


def in_window(frames: np.ndarray) -> torch.Tensor:
    window = torch.full((80, N_FRAMES), pad_value(frames))
    window[:, : len(frames)] = torch.from_numpy(frames).T
    return window


@pytest.mark.parametrize("n_samples", [1, 159, 160, 4_800, 16_001, 123_457, 479_999, 480_000, 500_000])
@pytest.mark.parametrize("scale", [0.3, 1e-7])
def test_frames_equal_openai_whispers_in_its_window(n_samples, scale):
    samples = noise(n_samples, scale)
    expected = whisper.log_mel_spectrogram(whisper.pad_or_trim(torch.from_numpy(samples)), 80)
    torch.testing.assert_close(in_window(log_mel(samples)), expected, atol=1e-5, rtol=0)


def test_silence_is_the_window_of_silence():
    samples = np.zeros(16_000, dtype=np.float32)
    expected = whisper.log_mel_spectrogram(whisper.pad_or_trim(torch.from_numpy(samples)), 80)
    torch.testing.assert_close(in_window(log_mel(samples)), expected, atol=1e-6, rtol=0)


def test_frames_are_even_and_cover_the_clip():
    for n_samples in (1, 161, 16_000, 16_160, 479_000):
        n_frames = len(log_mel(noise(n_samples)))
        assert n_frames % 2 == 0
        assert n_frames >= n_samples / 160


def test_audio_is_averaged_over_channels_and_resampled(tmp_path):
    left = 0.5 * np.sin(2 * np.pi * 440 * np.arange(48_000) / 48_000)
    path = tmp_path / "stereo.wav"
    soundfile.write(path, np.stack([left, np.zeros_like(left)], axis=1), 48_000)
    samples = decode_audio(path.read_bytes(), "stereo")
    assert samples.shape == (16_000,)
    assert samples.dtype == np.float32
    # Half of the left channel's amplitude, at the same frequency.
    assert np.abs(samples[1_000:-1_000]).max() == pytest.approx(0.25, abs=2e-3)
    assert np.abs(np.fft.rfft(samples)).argmax() == 440


@pytest.mark.parametrize(("content", "named"), [(b"", "can't be decoded"), (b"RIFF0000WAVE", "can't be decoded")])
def test_bytes_that_are_no_audio_name_the_clip(content, named):
    with pytest.raises(KmedError, match=named) as error:
        decode_audio(content, "PA_0001-0001")
    assert "PA_0001-0001" in str(error.value)


def test_a_store_gives_back_what_was_computed(tone_part, tmp_path):
    store = build_features(tone_part, tmp_path)
    names = tone_part["utterance_id"].tolist()
    window = store.window(names[:2], N_FRAMES)
    for row, path in zip(window, tone_part["audio"][:2], strict=True):
        samples = decode_audio(Path(path).read_bytes(), "x")
        expected = whisper.log_mel_spectrogram(whisper.pad_or_trim(torch.from_numpy(samples)), 80)
        torch.testing.assert_close(row, expected, atol=1e-5, rtol=0)
    # Real frames alone are kept: a window of the longer clip's length holds no more than its frames.
    assert store.window(names[:2], store.n_frames(names[1])).shape == (2, 80, store.n_frames(names[1]))
    n_bytes = sum(f.stat().st_size for f in tmp_path.rglob("frames.f32"))
    assert n_bytes == sum(store.n_frames(name) for name in names) * 80 * 4


def test_a_store_is_found_again_and_follows_its_content(tone_part, tmp_path, monkeypatch):
    build_features(tone_part, tmp_path)

    def refuse(*_args: object) -> None:
        raise AssertionError("computed again")

    with monkeypatch.context() as patch:
        patch.setattr(features, "log_mel", refuse)
        build_features(tone_part, tmp_path)
        with pytest.raises(AssertionError, match="computed again"):
            build_features(tone_part.head(3), tmp_path)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == [".locks"]


def test_fp16_is_half_the_size_and_nearly_the_same(tone_part, tmp_path):
    exact, half = (build_features(tone_part, tmp_path, dtype=dtype) for dtype in ("fp32", "fp16"))
    assert exact.key != half.key
    names = tone_part["utterance_id"].tolist()
    assert [half.n_frames(name) for name in names] == [exact.n_frames(name) for name in names]
    windows = [store.window(names, N_FRAMES) for store in (exact, half)]
    assert windows[1].dtype == torch.float32
    error = (windows[0] - windows[1]).abs()
    # Half of fp16's step: 2**-10 from 1 to 2, twice that from 2 to 4.
    assert error.max() <= 2**-10
    assert error[windows[0] < 2].max() <= 2**-11
    assert error.max() > 0
    # A pure tone's quiet channels are at the clip's floor, and so is the padding: no edge between them.
    floor = windows[1].amin(dim=(1, 2))
    assert torch.equal(windows[1][:, 0, -1], floor)
    sizes = [sum(f.stat().st_size for f in tmp_path.rglob(name)) for name in ("frames.f32", "frames.f16")]
    assert sizes[0] == 2 * sizes[1]


def test_usual_rates_are_torchaudios_to_the_bit():
    for rate_hz in (8_000, 11_025, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000):
        samples = noise(rate_hz // 10)
        expected = torchaudio.functional.resample(torch.from_numpy(samples), rate_hz, 16_000).numpy()
        assert np.array_equal(resample(samples, rate_hz, 16_000), expected)


@pytest.mark.parametrize("rate_hz", [44_101, 22_049, 8_001, 44_056, 47_999, 192_001])
def test_odd_rates_keep_the_tone_without_a_filter_for_each_phase(rate_hz, monkeypatch):
    monkeypatch.setattr(torchaudio.transforms, "Resample", None)  # its filter would take up to 12 GB
    tone = np.sin(2 * np.pi * 1_000 * np.arange(rate_hz) / rate_hz).astype(np.float32)
    changed = resample(tone, rate_hz, 16_000)
    assert changed.dtype == np.float32
    assert len(changed) == 16_000
    expected = np.sin(2 * np.pi * 1_000 * np.arange(16_000) / 16_000)
    assert np.abs(changed - expected)[200:-200].max() < 5e-3


@pytest.mark.parametrize(("rate_hz", "stated"), [(1, "1 Hz"), (3_999, "3,999 Hz"), (4_000_000, "4,000,000 Hz")])
def test_rates_of_no_speech_are_refused_in_any_format(rate_hz, stated, tmp_path):
    path = tmp_path / "clip.au"
    soundfile.write(path, noise(100), rate_hz, format="AU")
    with pytest.raises(KmedError, match=f"is at {stated}; 4,000 to 384,000 Hz are read"):
        decode_audio(path.read_bytes(), "clip")


@pytest.mark.parametrize("speed", [0.9, 1.1, 1.15, 1.0123])
def test_speed_changes_length_and_pitch(speed):
    tone = np.sin(2 * np.pi * 1_000 * np.arange(32_000) / 16_000).astype(np.float32)
    changed = change_speed(tone, speed)
    assert len(changed) == pytest.approx(32_000 / speed, abs=1)
    # Bins are 16,000 / n Hz wide.
    assert np.abs(np.fft.rfft(changed)).argmax() * 16_000 / len(changed) == pytest.approx(1_000 * speed, abs=1)
    assert np.abs(changed[1_000:-1_000]).max() == pytest.approx(1, abs=0.01)


def test_speed_is_torchaudios_where_its_rate_is_whole():
    samples = noise(16_000)
    theirs, _ = torchaudio.functional.speed(torch.from_numpy(samples), 16_000, 0.9)
    assert np.array_equal(change_speed(samples, 0.9), theirs.numpy())


def test_a_store_at_a_speed_holds_the_frames_of_the_faster_clip(tone_part, tmp_path):
    def compute(path: str) -> np.ndarray:
        return log_mel(change_speed(decode_audio(Path(path).read_bytes(), path), 1.1))

    plain, fast = build_features(tone_part, tmp_path), build_features(tone_part, tmp_path, speed=1.1)
    computed = map_in_order(compute, tone_part["audio"], 1)  # by one of torch's threads, as in the store
    for name, expected in zip(tone_part["utterance_id"], computed, strict=True):
        assert fast.n_frames(name) == len(expected) < plain.n_frames(name)
        assert np.array_equal(fast.window([name], len(expected))[0].T.numpy(), expected)


def test_a_clip_is_not_slowed_beyond_the_window(tone_part, tmp_path):
    part = tone_part.assign(duration_s=[28.0] * 3 + [1.0] * 9)
    with pytest.raises(KmedError, match=r"3 clips would last longer .* 0\.9 .*28\.0 s .*max_duration_s to 27\.0"):
        build_features(part, tmp_path, speed=0.9)


def test_the_budget_is_said_before_work(tone_part, tmp_path):
    first = build_features(tone_part.head(2), tmp_path)
    taken = sum(f.stat().st_size for f in (tmp_path / first.key).iterdir())
    needed = int((tone_part["duration_s"].sum() + 12) * 100 * 80 * 4)
    with pytest.raises(KmedError, match=r"The features of 12 clips need .* raise features\.cache_gib") as error:
        build_features(tone_part, tmp_path, budget_bytes=taken + needed - 1)
    assert f"longest unused first: {first.key}" in str(error.value)
    build_features(tone_part, tmp_path, budget_bytes=taken + needed)
    # What was made is found again whatever the budget is.
    build_features(tone_part, tmp_path, budget_bytes=1)


def test_missing_audio_is_named(tone_part, tmp_path):
    gone = tone_part.head(2).assign(audio=[str(tmp_path / "gone.wav")] * 2)
    with pytest.raises(KmedError, match=r"gone\.wav is gone; run `kmed-bench ingest` again"):
        build_features(gone, tmp_path / "cache")


def test_a_full_disk_is_said_before_work(tone_part, tmp_path):
    vast = tone_part.assign(duration_s=1e12)
    with pytest.raises(KmedError, match="make room or set KMED_CACHE"):
        build_features(vast, tmp_path / "cache")


def written(samples, subtype="FLOAT", kind="WAV"):
    buffer = io.BytesIO()
    soundfile.write(buffer, np.asarray(samples, np.float32), 16_000, format=kind, subtype=subtype)
    return buffer.getvalue()


TONE = 0.3 * np.sin(np.arange(4_000) / 9)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (written(9_000 * TONE), r"The audio of clip 7 has samples of up to (2\.7e\+03|2700|2699)"),
        (written(np.where(np.arange(4_000) == 70, np.nan, TONE)), "clip 7 has samples that are not finite numbers"),
        (written(np.where(np.arange(4_000) == 70, -np.inf, TONE)), "clip 7 has samples that are not finite numbers"),
    ],
)
def test_audio_that_no_model_should_hear_is_named(content, said):
    with pytest.raises(KmedError, match=said):
        decode_audio(content, "clip 7")


@pytest.mark.parametrize(("left", "right"), [(1.0, -1.0), (1.0, -0.95), (-0.95, 1.0)])
def test_of_opposite_channels_the_loudest_is_heard_and_said(left, right, caplog):
    heard = decode_audio(written(np.stack([left * TONE, right * TONE], 1)), "clip 7")
    np.testing.assert_allclose(heard, (left if abs(left) >= abs(right) else right) * TONE, atol=1e-6)
    assert "The channels of clip 7 are in opposite phase" in caplog.text


@pytest.mark.parametrize("right", [0.0, 0.5, 1.0])
def test_other_channels_are_averaged(right):
    heard = decode_audio(written(np.stack([TONE, right * TONE], 1)), "x")
    np.testing.assert_allclose(heard, (1 + right) / 2 * TONE, atol=1e-6)


def test_peaks_over_full_scale_and_silence_are_read():
    assert np.abs(decode_audio(written(4 * TONE), "x")).max() == pytest.approx(1.2, abs=1e-3)
    assert not decode_audio(written(np.zeros((400, 2))), "x").any()

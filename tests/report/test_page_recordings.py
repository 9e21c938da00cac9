"""Recordings inside the error page: the same signal, as long, the worst clips' first, within the limit."""

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from misheard import LINES, OPTIONS, predictions

from kmed_bench.core.errors import KmedError
from kmed_bench.report.error_page import write_error_analysis
from kmed_bench.report.recordings import OPUS, RATE_HZ, WAV, AudioForm, choose_form, cut_in, encode

ROW = r'data-id="(?P<id>[^"]+)">(?P<content>.*?)</li>'


def chirp(seconds: float, seed: int = 0) -> np.ndarray:
    """A rising tone with some noise, float32, within the band of speech."""
    time_s = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    noise = np.random.default_rng(seed).standard_normal(len(time_s))
    return (0.3 * np.sin(2 * np.pi * (200 + 300 * time_s) * time_s) + 0.003 * noise).astype(np.float32)


def decode(source: str) -> tuple[np.ndarray, int]:
    media_type, _, content = source.removeprefix("data:").partition(";base64,")
    assert media_type in (OPUS.media_type, WAV.media_type)
    samples, rate_hz = soundfile.read(io.BytesIO(base64.b64decode(content, validate=True)), dtype="float32")
    return samples, rate_hz


def sources(page: Path) -> dict[str, str]:
    """Each clip's recording, in the order of the page; empty where there is none."""
    found = {}
    for row in re.finditer(ROW, page.read_text(encoding="utf-8"), re.S):
        address = re.search(r'<audio preload="none" src="([^"]*)">', row["content"])
        found[row["id"]] = address[1] if address else ""
    return found


@pytest.mark.parametrize("form", [OPUS, WAV], ids=lambda form: form.name)
@pytest.mark.parametrize("n_samples", [1, 959, 16_001, 480_000])
def test_an_encoded_recording_is_as_long_and_nearly_the_same(form: AudioForm, n_samples: int) -> None:
    samples = chirp(n_samples / RATE_HZ + 1e-6)[:n_samples]
    heard, rate_hz = soundfile.read(io.BytesIO(encode(samples, form)), dtype="float32")
    assert (len(heard), rate_hz) == (n_samples, RATE_HZ)
    if n_samples > 1:
        assert np.corrcoef(samples, heard)[0, 1] > 0.99
        assert np.abs(np.sqrt((heard**2).mean()) / np.sqrt((samples**2).mean()) - 1) < 0.05


def test_wav_stands_in_where_opus_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    for subtypes, form in (({"VORBIS": ""}, WAV), ({"VORBIS": "", "OPUS": ""}, OPUS)):
        monkeypatch.setattr(soundfile, "available_subtypes", lambda _, subtypes=subtypes: subtypes)
        assert choose_form() == form


def test_opus_takes_a_sixth_of_wav() -> None:
    opus, wav = (len(encode(chirp(10), form)) for form in (OPUS, WAV))
    assert wav == pytest.approx(10 * RATE_HZ * 2, abs=100)
    assert opus * 6 < wav


def test_the_page_plays_what_was_recorded(tmp_path: Path) -> None:
    clips = predictions(LINES)
    recorded = {clip.utterance_id: chirp(0.5 + 0.1 * place, place) for place, clip in enumerate(clips)}
    page = write_error_analysis(tmp_path, clips, OPTIONS, read_clip=recorded.__getitem__)
    found = sources(page)
    assert found.keys() == recorded.keys()
    for name, source in found.items():
        samples, rate_hz = decode(source)
        assert (len(samples), rate_hz) == (len(recorded[name]), RATE_HZ)
        assert np.corrcoef(samples, recorded[name])[0, 1] > 0.98
    contents = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))["page"]
    audio_s = sum(map(len, recorded.values())) / RATE_HZ
    assert (contents["recordings"], contents["audio_s"]) == (6, pytest.approx(audio_s))
    n_bytes = sum(map(len, found.values()))
    assert contents["audio_mib_per_minute"] == pytest.approx(n_bytes / audio_s * 60 / 2**20)
    assert f"{contents['audio_mib_per_minute']:.2f} MiB a minute" in page.read_text(encoding="utf-8")


def test_a_recording_that_cannot_be_read_is_said_at_its_clip(tmp_path: Path) -> None:
    def read(name: str) -> np.ndarray:
        if name in ("u1", "u4"):
            raise KmedError(f"The audio of {name} is <gone>.")
        return chirp(0.2)

    page = write_error_analysis(tmp_path, predictions(LINES), OPTIONS, read_clip=read)
    assert [name for name, source in sources(page).items() if not source] == ["u4", "u1"]
    text = page.read_text(encoding="utf-8")
    assert 'The recording can’t be read: <span lang="en">The audio of u4 is &lt;gone&gt;.</span>' in text
    contents = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))["page"]
    assert (contents["recordings"], contents["recordings_unreadable"], contents["recordings_left_out"]) == (4, 2, 0)
    assert contents["needed_mib"] is None


def test_the_limit_leaves_out_the_recordings_of_the_least_wrong(tmp_path: Path) -> None:
    lines = [("s1", "배가 아파요", "배가 아파요" + "네" * place) for place in range(8)]
    clips, sound = predictions(lines), chirp(1.0)
    limit = write_error_analysis(tmp_path / "text", clips, OPTIONS).stat().st_size + 5 * len(encode(sound, OPUS))
    page = write_error_analysis(tmp_path / "a", clips, OPTIONS, read_clip=lambda _: sound, max_bytes=limit)
    assert page.stat().st_size <= limit
    found = list(sources(page).items())
    assert [name for name, _ in found] == [f"u{place}" for place in reversed(range(8))]
    n_heard = sum(bool(source) for _, source in found)
    assert 0 < n_heard < 8
    assert all(source for _, source in found[:n_heard])
    contents = json.loads((tmp_path / "a" / "summary.json").read_text(encoding="utf-8"))["page"]
    left_out = {"recordings": n_heard, "recordings_left_out": 8 - n_heard, "clips_left_out": 0}
    assert left_out.items() <= contents.items()
    assert page.stat().st_size + 2 * len(found[0][1]) > limit  # no room is wasted
    needed = contents["needed_mib"]
    assert f"<code>--max-mib {needed}</code>" in page.read_text(encoding="utf-8")
    whole = write_error_analysis(tmp_path / "b", clips, OPTIONS, read_clip=lambda _: sound, max_bytes=needed << 20)
    assert all(sources(whole).values())


def test_clips_beyond_the_limit_are_counted_and_in_the_table(tmp_path: Path) -> None:
    lines = [("s1", "배가 아파요", "배가 아파여" + "네" * place) for place in range(60)]
    page = write_error_analysis(tmp_path, predictions(lines), OPTIONS, max_bytes=60_000)
    contents = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))["page"]
    shown = list(sources(page))
    assert 0 < contents["clips_left_out"] == 60 - len(shown)
    assert shown == [f"u{place}" for place in reversed(range(60 - len(shown), 60))]
    text = page.read_text(encoding="utf-8")
    assert f"{contents['clips_left_out']} others are left out" in text
    assert page.stat().st_size <= 60_000
    assert len((tmp_path / "clips.csv").read_text(encoding="utf-8").splitlines()) == 61


@pytest.mark.parametrize("limit", [0, 5_000])
def test_a_limit_without_room_is_an_error(limit: int, tmp_path: Path) -> None:
    with pytest.raises(KmedError, match=r"without any clip, more than the .*--max-mib"):
        write_error_analysis(tmp_path, predictions(LINES), OPTIONS, max_bytes=limit)


def test_what_is_not_wanted_is_not_read() -> None:
    read: list[str] = []

    def samples(name: str) -> np.ndarray:
        read.append(name)
        return chirp(0.5)

    made = cut_in([("a", 0.5), ("b", 0.5), ("c", 2.0)], samples, 100)
    assert (read, made.sources, made.left_out) == (["a"], {}, {"a": 0.5, "b": 0.5, "c": 2.0})

"""The registered model's code: what it hears, what it writes, what it refuses."""

import base64
import dataclasses
import io
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
import whisper
from mlflow.exceptions import MlflowException
from random_whisper import save_random_whisper

from kmed_bench.asr.features.resampling import resample

pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed file .*tiktoken:ResourceWarning"),
]

CONFIG = {"language": "ko", "max_audio_mib": 1.0, "max_audio_minutes": 2.0, "max_request_minutes": 3.0, "max_rows": 20}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The pyfunc on a random checkpoint that is small enough to decode in a moment."""
    from kmed_bench.tracking.registry.pyfunc_model import WhisperModel

    path = save_random_whisper(tmp_path_factory.mktemp("checkpoint") / "tiny.pt")
    loaded = WhisperModel()
    loaded.load_context(SimpleNamespace(artifacts={"checkpoint": str(path)}, model_config=CONFIG))
    return loaded


def noise(seconds: float = 0.5, rate_hz: int = 16_000, channels: int = 1, kind: str = "WAV") -> bytes:
    rng = np.random.default_rng(0)
    buffer = io.BytesIO()
    soundfile.write(buffer, 0.1 * rng.standard_normal((int(seconds * rate_hz), channels)), rate_hz, format=kind)
    return buffer.getvalue()


def silence(seconds: float, rate_hz: int, channels: int = 1) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros((int(seconds * rate_hz), channels), np.int16), rate_hz, format="FLAC")
    return buffer.getvalue()


def opposite(factor: float) -> bytes:
    tone = 0.3 * np.sin(np.arange(8_000) / 10)
    buffer = io.BytesIO()
    soundfile.write(buffer, np.stack([tone, factor * tone], axis=1), 16_000, format="WAV")
    return buffer.getvalue()


def floats(samples: list[float]) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.array(samples * 100, np.float32), 16_000, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


def nested(depth: int) -> Any:
    value: Any = 0.1
    for _ in range(depth):
        value = [value]
    return value


def text64(content: bytes) -> str:
    return base64.b64encode(content).decode()


REFUSED = {
    "empty": ({"audio": b""}, r"Row 0, audio: it is empty \(0 bytes\)"),
    "no audio": ({"audio": b"not audio at all"}, "not audio that soundfile can read"),
    "cut header": ({"audio": noise()[:20]}, "not audio that soundfile can read"),
    "header alone": ({"audio": noise()[:44]}, "has no samples"),
    "too many bytes": ({"audio": noise(40)}, r"has 1\.2 MiB, over the limit of 1; cut it"),
    "too many bytes in base64": ({"audio_base64": text64(noise(40))}, r"has 1\.2 MiB, over the limit of 1; cut it"),
    "too long": ({"audio": noise(121, kind="FLAC", rate_hz=4_000)}, "lasts 121 s, over the limit of 120 s"),
    "no base64": ({"audio_base64": "%%%"}, "the text is not base64"),
    "empty base64": ({"audio_base64": ""}, "it is empty"),
    "missing file": ({"path": "/nowhere/a.wav"}, r"Row 0, path: it can't be read \(No such file"),
    "a folder": ({"path": "/"}, "can't be read"),
    "samples without rate": ({"samples": [0.0, 0.1]}, "give rate_hz"),
    "rate zero": ({"samples": [0.0], "rate_hz": 0}, "rate is 0 Hz"),
    "slow rate": ({"samples": [0.1] * 14_000, "rate_hz": 1}, "rate is 1 Hz; that must be from 4000 to 384000"),
    "fast rate": ({"samples": [0.1] * 14_000, "rate_hz": 10**9}, "that must be from 4000"),
    "infinite rate": ({"samples": [0.1], "rate_hz": float("inf")}, "give a number of samples per second"),
    "rate in words": ({"samples": [0.1], "rate_hz": "fast"}, "rate_hz is 'fast'"),
    "audio as a rate": ({"samples": [0.1], "rate_hz": "UklGRqQM" * 9}, "rate_hz is a long str; give"),
    "audio as a path": ({"path": "UklGRqQM" * 90}, r"path: it can't be read \(File name too long\); check the path"),
    "many at a fast rate": (
        {"audio": silence(20, 384_000)},
        r"has 7,680,000 samples of 384000 Hz, over the limit of 5,7",
    ),
    "many channels": ({"audio": noise(0.01, channels=9)}, "has 9 channels, over the limit of 8"),
    "opposite channels": ({"audio": opposite(-1.0)}, r"its channels cancel each other \(opposite phase\)"),
    "nearly opposite channels": ({"audio": opposite(-0.9)}, "its channels cancel"),
    "16-bit numbers": (
        {"samples": [120.0, -9_000.0, 35.0], "rate_hz": 16_000},
        "reach 9000, and full scale is 1; divide",
    ),
    "slightly too loud": ({"samples": [0.5, -1.2], "rate_hz": 16_000}, "reach 1.2, and full scale is 1"),
    "file of 16-bit numbers": ({"audio": floats([0.0, 7_000.0])}, "reach 7000, and full scale is 1"),
    "file with NaN": ({"audio": floats([0.0, np.nan])}, "not finite"),
    "nested samples": ({"samples": nested(40), "rate_hz": 16_000}, "they are not numbers|their shape is"),
    "stereo samples": ({"samples": [[0.0, 0.1]], "rate_hz": 16_000}, r"shape is \(1, 2\)"),
    "words as samples": ({"samples": ["a", "b"], "rate_hz": 16_000}, "not numbers"),
    "no samples": ({"samples": [], "rate_hz": 16_000}, "has no samples"),
    "not a number": ({"samples": [float("nan")], "rate_hz": 16_000}, "not finite"),
    "nothing": ({"rate_hz": 16_000}, "No column holds audio; give exactly one of audio, audio_base64, path, samples"),
    "none of its own": ({"audio": None, "path": None}, "Row 0 has none of them; give exactly one of audio"),
    "two": ({"audio": noise(), "path": "a.wav"}, "Row 0 has audio and path"),
    "a number": ({"audio": 3}, "it is a int; give a file's bytes"),
}


@pytest.mark.parametrize(("row", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_bad_audio_is_a_clear_400(model: Any, row: dict[str, Any], message: str) -> None:
    with pytest.raises(MlflowException, match=message) as caught:
        model.predict(pd.DataFrame([row]))
    assert caught.value.get_http_status_code() == 400


def test_the_faulty_row_is_named(model: Any) -> None:
    with pytest.raises(MlflowException, match="Row 1, audio: it is empty"):
        model.predict(pd.DataFrame({"audio": [noise(), b""]}))


def test_an_unknown_language_is_refused(model: Any) -> None:
    with pytest.raises(MlflowException, match="language is 'xx'"):
        model.predict(pd.DataFrame({"audio": [noise()]}), {"language": "xx"})


def test_a_server_reads_no_paths(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.wav").write_bytes(noise())
    table = pd.DataFrame({"path": [str(tmp_path / "a.wav")]})
    assert len(model.predict(table)) == 1
    monkeypatch.setenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "true")
    with pytest.raises(MlflowException, match="a server reads no files"):
        model.predict(table)


def test_only_the_folder_that_the_operator_allows_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kmed_bench.tracking.registry.pyfunc_model import AudioReader

    monkeypatch.setenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "true")  # as `mlflow models predict` sets it, too
    allowed = tmp_path / "clips"
    allowed.mkdir()
    for folder in (tmp_path, allowed):
        (folder / "a.wav").write_bytes(noise())
    (allowed / "link.wav").symlink_to(tmp_path / "a.wav")
    reader = AudioReader(max_bytes=2**20, max_s=1.0, path_root=str(allowed))
    for path in ("a.wav", str(allowed / "a.wav"), "../clips/a.wav"):
        assert len(reader.read(0, {"path": path})) == 8_000
    for path in ("../a.wav", str(tmp_path / "a.wav"), "link.wav", "/etc/passwd", "../missing.wav"):
        with pytest.raises(MlflowException, match="outside of the folder that the setting path_root allows"):
            reader.read(0, {"path": path})


def test_rows_of_every_kind_and_length_keep_their_order(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kmed_bench.tracking.registry.pyfunc_model.BATCH_ROWS", 2)
    (tmp_path / "b.flac").write_bytes(noise(0.7, kind="FLAC"))
    rows = [
        {"audio": noise(0.5, kind="OGG")},
        {"samples": np.linspace(-0.1, 0.1, 8_000), "rate_hz": 8_000.0},
        {"audio": noise(31, rate_hz=8_000)},
        {"path": str(tmp_path / "b.flac")},
        {"audio_base64": text64(noise(0.9))},
        {"audio": noise(0.1, channels=2, rate_hz=22_050)},
    ]
    found = model.predict(pd.DataFrame(rows), {"detail": True})
    assert list(found.columns) == ["text", "language", "duration_s", "segments"]
    durations = [0.5, 1.0, 31.0, 0.7, 0.9, 0.1]
    assert found["duration_s"].tolist() == pytest.approx(durations, abs=1e-3)
    assert set(found["language"]) == {"ko"}
    singly = [model.predict(pd.DataFrame([row]))["text"][0] for row in rows[:5]]
    assert found["text"].tolist()[:5] == singly
    for duration_s, segments in zip(found["duration_s"], found["segments"], strict=True):
        assert all(0 <= part["start_s"] <= part["end_s"] <= duration_s for part in segments)
        if duration_s <= 30:
            assert [(part["start_s"], part["end_s"]) for part in segments] == [(0.0, duration_s)]


def test_exactly_30_s_is_one_window_and_more_is_not(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    windowed: list[int] = []
    monkeypatch.setattr(model, "_window", lambda clip, language: windowed.append(len(clip)) or {"text": ""})
    model.predict(pd.DataFrame({"samples": [np.zeros(480_000), np.zeros(480_001)], "rate_hz": [16_000, 16_000]}))
    assert windowed == [480_001]


def test_language_can_be_detected(model: Any) -> None:
    (language,) = model.predict(pd.DataFrame({"audio": [noise()]}), {"language": "auto", "detail": True})["language"]
    assert language in whisper.tokenizer.LANGUAGES


@pytest.mark.parametrize("index", [[7, 3], ["b", "a"], [5, 5]])
def test_texts_keep_the_index_of_their_rows(model: Any, index: list[Any]) -> None:
    table = pd.DataFrame({"audio": [noise(0.5), noise(0.9)]}, index=index)
    found = model.predict(table, {"detail": True})
    assert list(found.index) == index
    assert found["duration_s"].tolist() == pytest.approx([0.5, 0.9])


def test_a_request_is_limited_as_a_whole(model: Any) -> None:
    with pytest.raises(MlflowException, match="21 rows are over the limit of 20; send them in parts"):
        model.predict(pd.DataFrame({"audio": [noise(0.01)] * 21}))
    with pytest.raises(MlflowException, match="The first 2 of 3 rows last longer than the limit of 3 minutes together"):
        model.predict(pd.DataFrame({"audio": [silence(100, 4_000)] * 3}))


def test_limits_are_settings_of_the_model() -> None:
    from kmed_bench.tracking.registry.models import LIMITS
    from kmed_bench.tracking.registry.pyfunc_model import Limits

    assert dataclasses.asdict(Limits()) == LIMITS
    assert Limits.from_config({**LIMITS, "language": "ko", "max_rows": "3"}) == Limits(max_rows=3)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    from kmed_bench.tracking.registry.pyfunc_model import WhisperModel

    path = save_random_whisper(tmp_path / "tiny.pt")
    content = torch.load(path, weights_only=True)
    content["model_state_dict"]["decoder.ln.bias"][3] = torch.nan
    torch.save(content, path)
    with pytest.raises(MlflowException, match=r"not finite numbers \(decoder\.ln\.bias\)"):
        WhisperModel().load_context(SimpleNamespace(artifacts={"checkpoint": str(path)}, model_config=CONFIG))


@pytest.mark.parametrize(
    ("rate_hz", "seconds"), [(48_000, 59.9), (8_000, 60.0), (8_000, 121.0003), (22_050, 185.3), (44_101, 61.5)]
)
def test_long_audio_is_resampled_as_in_one_piece(rate_hz: int, seconds: float) -> None:
    from kmed_bench.tracking.registry.pyfunc_model import _resample_by_minute

    audio = np.random.default_rng(1).uniform(-0.5, 0.5, int(seconds * rate_hz)).astype(np.float32)
    np.testing.assert_allclose(_resample_by_minute(audio, rate_hz), resample(audio, rate_hz, 16_000), atol=1e-6)


@pytest.mark.parametrize("rate_hz", [8_000, 22_050, 44_100, 48_000, 96_000, 44_101, 8_001, 192_001])
def test_audio_is_resampled_as_for_the_evaluation(rate_hz: int) -> None:
    from kmed_bench.tracking.registry.pyfunc_model import AudioReader

    audio = np.random.default_rng(2).uniform(-0.5, 0.5, rate_hz // 4).astype(np.float32)
    read = AudioReader(max_bytes=1, max_s=1.0).read(0, {"samples": audio, "rate_hz": rate_hz})
    assert np.array_equal(read, resample(audio, rate_hz, 16_000))


SMALL_AND_LARGE = """
import base64, io, resource, sys, numpy as np, pandas as pd, soundfile
from types import SimpleNamespace
from mlflow.exceptions import MlflowException
from kmed_bench.tracking.registry.models import LIMITS
from kmed_bench.tracking.registry.pyfunc_model import WhisperModel

def flac(minutes, rate_hz, channels):
    buffer, second = io.BytesIO(), np.zeros((rate_hz, channels), "int16")
    with soundfile.SoundFile(buffer, "w", rate_hz, channels, format="FLAC", subtype="PCM_16") as file:
        for _ in range(int(minutes * 60)):
            file.write(second)
    return buffer.getvalue()

model = WhisperModel()
model.load_context(SimpleNamespace(artifacts={"checkpoint": sys.argv[1]}, model_config={"language": "ko", **LIMITS}))
# the cost of decoding is measured on a server
model._transcribe = lambda clips, language: [{"text": str(clips.read(n)[0])} for n in range(len(clips.lengths))]
rows = {
    "channels": [{"audio": flac(20, 48_000, 8)}], "longest": [{"audio": flac(10, 48_000, 8)}],
    "fast": [{"audio": flac(10, 384_000, 1)}], "slow": [{"samples": [0.1] * 14_000, "rate_hz": 1}],
    "many": [{"audio": flac(9, 8_000, 1)}] * 30, "odd": [{"samples": [0.1] * 90_000, "rate_hz": 44_099}],
    "filter": [{"samples": [0.1] * 90_000, "rate_hz": 4_001}],
    "samples": [{"samples": [0.1] * 500_000, "rate_hz": 8_000}],
}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name, table in rows.items():
    try:
        model.predict(pd.DataFrame(table))
    except MlflowException:
        pass
    print(name, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
def test_small_requests_take_less_than_a_gib(tmp_path: Path) -> None:
    path = save_random_whisper(tmp_path / "tiny.pt")
    done = subprocess.run(
        [sys.executable, "-c", SMALL_AND_LARGE, str(path)], capture_output=True, text=True, check=True
    )
    grown = dict(line.split() for line in done.stdout.splitlines())
    assert len(grown) == 8
    assert max(map(int, grown.values())) < 1024, grown

"""The registered model's code: what it hears, what it writes, what it refuses."""

import base64
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import whisper
from mlflow.exceptions import MlflowException
from random_whisper import save_random_whisper

pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed file .*tiktoken:ResourceWarning"),
]

CONFIG = {"language": "ko", "max_audio_mib": 1.0, "max_audio_minutes": 2.0}


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


def text64(content: bytes) -> str:
    return base64.b64encode(content).decode()


REFUSED = {
    "empty": ({"audio": b""}, r"Row 0, audio: it is empty \(0 bytes\)"),
    "no audio": ({"audio": b"not audio at all"}, "not audio that soundfile can read"),
    "cut header": ({"audio": noise()[:20]}, "not audio that soundfile can read"),
    "header alone": ({"audio": noise()[:44]}, "has no samples"),
    "too many bytes": ({"audio": noise(40)}, r"has 1\.2 MiB, over the limit of 1; cut it"),
    "too many bytes in base64": ({"audio_base64": text64(noise(40))}, r"has 1\.2 MiB, over the limit of 1; cut it"),
    "too long": ({"audio": noise(121, kind="FLAC", rate_hz=2_000)}, "lasts 121 s, over the limit of 120 s"),
    "no base64": ({"audio_base64": "%%%"}, "the text is not base64"),
    "empty base64": ({"audio_base64": ""}, "it is empty"),
    "missing file": ({"path": "/nowhere/a.wav"}, r"/nowhere/a\.wav can't be read \(No such file"),
    "a folder": ({"path": "/"}, "can't be read"),
    "samples without rate": ({"samples": [0.0, 0.1]}, "give rate_hz"),
    "rate zero": ({"samples": [0.0], "rate_hz": 0}, "rate is 0 Hz"),
    "odd rate": ({"samples": [0.0] * 100, "rate_hz": 44_101}, "too little in common"),
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

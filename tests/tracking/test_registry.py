"""Models as they are registered, loaded elsewhere, and promoted."""

import base64
import importlib.metadata
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
import whisper
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from random_whisper import save_random_whisper

from kmed_bench.config import Config, load_config
from kmed_bench.core.errors import KmedError
from kmed_bench.tracking import runs
from kmed_bench.tracking.registry import models as registry

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
    pytest.mark.filterwarnings("ignore:unclosed file .*tiktoken:ResourceWarning"),
]

SHA = "cd" * 32


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_whisper(tmp_path_factory.mktemp("checkpoint") / "tiny.pt")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("store")
    return load_config("demo", {"tracking.uri": f"sqlite:///{folder}/mlflow.db"})


@pytest.fixture(autouse=True)
def _no_store_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)


@pytest.fixture
def global_store(config: Config) -> Iterator[None]:
    """The store as MLflow's global one, as in a user's notebook."""
    mlflow.set_tracking_uri(config.tracking.uri)
    yield
    mlflow.set_tracking_uri(None)


@pytest.fixture(scope="module")
def registered(checkpoint: Path, config: Config) -> registry.ModelVersionInfo:
    with runs.bench_run(config, code_version="x") as bench, bench.child("train", "t") as child:
        child.log_dataset(sha256=SHA, counts={"train": 3, "valid": 2, "test": 1}, context="training")
        return registry.log_model(child, checkpoint, size="tiny", split_sha256=SHA, metrics={"test/cer": 0.25}, step=3)


def tone(seconds: float = 1.0, rate_hz: int = 48_000, channels: int = 2) -> bytes:
    rng = np.random.default_rng(0)
    buffer = io.BytesIO()
    soundfile.write(buffer, 0.1 * rng.standard_normal((int(seconds * rate_hz), channels)), rate_hz, format="WAV")
    return buffer.getvalue()


def expected_text(checkpoint: Path, audio: bytes) -> str:
    """The evaluation's decoding, written out."""
    import torchaudio

    model = whisper.load_model(str(checkpoint), device="cpu")
    samples, rate_hz = soundfile.read(io.BytesIO(audio), dtype="float32", always_2d=True)
    mono = torch.from_numpy(samples.mean(axis=1))
    if rate_hz != 16_000:
        mono = torchaudio.functional.resample(mono, rate_hz, 16_000)
    mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(mono), 80)
    options = whisper.DecodingOptions(language="ko", temperature=0.0, without_timestamps=True, fp16=False)
    return str(whisper.decode(model, mel, options).text)


@pytest.mark.usefixtures("global_store")
def test_the_version_says_what_it_is(registered: registry.ModelVersionInfo, config: Config) -> None:
    client = MlflowClient(tracking_uri=config.tracking.uri)
    version = client.get_model_version_by_alias("kmed-whisper-tiny", "challenger")
    assert registered.name == "kmed-whisper-tiny"
    assert registered.uri == "models:/kmed-whisper-tiny/1"
    assert (str(version.version), version.run_id) == (registered.version, registered.run_id)
    assert version.tags["kmed.split_sha256"] == SHA
    assert version.tags["kmed.test.cer"] == "0.25"
    info = mlflow.models.get_model_info(registered.uri)
    assert [column.name for column in info.signature.inputs] == ["audio", "audio_base64", "path", "samples", "rate_hz"]
    folder = Path(mlflow.artifacts.download_artifacts(registered.uri))
    pins = (folder / "requirements.txt").read_text().split()
    assert f"openai-whisper=={importlib.metadata.version('openai-whisper')}" in pins
    assert all("==" in pin and "+" not in pin for pin in pins)
    example = json.loads((folder / "input_example.json").read_text())
    assert example["columns"] == ["audio"]
    samples, rate_hz = soundfile.read(io.BytesIO(base64.b64decode(example["data"][0][0])))
    spectrum = np.abs(np.fft.rfft(samples))
    assert spectrum.argmax() * rate_hz / len(samples) == 440.0  # a tone and nothing else
    assert spectrum.max() ** 2 > 0.99 * (spectrum**2).sum()
    assert not list(folder.rglob("*.pkl"))
    whisper.load_model(str(folder / "artifacts" / "tiny.pt"))
    card = (folder / "artifacts" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert version.description == card
    assert card.startswith("# kmed-whisper-tiny\n")
    for told in (
        f"`{SHA}`",
        "generated demo corpus",
        "train 3, valid 2, test 1",
        "| lr | `2e-05` |",
        "| fine-tuned | 25.0 % |",
    ):
        assert told in card


@pytest.mark.usefixtures("global_store", "registered")
def test_the_registered_model_says_what_it_is_and_keeps_what_a_user_wrote(config: Config) -> None:
    client = MlflowClient(tracking_uri=config.tracking.uri)
    model = client.get_registered_model("kmed-whisper-tiny")
    assert model.description.startswith("Whisper tiny, fine-tuned on Korean medical speech")
    expected = {"kmed.size": "tiny", "kmed.language": "ko", "kmed.task": "automatic-speech-recognition"}
    assert model.tags == expected
    client.update_registered_model(model.name, "ours")
    client.set_registered_model_tag(model.name, "kmed.task", "dictation")
    registry._describe_registered(client, model.name, "tiny")
    model = client.get_registered_model("kmed-whisper-tiny")
    assert (model.description, model.tags) == ("ours", expected | {"kmed.task": "dictation"})


@pytest.mark.usefixtures("global_store")
def test_mlflow_models_predict_reads_paths_where_that_is_allowed(
    registered: registry.ModelVersionInfo, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.pyfunc.scoring_server import _predict

    clips = {"a.wav": tone(0.5), "b.wav": tone(1.0)}
    for name, content in clips.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "paths.csv").write_text("\n".join(["path", *clips]), encoding="utf-8")
    files = (registered.uri, str(tmp_path / "paths.csv"), str(tmp_path / "texts.json"), "csv")
    with pytest.raises(MlflowException, match="the setting path_root names the folder"):
        _predict(*files)
    monkeypatch.setenv("MLFLOW_PYFUNC_INFERENCE_CONFIG", json.dumps({"path_root": str(tmp_path)}))
    _predict(*files)
    found = json.loads((tmp_path / "texts.json").read_text(encoding="utf-8"))
    assert [row["text"] for row in found["predictions"]] == [expected_text(checkpoint, clip) for clip in clips.values()]


def test_the_logged_model_has_its_figures_and_its_data(registered: registry.ModelVersionInfo, config: Config) -> None:
    client = MlflowClient(tracking_uri=config.tracking.uri)
    model = client.get_logged_model(registered.model_id)
    found = [(m.key, m.value, m.dataset_name, m.dataset_digest, m.run_id) for m in model.metrics]
    assert found == [("test/cer", 0.25, "AI Hub 208", SHA[:36], registered.run_id)]
    assert model.tags["kmed.split_sha256"] == SHA
    run = client.get_run(registered.run_id)
    assert [(output.model_id, output.step) for output in run.outputs.model_outputs] == [(registered.model_id, 3)]


@pytest.mark.slow
@pytest.mark.parametrize("named", [None, "sqlite:///elsewhere.db"])
def test_registering_leaves_mlflows_global_state_as_it_was(
    checkpoint: Path, config: Config, named: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if named:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", named)
    client = MlflowClient(tracking_uri=config.tracking.uri)
    with runs.bench_run(config, code_version="x") as bench, bench.child("train", "t") as child:
        registry.log_model(child, checkpoint, size="base")
        statuses = [client.get_run(run.run_id).info.status for run in (bench, child)]
        assert statuses == ["RUNNING", "RUNNING"]
        assert mlflow.active_run() is None
        assert mlflow.is_tracking_uri_set() == (named is not None)
        assert os.environ.get("MLFLOW_TRACKING_URI") == named
    mlflow.set_tracking_uri(None)


@pytest.mark.slow
@pytest.mark.usefixtures("global_store")
def test_every_kind_of_input_gives_the_evaluations_text(
    registered: registry.ModelVersionInfo, checkpoint: Path, tmp_path: Path
) -> None:
    model = mlflow.pyfunc.load_model("models:/kmed-whisper-tiny@challenger")
    audio = tone()
    (tmp_path / "a.wav").write_bytes(audio)
    samples, rate_hz = soundfile.read(io.BytesIO(audio), dtype="float32")
    text = expected_text(checkpoint, audio)
    assert text
    tables = [
        pd.DataFrame({"audio": [audio, audio]}),
        pd.DataFrame({"audio_base64": [base64.b64encode(audio).decode()] * 2}),
        pd.DataFrame({"path": [str(tmp_path / "a.wav")] * 2}),
        pd.DataFrame({"samples": [samples.mean(axis=1).astype(float)] * 2, "rate_hz": [rate_hz] * 2}),
    ]
    for table in tables:
        assert model.predict(table).to_dict("list") == {"text": [text, text]}


@pytest.mark.slow
def test_a_fresh_process_without_this_package_loads_it(
    registered: registry.ModelVersionInfo, checkpoint: Path, config: Config, tmp_path: Path
) -> None:
    audio = tone(rate_hz=22_050, channels=1)
    (tmp_path / "a.wav").write_bytes(audio)
    program = (
        "import sys; sys.modules['kmed_bench'] = None\n"
        "import mlflow, pandas as pd\n"
        "model = mlflow.pyfunc.load_model('models:/kmed-whisper-tiny@challenger')\n"
        "sys.stdout.buffer.write(model.predict(pd.DataFrame({'path': ['a.wav']}))['text'][0].encode())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ | {"MLFLOW_TRACKING_URI": config.tracking.uri},
        capture_output=True,
        check=True,
    )
    assert done.stdout.decode() == expected_text(checkpoint, audio)


def test_a_missing_checkpoint_is_refused(config: Config, tmp_path: Path) -> None:
    with (
        pytest.raises(KmedError, match="does not exist, so it can't be registered"),
        runs.bench_run(config, code_version="x") as bench,
    ):
        registry.log_model(bench, tmp_path / "none.pt", size="tiny")


@pytest.mark.slow
def test_a_continued_training_registers_its_checkpoint_once(checkpoint: Path, config: Config) -> None:
    client = MlflowClient(tracking_uri=config.tracking.uri)
    given = {"test/cer": 0.25, "best/valid_cer": 0.2}
    with runs.bench_run(config, code_version="x") as bench:
        with bench.child("train", "t") as child:
            child.log_metrics(given)
            first = registry.log_model(child, checkpoint, size="small", split_sha256=SHA, metrics=given, step=3)
        with bench.child("train", "t", run_id=child.run_id) as again:
            again.log_metrics(given)
            second = registry.log_model(again, checkpoint, size="small", split_sha256=SHA, metrics=given, step=3)
        assert second == first
        assert len(client.search_model_versions("name = 'kmed-whisper-small'")) == 1
        assert len(client.get_metric_history(child.run_id, "test/cer")) == 1
        with bench.child("train", "t2") as worse:
            seed = registry.log_model(worse, checkpoint, size="small", metrics={**given, "best/valid_cer": 0.3})
        challenger = client.get_model_version_by_alias("kmed-whisper-small", "challenger")
        assert (seed.version, str(challenger.version)) == ("2", first.version)
        with bench.child("train", "t3") as better:
            seed = registry.log_model(better, checkpoint, size="small", metrics={**given, "best/valid_cer": 0.1})
        assert str(client.get_model_version_by_alias("kmed-whisper-small", "challenger").version) == seed.version
    with runs.bench_run(config, code_version="x") as bench, bench.child("train", "t") as other:
        seed = registry.log_model(other, checkpoint, size="small", metrics={**given, "best/valid_cer": 0.9})
    assert str(client.get_model_version_by_alias("kmed-whisper-small", "challenger").version) == seed.version

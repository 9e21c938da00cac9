"""A registered model behind `mlflow models serve`, asked over HTTP."""

import base64
import concurrent.futures
import io
import json
import os
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import requests
import soundfile
from random_whisper import save_random_whisper

from kmed_bench.config import load_config
from kmed_bench.tracking import runs
from kmed_bench.tracking.registry import models as registry

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
    pytest.mark.filterwarnings("ignore:unclosed file .*tiktoken:ResourceWarning"),
]

START_WITHIN_S = 180.0


def clip(seconds: float = 1.0, seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    samples = 0.1 * np.random.default_rng(seed).standard_normal(int(seconds * 48_000))
    soundfile.write(buffer, samples, 48_000, format="FLAC")
    return buffer.getvalue()


def rows(*contents: bytes, column: str = "audio") -> dict[str, Any]:
    return {"dataframe_split": {"columns": [column], "data": [[base64.b64encode(c).decode()] for c in contents]}}


@pytest.fixture(scope="module")
def store_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture(scope="module")
def model_uri(store_uri: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    checkpoint = save_random_whisper(tmp_path_factory.mktemp("checkpoint") / "tiny.pt")
    with runs.bench_run(load_config("demo", {"tracking.uri": store_uri}), code_version="x") as bench:
        return registry.log_model(bench, checkpoint, size="tiny").uri


@pytest.fixture(scope="module")
def endpoint(model_uri: str, store_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a model server of its own process, whose largest audio file is 1 MiB."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local", "--host", "127.0.0.1"]
    environment = os.environ | {
        "MLFLOW_TRACKING_URI": store_uri,
        "MLFLOW_PYFUNC_INFERENCE_CONFIG": json.dumps({"max_audio_mib": 1}),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    log = tmp_path_factory.mktemp("serve") / "log.txt"
    with (
        log.open("wb") as stream,
        subprocess.Popen(
            [*command, "--port", str(port), "-m", "models:/kmed-whisper-tiny@challenger"],
            env=environment,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as server,
    ):
        try:
            _wait_for(f"http://127.0.0.1:{port}/health", server, log)
            yield f"http://127.0.0.1:{port}/invocations"
        finally:
            os.killpg(server.pid, 15)


def _wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_WITHIN_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if requests.get(address, timeout=5).status_code == 200:
                return
        except requests.ConnectionError:
            time.sleep(0.5)
    pytest.fail(f"the server did not start:\n{log.read_text(errors='replace')[-3_000:]}")


@pytest.fixture(scope="module")
def local(model_uri: str, store_uri: str) -> Iterator[Any]:
    mlflow.set_tracking_uri(store_uri)
    yield mlflow.pyfunc.load_model(model_uri)
    mlflow.set_tracking_uri(None)


def ask(endpoint: str, body: Any) -> requests.Response:
    return requests.post(endpoint, json=body, timeout=60)


def test_the_server_writes_what_the_model_writes(endpoint: str, local: Any) -> None:
    contents = [clip(1.0, 0), clip(0.5, 1)]
    expected = [{"text": text} for text in local.predict(pd.DataFrame({"audio": contents}))["text"]]
    answer = ask(endpoint, rows(*contents))
    assert (answer.status_code, answer.json()) == (200, {"predictions": expected})
    assert ask(endpoint, rows(*contents, column="audio_base64")).json() == {"predictions": expected}
    detailed = ask(endpoint, rows(contents[1]) | {"params": {"detail": True}}).json()["predictions"]
    segment = {"start_s": 0.0, "end_s": 0.5, "text": expected[1]["text"]}
    assert detailed == [{**expected[1], "language": "ko", "duration_s": 0.5, "segments": [segment]}]


def test_requests_at_the_same_time_do_not_mix(endpoint: str, local: Any) -> None:
    contents = [clip(0.3 + 0.1 * n, n) for n in range(6)]
    expected = [local.predict(pd.DataFrame({"audio": [content]}))["text"][0] for content in contents]
    assert len(set(expected)) > 1
    with concurrent.futures.ThreadPoolExecutor(len(contents)) as pool:
        answers = list(pool.map(lambda content: ask(endpoint, rows(content)), contents))
    assert [answer.json()["predictions"][0]["text"] for answer in answers] == expected


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (rows(b""), "Row 0, audio: it is empty"),
        (rows(clip(), b"not audio"), "Row 1, audio: it is not audio that soundfile can read"),
        (rows(clip(14.0)), "MiB, over the limit of 1; cut it into parts"),
        ({"dataframe_records": [{"samples": [0.1] * 14_000, "rate_hz": 1}]}, "its rate is 1 Hz"),
        ({"dataframe_records": [{"samples": [9_000.0, -7.0], "rate_hz": 16_000}]}, "reach 9000, and full scale is 1"),
        ({"dataframe_records": [{"samples": [[[0.1]]], "rate_hz": 16_000}]}, ""),
        (rows(b"x", column="path"), "a server reads no files of its own machine"),
        (rows(b"x", column="sound"), "give exactly one of audio, audio_base64, path, samples"),
        ({"dataframe_split": {"columns": ["audio"]}}, ""),
        ({"nothing": 1}, ""),
        ([], ""),
    ],
    ids=[
        "empty",
        "corrupt",
        "over-large",
        "1 Hz",
        "16-bit",
        "nested",
        "path",
        "unknown column",
        "no data",
        "no table",
        "list",
    ],
)
def test_bad_bodies_get_a_400_with_a_reason(endpoint: str, body: Any, message: str) -> None:
    answer = ask(endpoint, body)
    assert answer.status_code == 400
    assert message in answer.json()["message"]


def test_a_body_that_is_no_json_gets_a_4xx(endpoint: str) -> None:
    for content_type, status in (("application/json", 400), ("audio/wav", 415)):
        answer = requests.post(endpoint, data=b"\x00\x01", headers={"Content-Type": content_type}, timeout=60)
        assert answer.status_code == status
    for depth in (50, 1_000, 200_000):
        body = '{"dataframe_records": ' + "[" * depth + "]" * depth + "}"
        answer = requests.post(endpoint, data=body, headers={"Content-Type": "application/json"}, timeout=60)
        assert answer.status_code == (400 if depth == 50 else 500)  # MLflow's own parser, before the model
    assert ask(endpoint, rows(clip(0.3))).status_code == 200


@pytest.mark.real_speech
def test_a_real_clip_gets_the_models_text(endpoint: str, local: Any, real_speech: Path) -> None:
    (archive,) = (real_speech / "Validation").glob("*환자*.zip")
    with zipfile.ZipFile(archive) as packed:
        content = packed.read(sorted(name for name in packed.namelist() if name.endswith(".wav"))[0])
    expected = local.predict(pd.DataFrame({"audio": [content]}))["text"][0]
    assert ask(endpoint, rows(content)).json()["predictions"] == [{"text": expected}]

"""A registered model behind `mlflow models serve`, asked over HTTP."""

import base64
import concurrent.futures
import io
import json
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
from fault_table import fault
from model_server import MLFLOW, Server, register_random, rows, serving
from planted_bodies import audio_bodies, traces

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
    pytest.mark.filterwarnings("ignore:unclosed file .*tiktoken:ResourceWarning"),
]

GOES_ON = "the server: other requests, and the next one of the same client"


def clip(seconds: float = 1.0, seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    samples = 0.1 * np.random.default_rng(seed).standard_normal(int(seconds * 48_000))
    soundfile.write(buffer, samples, 48_000, format="FLAC")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return register_random(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def server(registered: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A model server of its own process, whose largest audio file is 1 MiB."""
    variables = {"MLFLOW_PYFUNC_INFERENCE_CONFIG": json.dumps({"max_audio_mib": 1})}
    log = tmp_path_factory.mktemp("serve") / "log.txt"
    with serving(MLFLOW, "models:/kmed-whisper-tiny@challenger", registered[0], log, **variables) as running:
        yield running


@pytest.fixture(scope="module")
def endpoint(server: Server) -> str:
    return server.invocations


@pytest.fixture(scope="module")
def local(registered: tuple[str, str]) -> Iterator[Any]:
    mlflow.set_tracking_uri(registered[0])
    yield mlflow.pyfunc.load_model(registered[1])
    mlflow.set_tracking_uri(None)


def ask(endpoint: str, body: Any) -> requests.Response:
    return requests.post(endpoint, json=body, timeout=60)


def test_the_server_writes_what_the_model_writes(endpoint: str, local: Any) -> None:
    contents = [clip(1.0, 0), clip(0.5, 1)]
    expected = [{"text": text} for text in local.predict(pd.DataFrame({"audio": contents}))["text"]]
    answer = ask(endpoint, rows(*contents, column="audio"))
    assert (answer.status_code, answer.json()) == (200, {"predictions": expected})
    assert ask(endpoint, rows(*contents)).json() == {"predictions": expected}
    detailed = ask(endpoint, rows(contents[1]) | {"params": {"detail": True}}).json()["predictions"]
    segment = {"start_s": 0.0, "end_s": 0.5, "text": expected[1]["text"]}
    assert detailed == [{**expected[1], "language": "ko", "duration_s": 0.5, "segments": [segment]}]


def test_csv_instances_and_inputs_give_the_same_text(endpoint: str, local: Any) -> None:
    contents = [clip(1.0, 0), clip(0.5, 1)]
    expected = {"predictions": [{"text": text} for text in local.predict(pd.DataFrame({"audio": contents}))["text"]]}
    texts = [base64.b64encode(content).decode() for content in contents]
    for column in ("audio_base64", "audio"):
        table = pd.DataFrame({column: texts}).to_csv(index=False)
        answer = requests.post(endpoint, data=table, headers={"Content-Type": "text/csv"}, timeout=60)
        assert (answer.status_code, answer.json()) == (200, expected)
    assert ask(endpoint, {"instances": [{"audio_base64": text} for text in texts]}).json() == expected
    assert ask(endpoint, {"inputs": {"audio_base64": texts}}).json() == expected


def test_requests_at_the_same_time_do_not_mix(endpoint: str, local: Any) -> None:
    contents = [clip(0.3 + 0.1 * n, n) for n in range(6)]
    expected = [local.predict(pd.DataFrame({"audio": [content]}))["text"][0] for content in contents]
    assert len(set(expected)) > 1
    with concurrent.futures.ThreadPoolExecutor(len(contents)) as pool:
        answers = list(pool.map(lambda content: ask(endpoint, rows(content)), contents))
    assert [answer.json()["predictions"][0]["text"] for answer in answers] == expected


def refused(what: str, body: Any, said: str) -> Any:
    mark = fault(f"a request to a model server: {what}", sees=f"HTTP 400 with the row: {said}", survives=GOES_ON)
    return pytest.param(body, said, id=what, marks=mark)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        refused("an empty file", rows(b"", column="audio"), "Row 0, audio: it is empty"),
        refused(
            "a file that is no audio",
            rows(clip(), b"not audio", column="audio"),
            "Row 1, audio: it is not audio that soundfile can read",
        ),
        refused("a file over the limit", rows(clip(14.0)), "MiB, over the limit of 1; cut it into parts"),
        refused(
            "samples of 1 Hz, hours long",
            {"dataframe_records": [{"samples": [0.1] * 14_000, "rate_hz": 1}]},
            "its rate is 1 Hz",
        ),
        refused(
            "16-bit numbers as samples",
            {"dataframe_records": [{"samples": [9_000.0, -7.0], "rate_hz": 16_000}]},
            "reach 9000, and full scale is 1",
        ),
        refused("a path of the server's", rows(b"x", column="path"), "a server reads no files of its own machine"),
        refused(
            "no known column",
            rows(b"x", column="sound"),
            "give exactly one of audio, audio_base64, path, samples",
        ),
        ({"dataframe_records": [{"samples": [[[0.1]]], "rate_hz": 16_000}]}, ""),
        ({"dataframe_split": {"columns": ["audio"]}}, ""),
        ({"nothing": 1}, ""),
        ([], ""),
    ],
)
def test_bad_bodies_get_a_400_with_a_reason(endpoint: str, body: Any, message: str) -> None:
    answer = ask(endpoint, body)
    assert answer.status_code == 400
    assert message in answer.json()["message"]


def test_no_error_repeats_the_audio_that_it_is_about(server: Server) -> None:
    for name, body in audio_bodies().items():
        answer = server.post(body)
        assert answer.status_code >= 400, name
        assert not traces(answer.text), name
    assert not traces(server.log.read_text(errors="replace"))


@fault(
    "JSON nested a thousand deep for `mlflow models serve`, which parses it before the model sees it",
    sees="HTTP 500; `kmed-bench serve` answers 400 with the limit",
    survives=GOES_ON,
)
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

"""`kmed-bench serve` and `mlflow models serve` in processes of their own, asked over HTTP by clients that misbehave."""

import base64
import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import soundfile
from fault_table import fault
from model_server import MLFLOW, OURS, Server, register_random, rows, serving
from planted_bodies import audio_bodies, other_bodies, traces

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
    pytest.mark.filterwarnings("ignore:unclosed file .*tiktoken:ResourceWarning"),
]
GOES_ON = "the server: other requests, and the next one of the same client"
MANY_MINUTES = json.dumps({"max_request_minutes": 6_000})


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return register_random(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def server(registered: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    options = ("--max-body-mib", "2", "--max-requests", "3", "--body-within-s", "4")
    log = tmp_path_factory.mktemp("serve") / "log.txt"
    variables = {"MLFLOW_PYFUNC_INFERENCE_CONFIG": MANY_MINUTES}
    with serving(OURS, registered[1], registered[0], log, *options, **variables) as running:
        yield running


def audio(
    duration_s: float,
    rate_hz: int = 16_000,
    channels: int = 1,
    level: float = 0.0,
    kind: str = "FLAC",
    subtype: str = "",
) -> bytes:
    buffer, second = io.BytesIO(), level * np.random.default_rng(0).standard_normal((rate_hz, channels))
    with soundfile.SoundFile(buffer, "w", rate_hz, channels, format=kind, subtype=subtype or None) as file:
        for _ in range(int(duration_s)):
            file.write(second)
        file.write(second[: int(duration_s % 1 * rate_hz)])
    return buffer.getvalue()


ONE = rows(audio(1.0, level=0.1))


def long_job() -> dict[str, Any]:
    """A request of hours of silence, far longer to decode than any test waits."""
    return rows(*[audio(590, 8_000)] * 60)


def answers(server: Server) -> bool:
    return server.ask(ONE).status_code == 200


def wait_until(holds: Callable[[], bool], within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextlib.contextmanager
def stalled(server: Server) -> Iterator[socket.socket]:
    """A client that announces a body and sends the first bytes of it."""
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        head = "POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
        connection.sendall(head.encode() + b'{"dataframe')
        yield connection


def test_the_endpoints_are_mlflows(server: Server) -> None:
    for path in ("ping", "health"):
        answer = requests.get(f"{server.address}/{path}", timeout=60)
        assert (answer.status_code, answer.text) == (200, "\n")
    assert requests.get(f"{server.address}/version", timeout=60).text.startswith("3.")
    detailed = server.ask(ONE | {"params": {"detail": True}}).json()["predictions"]
    assert [row["duration_s"] for row in detailed] == [1.0]
    assert requests.get(server.invocations, timeout=60).status_code == 405
    assert requests.post(f"{server.address}/nothing", timeout=60).status_code == 404


def test_no_error_repeats_what_was_sent(server: Server) -> None:
    for name, body in (audio_bodies() | other_bodies()).items():
        answer = server.post(body)
        assert answer.status_code >= 400, name
        assert not traces(answer.text), name
    assert not traces(server.log.read_text(errors="replace"))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"dataframe_records": ' + b"[" * 1_000 + b"]" * 1_000 + b"}", "nested deeper than 8 levels"),
        (b"[" * 1_900_000, "lists and objects, over the limit of 4,096"),
        (json.dumps({"dataframe_records": [{f"c{n}": 1} for n in range(4_000)]}).encode(), "more than 16 names"),
        (b"\xff", "not text in UTF-8"),
        (b'{"dataframe_records": [{"audio": "\\ud800"}]}', "not text in UTF-8"),
    ],
)
def test_a_body_that_would_end_in_mlflows_parser_is_a_400(server: Server, body: bytes, said: str) -> None:
    answer = server.ask(body)
    assert (answer.status_code, answer.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    assert said in answer.json()["message"]
    assert answers(server)


@fault(
    "a request that is larger than a model server takes, with its length said or not",
    sees="HTTP 413 with both sizes",
    survives=GOES_ON,
)
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_a_413(server: Server, chunked: bool) -> None:
    body = b" " * (5 * 2**20)
    pieces = (body[first : first + 2**16] for first in range(0, len(body), 2**16))
    headers = {"Content-Type": "application/json"}
    answer = requests.post(server.invocations, data=pieces if chunked else body, headers=headers, timeout=60)
    assert answer.status_code == 413
    assert answer.json()["message"].startswith("The body has 5.0 MiB, over the limit of 2;")
    assert answers(server)


@fault(
    "CSV, Parquet or a file in place of JSON for a model server (Parquet of a kilobyte can unpack to gigabytes)",
    sees="HTTP 415 with the type to send",
    survives=GOES_ON,
)
@pytest.mark.parametrize("kind", ["text/csv", "application/vnd.apache.parquet", "audio/wav", ""])
def test_other_content_types_are_a_415(server: Server, kind: str) -> None:
    answer = requests.post(server.invocations, data=b"audio\nAAAA\n", headers={"Content-Type": kind}, timeout=60)
    assert answer.status_code == 415
    assert answer.json()["message"] == f"The content type is {kind!r}; send application/json."


@fault(
    "a client that sends the head of a request and then nothing",
    sees="HTTP 408 after the time in which a body must arrive",
    survives=GOES_ON,
)
def test_a_body_that_does_not_arrive_is_a_408(server: Server) -> None:
    with stalled(server) as connection:
        assert answers(server)
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"The body did not arrive within 4 s; send it faster, or in parts." in answer


@fault(
    "clients that leave while they send their requests",
    sees="nothing; their places are free again",
    survives=GOES_ON,
)
def test_clients_that_leave_while_they_send_take_no_place(server: Server) -> None:
    for _ in range(5):  # more than there are places
        with stalled(server):
            pass
    wait_until(lambda: answers(server))


@fault(
    "more requests at the same time than a model server takes",
    sees="HTTP 503 with Retry-After",
    survives="the requests that are served; the health endpoint",
)
def test_a_request_too_many_is_a_503(server: Server) -> None:
    with stalled(server), stalled(server), stalled(server):
        wait_until(lambda: server.ask(ONE).status_code == 503)
        answer = server.ask(ONE)
        assert answer.headers["retry-after"] == "5"
        assert answer.json()["message"] == "The server has 3 requests, its limit; send this one again later."
        assert requests.get(f"{server.address}/health", timeout=60).status_code == 200
    wait_until(lambda: answers(server))


@fault(
    "the client of a model server leaves in the middle of hours of audio",
    sees="a line in the server's log; the request stops",
    survives="the texts of all other requests",
)
def test_a_request_whose_client_left_is_stopped(server: Server) -> None:
    expected = server.ask(ONE).json()
    said = "A client left before its answer; its request was stopped."
    n_before = server.log.read_text().count(said)
    for wait_s in (0.5, 3.0):
        with pytest.raises(requests.ReadTimeout):
            server.ask(long_job(), timeout_s=wait_s)
    wait_until(lambda: server.log.read_text().count(said) == n_before + 2)
    assert server.ask(ONE).json() == expected


@fault(
    "a request of hours of audio to a model server",
    sees="the others are answered meanwhile, between its windows; the health endpoint at once",
    survives="the long request",
)
def test_others_are_served_while_a_long_request_runs(server: Server) -> None:
    left: list[Exception] = []

    def ask() -> None:
        try:
            server.ask(long_job(), timeout_s=15.0)
        except requests.ReadTimeout as error:
            left.append(error)

    client = threading.Thread(target=ask)
    client.start()
    for _ in range(5):
        assert requests.get(f"{server.address}/ping", timeout=10).status_code == 200
        assert answers(server)
    assert client.is_alive()  # and so the long request has not been answered
    client.join()
    assert len(left) == 1


def too_slow(command: tuple[str, ...], option: str, name: str, sees: str) -> Any:
    what = f"a request takes longer than `{name}` allows"
    return pytest.param(command, option, id=name, marks=fault(what, sees=sees, survives=GOES_ON))


@pytest.mark.parametrize(
    ("command", "option"),
    [
        too_slow(OURS, "--timeout-s", "kmed-bench serve", "HTTP 504 with the limit and the remedy"),
        too_slow(MLFLOW, "--timeout", "mlflow models serve", "HTTP 504; the request stops"),
    ],
)
def test_a_request_that_takes_too_long_is_a_504(
    registered: tuple[str, str], tmp_path: Path, command: tuple[str, ...], option: str
) -> None:
    variables = {"MLFLOW_PYFUNC_INFERENCE_CONFIG": MANY_MINUTES}
    with serving(command, registered[1], registered[0], tmp_path / "log.txt", option, "10", **variables) as server:
        answer = server.ask(long_job())
        assert answer.status_code == 504
        if command == OURS:  # MLflow's own answer, which gives no reason, may come first there
            assert answer.json()["error_code"] == "DEADLINE_EXCEEDED"
            assert "longer than this server's limit of 10 s, waiting for others included; send less" in answer.text
        assert answers(server)
        before = server.cpu_s()
        time.sleep(2)
        assert server.cpu_s() - before < 1


@fault(
    "a signal ends `kmed-bench serve` while a request runs",
    sees="the process ends within its grace of 5 s; the client's connection is closed",
    survives="the store",
)
def test_a_server_ends_with_a_request_in_it(registered: tuple[str, str], tmp_path: Path) -> None:
    variables = {"MLFLOW_PYFUNC_INFERENCE_CONFIG": MANY_MINUTES}
    with serving(OURS, registered[1], registered[0], tmp_path / "log.txt", **variables) as server:
        ended: list[Any] = []

        def ask() -> None:
            try:
                ended.append(server.ask(long_job(), timeout_s=120.0).status_code)
            except requests.ConnectionError as error:
                ended.append(error)

        client = threading.Thread(target=ask)
        client.start()
        before = server.cpu_s()
        wait_until(lambda: server.cpu_s() > before + 1)
        os.kill(server.process.pid, signal.SIGTERM)
        server.process.wait(60)
        client.join(60)
    assert len(ended) == 1
    assert ended != [200]


def command_line(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kmed_bench", "serve", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=cwd)


@fault("a port for `kmed-bench serve` that another process has", sees="one line with the address and the options")
def test_a_port_in_use_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = command_line("models:/a/1", "--port", port, "--tracking.uri", "sqlite:///m.db", cwd=tmp_path)
    assert done.returncode == 2
    assert f"127.0.0.1:{port} can't be listened on" in done.stderr
    assert "choose another --host or --port" in done.stderr
    assert "Traceback" not in done.stderr


@fault("a model for `kmed-bench serve` that the store does not have", sees="one line with the model and the store")
def test_a_missing_model_is_said(tmp_path: Path) -> None:
    words = ("--port", "0", "--tracking.uri", "sqlite:///m.db")
    done = command_line("models:/nothing@champion", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert "The model models:/nothing@champion can't be fetched from sqlite:///" in done.stderr
    assert "Traceback" not in done.stderr
    done = command_line("models:/nothing@champion", *words, "--timeout-s", "0", cwd=tmp_path)
    assert "--timeout-s is 0; give a number over 0." in done.stderr


def text64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def numbers(n: int, rate_hz: int) -> dict[str, Any]:
    return {"dataframe_records": [{"samples": [0.001 * (k % 7) for k in range(n)], "rate_hz": rate_hz}]}


GREEDY: dict[str, tuple[Callable[[], Any], int]] = {
    "10 minutes in 8 channels": (lambda: rows(audio(600, 48_000, 8)), 200),
    "20 minutes in 8 channels": (lambda: rows(audio(1_200, 48_000, 8)), 400),
    "an hour in six rows": (lambda: rows(*[audio(590, 48_000)] * 6), 200),
    "more than an hour": (lambda: rows(*[audio(590, 8_000)] * 7), 400),
    "10 minutes at 384 kHz": (lambda: rows(audio(600, 384_000)), 400),
    "10 minutes at 44,099 Hz": (lambda: rows(audio(600, 44_099)), 200),
    "10 minutes at 4,001 Hz": (lambda: rows(audio(600, 4_001)), 200),
    "10 minutes of Vorbis": (lambda: rows(audio(600, 48_000, 2, kind="OGG", subtype="VORBIS")), 200),
    "2 hours of Opus": (lambda: rows(audio(7_200, 8_000, kind="OGG", subtype="OPUS")), 400),
    "10 minutes of MP3": (lambda: rows(audio(600, 8_000, kind="MP3")), 200),
    "floats of 64 bits": (lambda: rows(audio(2, 8_000, 8, 0.1, "WAV", "DOUBLE")), 200),
    "1,000 channels": (lambda: rows(audio(0.001, 48_000, 1_000, kind="WAV")), 400),
    "512 clips of 10 ms": (lambda: rows(*[audio(0.01, level=0.1)] * 512), 200),
    "5,000 rows of nothing": (lambda: {"dataframe_records": [{"audio_base64": ""}] * 4_000}, 400),
    "numbers": (lambda: numbers(300_000, 8_000), 200),
    "numbers at 44,099 Hz": (lambda: numbers(300_000, 44_099), 200),
    "numbers at 384 kHz": (lambda: numbers(300_000, 384_000), 200),
    "1.4 MB of no audio": (lambda: rows(bytes(1_400_000)), 400),
    "text that is no base64": (lambda: {"dataframe_records": [{"audio_base64": "%" * 1_900_000}]}, 400),
    "a long name of a file": (lambda: {"dataframe_records": [{"path": "x" * 1_900_000}]}, 400),
    "a long language": (lambda: rows(audio(1.0)) | {"params": {"language": "x" * 1_900_000}}, 400),
    "100,000 columns": (lambda: {"dataframe_records": [{f"c{n}": 0 for n in range(100_000)}]}, 400),
    "columns that all differ": (lambda: {"dataframe_records": [{f"c{n}": 0} for n in range(4_000)]}, 400),
    "rows of unequal length": (
        lambda: {"dataframe_split": {"columns": ["audio"], "data": [[0] * 300_000] + [[]] * 4_000}}, 400,
    ),
    "texts of unequal length": (
        lambda: {"dataframe_records": [{"samples": ["x" * 300_000] + [""] * 300_000, "rate_hz": 8_000}]}, 400,
    ),
    "brackets": (lambda: b"[" * 1_900_000, 400),
}  # fmt: skip


@fault(
    "any request of 2 MB: hours of silence, odd rates, a thousand channels, 512 clips, endless columns, garbage",
    sees="the text, or HTTP 400 with the limit; the process stays within 1 GiB of what it takes at rest",
    survives=GOES_ON,
)
def test_no_request_of_2_mb_takes_a_gib(registered: tuple[str, str], tmp_path: Path) -> None:
    with serving(OURS, registered[1], registered[0], tmp_path / "log.txt") as server:
        assert answers(server)
        at_rest, grown = server.memory(), {}
        for name, (body, status) in GREEDY.items():
            content = body()
            content = content if isinstance(content, bytes) else json.dumps(content).encode()
            assert len(content) < 2.6e6, name
            answer = server.ask(content, timeout_s=300)
            assert answer.status_code == status, (name, answer.text[-300:])
            assert len(answer.content) < 400_000, name
            grown[name] = round((server.peak_memory() - at_rest) / 2**20)
            print(name, grown[name], answer.elapsed.total_seconds())
        assert max(grown.values()) < 1_024, grown

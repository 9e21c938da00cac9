"""A random model in a store of its own, served by a process of its own."""

import base64
import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from random_whisper import save_random_whisper

from kmed_bench.config import load_config
from kmed_bench.tracking import runs
from kmed_bench.tracking.registry import models as registry

START_WITHIN_S = 180.0
MLFLOW = ("-m", "mlflow", "models", "serve", "--env-manager", "local", "-m")
OURS = ("-m", "kmed_bench", "serve")


def register_random(folder: Path) -> tuple[str, str]:
    """Return the addresses of a new store and of the random model in it."""
    store_uri = f"sqlite:///{folder}/mlflow.db"
    checkpoint = save_random_whisper(folder / "tiny.pt")
    with runs.bench_run(load_config("demo", {"tracking.uri": store_uri}), code_version="x") as bench:
        return store_uri, registry.log_model(bench, checkpoint, size="tiny").uri


class Server:
    """A server's address, its log and its process."""

    def __init__(self, port: int, log: Path, process: subprocess.Popen[bytes]) -> None:
        self.port, self.log, self.process = port, log, process
        self.address = f"http://127.0.0.1:{port}"
        self.invocations = f"{self.address}/invocations"

    def ask(self, body: Any, timeout_s: float = 60.0) -> requests.Response:
        """Return the answer to a body, which is sent as JSON unless it is bytes."""
        if isinstance(body, bytes):
            headers = {"Content-Type": "application/json"}
            return requests.post(self.invocations, data=body, headers=headers, timeout=timeout_s)
        return requests.post(self.invocations, json=body, timeout=timeout_s)

    def post(self, body: tuple[str, bytes], timeout_s: float = 60.0) -> requests.Response:
        """Return the answer to a content of a type."""
        kind, content = body
        return requests.post(self.invocations, data=content, headers={"Content-Type": kind}, timeout=timeout_s)

    def memory(self) -> int:
        """Return the resident bytes of the process that has the model."""
        family = [self._of(), *self._of().children(recursive=True)]
        return max(member.memory_info().rss for member in family)

    def peak_memory(self) -> int:
        """Return the largest resident bytes so far of the process itself."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return int(status.split("VmHWM:")[1].split()[0]) * 1024

    def cpu_s(self) -> float:
        """Return the CPU seconds of the process and its children."""
        family = [self._of(), *self._of().children(recursive=True)]
        return sum(sum(member.cpu_times()[:2]) for member in family)

    def _of(self) -> psutil.Process:
        return psutil.Process(self.process.pid)


@contextlib.contextmanager
def serving(
    command: tuple[str, ...], model_uri: str, store_uri: str, log: Path, *options: str, **variables: str
) -> Iterator[Server]:
    """A server that answers; it is ended with the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment: Mapping[str, str] = os.environ | {"MLFLOW_TRACKING_URI": store_uri, "PATH": path} | variables
    words = [sys.executable, *command, model_uri, "--host", "127.0.0.1", "--port", str(port), *options]
    with (
        log.open("wb") as stream,
        subprocess.Popen(words, env=environment, stdout=stream, stderr=stream, start_new_session=True) as process,
    ):
        server = Server(port, log, process)
        try:
            _wait_for(server)
            yield server
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 15)


def _wait_for(server: Server) -> None:
    deadline = time.monotonic() + START_WITHIN_S
    while time.monotonic() < deadline and server.process.poll() is None:
        try:
            if requests.get(f"{server.address}/health", timeout=5).status_code == 200:
                return
        except requests.ConnectionError:
            time.sleep(0.5)
    pytest.fail(f"the server did not start:\n{server.log.read_text(errors='replace')[-3_000:]}")


def rows(*contents: bytes, column: str = "audio_base64", **params: Any) -> dict[str, Any]:
    """Return a request's body with a row for each file."""
    table = {"columns": [column], "data": [[base64.b64encode(content).decode()] for content in contents]}
    return {"dataframe_split": table} | ({"params": params} if params else {})

"""MLflow's tracking server in a process of its own that starts in a moment, is killed, and starts again."""

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import forked
import requests
from mlflow.server import constants

START_WITHIN_S = 60.0
_PROGRAM = """
import sys, uvicorn
uvicorn.run("mlflow.server.fastapi_app:app", host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
"""


class TrackingServer:
    """What `mlflow server` starts, on a database and a folder of artifacts that its clients can't see as files."""

    def __init__(self, folder: Path, database: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri, self.folder = f"http://127.0.0.1:{self.port}", folder
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        self._environment |= {
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "_MLFLOW_SGI_NAME": "uvicorn",
            constants.BACKEND_STORE_URI_ENV_VAR: database,
            constants.SERVE_ARTIFACTS_ENV_VAR: "true",
            constants.ARTIFACTS_DESTINATION_ENV_VAR: str(folder / "files"),
            constants.ARTIFACT_ROOT_ENV_VAR: "mlflow-artifacts:/",
        }
        self._process: forked.Forked | None = None

    def start(self) -> None:
        """Return once it answers."""
        process = forked.Forked(_PROGRAM, [str(self.port)], cwd=self.folder, env=self._environment)
        self._process, deadline = process, time.monotonic() + START_WITHIN_S
        while True:
            with contextlib.suppress(requests.ConnectionError):
                if requests.get(f"{self.uri}/health", timeout=5).status_code == 200:
                    return
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                raise AssertionError(b"".join(process.communicate(10)).decode()[-3_000:])
            time.sleep(0.05)

    def stop(self) -> None:
        """Kill it: its clients lose their connections."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)


@contextlib.contextmanager
def tracking_server(folder: Path, database: str) -> Iterator[TrackingServer]:
    """Yield a server that runs, and that is killed at the end."""
    server = TrackingServer(folder, database)
    server.start()
    try:
        yield server
    finally:
        server.stop()

"""A registered model behind MLflow's own scoring app, with limits that `mlflow models serve` does not have.

MLflow's app parses any body of any size, and does not notice that a client has left. `BoundedApp` wraps it and leaves
the endpoints, the formats and the answers as they are.
"""

import asyncio
import contextlib
import contextvars
import ctypes
import dataclasses
import gc
import json
import logging
import os
import socket
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlflow
import uvicorn
from mlflow.environment_variables import MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel, scoring_server

from kmed_bench.core.addresses import without_password
from kmed_bench.core.errors import KmedError
from kmed_bench.core.scratch import scratch_for_libraries
from kmed_bench.tracking.registry.fetch import fetch_model, foreign_code
from kmed_bench.tracking.registry.request_bodies import fault_of
from kmed_bench.tracking.store import global_store

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

_log = logging.getLogger(__name__)
_SHUTDOWN_WITHIN_S = 5
_MLFLOW_LATER_S = 60
_MAX_CONNECTIONS = 512
_CLIENT_IS_GONE = 499  # what MLflow makes of the model's error code CANCELLED
# Shortest time between two returns of memory to the system: with requests running, and without.
_TRIM_BUSY_S, _TRIM_IDLE_S = 5.0, 1.0
_M_ARENA_MAX = -8  # of glibc's malloc.h
# Set while a request runs, and copied to the thread that runs it.
_gone: contextvars.ContextVar[threading.Event | None] = contextvars.ContextVar("gone", default=None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServerLimits:
    """Limits that a server checks before the model sees a request.

    Attributes
    ----------
    timeout_s : int
        From the request's head to the answer's, waiting for other requests included.
    max_body_mib : float
        Of the JSON.
    max_requests : int
        Requests that are read, wait or run at the same time; each may hold a body.
    body_within_s : float
        Time in which a body must have arrived.
    """

    timeout_s: int = 300
    max_body_mib: float = 32.0
    max_requests: int = 16
    body_within_s: float = 60.0


class _RefusedError(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class BoundedApp:
    """An ASGI app that passes what `ServerLimits` allow on to MLflow's, and tells the model when a client is gone."""

    def __init__(self, app: App, limits: ServerLimits) -> None:
        self._app, self._limits = app, limits
        self._n_requests = 0
        self._trimmed = time.monotonic()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request, as ASGI asks for it."""
        if scope["type"] != "http" or scope["path"] != "/invocations" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        counted = self._n_requests < self._limits.max_requests
        self._n_requests += counted
        try:
            body = await self._read_body(receive, keep=counted)
            if body is None:
                return
            if not counted:
                message = f"The server has {self._limits.max_requests} requests, its limit; send this one again later."
                raise _RefusedError(503, "TEMPORARILY_UNAVAILABLE", message)
            await _check_body(scope, body)
            await self._run(scope, body, receive, send)
        except _RefusedError as refused:
            await _answer(send, refused)
        finally:
            self._n_requests -= counted
            if time.monotonic() - self._trimmed > (_TRIM_BUSY_S if self._n_requests else _TRIM_IDLE_S):
                self._trimmed = time.monotonic()
                await asyncio.to_thread(_trim_memory)

    async def _read_body(self, receive: Receive, *, keep: bool) -> bytes | None:
        """Return the body, or None if the client left; one that is over the limit is read, not kept, and refused.

        A client that gets its answer before it has sent all would see a broken connection instead.
        """
        size, parts, limit = 0, bytearray(), int(self._limits.max_body_mib * 2**20)
        try:
            async with asyncio.timeout(self._limits.body_within_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    size += len(message.get("body", b""))
                    if keep and size <= limit:
                        parts += message.get("body", b"")
                    elif keep:
                        parts.clear()
                    if not message.get("more_body"):
                        break
        except TimeoutError:
            message_text = (
                f"The body did not arrive within {self._limits.body_within_s:g} s; send it faster, or in parts."
            )
            raise _RefusedError(408, "DEADLINE_EXCEEDED", message_text) from None
        if size > limit:
            raise _RefusedError(
                413,
                "REQUEST_LIMIT_EXCEEDED",
                f"The body has {size / 2**20:.1f} MiB, over the limit of {limit / 2**20:g}; send less audio at "
                "a time, or FLAC in place of WAV.",
            )
        return bytes(parts)

    async def _run(self, scope: Message, body: bytes, receive: Receive, send: Send) -> None:
        """Let MLflow's app answer; when the client leaves meanwhile, or the answer is out, the model stops."""
        gone, left = threading.Event(), asyncio.Event()
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            if messages:
                return messages.pop()
            await left.wait()
            return {"type": "http.disconnect"}

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            gone.set()
            left.set()

        async def pass_on(message: Message) -> None:
            if message.get("status") == _CLIENT_IS_GONE:
                _log.info("A client left before its answer; its request was stopped.")
            await send(message)

        watcher = asyncio.create_task(watch())
        token = _gone.set(gone)
        try:
            await self._app(scope, replay, pass_on)
        finally:
            _gone.reset(token)
            gone.set()
            watcher.cancel()


async def _check_body(scope: Message, body: bytes) -> None:
    kind = dict(scope["headers"]).get(b"content-type", b"").decode("latin-1")
    if kind.partition(";")[0].strip().lower() != "application/json":
        # Parquet and CSV can say in a kilobyte what takes gigabytes
        raise _RefusedError(415, "BAD_REQUEST", f"The content type is {kind[:80]!r}; send application/json.")
    fault = await asyncio.to_thread(fault_of, body)
    if fault:
        raise _RefusedError(400, "INVALID_PARAMETER_VALUE", fault)


async def _answer(send: Send, refused: _RefusedError) -> None:
    content = json.dumps({"error_code": refused.code, "message": str(refused)}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    if refused.status in (408, 503):
        headers += [(b"retry-after", b"5"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


def is_abandoned() -> bool:
    """Return whether the client of the request that runs in this thread is gone."""
    gone = _gone.get()
    return gone is not None and gone.is_set()


def serve(uri: str, *, host: str, port: int, tracking_uri: str, limits: ServerLimits, trust_code: bool = False) -> None:
    """Serve a registered model until a signal stops the process.

    Parameters
    ----------
    uri : str
        ``models:/…``, ``runs:/…`` or the folder of a model.
    tracking_uri : str
        The store that has the model, as `open_store` returned it.
    trust_code : bool
        Whether to run a model's own code where it is not this release's.

    Raises
    ------
    KmedError
        When the address can't be used, the store has no such model, or its code is another one and not trusted.
    """
    with (
        scratch_for_libraries(),
        contextlib.closing(_bind(host, port)) as bound,
        tempfile.TemporaryDirectory() as fetched,
    ):
        _limit_arenas()
        model = _load(uri, Path(fetched), tracking_uri, trust_code=trust_code)
        model.unwrap_python_model().is_abandoned = is_abandoned  # type: ignore[no-untyped-call]
        # The model ends a request in time and says why; MLflow's own answer, which does not, comes later.
        os.environ[MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT.name] = str(limits.timeout_s + _MLFLOW_LATER_S)
        app = BoundedApp(scoring_server.init(model), limits)
        os.environ[MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT.name] = str(limits.timeout_s)
        config = uvicorn.Config(
            app,
            log_config=None,
            limit_concurrency=_MAX_CONNECTIONS,
            timeout_graceful_shutdown=_SHUTDOWN_WITHIN_S,
        )
        gc.collect()
        gc.freeze()  # what is there now stays, and need not be scanned again
        bound.listen()  # from here on connections wait until the loop takes them, so what is announced is true
        _log.info("Serving %s at http://%s:%d; /health answers 200.", uri, host, bound.getsockname()[1])
        asyncio.run(_run_server(uvicorn.Server(config), bound, limits))


async def _run_server(server: uvicorn.Server, bound: socket.socket, limits: ServerLimits) -> None:
    # MLflow's app runs each request in asyncio's default threads, only six of them on two cores, and a request that
    # waits for one can't be stopped.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(limits.max_requests + 4, "request"))
    await server.serve(sockets=[bound])


def _bind(host: str, port: int) -> socket.socket:
    """Return a socket bound to the address; connections are refused until the model is loaded."""
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except (OSError, OverflowError) as error:
        bound.close()
        raise KmedError(f"{host}:{port} can't be listened on ({error}); choose another --host or --port.") from None
    return bound


def _load(uri: str, folder: Path, tracking_uri: str, *, trust_code: bool) -> PyFuncModel:
    """Return a model whose code is known before it is imported; what is fetched goes into a folder."""
    path = Path(uri) if Path(uri).is_dir() else fetch_model(uri, folder, tracking_uri=tracking_uri)
    if not trust_code and (why := foreign_code(path)):
        raise KmedError(
            f"The model {uri} would run code that this release did not write: {why}. If you know who wrote it, serve "
            "it with --trust-code; otherwise register its checkpoint again with this release."
        )
    try:
        with global_store(tracking_uri):
            model: PyFuncModel = mlflow.pyfunc.load_model(str(path))
    except (MlflowException, OSError) as error:
        raise KmedError(f"The model {uri} can't be loaded ({without_password(str(error))}).") from None
    if not hasattr(model.unwrap_python_model(), "is_abandoned"):  # type: ignore[no-untyped-call]
        _log.warning("%s was registered by an earlier release: a request whose client leaves runs on to its end.", uri)
    return model


def _limit_arenas() -> None:
    """Keep glibc's malloc to two arenas: one for each thread would keep what its largest request took."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)


def _trim_memory() -> None:
    """Free what past requests left: errors in reference cycles with their tables, and what glibc's malloc keeps."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)

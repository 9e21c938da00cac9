"""A headless Chromium, driven by the DevTools protocol: https://chromedevtools.github.io/devtools-protocol/."""

import asyncio
import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from tornado.websocket import WebSocketClientConnection, websocket_connect

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
_FLAGS += ("--disable-component-update", "--disable-sync", "--disable-quic")
_WAIT_S = 120.0
_MAX_BYTES = 64 * 2**20


class Page:
    """One page of the browser."""

    def __init__(self, socket: WebSocketClientConnection) -> None:
        self._socket, self._ids = socket, itertools.count(1)

    async def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Return the result of a command of the protocol.

        Raises
        ------
        RuntimeError
            When the browser refuses the command or is gone.
        """
        number = next(self._ids)
        await self._socket.write_message(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = await self._socket.read_message()
            if message is None:
                raise RuntimeError(f"The browser ended during {method}.")
            answer = json.loads(message)
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return dict(answer["result"])

    async def evaluate(self, script: str) -> Any:
        """Return the value of a JavaScript expression in the page."""
        found = await self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        return found["result"].get("value")

    async def until(self, script: str) -> None:
        """Wait until a JavaScript expression is true in the page.

        Raises
        ------
        TimeoutError
            After two minutes.
        """
        ends_s = time.monotonic() + _WAIT_S
        while not await self.evaluate(script):
            if time.monotonic() > ends_s:
                shown = await self.evaluate("document.body.innerText.slice(0, 600)")
                raise TimeoutError(f"{script} did not become true; the page shows: {shown}")
            await asyncio.sleep(0.3)

    async def open(self, url: str, width: int, height: int, scale: float = 1.0) -> None:
        """Load an address in a window of this size in pixels; its picture is as many times larger."""
        await self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=False
        )
        await self.send("Page.navigate", url="about:blank")  # a new fragment alone does not load a page again
        await self.send("Page.navigate", url=url)

    async def picture(self, path: Path) -> None:
        """Write what the window shows as PNG."""
        found = await self.send("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(found["data"]))


def find_browser() -> str | None:
    """Return the path of an installed Chromium that starts here; None if there is none."""
    for program in filter(None, map(shutil.which, _NAMES)):
        command = [program, *_FLAGS, "--dump-dom", "about:blank"]
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run(command, capture_output=True, check=True, timeout=_WAIT_S)
            return program
    return None


@contextlib.asynccontextmanager
async def open_browser() -> AsyncIterator[Page]:
    """Yield a page of a new browser, which has no history and ends with the block.

    Raises
    ------
    SystemExit
        When no Chromium is installed that starts.
    """
    program = find_browser()
    if program is None:
        raise SystemExit(f"No browser was found; install one of {', '.join(_NAMES)}.")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        command = [program, *_FLAGS, "--hide-scrollbars", "--lang=en"]
        command += ["--remote-debugging-port=0", f"--user-data-dir={folder}", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            address = await _debugger(Path(folder) / "DevToolsActivePort")
            socket = await websocket_connect(address, max_message_size=_MAX_BYTES)
            try:
                yield Page(socket)
            finally:
                socket.close()
        finally:
            process.terminate()
            process.wait(timeout=30)


async def _debugger(file: Path) -> str:
    """Return the websocket address of the browser's first page, once it listens."""
    ends_s = time.monotonic() + _WAIT_S
    while time.monotonic() < ends_s:
        with contextlib.suppress(OSError, ValueError, StopIteration):
            port = int(file.read_text().split()[0])
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
                return str(next(page for page in json.load(answer) if page["type"] == "page")["webSocketDebuggerUrl"])
        await asyncio.sleep(0.2)
    raise TimeoutError("The browser did not start.")

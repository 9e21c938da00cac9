"""Clients that ask a model server for minutes, valid, invalid, large and cancelled requests: answers, latency, memory.

    python benchmarks/serve.py models:/kmed-whisper-base@champion --minutes 10
    python benchmarks/serve.py models:/kmed-whisper-base@champion --minutes 10 --plain

starts `kmed-bench serve` (`--plain`: `mlflow models serve`) in a process of its own, on the store that
MLFLOW_TRACKING_URI names, and fails if an answer has another status than it should, if a cancelled request was
answered, or if memory grows. The clients rest for a moment after each half minute, and the resident memory then, from
the first minute on, fitted by a line, may rise by 2 MiB a minute. The audio is noise and silence: figures are of the
server, not of the model.
"""

import argparse
import base64
import collections
import contextlib
import dataclasses
import functools
import io
import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import requests
import soundfile

MAX_SLOPE_MIB = 2.0
ROUND_S = 27.0
REST_S = 3.0
MAX_CLIENTS = 64
N_WARM_UP = 2  # rounds
LEFT = 0  # the status of a request whose client left


@functools.cache
def flac(duration_s: float, rate_hz: int, channels: int = 1, level: float = 0.1) -> bytes:
    """Return noise as a FLAC file."""
    buffer = io.BytesIO()
    samples = level * np.random.default_rng(0).standard_normal((int(duration_s * rate_hz), channels))
    soundfile.write(buffer, samples.astype(np.float32), rate_hz, format="FLAC")
    return buffer.getvalue()


def rows(*contents: bytes) -> bytes:
    data = [[base64.b64encode(content).decode()] for content in contents]
    return json.dumps({"dataframe_split": {"columns": ["audio_base64"], "data": data}}).encode()


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of request: how often it is sent, what its body is, which status is right."""

    share: float
    body: Callable[[np.random.Generator], bytes]
    status: int
    leave_after_s: float | None = None


def short(draw: np.random.Generator) -> bytes:
    return rows(*(flac(round(float(draw.uniform(0.3, 5.0)), 1), 16_000) for _ in range(draw.integers(1, 4))))


def invalid(draw: np.random.Generator) -> bytes:
    names = json.dumps({"dataframe_records": [{f"c{n}": n} for n in range(200)]}).encode()
    bodies = [b"[" * 60, b"no json", rows(b"no audio"), rows(b""), names, b'{"dataframe_records": [{"path": "/etc"}]}']
    return bodies[draw.integers(len(bodies))]


def samples(_: np.random.Generator) -> bytes:
    numbers = [0.001 * (n % 7) for n in range(300_000)]
    return json.dumps({"dataframe_records": [{"samples": numbers, "rate_hz": 16_000}]}).encode()


KINDS = {
    "short": Kind(0.45, short, 200),
    "long": Kind(0.05, lambda _: rows(flac(65.0, 16_000)), 200),
    "samples": Kind(0.05, samples, 200),
    "unpacks large": Kind(0.05, lambda _: rows(flac(180.0, 48_000, 8, 0.0)), 200),
    "too long": Kind(0.05, lambda _: rows(flac(1_200.0, 48_000, 1, 0.0)), 400),
    "2 MB of nothing": Kind(0.05, lambda _: rows(bytes(1_500_000)), 400),
    "invalid": Kind(0.15, invalid, 400),
    "cancelled": Kind(0.15, lambda _: rows(*[flac(300.0, 8_000, 1, 0.0)] * 4), LEFT, leave_after_s=0.3),
}


class Clients:
    """Clients that send requests until they are told to stop, and what came of them."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._stop = threading.Event()
        self._draws = [np.random.default_rng(seed) for seed in range(MAX_CLIENTS)]
        self._lock = threading.Lock()
        self.seconds: dict[tuple[str, int], list[float]] = collections.defaultdict(list)

    def run(self, n_clients: int) -> None:
        """Send requests for a round from as many threads, and /ping from one more; all are answered at its end."""
        self._stop.clear()
        threads = [threading.Thread(target=self._client, args=(draw,)) for draw in self._draws[:n_clients]]
        threads.append(threading.Thread(target=self._ping))
        for thread in threads:
            thread.start()
        time.sleep(ROUND_S)
        self._stop.set()
        for thread in threads:
            thread.join()

    def _client(self, draw: np.random.Generator) -> None:
        shares = [kind.share for kind in KINDS.values()]
        while not self._stop.is_set():
            name = str(draw.choice(list(KINDS), p=shares))
            self._send(name, KINDS[name], KINDS[name].body(draw))

    def _send(self, name: str, kind: Kind, body: bytes) -> None:
        start = time.perf_counter()
        try:
            answer = requests.post(
                f"{self._address}/invocations",
                data=body,
                headers={"Content-Type": "application/json"},
                timeout=kind.leave_after_s or 600,
            )
            status = answer.status_code
        except requests.RequestException:
            status = LEFT
        self._note(name, status, time.perf_counter() - start)

    def _ping(self) -> None:
        while not self._stop.wait(0.25):
            start = time.perf_counter()
            self._note(
                "ping", requests.get(f"{self._address}/ping", timeout=60).status_code, time.perf_counter() - start
            )

    def _note(self, name: str, status: int, seconds: float) -> None:
        with self._lock:
            self.seconds[name, status].append(seconds)


class Memory(threading.Thread):
    """Samples the resident memory of a process and its children ten times a second, in MiB."""

    def __init__(self, process_id: int) -> None:
        super().__init__(daemon=True)
        self._process = psutil.Process(process_id)
        self.most = 0.0
        self.at_rest = [self.now()]

    def now(self) -> float:
        """Return the memory of the process or child that has most, which is the one with the model."""
        family = [self._process, *self._process.children(recursive=True)]
        return max(member.memory_info().rss for member in family) / 2**20

    def run(self) -> None:
        """Sample until the process ends."""
        with contextlib.suppress(psutil.Error):
            while True:
                self.most = max(self.most, self.now())
                time.sleep(0.1)

    def slope(self) -> float | None:
        """Return the growth at rest in MiB a minute, without the warm-up; None for less than three rounds."""
        kept = self.at_rest[N_WARM_UP:]
        minutes = np.arange(len(kept)) * (ROUND_S + REST_S) / 60
        return float(np.polyfit(minutes, kept, 1)[0]) if len(kept) >= 3 else None


@contextlib.contextmanager
def server(model: str, *, plain: bool) -> Iterator[tuple[str, int]]:
    """Yield the address and the process of a server that answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    ours = ["-m", "kmed_bench", "serve", model, "--log-level", "warning"]
    mlflows = ["-m", "mlflow", "models", "serve", "-m", model, "--env-manager", "local", "--timeout", "300"]
    command = [sys.executable, *(mlflows if plain else ours), "--host", "127.0.0.1", "--port", port]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with subprocess.Popen(command, env=os.environ | {"PATH": path}, stdout=subprocess.DEVNULL) as process:
        try:
            address = f"http://127.0.0.1:{port}"
            while process.poll() is None:
                with contextlib.suppress(requests.ConnectionError):
                    if requests.get(f"{address}/health", timeout=5).status_code == 200:
                        break
                time.sleep(0.5)
            yield address, process.pid
        finally:
            process.terminate()


def report(clients: Clients, memory: Memory, minutes: float) -> dict[str, Any]:
    """Return the figures, and what is wrong with them."""
    wrong = []
    requests_by_kind = {}
    for (name, status), seconds in sorted(clients.seconds.items()):
        expected = KINDS[name].status if name in KINDS else 200
        if status != expected:
            wrong.append(f"{len(seconds)} x {name}: {status} in place of {expected}")
        ranked = statistics.quantiles(seconds, n=20, method="inclusive") if len(seconds) > 1 else seconds * 19
        requests_by_kind[f"{name} {status or 'left'}"] = {
            "n": len(seconds),
            "p50_s": round(ranked[9], 3),
            "p95_s": round(ranked[18], 3),
            "max_s": round(max(seconds), 3),
        }
    slope = memory.slope()
    if slope is not None and slope > MAX_SLOPE_MIB:
        wrong.append(f"memory grows by {slope:.2f} MiB a minute, over the bound of {MAX_SLOPE_MIB:g}")
    return {
        "requests_per_s": round(sum(map(len, clients.seconds.values())) / (60 * minutes), 2),
        "requests": requests_by_kind,
        "memory_mib": {
            "start": round(memory.at_rest[0]),
            "after_a_minute": round(memory.at_rest[N_WARM_UP]) if len(memory.at_rest) > N_WARM_UP else None,
            "end": round(memory.at_rest[-1]),
            "most": round(memory.most),
            "at_rest_by_half_minute": [round(value) for value in memory.at_rest],
            "slope_mib_per_minute": slope if slope is None else round(slope, 2),
        },
        "wrong": wrong,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", help="models:/NAME@ALIAS of the store in MLFLOW_TRACKING_URI")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--plain", action="store_true", help="`mlflow models serve` in place of `kmed-bench serve`")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    args = parser.parse_args()
    with server(args.model, plain=args.plain) as (address, process_id):
        memory, clients = Memory(process_id), Clients(address)
        memory.start()
        rounds = max(1, round(60 * args.minutes / (ROUND_S + REST_S)))
        for _ in range(rounds):
            clients.run(args.clients)
            time.sleep(REST_S)
            memory.at_rest.append(memory.now())
        found = report(clients, memory, rounds * ROUND_S / 60)
    print(json.dumps(found, indent=1))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 1 if found["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())

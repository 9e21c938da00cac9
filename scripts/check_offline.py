"""Run each command in a network namespace of its own under strace, and list what tries to leave the machine.

    python scripts/check_offline.py [--only train,evaluate] [--keep FOLDER]

Linux with strace and unshare (`apt-get install strace util-linux`). The corpus is the smallest demo corpus and the
model a random Whisper tiny, so figures mean nothing and every step is taken. The namespace has a loopback device and
nothing else. An attempt is a connect, sendto, sendmsg or sendmmsg to an internet address that is not loopback, or to
port 53 (names) anywhere. `weights tiny` asks for the official download and `offline-kit` for packages, which shows
that the search finds what it looks for. The exit status is 1 if another command makes an attempt, one of those makes
none, or a command ends otherwise than it should.
"""

import argparse
import dataclasses
import fcntl
import ipaddress
import json
import os
import re
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 900
SERVED_S = 45
EVAL = "--eval.audio_context dynamic --eval.max_new_tokens 8 --eval.bootstrap_draws 100"
TRAIN = f"--weights tiny.pt --epochs 1 --batch_size 2 --train.audio_context dynamic --train.precision fp32 {EVAL}"
SPLIT = "--split.train 4 --split.valid 2 --split.test 2 --split.disjoint none"
DEMO = "--data.demo_speakers 4 --data.demo_sentences 16 --data.roles patient,nurse,doctor --data.workers 1"
RUN = "{run}"
"""In a command: the id of the benchmark that `run` made."""


@dataclasses.dataclass(frozen=True)
class Command:
    """A command line, its exit status, and whether it asks for something outside."""

    words: str
    status: int = 0
    asks: bool = False

    @property
    def name(self) -> str:
        """The command's name."""
        return self.words.split()[0]


COMMANDS = (
    Command("weights tiny", status=1, asks=True),
    Command("settings train"),
    Command("demo-corpus corpus --speakers 4 --sentences 16 --layout tree"),
    Command("ingest corpus manifest --data.workers 1 --data.roles patient,nurse,doctor"),
    Command("import-corpus list.csv imported"),
    Command(f"split manifest/manifest.parquet split --by none {SPLIT}"),
    Command("power split"),
    Command(f"train split trained --size tiny {TRAIN}"),
    Command(f"evaluate trained/seed0/best.pt split evaluated {EVAL}"),
    Command("score evaluated/predictions.jsonl scored --eval.bootstrap_draws 100"),
    Command("compare evaluated/predictions.jsonl evaluated/predictions.jsonl --eval.bootstrap_draws 100"),
    Command("errors evaluated/predictions.jsonl errors --audio split --eval.bootstrap_draws 100"),
    Command("package evaluated/predictions.jsonl package --split split --eval.bootstrap_draws 100"),
    Command(f"run --profile demo --sizes tiny --seeds 0 --out results {DEMO} {SPLIT} {TRAIN}"),
    Command("report report"),
    Command("history history"),
    Command("import-log logging_base.json"),
    Command("openings split"),
    Command("promote kmed-whisper-tiny 1 --dry-run", status=1),
    Command("verify models:/kmed-whisper-tiny/1"),
    Command("serve models:/kmed-whisper-tiny/1 --port 0", status=-signal.SIGTERM),
    Command("export models:/kmed-whisper-tiny/1 exported --format openai"),
    Command("transcribe clip.wav --model trained/seed0/best.pt --eval.max_new_tokens 8"),
    Command(
        f"tune split --out tuned --size tiny --trials 1 --tune.storage sqlite:///optuna.db {TRAIN} "
        "--tune.space '{train.lr: {low: 1.0e-6, high: 0.1, log: true}}'"
    ),
    Command(f"curve split curve --size tiny --curve.fractions 0.5,1 {TRAIN}"),
    Command(f"bundle {RUN} bundle.zip --corpus split --key key"),
    Command("unbundle bundle.zip --tracking.uri sqlite:///other.db"),
    Command("resolve utterance-0123456789abcdef --corpus split --key key", status=1),  # nobody's
    Command("offline-kit kit --extras none --sizes none", status=2, asks=True),
    Command("clean"),
    Command("doctor", status=1),  # sizes have no weights here
)

ADDRESS = re.compile(
    r"^(?:\d+ +)?(?P<call>connect|sendto|sendmsg|sendmmsg)\(.*?sa_family=AF_INET6?, sin6?_port=htons\((?P<port>\d+)\)"
    r".*?(?:inet_addr\(|inet_pton\(AF_INET6, )\"(?P<address>[^\"]+)\""
)


def attempts(trace: str) -> Iterator[str]:
    """Yield each attempt to leave that a trace of strace holds, once."""
    seen = set()
    for line in trace.splitlines():
        if found := ADDRESS.match(line):
            address = ipaddress.ip_address(found["address"])
            what = f"{found['call']} {address} port {found['port']}"
            if (not address.is_loopback or found["port"] == "53") and what not in seen:
                seen.add(what)
                yield what


def enter(words: list[str]) -> None:
    """Bring up loopback in this process's new namespace, and become a program."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        up = struct.pack("16sh14s", b"lo", 0x1, b"")  # IFF_UP, netdevice(7)
        fcntl.ioctl(control, 0x8914, up)  # SIOCSIFFLAGS
    os.execvp(words[0], words)


def run(command: Command, folder: Path, run_id: str) -> tuple[int, float, list[str], str]:
    """Run a command, and return its status, seconds, attempts to leave, and the last line that it said."""
    trace, said = folder / "trace", folder / "said"
    program = [sys.executable, "-m", "kmed_bench", *shlex.split(command.words.replace(RUN, run_id))]
    strace = ["strace", "-f", "--seccomp-bpf", "-qq", "-e", "trace=network", "-e", "signal=none", "-o", str(trace)]
    words = ["unshare", "-r", "-n", sys.executable, __file__, "--inside", *strace, *program]
    hidden = ("MLFLOW", "PIP_", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY")
    own = {key: value for key, value in os.environ.items() if not key.startswith(hidden)}
    own |= {"KMED_CACHE": str(folder / "cache"), "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    own |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "0"}
    begun_s = time.monotonic()
    with said.open("wb") as stream:
        process = subprocess.Popen(
            words, cwd=folder, env=own, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            status = process.wait(SERVED_S if command.name == "serve" else LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(60)
            status = -signal.SIGTERM
    lines = said.read_text(encoding="utf-8", errors="replace").strip().splitlines() or [""]
    found = list(attempts(trace.read_text(encoding="utf-8", errors="replace"))) if trace.exists() else ["no trace"]
    return status, time.monotonic() - begun_s, found, lines[-1]


def prepare(folder: Path) -> None:
    """Write a random Whisper tiny, a recording, a list of it, and a log of the original benchmark."""
    import numpy as np
    import soundfile
    import torch
    import whisper

    sys.path.insert(0, str(ROOT))
    from kmed_bench.asr.model.weights import dimensions, save_weights

    torch.manual_seed(0)
    model = whisper.model.Whisper(dimensions("tiny"))
    torch.nn.init.normal_(model.decoder.positional_embedding, std=0.02)
    save_weights(model, folder / "tiny.pt")
    soundfile.write(folder / "clip.wav", 0.1 * np.random.default_rng(0).standard_normal(32_000), 16_000)
    facts = {"model_name": "whisper-base", "path": "/c/", "save_model_name": "base", "device": "cuda", "max_len": 80}
    facts |= {"save_logging_file_name": "logging_base.json", "batch_size": 4, "epochs": 1, "start_epoch": 0}
    log = {"mata_data": {**facts, "ver_start": 0, "lr": 2e-5}, "result_ver": {"0": {"time": None, "result": []}}}
    log["result_ver"]["0"]["result"] = [[0, 0.0731, 10.5, 0.0301, 4.0]]
    (folder / "logging_base.json").write_text(json.dumps(log), encoding="utf-8")
    (folder / "list.csv").write_text("audio,text,speaker\nclip.wav,배가 아파요,s1\n", encoding="utf-8")


def find_run(folder: Path) -> str:
    """Return the id of the benchmark in the folder's store, or an empty text."""
    import sqlite3

    if not (folder / "mlflow.db").is_file():
        return ""
    query = "SELECT run_uuid FROM tags WHERE key = 'kmed.kind' AND value = 'bench'"
    connection = sqlite3.connect(folder / "mlflow.db")
    try:
        return next((str(row[0]) for row in connection.execute(query)), "")
    finally:
        connection.close()


def main() -> int:
    """Run the commands, print a table, and return 1 if one did what it should not."""
    if sys.argv[1:2] == ["--inside"]:
        enter(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="names of commands, separated by commas; they need what others made")
    parser.add_argument("--keep", type=Path, help="a folder to work in, which is kept")
    args = parser.parse_args()
    if missing := [name for name in ("strace", "unshare") if shutil.which(name) is None]:
        sys.exit(f"{', '.join(missing)} is not installed; on Debian: apt-get install strace util-linux")
    only, wrong = [name for name in args.only.split(",") if name], 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.keep or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "tiny.pt").exists():
            prepare(folder)
        for command in COMMANDS:
            if only and command.name not in only:
                continue
            status, seconds, found, last = run(command, folder, find_run(folder))
            fits = status == command.status and bool(found) == command.asks
            wrong += not fits
            shown = "; ".join(found[:4]) or "no attempt to leave"
            print(f"{'ok   ' if fits else 'WRONG'} {command.name:14} status {status:3} {seconds:6.1f} s  {shown}")
            if not fits:
                print(f"      {last[:300]}")
            sys.stdout.flush()
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

"""Walk every entry point against the server of docs/server.md, as two users in two folders, and print a table.

    python scripts/walk_server.py [--keep FOLDER]

The server is real: PostgreSQL, MLflow's basic authentication and TLS on loopback, artifacts through it. A random
Whisper tiny learns eight tones in the download's layout, so that the figures mean nothing and all steps are taken:
`mlflow run` from a folder and from git for each entry point of MLproject, one benchmark in two halves, a promotion
and its undoing, one request to a served model. Afterwards everything that was written or printed, and every command
line that ran, is searched for the passwords. The exit status is 1 if a step ends otherwise than it should, or if it
finds one.
"""

import argparse
import base64
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import quote

import numpy as np
import psutil
import requests
import soundfile
import torch
import whisper
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from downloads import label, stem, wav, write_tree  # noqa: E402
from postgres_server import find_program, running_postgres  # noqa: E402
from ward_server import DATABASE_PASSWORD, PASSWORDS, Ward, running_ward, without_mlflow  # noqa: E402

LIMIT_S = 900
NAME = "kmed-whisper-tiny"
GIT = "https://git.example.org/kmed-bench.git"
SMALL = {
    "data": {"workers": 1},
    "split": {"train": 8, "valid": 4, "test": 4, "by": []},
    "model": {"sizes": ["tiny"]},
    "train": {"seeds": [0, 1], "epochs": 1, "batch_size": 2, "audio_context": "dynamic"},
    "eval": {"audio_context": "dynamic", "max_new_tokens": 8, "bootstrap_draws": 100},
}
SPACE = {"train.lr": {"low": 1e-6, "high": 1e-3, "log": True}}
ORIGINAL = {
    "mata_data": {"model_name": "whisper-base", "path": "x", "save_model_name": "x", "save_logging_file_name": "x"}
    | {"batch_size": 4, "epochs": 1, "start_epoch": 0, "ver_start": 0, "lr": 2e-05, "max_len": 80, "device": "cuda"},
    "result_ver": {"0": {"time": None, "result": [[0, 0.07, 10.5, 0.03, 4.0]]}},
}
SPEAKERS, PROMPTS = 8, 2


class Walk:
    """The steps so far, and what was said in them."""

    def __init__(self, folder: Path, ward: Ward) -> None:
        self.folder, self.ward = folder, ward
        self.rows: list[tuple[str, ...]] = []
        self.said: list[tuple[str, str]] = []  # step, and what it printed
        self.failed = False
        self.seen: set[str] = set()
        self.users = {user: folder / user for user in ("kim", "lee")}
        for place in self.users.values():
            place.mkdir()

    def environment(self, user: str) -> dict[str, str]:
        """Return the variables of a user's machine."""
        own = {"KMED_CACHE": str(self.users[user] / "cache"), "HOME": str(self.users[user]), "OMP_NUM_THREADS": "1"}
        own |= {"MLFLOW_EXPERIMENT_NAME": "kmed-bench"}
        # MLflow takes an existing file:// path for a folder. Git itself turns the address into the clone's.
        own |= {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": f"url.file://{self.folder}/.insteadOf"}
        own |= {"GIT_CONFIG_VALUE_0": GIT.rpartition("/")[0] + "/"}
        return without_mlflow() | self.ward.client(user) | own

    def step(self, user: str, what: str, command: list[str], *, expected: int = 0, **changed: str) -> str:
        """Run a command as a user, add its row, and return its standard output."""
        began_s = time.monotonic()
        done = subprocess.run(
            command,
            cwd=self.users[user],
            env=self.environment(user) | changed,
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT_S,
        )
        self.said += [(what, done.stdout), (what, done.stderr)]
        lines = [line for line in (done.stdout if done.returncode == expected else done.stderr).splitlines() if line]
        self.row(user, what, done.returncode, time.monotonic() - began_s, lines[-1] if lines else "", expected)
        if done.returncode != expected:
            print(done.stdout[-2_000:], done.stderr[-6_000:], sep="\n", flush=True)
        return done.stdout

    def row(self, user: str, what: str, status: int, duration_s: float, seen: str, expected: int = 0) -> None:
        """Add a row to the table and print it."""
        right = status == expected
        self.failed |= not right
        shown = re.sub(r"\s+", " ", seen.replace(str(self.folder), "…"))[:110]
        self.rows.append((user, what, f"{status}{'' if right else ' WRONG'}", f"{duration_s:.0f}", shown))
        print("| " + " | ".join(self.rows[-1]) + " |", flush=True)

    def entry(self, user: str, name: str, /, *, project: str = str(ROOT), expected: int = 0, **parameters: str) -> str:
        """Run an entry point of MLproject."""
        words = ["mlflow", "run", project, "-e", name, "--env-manager", "local"]
        words += ["--version", "walked"] if project == GIT else []
        words += [word for key, value in parameters.items() for word in ("-P", f"{key}={value}")]
        where = "git" if project == GIT else "folder"
        return self.step(user, f"`mlflow run` -e {name} ({where})", words, expected=expected)

    def watch(self, ended: threading.Event) -> None:
        """Keep the command lines of all processes until the walk is over."""
        while not ended.wait(0.2):
            for process in psutil.process_iter(["cmdline"]):
                self.seen.add(" ".join(process.info["cmdline"] or []))

    def serve(self, user: str) -> None:
        """Serve the champion, ask it once and stop it."""
        began_s = time.monotonic()
        command = ["kmed-bench", "serve", f"models:/{NAME}@champion", "--port", "0"]
        with subprocess.Popen(
            command, cwd=self.users[user], env=self.environment(user), stderr=subprocess.PIPE, text=True
        ) as server:
            assert server.stderr is not None
            address = ""
            for line in server.stderr:
                self.said.append(("serve", line))
                if found := re.search(r"at (http://\S+);", line):
                    address = found[1]
                    break
            tone = io.BytesIO()
            soundfile.write(tone, 0.1 * np.sin(np.arange(16_000) / 6), 16_000, format="WAV")
            body = {"dataframe_records": [{"audio_base64": base64.b64encode(tone.getvalue()).decode()}]}
            answer = requests.post(f"{address}/invocations", json=body, timeout=300) if address else None
            server.send_signal(signal.SIGTERM)
            self.said.append(("serve", server.communicate(timeout=60)[1]))
        seen = f"HTTP {answer.status_code}, {len(answer.json()['predictions'])} row" if answer else self.said[-1][1]
        status = 0 if answer is not None and answer.status_code == 200 else 1
        self.row(user, "serve models:/…@champion, one request", status, time.monotonic() - began_s, seen)


def save_random_tiny(path: Path) -> Path:
    """Save a Whisper of tiny's shape that has learned nothing."""
    torch.manual_seed(0)
    dims = whisper.model.ModelDimensions(80, 1500, 384, 6, 4, 51865, 448, 384, 6, 4)
    model = whisper.model.Whisper(dims)
    with torch.no_grad():
        model.decoder.positional_embedding.normal_(std=0.1)
    torch.save({"dims": dims.__dict__, "model_state_dict": model.state_dict()}, path)
    return path


def write_tones(folder: Path) -> Path:
    """Write a download of tones, each speaker with prompts of their own: what no gate takes for generated speech."""
    files = {}
    for number in range(SPEAKERS * PROMPTS):
        speaker = f"PA_{number // PROMPTS:04d}"
        name = stem(speaker, number)
        files[f"Training/labels/{name}.json"] = label(
            f"무릎이 아파요 {'가나다라마바사아자차카타파하거너'[number]}", "1.0", "16000"
        )
        files[f"Training/audio/{name}.wav"] = wav(1.0, 16_000, level=0.1 + number / 50)
    return write_tree(folder, files)


def walk(folder: Path, ward: Ward, optuna: str) -> Walk:
    """Take all steps and return them."""
    made = Walk(folder, ward)
    ended = threading.Event()
    watcher = threading.Thread(target=made.watch, args=(ended,))
    watcher.start()
    try:
        _take(made, folder, optuna)
    finally:
        ended.set()
        watcher.join()
    return made


def _take(made: Walk, folder: Path, optuna: str) -> None:
    weights = str(save_random_tiny(folder / "tiny.pt"))
    profile, log, bare = folder / "small.yaml", folder / "logging_base.json", folder / "kmed-bench.git"
    profile.write_text(
        yaml.safe_dump(SMALL | {"tune": {"storage": optuna, "trials": 2, "space": SPACE}}), encoding="utf-8"
    )
    log.write_text(json.dumps(ORIGINAL), encoding="utf-8")
    subprocess.run(["git", "clone", "--quiet", "--bare", str(ROOT), str(bare)], check=True)
    subprocess.run(["git", "--git-dir", str(bare), "branch", "walked", "HEAD"], check=True)
    small = {"profile": str(profile), "weights": weights}
    for user in made.users:
        made.step(user, "doctor", ["kmed-bench", "doctor"], expected=1)  # tiny and small can't be had here
    source = str(write_tones(folder / "download"))
    small["source"] = source
    made.step("kim", "demo-corpus", ["kmed-bench", "demo-corpus", "corpus", "--speakers", "4", "--sentences", "16"])
    made.entry("kim", "ingest", source=source)
    made.entry("kim", "split", profile=str(profile))
    made.entry("kim", "main", project=GIT, only="tiny:0", **small)
    made.entry("lee", "main", only="tiny:1", **small)
    made.entry("lee", "report", project=GIT)
    made.entry("lee", "history")
    alone = {key: small[key] for key in ("profile", "weights")}
    made.entry("kim", "train", size="tiny", **alone)
    made.entry("kim", "curve", size="tiny", fractions="0.5,1", seeds="0", **alone)
    made.entry("kim", "evaluate", model=f"models:/{NAME}@challenger", **{"eval.max_new_tokens": "8"})
    made.entry("lee", "evaluate", model=f"models:/{NAME}/1", split=str(made.users["kim"] / "kmed-output" / "split"))
    made.entry("kim", "score", predictions="kmed-output/evaluate/predictions.jsonl")
    made.entry("kim", "export", model=f"models:/{NAME}@challenger", format="openai")
    made.entry("lee", "import-log", file=str(log))
    made.entry("kim", "tune", size="tiny", **alone)
    made.entry("lee", "promote", name=NAME, version="1", expected=1)  # not better than the untouched model
    for version in ("1", "2"):
        made.entry("lee", "promote", name=NAME, version=version, force="true", reason="a walk")
    made.entry("kim", "promote", name=NAME, rollback="true", reason="a walk")
    made.serve("lee")
    address = made.ward.uri.replace("://", f"://kim:{quote(PASSWORDS['kim'], safe='')}@")
    for command in (["doctor"], ["report", "report-by-address"], ["openings", "kmed-output/split"]):
        made.step("kim", f"{command[0]}, password in the address", ["kmed-bench", *command],
                  expected=int(command == ["doctor"]), MLFLOW_TRACKING_URI=address)  # fmt: skip


def found_secrets(made: Walk, ward: Ward, folder: Path) -> list[str]:
    """Return where a password stands that should not, of all that was written, printed or started."""
    uri = ward.settings["MLFLOW_BACKEND_STORE_URI"]
    dump = subprocess.run([str(find_program("pg_dump")), uri], capture_output=True, check=True).stdout
    texts = {"the database": dump} | {
        f"what {step} printed ({i})": said.encode() for i, (step, said) in enumerate(made.said)
    }
    own = {folder / "small.yaml"}  # as docs/server.md says: a file of the user's own
    roots = (folder, ward.folder / "artifacts")
    texts |= {str(p): p.read_bytes() for root in roots for p in root.rglob("*") if p.is_file() and p not in own}
    # Of other people's processes only kmed-bench and MLflow count; the server's own address is in its environment.
    texts["a command line"] = "\n".join(made.seen).encode()
    secrets = [DATABASE_PASSWORD, *PASSWORDS.values(), *(quote(value, safe="") for value in PASSWORDS.values())]
    return sorted({f"{place}: {s[:4]}…" for place, text in texts.items() for s in secrets if s.encode() in text})


def main() -> int:
    """Walk, print what was seen, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="a new folder to walk in, which is kept")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, running_postgres() as database:
        folder = (args.keep or Path(temporary)).absolute()
        for name in ("server", "walk"):
            (folder / name).mkdir(parents=True)
        print("| user | step | exit | seconds | seen |\n|---|---|---|---|---|", flush=True)
        with running_ward(database, folder / "server") as ward:
            optuna = f"{ward.settings['MLFLOW_BACKEND_STORE_URI'].rpartition('/')[0]}/optuna"
            subprocess.run([str(find_program("createdb")), "--maintenance-db", database, "--owner", "mlflow", "optuna"],
                           check=True, env=os.environ | {"PGPASSWORD": "secret"})  # fmt: skip
            made = walk(folder / "walk", ward, optuna)
            found = found_secrets(made, ward, folder / "walk")
    print(f"\nPasswords found: {', '.join(found) or 'none'}")
    return int(made.failed or bool(found))


if __name__ == "__main__":
    sys.exit(main())

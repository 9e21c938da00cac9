"""Kill each writing command at a random moment of its work, start it again, and compare what it leaves in the end.

    python scripts/kill_commands.py [--rounds 2] [--seed 0] [--only train,run]

Every command runs twice undisturbed on a tiny corpus and a random model: values in which these two differ (times, run
ids) are not compared, all others are. Then each is killed with SIGKILL, SIGTERM and SIGINT, in each round once, after
its work has begun (a marker file, written on entry to the function that does it) and before its natural end, and
started again with the same words (and --resume where it takes that). The table has a row for each command; the exit
status is 1 if a second start fails, a result differs, a temporary file is left or a run stays RUNNING.

The commands are forked from a process that has imported the package, so that each starts in a moment.
"""

import argparse
import dataclasses
import hashlib
import importlib
import json
import multiprocessing
import os
import random
import re
import shlex
import shutil
import signal
import sys
import tempfile
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from random_whisper import save_random_whisper  # noqa: E402

SERVER = multiprocessing.get_context("forkserver")
SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT")
INTERRUPTED = 130
FINISHED = "exists and is not an empty folder"
"""In what a second start says where the first one had written all and was killed on its way out."""
EVAL = "--eval.audio_context dynamic --eval.max_new_tokens 8 --eval.bootstrap_draws 100"
TRAIN = f"--weights {{base}}/tiny.pt --batch_size 2 --train.audio_context dynamic --train.precision fp32 {EVAL}"
SPLIT = "--split.train 8 --split.valid 2 --split.test 2 --split.disjoint none"
RUN_ID = re.compile(r"(?<=-)[0-9a-f]{8}\b")
TEMPORARY = re.compile(r"\..+\.[0-9a-f]{6}_\d+_[0-9a-f]{4}")
UNCOMPARED = (
    "kmed-bench.log",
    ".training.lock",
    ".untouched.lock",
    "provenance.csv",
)  # the last says that a run was continued
STUDY_VIEWS = re.compile(r"index\.html|trials\.csv|tuning-(history|parallel)\..+")
"""What shows the trials of study.json, lost ones as well: a killed trial stays in the study and is repeated."""
LIMIT_S = 600
PRELOADED = ["kmed_bench.cli", "kmed_bench.pipeline.benchmark", "kmed_bench.tuning.tune", "kmed_bench.report.page"]
PRELOADED += ["kmed_bench.pipeline.export", "mlflow.store.tracking.sqlalchemy_store", "kmed_bench.scoring.package"]


@dataclasses.dataclass(frozen=True)
class Command:
    """A command's words, the function in which its work begins, and the words that continue it."""

    words: str
    begins: str
    resume: str = ""
    smaller: bool = False


COMMANDS = {
    "demo-corpus": Command(
        "demo-corpus out --speakers 6 --sentences 40", "kmed_bench.corpus.demo.demo:make_demo_corpus"
    ),
    "ingest": Command("ingest {base}/corpus out --data.workers 1", "kmed_bench.corpus.ingest.manifest:ingest"),
    "split": Command(
        f"split {{base}}/manifest/manifest.parquet out --by none {SPLIT}",
        "kmed_bench.corpus.splitting.split:split_manifest",
    ),
    "train": Command(
        f"train {{base}}/split out --size tiny --epochs 3 --lr 1e-3 --train.checkpoint_steps 2 {TRAIN}",
        "kmed_bench.pipeline.train_one:train_from",
        "--resume",
        smaller=True,
    ),
    "run": Command(
        "run --profile demo --sizes tiny --seeds 0 --epochs 2 --lr 1e-3 --data.demo_speakers 4 "
        f"--data.demo_sentences 16 --data.roles patient,nurse,doctor --data.workers 1 --out out {SPLIT} {TRAIN}",
        "kmed_bench.pipeline.benchmark:run_benchmark",
        "--resume",
        smaller=True,
    ),
    "tune": Command(
        f"tune {{base}}/split --out out --size tiny --epochs 2 --trials 2 --tune.storage sqlite:///optuna.db {TRAIN} "
        "--tune.space '{train.lr: {low: 1.0e-6, high: 0.1, log: true}}'",
        "kmed_bench.tuning.tune:tune",
        smaller=True,
    ),
    "evaluate": Command(
        f"evaluate {{base}}/tiny.pt {{base}}/split out {EVAL}", "kmed_bench.pipeline.evaluate:evaluate_model"
    ),
    "score": Command(
        "score {base}/predictions.jsonl out --eval.bootstrap_draws 2000", "kmed_bench.scoring:score_predictions"
    ),
    "package": Command(
        "package {base}/predictions.jsonl out --split {base}/split", "kmed_bench.scoring.package:write_package"
    ),
    "report": Command("report out", "kmed_bench.report.page:write_report"),
    "export": Command("export {base}/tiny.pt out --format ct2", "kmed_bench.pipeline.export:export_model"),
}


def run_command(words: list[str], folder: Path, command: Command, base: Path) -> None:
    """Run the command line in a folder, with a Whisper tiny that is smaller still if the command takes that.

    Writes ``mark`` when the work begins and ``mark.end`` at its end.
    """
    os.chdir(folder)
    os.environ |= {"KMED_CACHE": str(folder / "cache"), "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    said = os.open(folder / "said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets its background jobs ignore Ctrl-C
    from kmed_bench import cli

    if command.smaller:
        from kmed_bench.asr.model import weights

        dimensions = weights._read_checkpoint(base / "tiny.pt")[0]
        weights.dimensions = lambda _size: dimensions
    module, function = command.begins.split(":")
    original = getattr(importlib.import_module(module), function)

    def begun(*args: Any, **kwargs: Any) -> Any:
        (folder / "mark").touch()
        return original(*args, **kwargs)

    setattr(sys.modules[module], function, begun)
    status = cli.main(words)
    if status == 0:
        (folder / "mark.end").touch()
    sys.exit(status)


class Place:
    """A folder in which one command is run, with a tracking store of its own."""

    def __init__(self, base: Path, folder: Path, command: Command) -> None:
        self.base, self.folder, self.command, self.mark = base, folder, command, folder / "mark"
        self.end = folder / "mark.end"
        folder.mkdir(parents=True)
        if (base / "mlflow.db").exists():
            shutil.copy(base / "mlflow.db", folder)

    def start(self, more: str = "") -> BaseProcess:
        """Return the started command, its output in ``said`` of the folder."""
        words = [*shlex.split(self.command.words.replace("{base}", str(self.base))), *more.split()]
        self.mark.unlink(missing_ok=True)
        self.end.unlink(missing_ok=True)
        process = SERVER.Process(target=run_command, args=(words, self.folder, self.command, self.base))
        process.start()
        return process

    def wait_until_begun(self, process: BaseProcess) -> None:
        """Return when the work has begun."""
        until_s = time.monotonic() + LIMIT_S
        while not self.mark.exists():
            if process.exitcode is not None or time.monotonic() > until_s:
                raise RuntimeError((self.folder / "said").read_text())
            time.sleep(0.002)

    def finish(self, more: str = "") -> float:
        """Run the command to its end and return how long its work took, in seconds."""
        process = self.start(more)
        self.wait_until_begun(process)
        process.join(LIMIT_S)
        if process.exitcode != 0:
            raise RuntimeError((self.folder / "said").read_text())
        return self.end.stat().st_mtime - self.mark.stat().st_mtime

    def values(self) -> dict[str, Any]:
        """Return all values that the command left: of each file, and of each finished run in the store."""
        out = self.folder / "out"
        found: dict[str, Any] = {}
        is_study = (out / "study.json").exists()
        for path in sorted(out.rglob("*")):
            if path.name in UNCOMPARED or ".ingest" in path.parts or (is_study and STUDY_VIEWS.fullmatch(path.name)):
                continue
            if path.is_file():
                found |= flatten(read(path), RUN_ID.sub("*", str(path.relative_to(out))))
        return found | flatten(finished_runs(self.folder), "store")

    def running(self) -> list[str]:
        """Return the names of the runs that stay RUNNING; a command without runs of its own ends no others."""
        return [run.info.run_name for run in stored_runs(self.folder, "RUNNING")]

    def leftovers(self) -> list[str]:
        """Return the temporary files and folders beside and below the results."""
        return [path.name for path in self.folder.rglob(".*") if TEMPORARY.fullmatch(path.name)]


def read(path: Path) -> Any:
    """Return a file's values; the digest of its bytes where its format has none."""
    match path.suffix:
        case ".json":
            content = json.loads(path.read_text("utf-8"))
            if path.name == "study.json":
                content["study"]["trials"] = by_slot(content["study"]["trials"])
            return content
        case ".jsonl":
            return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        case ".csv":
            return pd.read_csv(path, dtype=str).to_dict("list") if path.stat().st_size > 1 else ""
        case ".parquet":
            return pd.read_parquet(path).astype(str).to_dict("list")
        case ".yaml":
            return yaml.safe_load(path.read_text("utf-8"))
        case ".pt":
            state = torch.load(path, map_location="cpu", weights_only=True)["model_state_dict"]
            return {name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in state.items()}
    return hashlib.sha256(path.read_bytes()).hexdigest()


def by_slot(trials: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Return the trials that were not lost, each under the number of the first trial that it repeats."""
    slots: dict[int, int] = {}
    for trial in trials:
        slots[trial["number"]] = slots.get(trial["retry_of"], trial["number"])
    kept = [trial for trial in trials if trial["state"] != "lost"]
    return {slots[trial["number"]]: {**trial, "number": None, "retry_of": None} for trial in kept}


def flatten(value: Any, place: str) -> dict[str, Any]:
    """Return the leaves of nested values by their place."""
    if isinstance(value, (dict, list)):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        leaves = {place: len(value)}
        for key, inner in pairs:
            leaves |= flatten(inner, f"{place}/{key}")
        return leaves
    return {place: repr(value)}


def finished_runs(folder: Path) -> list[dict[str, float]]:
    """Return the metrics of the store's finished trainings, benchmarks and trials, in the order of kind and value."""
    runs = stored_runs(folder, "FINISHED")
    kept = [run for run in runs if run.data.tags.get("kmed.kind") in ("bench", "train", "split", "report", "trial")]
    return sorted(
        ({"kind": run.data.tags["kmed.kind"], **dict(sorted(run.data.metrics.items()))} for run in kept),
        key=repr,
    )


def stored_runs(folder: Path, status: str) -> list[Any]:
    """Return the runs of a status in a folder's store."""
    from mlflow.tracking import MlflowClient

    from kmed_bench.tracking.store import search_runs

    if not (folder / "mlflow.db").exists():
        return []
    return search_runs(MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db"), f"attributes.status = '{status}'")


def prepare(base: Path) -> None:
    """Make the corpus, the split, the model, the predictions and the benchmark that the commands start from."""
    base.mkdir(parents=True)
    save_random_whisper(base / "tiny.pt")
    for name, out in (("demo-corpus", "corpus"), ("ingest", "manifest"), ("split", "split")):
        place = Place(base, base / "made" / name, COMMANDS[name])
        place.finish()
        (place.folder / "out").rename(base / out)
    for name in ("evaluate", "run"):
        place = Place(base, base / "made" / name, COMMANDS[name])
        place.finish()
        if name == "evaluate":
            shutil.copy(place.folder / "out" / "predictions.jsonl", base)
        else:
            shutil.copy(place.folder / "mlflow.db", base)


def kill_once(name: str, number: str, place: Place, work_s: float, chance: random.Random) -> str:
    """Kill a command within its work and return what it said then; try again where it was faster than the signal."""
    while True:
        process = place.start()
        place.wait_until_begun(process)
        time.sleep(work_s * chance.uniform(0.0, 0.9))
        if process.exitcode is None:
            assert process.pid is not None
            os.kill(process.pid, getattr(signal, number))
            process.join(LIMIT_S)
            status = process.exitcode
            if not place.end.exists():
                right = -signal.SIGKILL if number == "SIGKILL" else INTERRUPTED
                said = (place.folder / "said").read_text(errors="replace")
                if status != right or "Traceback" in said:
                    return f"{name} after {number}: status {status}, not {right}: {said[-600:]}"
                return ""
        shutil.rmtree(place.folder)
        place = Place(place.base, place.folder, place.command)


def check(name: str, folder: Path, base: Path, rounds: int, chance: random.Random) -> tuple[dict[str, Any], list[str]]:
    """Return a command's row of the table, and what was wrong."""
    command, faults, times_s = COMMANDS[name], [], []
    references = []
    for twin in ("a", "b"):
        place = Place(base, folder / f"undisturbed-{twin}", command)
        times_s.append(place.finish())
        references.append(place.values())
    first, second = references
    steady = {key for key in first.keys() & second.keys() if first[key] == second[key]}
    row = {"command": name, "kills": 0, "work_s": round(min(times_s), 1), "values": len(steady), "times": 0, "wrong": 0}
    row["times"] = len(first.keys() | second.keys()) - len(steady)
    for turn in range(rounds):
        for number in SIGNALS:
            place = Place(base, folder / f"{number}-{turn}", command)
            wrong = [said] if (said := kill_once(name, number, place, min(times_s), chance)) else []
            row["kills"] += 1
            try:
                place.finish(command.resume)
            except RuntimeError as error:
                if FINISHED not in str(error):
                    wrong.append(f"{name} after {number}: the second start failed: {str(error)[-600:]}")
            if not wrong:
                found = place.values()
                differ = [key for key in sorted(steady) if found.get(key) != first[key]]
                wrong += [f"{name} after {number}: {len(differ)} differ: {differ[:5]}"] if differ else []
                wrong += [f"{name} after {number}: left {place.leftovers()}"] if place.leftovers() else []
                wrong += [f"{name} after {number}: RUNNING: {left}"] if (left := place.running()) else []
            row["wrong"] += bool(wrong)
            faults += wrong
            if not wrong:
                shutil.rmtree(place.folder)
    return row, faults


def main() -> int:
    """Print the table and what was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=2, help="kills of each command with each signal (2)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (0)")
    parser.add_argument("--only", default=",".join(COMMANDS), help="commands, separated by commas")
    parser.add_argument("--base", type=Path, help="a prepared folder to use again")
    args = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    SERVER.set_forkserver_preload(PRELOADED)
    folder, chance = Path(tempfile.mkdtemp(prefix="kills-")), random.Random(args.seed)
    base = args.base or folder / "base"
    if not base.exists():
        prepare(base)
    rows, faults = [], []
    for name in args.only.split(","):
        row, wrong = check(name, folder / name, base, args.rounds, chance)
        rows.append(row)
        faults += wrong
        print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
        for text in wrong:
            print(text, flush=True)
    print(pd.DataFrame(rows).to_string(index=False))
    print(f"{sum(row['kills'] for row in rows)} kills, seed {args.seed}, {len(faults)} faults; files in {folder}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())

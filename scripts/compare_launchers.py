"""Nine trainings in one process, in one slot, in two, and on Slurm: equal figures and weights, and what each way costs.

    python scripts/compare_launchers.py [--trainings 9] [--epochs 2] [--json FILE]

Random weights of a tiny Whisper and the generated corpus, one thread a process. Slurm is Debian's, started here with
two nodes of one CPU each (tests/slurm_cluster.py). Every command is a process of its own. The overhead of a way is the
time that a training's process lives beyond its MLflow run, less that of the bare command, `kmed-bench train`: what a
slot or a job adds to a process that would be started anyway. Takes about ten minutes on two cores that have nothing
else to do.
"""

import argparse
import dataclasses
import datetime
import hashlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402
from mlflow.entities import Run  # noqa: E402
from mlflow.tracking import MlflowClient  # noqa: E402
from random_whisper import save_random_whisper  # noqa: E402
from slurm_cluster import Cluster, running_slurm  # noqa: E402
from small_bench import SETTINGS, SITECUSTOMIZE  # noqa: E402

from kmed_bench.pipeline.launch.slurm import read_status  # noqa: E402

FIGURES = ("train/", "valid/", "best/", "test/")
SLURM = ("--launcher", "slurm", "--slurm.gpus", "0", "--slurm.cpus", "1")


@dataclasses.dataclass
class Way:
    """One way to run the trainings, and what it came to; times in seconds."""

    name: str
    wall_s: float = 0.0
    lives_s: list[float] = dataclasses.field(default_factory=list)
    runs_s: list[float] = dataclasses.field(default_factory=list)
    results: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def outside_s(self) -> float | None:
        """How long a training's process lives beyond its MLflow run, on average."""
        return statistics.mean(self.lives_s) - statistics.mean(self.runs_s) if self.lives_s else None


class Bench:
    """A folder in which the command line runs with a Whisper tiny that is smaller still."""

    def __init__(self, folder: Path, n_trainings: int, epochs: int) -> None:
        self.folder, self.epochs = folder, epochs
        weights = save_random_whisper(folder / "tiny.pt")
        (folder / "hook").mkdir()
        (folder / "hook" / "sitecustomize.py").write_text(SITECUSTOMIZE)
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        self.env |= {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db", "SMALLER": str(weights)}
        self.env |= {"KMED_CACHE": str(folder / "cache"), "MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"}
        self.env["PYTHONPATH"] = os.pathsep.join([str(folder / "hook"), str(ROOT)])
        seeds = ",".join(map(str, range(n_trainings)))
        settings = {**SETTINGS, "seeds": seeds, "epochs": epochs, "weights": weights, "out": folder / "out"}
        self.run_words = ["run", "--profile", "demo", *typed(settings)]
        kept = ("epochs", "batch_size", "lr", "audio_context", "eval.", "weights")
        alone = {key: value for key, value in settings.items() if key.startswith(kept)}
        self.train_words = ["--profile", "demo", "--size", "tiny", *typed(alone)]

    @property
    def client(self) -> MlflowClient:
        """MLflow's client for its store."""
        return MlflowClient(tracking_uri=self.env["MLFLOW_TRACKING_URI"])

    def lines(self, *words: str) -> Iterator[tuple[float, str]]:
        """Yield each line of a command's messages and when it came; raise if the command fails."""
        command = [sys.executable, "-m", "kmed_bench", *words]
        with subprocess.Popen(
            command, cwd=self.folder, env=self.env, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as process:
            assert process.stderr is not None
            said = ""
            for line in process.stderr:
                said += line
                yield time.monotonic(), line
        if process.returncode != 0:
            raise SystemExit(f"{' '.join(words)} ended with {process.returncode}:\n{said}")

    def trains(self, experiment: str) -> list[Run]:
        """Return the runs of an experiment's trainings."""
        found = self.client.get_experiment_by_name(experiment)
        assert found is not None
        return list(self.client.search_runs([found.experiment_id], "tags.`kmed.kind` = 'train'"))

    def collect(self, way: Way) -> None:
        """Fill in what the store and the folders have of a way's trainings."""
        for run in self.trains(way.name):
            assert run.info.status == "FINISHED"
            way.runs_s.append((run.info.end_time - run.info.start_time) / 1000)
            figures = {k: v for k, v in sorted(run.data.metrics.items()) if k.startswith(FIGURES)}
            parent, seed = run.data.tags["mlflow.parentRunId"], run.data.tags["kmed.seed"]
            path = self.folder / "out" / f"bench-demo-{parent[:8]}" / "tiny" / f"seed{seed}" / "best.pt"
            way.results[seed] = digest(path, figures)


def typed(settings: Mapping[str, object]) -> list[str]:
    """Return settings as words of a command line."""
    return [word for key, value in settings.items() for word in (f"--{key}", str(value))]


def digest(checkpoint: Path, figures: dict[str, float]) -> str:
    """Return a SHA-256 of a checkpoint's tensors and a training's figures."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["model_state_dict"]
    made = hashlib.sha256(json.dumps(figures).encode())
    for name in sorted(state):
        made.update(name.encode() + state[name].contiguous().numpy().tobytes())
    return made.hexdigest()[:16]


def run_here(bench: Bench, name: str, *words: str) -> Way:
    """Run the trainings on this machine; a slot's process lives until the next one begins in it."""
    way, begun_s = Way(name), time.monotonic()
    begins: list[float] = []
    for at_s, line in bench.lines(*bench.run_words, "--tracking.experiment", name, *words):
        if "begins in slot" in line:
            begins.append(at_s)
    way.wall_s = time.monotonic() - begun_s
    if words[:2] == ("--slots", "1"):
        way.lives_s = [after - before for before, after in itertools.pairwise(begins)]
    bench.collect(way)
    return way


def run_bare(bench: Bench, n: int) -> Way:
    """Run some of the trainings by `train`, one after another, on the split of an earlier way."""
    way = Way("bare command")
    (split, *_) = (bench.folder / "out").glob("bench-demo-*/split")
    begun_s = time.monotonic()
    for seed in range(n):
        started_s = time.monotonic()
        out, experiment = str(bench.folder / f"alone{seed}"), ["--tracking.experiment", way.name]
        list(bench.lines("train", str(split), out, *bench.train_words, "--seed", str(seed), *experiment))
        way.lives_s.append(time.monotonic() - started_s)
    way.wall_s = time.monotonic() - begun_s
    way.runs_s = [(run.info.end_time - run.info.start_time) / 1000 for run in bench.trains(way.name)]
    return way


def run_on_slurm(bench: Bench, cluster: Cluster) -> Way:
    """Run the trainings as an array over both nodes."""
    way, begun_s = Way("Slurm array"), time.monotonic()
    bench.env |= cluster.env
    list(bench.lines(*bench.run_words, "--tracking.experiment", way.name, *SLURM))
    (folder,) = (bench.folder / "out").glob("slurm-*")
    cluster.until(lambda: read_status(folder) is not None, "the last job", 3600)
    way.wall_s = time.monotonic() - begun_s
    if read_status(folder) != 0:
        raise SystemExit(f"On Slurm: {(folder / 'last.log').read_text()}")
    array = json.loads((folder / "jobs.json").read_text())["jobs"]["tasks"]
    for line in cluster.ask("scontrol", "show", "job", "--oneliner", array).splitlines():
        fields = dict(word.split("=", 1) for word in line.split() if "=" in word)
        start, end = (datetime.datetime.fromisoformat(fields[name]) for name in ("StartTime", "EndTime"))
        way.lives_s.append((end - start).total_seconds())
    bench.collect(way)
    return way


def main() -> int:
    """Compare, print the table, and return 1 if results differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainings", type=int, default=9)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kmed-launchers-") as name, running_slurm() as cluster:
        bench = Bench(Path(name), args.trainings, args.epochs)
        ways = [run_here(bench, "one process")]
        ways.append(run_here(bench, "one slot", "--slots", "1", "--threads", "1"))
        ways.append(run_here(bench, "two slots", "--slots", "2", "--threads", "1"))
        ways.append(run_on_slurm(bench, cluster))
        bare = run_bare(bench, min(3, args.trainings))
    equal = all(way.results == ways[0].results and len(way.results) == args.trainings for way in ways)
    print(
        f"{args.trainings} trainings of {args.epochs} epochs: {'equal' if equal else 'DIFFERENT'} figures and weights"
    )
    print(f"{'way':<14}{'wall':>9}{'run':>8}{'process':>9}{'beyond the run':>16}{'over the bare command':>23}")
    assert bare.outside_s is not None
    for way in [*ways, bare]:
        lives = f"{statistics.mean(way.lives_s):.1f} s" if way.lives_s else "-"
        outside = "-" if way.outside_s is None else f"{way.outside_s:.1f} s"
        over = "-" if way.outside_s is None or way is bare else f"{way.outside_s - bare.outside_s:+.1f} s"
        print(
            f"{way.name:<14}{way.wall_s:>7.0f} s{statistics.mean(way.runs_s):>6.1f} s{lives:>9}{outside:>16}{over:>23}"
        )
    if args.json:
        args.json.write_text(json.dumps({way.name: dataclasses.asdict(way) for way in [*ways, bare]}, indent=2) + "\n")
    return 0 if equal else 1


if __name__ == "__main__":
    raise SystemExit(main())

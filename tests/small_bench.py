"""The whole `run` on a generated corpus and a random model, small enough for seconds, as a user runs it."""

import os
import subprocess
import sys
from pathlib import Path

import forked
import pandas as pd
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from random_whisper import save_random_whisper

SETTINGS = {
    "sizes": "tiny", "seeds": "0,1", "epochs": 2, "batch_size": 2, "lr": 1e-3, "audio_context": "dynamic",
    "data.demo_speakers": 4, "data.demo_sentences": 16, "data.roles": "patient,nurse,doctor",
    "split.train": 8, "split.valid": 2, "split.test": 2, "split.disjoint": "none",
    "eval.audio_context": "dynamic", "eval.max_new_tokens": 8, "eval.bootstrap_draws": 100,
}  # fmt: skip

# The command line with a Whisper tiny that is smaller still, so that a training takes seconds. It kills itself where
# MOMENT says: `name:n` is the n-th call of Trainer's method.
PROGRAM = """
import os, signal, sys, torch
from kmed_bench import cli
cli.prepare_user()  # as main does; where tests/forked.py runs this, MLflow is loaded already
from kmed_bench.asr.model import weights
from kmed_bench.pipeline import trainer
found = weights._read_checkpoint(weights.Path(os.environ["SMALLER"]))[0]
weights.dimensions = lambda size: found
name, n = os.environ.get("MOMENT", "train:0").split(":")
left, original = int(n), getattr(trainer.Trainer, name)
def counted(*args, **kwargs):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), getattr(signal, os.environ["SIGNAL"]))
    return original(*args, **kwargs)
setattr(trainer.Trainer, name, counted)
sys.exit(cli.main(sys.argv[1:]))
"""


# The same for processes that are started by something else: Python imports it from a folder of PYTHONPATH.
SITECUSTOMIZE = """
import importlib.util, os, sys
from pathlib import Path
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name != "kmed_bench.asr.model.weights":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module
        def exec_module(module):
            run(module)
            found = module._read_checkpoint(Path(os.environ["SMALLER"]))[0]
            module.dimensions = lambda size: found
        spec.loader.exec_module = exec_module
        return spec
sys.meta_path.insert(0, Finder())
"""


class Place:
    """A folder with random weights and a store, in which benchmarks are run as a user runs them."""

    def __init__(self, folder: Path, uri: str | None = None) -> None:
        self.folder, self.uri = folder, uri or f"sqlite:///{folder}/mlflow.db"
        self.experiment = folder.name  # a server's store may hold other tests' runs
        weights = save_random_whisper(folder / "tiny.pt")
        self.words = ["run", "--profile", "demo", "--weights", str(weights), "--out", str(folder / "out")]
        self.words += ["--tracking.experiment", self.experiment]
        self.words += [word for key, value in SETTINGS.items() for word in (f"--{key}", str(value))]
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        self.env |= {"MLFLOW_TRACKING_URI": self.uri, "KMED_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
        self.env |= {"SMALLER": str(weights)}
        self.env |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

    def run(self, *more: str, **env: str) -> subprocess.CompletedProcess[str]:
        return self.command(*self.words, *more, **env)

    def command(self, *words: object, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the folder, with Whisper tiny as small as this benchmark's."""
        done = forked.run(PROGRAM, [str(word) for word in words], cwd=self.folder, env=self.env | env)
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())

    def killed(self, moment: str, signal_name: str) -> subprocess.CompletedProcess[str]:
        return self.run(MOMENT=moment, SIGNAL=signal_name)

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(tracking_uri=self.uri)

    def runs(self, kind: str) -> list[Run]:
        experiment = self.client.get_experiment_by_name(self.experiment)
        assert experiment is not None
        query = f"tags.`kmed.kind` = '{kind}'"
        return list(self.client.search_runs([experiment.experiment_id], query, order_by=["start_time ASC"]))


def points(client: MlflowClient, run: Run) -> dict[str, list[tuple[int, float]]]:
    return {
        name: [(p.step, p.value) for p in client.get_metric_history(run.info.run_id, name)] for name in run.data.metrics
    }


def check_whole(place: Place) -> None:
    """Assert that a finished benchmark stands in the store with every stage, and that its report says the same."""
    (bench,), (split,), (report,) = (place.runs(kind) for kind in ("bench", "split", "report"))
    trains = place.runs("train")
    assert [run.info.status for run in (bench, split, report, *trains)] == ["FINISHED"] * (3 + len(trains))
    (folder,) = (place.folder / "out").glob("bench-demo-*")
    assert folder.name == f"bench-demo-{bench.info.run_id[:8]}"
    table = pd.read_csv(folder / "report" / "runs.csv").set_index("run_id")
    assert {run_id: row["test_cer"] for run_id, row in table.iterrows()} == {
        run.info.run_id: run.data.metrics["test/cer"] for run in trains
    }
    logged = {Path(found.path).name for found in place.client.list_artifacts(bench.info.run_id, "report")}
    assert logged == {path.name for path in (folder / "report").iterdir()}
    ids = {run.info.run_id for run in trains}
    versions = place.client.search_model_versions("name = 'kmed-whisper-tiny'")
    assert sorted(version.run_id for version in versions if version.run_id in ids) == sorted(ids)

"""A benchmark that is killed and continued: what is done is not run again, and nothing stands in the store twice."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from random_whisper import save_random_whisper

from kmed_bench.tracking import readback

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")

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
from kmed_bench import cli, trainer
from kmed_bench.asr import weights
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


class Place:
    """A folder with random weights and a store, in which benchmarks are run as a user runs them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.uri = folder, f"sqlite:///{folder}/mlflow.db"
        weights = save_random_whisper(folder / "tiny.pt")
        self.words = ["run", "--profile", "demo", "--weights", str(weights), "--out", str(folder / "out")]
        self.words += [word for key, value in SETTINGS.items() for word in (f"--{key}", str(value))]
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        self.env |= {"MLFLOW_TRACKING_URI": self.uri, "KMED_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
        self.env |= {"SMALLER": str(weights)}
        self.env |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

    def run(self, *more: str, **env: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", PROGRAM, *self.words, *more]
        return subprocess.run(
            command, cwd=self.folder, env=self.env | env, capture_output=True, text=True, check=False, timeout=600
        )

    def killed(self, moment: str, signal_name: str) -> subprocess.CompletedProcess[str]:
        return self.run(MOMENT=moment, SIGNAL=signal_name)

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(tracking_uri=self.uri)

    def runs(self, kind: str) -> list[Run]:
        experiment = self.client.get_experiment_by_name("kmed-bench")
        assert experiment is not None
        query = f"tags.`kmed.kind` = '{kind}'"
        return list(self.client.search_runs([experiment.experiment_id], query, order_by=["start_time ASC"]))


def points(client: MlflowClient, run: Run) -> dict[str, list[tuple[int, float]]]:
    return {
        name: [(p.step, p.value) for p in client.get_metric_history(run.info.run_id, name)] for name in run.data.metrics
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("continued"))


@pytest.mark.slow
def test_a_killed_benchmark_is_continued(place: Place) -> None:
    killed = place.killed("_finish:2", "SIGKILL")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    first, second = place.runs("train")
    assert (first.info.status, second.info.status) == ("FINISHED", "RUNNING")
    before = points(place.client, first)

    done = place.run("--resume")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "train-tiny-seed0: done before, not run again." in done.stderr
    assert "train-tiny-seed1: was begun before" in done.stderr
    assert "The split is whole and stays." in done.stderr

    (bench,), (split,), (report,) = (place.runs(kind) for kind in ("bench", "split", "report"))
    again, other = place.runs("train")
    assert [run.info.status for run in (bench, split, report, again, other)] == ["FINISHED"] * 5
    assert (again.info.run_id, again.info.start_time, again.info.end_time) == (
        first.info.run_id,
        first.info.start_time,
        first.info.end_time,
    )
    assert (other.info.run_id, other.info.start_time) == (second.info.run_id, second.info.start_time)
    assert points(place.client, again) == before
    for run in (again, other):
        curves = points(place.client, run)
        assert [step for step, _ in curves["valid/cer"]] == [0, 1, 2]
        assert [step for step, _ in curves["train/loss"]] == [1, 2]
        assert all(len(curve) == 1 for name, curve in curves.items() if name.startswith(("test/", "best/", "data/")))
        assert len(run.inputs.dataset_inputs) == 1
    record = readback.read_bench(place.uri)
    assert [(run.seed, run.status) for run in record.trains] == [(0, "FINISHED"), (1, "FINISHED")]
    assert set(record.scores) == {again.info.run_id, other.info.run_id}
    assert "kmed.ended" not in bench.data.tags
    versions = place.client.search_model_versions("name = 'kmed-whisper-tiny'")
    assert sorted(version.run_id for version in versions) == sorted(run.info.run_id for run in (again, other))
    (folder,) = (place.folder / "out").glob("bench-demo-*")
    assert folder.name == f"bench-demo-{bench.info.run_id[:8]}"
    page = (folder / "report" / "index.html").read_text(encoding="utf-8")
    for run in (again, other):
        assert f"{run.data.metrics['test/cer'] * 100:.1f}" in page


@pytest.mark.slow
def test_what_is_done_stays_done(place: Place) -> None:
    before = [(run.info.run_id, run.info.end_time) for run in place.runs("train")]
    done = place.run("--resume", "true")
    assert done.returncode == 0, done.stderr
    assert [(run.info.run_id, run.info.end_time) for run in place.runs("train")] == before
    assert [run.info.status for run in place.runs("bench")] == ["FINISHED"]


@pytest.mark.slow
def test_the_run_of_mlflow_run_says_what_it_continues(place: Place) -> None:
    place.words[-1] = "64"  # bootstrap draws: other settings, so another benchmark
    stopped = place.killed("_finish:1", "SIGTERM")
    assert stopped.returncode == 130, stopped.stderr
    assert "Continue with: kmed-bench run --profile demo" in stopped.stderr
    bench = place.runs("bench")[-1]
    assert bench.info.status == "KILLED"
    outer = place.client.create_run(bench.info.experiment_id, run_name="nervous-fox-12")
    done = place.run("--resume", MLFLOW_RUN_ID=outer.info.run_id)
    assert done.returncode == 0, done.stderr
    assert place.client.get_run(bench.info.run_id).info.status == "FINISHED"
    assert len(place.runs("bench")) == 2
    (outer,) = place.runs("continuation")
    assert (outer.info.status, outer.data.tags["kmed.continues"]) == ("FINISHED", bench.info.run_id)
    assert bench.info.run_id in outer.data.tags["mlflow.note.content"]
    assert outer.info.run_name == f"continue-{bench.info.run_name}"

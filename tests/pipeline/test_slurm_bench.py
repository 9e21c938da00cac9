"""A benchmark on a real Slurm, submitted by `mlflow run`: a node dies, a job is preempted, and one is killed.

What is left is, bit for bit, what one process trains undisturbed.
"""

import json
import os
from pathlib import Path
from typing import Any

import forked
import pytest
import torch
from fault_table import fault
from mlflow.entities import Run
from slurm_cluster import Cluster
from small_bench import SETTINGS, SITECUSTOMIZE, Place

from kmed_bench.pipeline.launch.mlflow_backend import SlurmRun

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")]
EPOCHS = {"epochs": "6", "train.checkpoint_steps": "1"}

MLFLOW_RUN = """
import json, sys, mlflow
run = mlflow.projects.run(sys.argv[1], backend="kmed-slurm", backend_config=json.loads(sys.argv[2]),
                          parameters=json.loads(sys.argv[3]), experiment_name=sys.argv[4], synchronous=False)
print("RUN", run.run_id)
"""


def submit_by_mlflow(place: Place, **parameters: str) -> SlurmRun:
    """Submit through MLflow's own function in a process of its own, and return the run that stands for the jobs."""
    words = {"profile": "demo", "weights": str(place.folder / "tiny.pt"), "out": str(place.folder / "out")}
    words |= {key: str(value) for key, value in SETTINGS.items()} | EPOCHS | parameters
    words |= {"tracking.experiment": place.experiment}
    configuration = {"partition": "low", "gpus": 0, "cpus": 1, "workers": 2}
    arguments = [str(ROOT), json.dumps(configuration), json.dumps(words), place.experiment]
    done = forked.run(MLFLOW_RUN, arguments, cwd=place.folder, env=place.env)
    assert done.returncode == 0, done.stderr.decode()
    (run_id,) = [line.split()[1] for line in done.stdout.decode().splitlines() if line.startswith("RUN ")]
    (folder,) = (place.folder / "out").glob("slurm-*")
    return SlurmRun(run_id, folder)


def trains(place: Place, bench: str) -> dict[str, Run]:
    runs = [run for run in place.runs("train") if run.data.tags["mlflow.parentRunId"] == bench]
    return {run.data.tags["kmed.seed"]: run for run in runs}


def figures(run: Run) -> dict[str, float]:
    return {
        name: value
        for name, value in run.data.metrics.items()
        if name.startswith(("train/", "valid/", "best/", "test/"))
    }


def weights(place: Place, bench: str, seed: str) -> dict[str, Any]:
    path = place.folder / "out" / f"bench-demo-{bench[:8]}" / "tiny" / f"seed{seed}" / "best.pt"
    state: dict[str, Any] = torch.load(path, weights_only=True)["model_state_dict"]
    return state


@fault(
    "nodes of a Slurm cluster: one dies, a job is preempted, the process of another is killed",
    sees="the last job's log, and the run, name the killed one: its job was lost: Slurm's job … ended as FAILED",
    survives="the others continue to the weights of an undisturbed training; the report is written",
)
def test_a_benchmark_survives_a_dead_node_and_preemption_and_names_a_lost_job(
    slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path)
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(SITECUSTOMIZE)
    place.env |= {
        "SLURM_CONF": slurm.env["SLURM_CONF"],
        "PYTHONPATH": os.pathsep.join([str(tmp_path / "hook"), str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    monkeypatch.setenv("MLFLOW_TRACKING_URI", place.uri)
    submitted = submit_by_mlflow(place, seeds="0,1,2")
    tasks = [f"{submitted._jobs['tasks']}_{index}" for index in range(3)]
    assert submitted.get_status() in ("SCHEDULED", "RUNNING")
    slurm.until(lambda: slurm.states(tasks[0])[tasks[0]] == "RUNNING", "the first training", 300)
    again = place.run("--launcher", "slurm", "--resume", "--seeds", "0,1,2", *words_of(EPOCHS))
    assert again.returncode == 2
    assert f"is marked RUNNING and belongs to Slurm's job {submitted._jobs['last']}, which has not" in again.stderr

    def log_of(index: int) -> str:
        path = submitted._folder / f"tasks-{index}.log"
        return path.read_text() if path.is_file() else ""

    slurm.until(lambda: "epoch 1 of 6" in log_of(1), "the first epoch", 300)
    node = slurm.ask("squeue", "--noheader", f"--jobs={tasks[1]}", "--format=%N")
    slurm.kill_node(node)
    slurm.until(lambda: "epoch 1 of 6" in log_of(0), "the first epoch", 300)
    slurm.ask("sbatch", "-p", "high", "-N1", "-o", "/dev/null", "--wrap", "sleep 0.1")
    slurm.until(lambda: "The untouched model" in log_of(2), "the third training, in the place of the first", 300)
    slurm.kill_task(2)
    slurm.until(lambda: slurm.states(tasks[0])[tasks[0]] == "PENDING", "the preempted job", 300)
    slurm.begin_now(tasks[0])
    slurm.until(lambda: slurm.states(tasks[1])[tasks[1]] == "PENDING", "the lost node's job", 300)
    slurm.begin_now(tasks[1])  # on the other node

    assert submitted.wait() is False  # since a training failed
    slurm.start_node(node)
    assert submitted.get_status() == "FAILED"
    bench = place.client.get_run(submitted.run_id)
    assert (bench.info.status, bench.data.tags["kmed.kind"]) == ("FAILED", "bench")
    assert bench.data.tags["kmed.failed"] == "train-tiny-seed2"
    missing = (place.folder / "out" / f"bench-demo-{submitted.run_id[:8]}" / "report" / "missing.csv").read_text()
    assert "tiny, seed 2" in missing
    last = (submitted._folder / "last.log").read_text()
    lost = f"its job was lost: Slurm's job {tasks[2]} ended as FAILED"
    assert f"Failed train-tiny-seed2: {lost}" in last

    undisturbed = place.run(*words_of(EPOCHS))
    assert undisturbed.returncode == 0, undisturbed.stderr
    (other,) = [run.info.run_id for run in place.runs("bench") if run.info.run_id != submitted.run_id]
    ours, theirs = trains(place, submitted.run_id), trains(place, other)
    third = ours.pop("2")
    assert (third.info.status, third.data.tags["kmed.failure"]) == ("FAILED", lost)
    assert set(ours) == set(theirs) == {"0", "1"}
    for seed, run in ours.items():
        assert "was begun before" in log_of(int(seed))
        assert run.info.status == "FINISHED"
        assert figures(run) == figures(theirs[seed])
        one, another = (weights(place, bench_id, seed) for bench_id in (submitted.run_id, other))
        assert all(torch.equal(value, another[name]) for name, value in one.items())


def words_of(settings: dict[str, str]) -> list[str]:
    return [word for key, value in settings.items() for word in (f"--{key}", value)]

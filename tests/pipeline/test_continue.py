"""A benchmark that is killed and continued: what is done is not run again, and nothing stands in the store twice."""

import signal
import subprocess
import sys

import psutil
import pytest
import torch
from small_bench import PROGRAM, Place, check_whole, points

from kmed_bench.tracking import read as readback

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")


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

    (bench,) = place.runs("bench")
    again, other = place.runs("train")
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
    check_whole(place)


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
    tags = {"mlflow.project.entryPoint": "main"}  # as `mlflow run` sets it
    outer = place.client.create_run(bench.info.experiment_id, run_name="nervous-fox-12", tags=tags)
    done = place.run("--resume", MLFLOW_RUN_ID=outer.info.run_id)
    assert done.returncode == 0, done.stderr
    assert place.client.get_run(bench.info.run_id).info.status == "FINISHED"
    assert len(place.runs("bench")) == 2
    (outer,) = place.runs("continuation")
    assert (outer.info.status, outer.data.tags["kmed.continues"]) == ("FINISHED", bench.info.run_id)
    assert bench.info.run_id in outer.data.tags["mlflow.note.content"]
    assert outer.info.run_name == f"continue-{bench.info.run_name}"


@pytest.mark.slow
def test_slots_lose_a_process_and_then_the_parent_and_end_in_the_same_weights(place: Place) -> None:
    """Beside a benchmark of the same settings that one process trained, one seed after the other."""
    words = ["--slots", "2", "--threads", "1"]
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *place.words, *words],
        cwd=place.folder,
        env=place.env,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as parent:
        assert parent.stderr is not None
        seen, children = "", list[psutil.Process]()
        for line in parent.stderr:
            seen += line
            if "begins in slot 2" in line:
                found = psutil.Process(parent.pid).children()
                children = [one for one in found if "launch.worker" in " ".join(one.cmdline())]
                children[0].kill()
            if "[2] tiny, seed 1: epoch 1 of 2" in line or "[1] tiny, seed 1: epoch 1 of 2" in line:
                parent.kill()
        psutil.wait_procs(children, timeout=120)
    assert "failed: its process was killed (SIGKILL)" in seen
    assert parent.returncode == -signal.SIGKILL, seen
    assert not any(one.is_running() for one in children)

    done = place.run("--resume", *words)
    assert done.returncode == 0, done.stderr
    assert "The untouched model was scored before." in done.stderr
    before, after = (run.info.run_id for run in place.runs("bench")[1:])
    trains = {parent: {} for parent in (before, after)}
    for run in place.runs("train"):
        if (above := run.data.tags["mlflow.parentRunId"]) in trains:
            trains[above][run.data.tags["kmed.seed"]] = run
    folders = [place.folder / "out" / f"bench-demo-{run_id[:8]}" / "tiny" for run_id in (before, after)]
    for seed in ("0", "1"):
        one, other = (trains[run_id][seed] for run_id in (before, after))
        assert other.info.status == "FINISHED"
        figures = {
            name: value
            for name, value in one.data.metrics.items()
            if name.startswith(("train/", "valid/", "best/", "test/"))
        }
        assert {name: other.data.metrics[name] for name in figures} == figures
        weights = [torch.load(folder / f"seed{seed}" / "best.pt", weights_only=True) for folder in folders]
        assert all(torch.equal(weights[0]["model_state_dict"][k], v) for k, v in weights[1]["model_state_dict"].items())
    assert [run.info.status for run in place.runs("bench")] == ["FINISHED"] * 3

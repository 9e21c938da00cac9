"""A benchmark that is killed and continued: what is done is not run again, and nothing stands in the store twice."""

import signal

import pytest
from small_bench import Place, check_whole, points

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

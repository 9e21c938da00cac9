"""Jobs of a real Slurm: warned, preempted, cancelled, killed and lost, with a command that only waits."""

import os
import signal
import sys
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from slurm_cluster import Cluster

from kmed_bench.config import Config, load_config
from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import write_json
from kmed_bench.core.slurm_contract import JOBS
from kmed_bench.core.slurm_jobs import is_gone_job, job_name, job_states
from kmed_bench.pipeline.launch.mlflow_backend import SlurmRun
from kmed_bench.pipeline.launch.slurm import (
    Submitted,
    describe_submission,
    new_folder,
    read_status,
    stages_of,
    submit,
)
from kmed_bench.tracking.processes import end_abandoned
from kmed_bench.tracking.project_runs import give_call

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")]

# In the place of the command line: `wait` waits to be interrupted, the first time that its job runs.
LIGHT = """
import os, sys, time
from pathlib import Path
from kmed_bench.pipeline.launch.slurm_job import main
def command(words):
    what, file = words
    n_before = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    with Path(file).open("a") as out:
        print(n_before, os.getpid(), os.environ["SLURMD_NODENAME"], os.environ["OMP_NUM_THREADS"], file=out)
    if what == "always" or (what == "wait" and n_before == 0):
        try:
            time.sleep(300)
        except KeyboardInterrupt:
            return 130
    return int(what == "fail")
sys.exit(main(command))
"""


class Light:
    """Submits such commands, and reads what they wrote."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        self.python = folder / "python"  # is called as `python -P -c PROGRAM DOES FOLDER`
        self.python.write_text(f'#!/bin/sh\nexec {sys.executable} -c \'{LIGHT}\' "$4" "$5"\n')
        self.python.chmod(0o700)

    def config(self, **settings: object) -> Config:
        own = {"gpus": 0, "cpus": 1, "python": self.python, **settings}
        return load_config("demo", {f"slurm.{name}": str(value) for name, value in own.items()})

    def submit(self, *tasks: str, last: str = "end", **settings: object) -> Submitted:
        slurm = self.config(**settings).slurm
        words = [[task, str(self.folder / f"task{index}")] for index, task in enumerate(tasks)]
        last_words = [last, str(self.folder / "last")]
        submission = describe_submission("tune", words, slurm, addresses={}, last=last_words)
        stages = stages_of("tune", len(tasks), prepared=False)
        return submit(submission, stages, slurm, new_folder(self.folder))

    def starts(self, name: str) -> list[list[str]]:
        """Number of restarts, process, node and threads, for each start of a task."""
        path = self.folder / name
        return [line.split() for line in path.read_text().splitlines()] if path.is_file() else []

    def until_started(self, name: str, times: int = 1) -> list[str]:
        self.cluster.until(lambda: len(self.starts(name)) >= times, f"start {times} of {name}")
        return self.starts(name)[times - 1]

    def until_over(self, submitted: Submitted) -> int | None:
        self.cluster.until(lambda: read_status(submitted.folder) is not None, "the last job's status")
        return read_status(submitted.folder)

    def until_state(self, job: str, state: str) -> None:
        self.cluster.until(lambda: self.cluster.states(job).get(job) == state, f"job {job} to be {state}")


@pytest.fixture
def light(slurm: Cluster, tmp_path: Path, limited: Submitted) -> Light:
    return Light(slurm, tmp_path)


@pytest.fixture(scope="module")
def limited(slurm: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Submitted:
    """Begun first and looked at last: a job whose minute is over within half a minute of warning."""
    light = Light(slurm, tmp_path_factory.mktemp("limited"))
    return light.submit("wait", time_min=1, warning_s=60, partition="apart")


def test_ends_of_every_kind(light: Light) -> None:
    """Cancelled and killed jobs do not come back, and the last one comes after all."""
    submitted = light.submit("wait", "wait", "fail", "end")
    cancelled, killed, failed, done = (f"{submitted.jobs['tasks']}_{index}" for index in range(4))
    assert {light.until_started(f"task{index}")[2] for index in range(2)} == {"n1", "n2"}
    assert not is_gone_job(job_name("kmed", submitted.jobs["tasks"]))
    assert not is_gone_job(job_name("kmed", killed))
    light.cluster.ask("scancel", cancelled)
    os.kill(int(light.starts("task1")[0][1]), signal.SIGKILL)
    assert light.until_over(submitted) == 0
    light.until_state(submitted.jobs["last"], "COMPLETED")
    assert job_states([submitted.jobs["tasks"]]) == {
        cancelled: "CANCELLED",
        killed: "FAILED",
        failed: "FAILED",
        done: "COMPLETED",
    }
    assert [len(light.starts(name)) for name in ("task0", "task1", "task2", "task3", "last")] == [1] * 5
    assert light.starts("task0")[0][3] == "1"  # threads
    gone = (*submitted.jobs.values(), cancelled, killed, "999999")
    assert all(is_gone_job(job_name("kmed", job)) for job in gone)
    assert not is_gone_job(job_name("another", killed))
    assert is_gone_job("0123456789ab:1:2") is None


def test_a_preempted_job_makes_room_and_goes_on(light: Light) -> None:
    submitted = light.submit("wait")
    light.until_started("task0")
    urgent = light.cluster.ask("sbatch", "--parsable", "-p", "high", "-N2", "-o", "/dev/null", "--wrap", "sleep 0.1")
    light.until_state(urgent, "COMPLETED")
    job = f"{submitted.jobs['tasks']}_0"
    light.until_state(job, "PENDING")
    light.cluster.begin_now(job)
    assert light.until_over(submitted) == 0
    assert [start[0] for start in light.starts("task0")] == ["0", "1"]


def test_a_job_does_not_come_back_for_ever(light: Light) -> None:
    submitted = light.submit("always", requeues=0, last="fail")
    light.until_started("task0")
    job = f"{submitted.jobs['tasks']}_0"
    light.cluster.ask("scancel", "--batch", "--signal=USR2", job)
    assert light.until_over(submitted) == 1
    assert light.cluster.states(job) == {job: "FAILED"}
    assert "the most that slurm.requeues allows" in (submitted.folder / "tasks-0.log").read_text()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture
def run(store: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run that `mlflow run` would have made for jobs."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    return MlflowClient().create_run("0")


def test_mlflow_cancels_what_it_has_submitted(light: Light, run: Run) -> None:
    submitted = light.submit("always")
    ours = SlurmRun(run.info.run_id, submitted.folder)
    light.until_started("task0")
    assert ours.get_status() == "RUNNING"
    ours.cancel()
    assert set(light.cluster.states(*submitted.jobs.values()).values()) == {"CANCELLED"}
    assert (ours.get_status(), ours.wait()) == ("KILLED", False)
    assert MlflowClient().get_run(run.info.run_id).info.status == "KILLED"
    ours.cancel()  # again: no error, nothing changed
    ended = MlflowClient().get_run(run.info.run_id)
    assert ended.info.status == "KILLED"
    assert (ended.data.tags["kmed.kind"], ended.data.tags["kmed.ended"]) == ("call", "cancelled")
    assert "kmed.failure" not in ended.data.tags
    assert "Stopped, with the state saved." in (submitted.folder / "tasks-0.log").read_text()


def test_a_later_run_ends_that_of_jobs_cancelled_by_hand(light: Light, run: Run) -> None:
    """`scancel` ends all jobs, the one that would have ended the run included."""
    submitted = light.submit("always")
    give_call(run.info.run_id, SlurmRun(run.info.run_id, submitted.folder).owner)
    light.until_started("task0")
    client = MlflowClient()
    assert run.info.run_id not in end_abandoned(client)
    light.cluster.ask("scancel", *submitted.jobs.values())
    light.until_state(submitted.jobs["last"], "CANCELLED")
    assert end_abandoned(client) == [run.info.run_id]
    assert client.get_run(run.info.run_id).info.status == "KILLED"


def test_a_last_job_that_is_stopped_leaves_no_status(light: Light, run: Run) -> None:
    """Preempted, it would come back, and a run that is FAILED in between would not be waited for."""
    submitted = light.submit("end", last="always")
    light.until_started("last")
    light.cluster.ask("scancel", submitted.jobs["last"])
    light.cluster.until(lambda: "Stopped" in (submitted.folder / "last.log").read_text(), "the last job's end")
    light.until_state(submitted.jobs["last"], "CANCELLED")
    assert read_status(submitted.folder) is None
    assert SlurmRun(run.info.run_id, submitted.folder).get_status() == "KILLED"


def test_mlflow_sees_a_vanished_job_as_failed(light: Light, run: Run) -> None:
    jobs = {"tasks": "999998", "last": "999999"}  # as when the controller has forgotten them
    write_json(light.folder / "jobs.json", {**JOBS.head, "jobs": jobs})
    ours = SlurmRun(run.info.run_id, light.folder)
    assert (ours.get_status(), ours.wait()) == ("FAILED", False)
    ended = MlflowClient().get_run(run.info.run_id)
    assert ended.info.status == "FAILED"
    assert ended.data.tags["kmed.failure"] == "Slurm no longer knows its job 999999"
    (light.folder / "status").write_text("0\n")  # what a job has written counts, whatever Slurm remembers
    assert (ours.get_status(), ours.wait()) == ("FINISHED", True)


def test_a_refused_job_takes_the_others_with_it(light: Light, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KmedError, match=r"sbatch failed: .*nowhere"):
        light.submit("end", partition="nowhere")
    known = set(light.cluster.ask("squeue", "--noheader", "--states=all", "--format=%A").split())
    asked: list[str] = []

    from kmed_bench.pipeline.launch import slurm as module

    tell = module.tell_slurm

    def fails_later(*words: str, **how: object) -> str:
        asked.append(words[0])
        if asked.count("sbatch") == 2:
            raise KmedError("sbatch failed: the queue is full")
        return tell(*words, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "tell_slurm", fails_later)
    with pytest.raises(KmedError, match="the queue is full"):
        light.submit("end")
    (job,) = set(light.cluster.ask("squeue", "--noheader", "--states=all", "--format=%A").split()) - known
    light.until_state(f"{job}_0", "CANCELLED")
    assert light.starts("task0") == []


def test_an_interrupt_while_jobs_are_submitted_leaves_none(light: Light, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[str] = []

    from kmed_bench.pipeline.launch import slurm as module

    tell = module.tell_slurm

    def interrupted(*words: str, **how: object) -> str:
        answers.append(tell(*words, **how))  # type: ignore[arg-type]
        if len(answers) == 2:
            signal.raise_signal(signal.SIGINT)  # the job is there, and its id is not known yet
        return answers[-1]

    monkeypatch.setattr(module, "tell_slurm", interrupted)
    with pytest.raises(KeyboardInterrupt):
        light.submit("end")
    tasks, last = (answer.split()[-1] for answer in answers)
    assert light.cluster.states(tasks, last) == {f"{tasks}_0": "CANCELLED", last: "CANCELLED"}
    assert not list(light.folder.glob("slurm-*"))


def test_a_time_limit_puts_a_job_back_into_the_queue(light: Light, limited: Submitted) -> None:
    cluster, job = light.cluster, f"{limited.jobs['tasks']}_0"
    light.until_state(job, "PENDING")
    cluster.begin_now(job)
    assert light.until_over(limited) == 0
    assert [line.split()[0] for line in (limited.folder.parent / "task0").read_text().splitlines()] == ["0", "1"]
    assert "goes back into the queue" in (limited.folder / "tasks-0.log").read_text()

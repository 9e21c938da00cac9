"""`train` by two processes: the same exchanges in both, the result of one process, resumed bit for bit."""

import contextlib
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import forked
import pandas as pd
import pytest
import torch
from exported import write_thirds
from fault_table import fault
from mlflow.tracking import MlflowClient

from kmed_bench.pipeline.train_one import _how_to_begin
from kmed_bench.pipeline.training_record import TrainingRecord, write_training_record
from kmed_bench.training.parallel import Parallel
from kmed_bench.training.state import StateKeeper

pytestmark = pytest.mark.slow
WORKER = Path(__file__).resolve().parents[1] / "trainer_worker.py"


TORCHRUN = "from torch.distributed.run import main; main()"
OWN_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def split(tone_part, tmp_path_factory):
    return write_thirds(tone_part.iloc[:12], tmp_path_factory.mktemp("split"))


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    return {**os.environ, "OMP_NUM_THREADS": "1", "KMED_CACHE": str(tmp_path_factory.mktemp("cache"))}


@pytest.fixture(scope="module")
def launch(split, environment, tiny_checkpoint):
    def run(folder: Path, n_processes: int, stop: str = "") -> Path:
        port = free_port()
        launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={n_processes}"]
        launcher += ["--master-addr=127.0.0.1", f"--master-port={port}"]
        words = [str(WORKER), str(folder), str(split), str(tiny_checkpoint), stop]
        done = subprocess.run([*launcher, *words], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        calls = [json.loads((folder / f"calls{rank}.json").read_text()) for rank in range(n_processes)]
        assert all(own == calls[0] for own in calls)
        assert {"total", "gather", "main_first"} <= set(calls[0]) or n_processes == 1
        return folder

    return run


@pytest.fixture(scope="module")
def together(launch, tmp_path_factory):
    return launch(tmp_path_factory.mktemp("together"), 2)


def results(folder: Path) -> tuple[dict[str, torch.Tensor], pd.DataFrame]:
    seed = folder / "out" / "seed0"
    history = pd.read_csv(seed / "history.csv").drop(columns="time/epoch_s")
    return torch.load(seed / "last.pt", weights_only=True)["model_state_dict"], history


def test_two_processes_train_as_one(launch, together, tmp_path):
    alone = launch(tmp_path, 1)
    (ours, history), (theirs, expected) = results(together), results(alone)
    pd.testing.assert_frame_equal(history, expected, check_exact=False, rtol=1e-3, atol=1e-3)
    for name, value in ours.items():
        assert (value - theirs[name]).abs().max() < 1e-4, name


def test_one_run_is_logged_by_the_process_that_writes(together):
    client = MlflowClient(tracking_uri=f"sqlite:///{together / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (run,) = client.search_runs(experiments, "tags.`kmed.kind` = 'train'")
    openings = client.search_runs(experiments, "tags.`kmed.kind` = 'opening'")
    assert sorted(opening.data.tags["kmed.model"] for opening in openings) == ["base, seed 0", "base, untouched"]
    assert (run.info.status, run.data.tags["kmed.processes"]) == ("FINISHED", "2")
    steps = [point.step for point in client.get_metric_history(run.info.run_id, "valid/cer")]
    assert steps == [0, 1, 2, 3]
    lines = (together / "out" / "kmed-bench.log").read_text(encoding="utf-8").splitlines()
    assert sum("epoch 3 of 3" in line for line in lines) == 1


def test_a_request_to_one_process_stops_both_and_they_resume_bit_for_bit(launch, together, tmp_path):
    launch(tmp_path, 2, "stop")
    for rank in range(2):
        assert "interrupted at epoch 2, step 1 of 2" in (tmp_path / f"stopped{rank}").read_text()
    launch(tmp_path, 2)
    (ours, history), (theirs, expected) = results(tmp_path), results(together)
    pd.testing.assert_frame_equal(history, expected, check_exact=True)
    assert [name for name, value in ours.items() if not torch.equal(value, theirs[name])] == []


class Nodes:
    """Agents of torchrun on one machine, each for a node with one process, which it forks to spare the imports."""

    def __init__(self, words: list[str], folder: Path, environment: dict[str, str]) -> None:
        self.port, self.folder, self.environment = free_port(), folder, environment
        place = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{self.port}", "--rdzv-id", "kmed"]
        self.words = ["--nnodes", "2", "--nproc-per-node", "1", *place, "--max-restarts", "3"]
        self.words += ["--run-path", "--start-method", "fork", *words]

    @contextlib.contextmanager
    def start(self, number: int) -> Iterator[forked.Forked]:
        agent = forked.Forked(
            TORCHRUN, self.words, cwd=self.folder, env={**self.environment, **OWN_STORE, "NODE": str(number)}
        )
        try:
            yield agent
        finally:
            agent.kill()
            print(b"".join(agent.communicate(10)).decode()[-6_000:])

    def wait_for_host(self) -> None:
        """Wait until the first node has begun to host the rendezvous."""
        while True:
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", self.port), 5):
                return
            time.sleep(0.05)


@fault(
    "a process of a training over two machines is killed, then a whole machine",
    sees="warning: the training continues from its saved state",
    survives="the training, to the same bits, once another machine has joined",
)
def test_a_killed_process_and_a_lost_node_are_replaced(together, split, environment, tiny_checkpoint, tmp_path):
    nodes = Nodes([str(WORKER), str(tmp_path), str(split), str(tiny_checkpoint), "die"], tmp_path, environment)
    with nodes.start(1) as first:
        nodes.wait_for_host()
        with nodes.start(2) as second:
            second.wait(300)
            assert (second.returncode, (tmp_path / "lost").exists()) == (-9, True)
            with nodes.start(3) as third:
                assert (first.wait(300), third.wait(300)) == (0, 0)
    (ours, history), (theirs, expected) = results(tmp_path), results(together)
    pd.testing.assert_frame_equal(history, expected, check_exact=True)
    assert [name for name, value in ours.items() if not torch.equal(value, theirs[name])] == []


READ = """
import sys
from pathlib import Path
from kmed_bench.core.errors import KmedError
from kmed_bench.training import shared_state
from kmed_bench.training.parallel import Parallel
from kmed_bench.training.state import StateKeeper
shared_state._WITHIN_S, shared_state._PAUSE_S = float(sys.argv[1]), 0.05
parallel = Parallel.from_environment()
folder = Path(sys.argv[2 + parallel.rank])
try:
    print(shared_state.read_alike(parallel, lambda: StateKeeper(folder, "f", resume=True), folder).mark)
except KmedError as error:
    sys.exit(str(error))
"""


@pytest.fixture
def folders(tmp_path):
    """What two machines have in place of one folder: a state, and nothing."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    StateKeeper(tmp_path / "a", "f", resume=False).save({"position": {"epoch": 2, "step": 1}})
    return tmp_path / "a", tmp_path / "b"


def read_apart(folders: tuple[Path, Path], within_s: float, meanwhile: str = "") -> list[forked.Forked]:
    """Let two processes read a state, each from a folder of its own; return them when they have ended."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    readers = []
    for rank in ("0", "1"):
        env = {**os.environ, **place, "RANK": rank, "LOCAL_RANK": rank}
        words = [str(within_s), *map(str, folders)]
        readers.append(forked.Forked(READ, words, cwd=folders[0], env=env))
    if meanwhile:
        shutil.copy(folders[0] / meanwhile, folders[1] / meanwhile)
    for reader in readers:
        reader.wait(60)
    return readers


def test_a_state_that_a_machine_sees_late_is_waited_for(folders):
    first, second = read_apart(folders, 30, "state.pt")
    marks = [reader.communicate()[0].decode().split()[-1] for reader in (first, second)]
    assert marks == [StateKeeper(folders[0], "f", resume=True).mark] * 2
    assert len(marks[0]) == 16


@fault(
    "the machines of one training do not share its folder",
    sees="error, status 2, on each: which process finds another state, or none, and to share the folder",
    survives="the state",
)
def test_machines_without_a_common_state_do_not_begin(folders):
    for reader, folder in zip(read_apart(folders, 0.2), folders, strict=True):
        out, said = (stream.decode() for stream in reader.communicate())
        assert (reader.returncode, out) == (1, "")
        assert f"process 1 on {platform.node()} of 2 finds another training state in {folder} than process 0" in said
        assert "that all machines share" in said


@pytest.mark.parametrize(
    ("launch", "expected"), [("job-1", (True, True)), ("job-2", (False, False)), ("", (False, False))]
)
def test_only_the_job_that_began_a_training_continues_it_by_itself(launch, expected, tmp_path):
    record = TrainingRecord(fingerprint="f", epochs=3, run_id="r", launch="job-1")
    write_training_record(tmp_path, record)
    parallel = Parallel()
    parallel.launch = launch
    assert _how_to_begin(tmp_path, parallel, resume=False) == expected
    assert _how_to_begin(tmp_path, parallel, resume=True) == (expected[0], True)
    assert _how_to_begin(tmp_path / "empty", parallel, resume=False) == (False, False)

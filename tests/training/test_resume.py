"""A training that is killed and resumed ends exactly as one that is left alone."""

import random
import resource
import shutil
import signal
from pathlib import Path

import forked
import killed_training
import pandas as pd
import pytest
import torch
from mlflow.tracking import MlflowClient

from kmed_bench.config import Config, SplitConfig, adjust, load_config, training_digest
from kmed_bench.core.errors import KmedError
from kmed_bench.corpus.splitting.split import build_split, sort_manifest, write_split
from kmed_bench.tracking.store import open_store
from kmed_bench.training.state import STATE_NAME, StateKeeper

pytestmark = pytest.mark.slow

N_CHAINS, KILLS = 4, 4  # with the four kinds below: 20 kills
RESULTS = ("best.pt", "last.pt")


@pytest.fixture(scope="module")
def split(tone_part, tmp_path_factory):
    table = sort_manifest(tone_part)
    parts = {"train": table[:7], "valid": table[7:9], "test": table[9:12]}
    parts = {name: part.reset_index(drop=True) for name, part in parts.items()}
    folder = tmp_path_factory.mktemp("split")
    config = {**vars(SplitConfig(train=7, valid=2, test=3)), "by": (), "disjoint": ()}
    write_split(build_split(table, parts, config, {"method": "by hand"}), folder)
    return folder


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    """A migrated store: making one takes seconds, copying it none."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    open_store(load_config("sound", {"tracking.uri": f"sqlite:///{path}"}).tracking)
    return path


@pytest.fixture(scope="module")
def make(tmp_path_factory, empty_store, tiny_checkpoint, split):
    """Run a training in a new or given folder; return the folder and the exit code."""

    def run(folder=None, kill_at=None, kind="any", stop_with=None, **more):
        if folder is None:
            folder = tmp_path_factory.mktemp("training")
            shutil.copy(empty_store, folder / "mlflow.db")
        overrides = killed_training.settings(folder / "mlflow.db", **more)
        child = forked.server().Process(
            target=killed_training.train, args=(folder, split, tiny_checkpoint, overrides, kill_at, kind, stop_with)
        )
        child.start()
        child.join(300)
        return folder, child.exitcode

    return run


@pytest.fixture(scope="module")
def undisturbed(make):
    folder, code = make()
    assert code == 0
    return folder


def moments(folder: Path) -> list[str]:
    return (folder / "moments").read_text().splitlines()


def metrics(folder: Path) -> dict[tuple[str, int], float]:
    """Every logged point but times; a point that was logged twice fails here."""
    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    # A resumed training goes on in its own run. One killed before it wrote anything leaves an empty, ended run.
    assert {run.info.status for run in runs} <= {"FINISHED", "FAILED", "KILLED"}
    runs = [run for run in runs if run.data.metrics]
    assert [run.info.status for run in runs] == ["FINISHED"]
    points = [p for name in runs[0].data.metrics for p in client.get_metric_history(runs[0].info.run_id, name)]
    keys = [(p.key, p.step) for p in points]
    assert len(set(keys)) == len(keys)
    return {(p.key, p.step): p.value for p in points if not p.key.startswith(("time/", "speed/", "latency/"))}


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return torch.load(folder / "out" / "seed0" / name, weights_only=True)["model_state_dict"]


def assert_same(folder: Path, reference: Path) -> None:
    for name in RESULTS:
        ours, theirs = weights(folder, name), weights(reference, name)
        assert ours.keys() == theirs.keys()
        assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []
    history, expected = (
        pd.read_csv(f / "out" / "seed0" / "history.csv").drop(columns="time/epoch_s") for f in (folder, reference)
    )
    pd.testing.assert_frame_equal(history, expected, check_exact=True)
    assert metrics(folder) == metrics(reference)


def test_undisturbed_logs_each_epoch_once_and_leaves_no_state(undisturbed):
    logged = metrics(undisturbed)
    assert [step for (name, step) in sorted(logged) if name == "train/loss"] == [1, 2, 3]
    assert [step for (name, step) in sorted(logged) if name == "valid/cer"] == [0, 1, 2, 3]
    left = sorted(path.name for path in (undisturbed / "out" / "seed0").iterdir())
    assert STATE_NAME not in left
    assert {"best.pt", "last.pt", "history.csv", "training.json"} <= set(left)


@pytest.mark.parametrize("chain", range(N_CHAINS))
def test_killed_at_random_moments(make, undisturbed, chain):
    """Each chain is killed four times, wherever it then is, and resumed after each."""
    total = len(moments(undisturbed))
    draw = random.Random(chain)
    folder, killed = None, []
    for _ in range(KILLS):
        # A resumed training has fewer moments left: draw from the whole, and again if it ended before.
        folder, code = make(folder, kill_at=draw.randrange(1, total // 2))
        if code == 0:
            break
        assert code == -signal.SIGKILL
        killed.append((folder / "killed-in").read_text())
    assert killed
    folder, code = make(folder)
    assert code == 0, killed
    assert_same(folder, undisturbed)


@pytest.mark.parametrize("kind", ["step", "write", "validate", "track"])
def test_killed_in_each_kind_of_work(make, undisturbed, kind):
    """Beside the random moments: one kill in a step, a write, validation and MLflow's logging each."""
    wanted = killed_training.KINDS[kind]
    n = sum(name in wanted for name in moments(undisturbed))
    folder, code = make(kill_at=random.Random(kind).randrange(n // 4, n // 2), kind=kind)
    assert code == -signal.SIGKILL
    assert (folder / "killed-in").read_text().split()[-1] in wanted
    folder, code = make(folder)
    assert code == 0
    assert_same(folder, undisturbed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_to_stop_saves_the_step_and_says_how_to_go_on(make, undisturbed, number, capfd):
    folder, code = make(stop_with=number)
    assert code == 130
    assert (folder / "out" / "seed0" / STATE_NAME).is_file()
    assert "Continue with --resume" in (folder / "said").read_text()
    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    assert [run.info.status for run in client.search_runs(["1"])] == ["KILLED"]
    folder, code = make(folder)
    assert code == 0
    assert_same(folder, undisturbed)


def test_another_trainings_state_is_refused(make):
    folder, code = make(stop_with=signal.SIGTERM)
    assert code == 130
    _, code = make(folder, **{"train.lr": 2e-3})
    assert code == 2
    assert "other settings" in (folder / "said").read_text()


def test_a_damaged_state_gives_way_to_the_one_before(tmp_path):
    config = Config()
    keeper = StateKeeper(tmp_path, training_digest(config, seed=0), resume=False)
    for step in (1, 2):
        keeper.account["epochs"] = [step]
        keeper.save({"step": step})
    (tmp_path / f".{STATE_NAME}.0a1b2c_4999999_0a1b").write_bytes(b"half a state")
    assert StateKeeper(tmp_path, training_digest(config, seed=0), resume=True).load()["step"] == 2
    content = (tmp_path / STATE_NAME).read_bytes()
    for damaged in (content[: len(content) // 2], b""):
        (tmp_path / STATE_NAME).write_bytes(damaged)
        found = StateKeeper(tmp_path, training_digest(config, seed=0), resume=True)
        assert found.load()["step"] == 1
        assert found.account == {"epochs": [1]}
    keeper.remove()
    assert list(tmp_path.iterdir()) == []
    assert not StateKeeper(tmp_path, training_digest(config, seed=0), resume=True).resumed


def test_the_fingerprint_is_of_what_decides_the_result():
    config = Config()
    same = training_digest(config, seed=0)
    for name, value in {"micro_batches": 4, "checkpoint_steps": 7, "epochs": 3, "seeds": (1,)}.items():
        assert training_digest(adjust(config, {f"train.{name}": value}), seed=0) == same
    linear = adjust(config, {"train.schedule": "linear"})
    others = [
        training_digest(config, seed=1),
        training_digest(adjust(config, {"train.lr": 1e-5}), seed=0),
        training_digest(linear, seed=0),
        training_digest(adjust(linear, {"train.epochs": 3}), seed=0),
    ]
    assert len({same, *others}) == 5


def test_a_full_disk_leaves_the_last_good_state(tmp_path):
    keeper = StateKeeper(tmp_path, "f", resume=False)
    keeper.save({"step": 1})
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        with pytest.raises(KmedError, match=r"can't be written to .* make room there"):
            keeper.save({"step": 2, "weights": torch.zeros(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert StateKeeper(tmp_path, "f", resume=True).load()["step"] == 1

"""The same runs against a tracking server on loopback, artifacts through the server."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient
from random_whisper import save_random_whisper
from small_bench import Place, check_whole

from kmed_bench.config import load_config
from kmed_bench.tracking import read as readback
from kmed_bench.tracking import runs
from kmed_bench.tracking.registry import checkpoints
from kmed_bench.tracking.registry import models as registry
from kmed_bench.tracking.registry.fetch import fetch_checkpoint
from kmed_bench.tracking.registry.promotion import promote

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
]

SHA = "ab" * 32
START_WITHIN_S = 180.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The server's own folder."""
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[str]:
    """The address of a tracking server whose database and artifacts its clients can't see as files."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    places = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "files")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    environment |= {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    log = folder / "log.txt"
    with (
        log.open("wb") as stream,
        subprocess.Popen(
            [*command, *places],
            cwd=folder,
            env=environment,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process,
    ):
        try:
            address = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + START_WITHIN_S
            while not _answers(address):
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"the server did not start:\n{log.read_text(errors='replace')[-3_000:]}")
                time.sleep(0.5)
            yield address
        finally:
            os.killpg(process.pid, 15)


def _answers(address: str) -> bool:
    try:
        return requests.get(f"{address}/health", timeout=5).status_code == 200
    except requests.ConnectionError:
        return False


@pytest.mark.slow
def test_a_benchmark_through_a_server(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    config = load_config("demo", {"tracking.uri": server})
    checkpoint = save_random_whisper(tmp_path / "tiny.pt")
    scores = {"overall": {"cer": 0.3}, "elderly_gap": {"cer_gap": None, "below_minimum": True}}
    with runs.bench_run(config, code_version="x") as bench:
        runs.log_skipped(bench, {"small": "no weights"})
        with bench.child("split", "split") as split:
            split.log_json({"sha256": SHA, "counts": {"train": 3, "valid": 2, "test": 1}}, "split.json")
        with bench.child("train", "train-tiny-seed0", tags={"kmed.size": "tiny", "kmed.seed": "0"}) as train:
            train.log_dataset(sha256=SHA, counts={"train": 3, "valid": 2, "test": 1}, context="training")
            for epoch in range(3):
                train.log_epoch(epoch, {"valid/cer": 0.5 - 0.1 * epoch, "valid/loss": 2.0})
            train.log_epoch(1, {"valid/cer": 0.35})
            train.log_metrics({"test/cer": 0.3, "best/epoch": 2})
            info = registry.log_model(train, checkpoint, size="tiny", split_sha256=SHA, step=2)
            train.log_json(scores, "scores.json")
    record = readback.read_bench(server)
    assert (record.run_id, record.status) == (bench.run_id, "FINISHED")
    assert record.skipped == {"small": "no weights"}
    assert record.split == {"sha256": SHA, "counts": {"train": 3, "valid": 2, "test": 1}}
    (run,) = record.trains
    assert run.metrics["test/cer"] == 0.3
    curve = run.history[run.history["metric"] == "valid/cer"]
    assert dict(zip(curve["step"], curve["value"], strict=True)) == {0: 0.5, 1: 0.35, 2: 0.3}
    assert record.scores == {run.run_id: scores}
    assert promote(server, info.name, info.version)["promoted"] is False  # it has nothing to be judged by
    assert promote(server, info.name, info.version, force=True, reason="a trial")["promoted"] is True
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.pt"]

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    program = (
        "import mlflow, numpy as np, pandas as pd\n"
        "model = mlflow.pyfunc.load_model('models:/kmed-whisper-tiny@champion')\n"
        "row = pd.DataFrame({'samples': [np.zeros(8000)], 'rate_hz': [16000]})\n"
        "print(len(model.predict(row)['text'][0]) > 0)"
    )
    environment = os.environ | {"MLFLOW_TRACKING_URI": server}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=elsewhere, env=environment, capture_output=True, check=True, text=True
    )
    assert done.stdout.split() == ["True"]


def test_failures_end_their_runs_there_too(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    config = load_config("demo", {"tracking.uri": server})
    with (
        pytest.raises(KeyboardInterrupt),
        runs.bench_run(config, code_version="x") as bench,
        bench.child("train", "t") as child,
    ):
        raise KeyboardInterrupt
    client = MlflowClient(tracking_uri=server)
    assert [client.get_run(run.run_id).info.status for run in (bench, child)] == ["KILLED", "KILLED"]


@pytest.mark.slow
def test_the_whole_run_through_a_server(server: str, folder: Path, tmp_path: Path) -> None:
    before = set(folder.rglob("*.pt"))
    place = Place(tmp_path, server)
    killed = place.killed("_finish:2", "SIGKILL")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    done = place.run("--resume")
    assert done.returncode == 0, done.stderr
    assert f"MLflow UI: {server}" in done.stdout
    check_whole(place)
    assert not list(tmp_path.glob("ml*"))  # no store of its own
    best = sorted(checkpoints.sha256_of(path) for path in tmp_path.glob("out/bench-*/tiny/seed*/best.pt"))
    assert len(best) == 2
    assert sorted(map(checkpoints.sha256_of, set(folder.rglob("*.pt")) - before)) == best  # once each


@pytest.mark.slow
def test_checkpoints_through_a_server(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    config = load_config("demo", {"tracking.uri": server})
    with runs.bench_run(config, code_version="x") as bench, bench.child("train", "train-tiny-seed0") as train:
        train.log_dataset(sha256=SHA, counts={"train": 3}, context="training")
        for epoch, cer in enumerate((0.5, 0.4, 0.45), start=1):
            path = tmp_path / "best.pt"
            path.write_bytes(bytes([epoch]) * 1_000)
            train.log_epoch(epoch, {"valid/cer": cer})
            checkpoints.log_checkpoint(
                train, path, epoch=epoch, metrics={"valid/cer": cer}, split_sha256=SHA, best=epoch <= 2
            )
        first = checkpoints.search_checkpoints(train)[0]
        location = train.client.get_logged_model(first.model_id).artifact_location
        assert location.startswith("mlflow-artifacts:")
        assert [one.epoch for one in checkpoints.keep_checkpoints(train, 1)] == [1]
        kept = checkpoints.search_checkpoints(train)
        assert [(one.epoch, one.best, one.metrics) for one in kept] == [
            (2, True, {"valid/cer": 0.4}),
            (3, False, {"valid/cer": 0.45}),
        ]
        assert get_artifact_repository(location, tracking_uri=server).list_artifacts() == []
    assert (
        fetch_checkpoint(f"models:/{kept[0].model_id}", tmp_path / "fetched", tracking_uri=server).read_bytes()
        == b"\x02" * 1_000
    )

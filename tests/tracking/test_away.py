"""Many writers on one server or database, and stores that are away for a while in the middle of a training."""

import http.server
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import forked
import pandas as pd
import pytest
import requests
from exported import write_thirds
from fault_table import fault
from killed_training import settings
from mlflow.entities import Metric
from mlflow.tracking import MlflowClient
from postgres_server import Postgres, as_server_user, find_program, own_postgres
from tracking_server import TrackingServer, tracking_server

from kmed_bench.config import load_config
from kmed_bench.tracking import away, runs
from kmed_bench.tracking.away import AwayError, await_store
from kmed_bench.tracking.endings import read_end
from kmed_bench.tracking.processes import end_abandoned
from kmed_bench.tracking.registry.checkpoints import search_checkpoints
from kmed_bench.tracking.run import TrackedRun, reopen_run
from kmed_bench.tracking.store import open_store

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")]

WRITERS, EPOCHS, STEPS = 16, 4, 40
ONCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
"""By default MLflow itself tries for four minutes, in which nothing of ours has anything to do."""
WRITE = """
import sys
from mlflow.tracking import MlflowClient
from kmed_bench.tracking.run import start_run
uri, experiment, number, epochs, steps = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
run = start_run(MlflowClient(tracking_uri=uri), experiment, f"writer-{number}", {})
for epoch in range(epochs):
    run.log_epoch(epoch, {"valid/cer": number + epoch / 8, "valid/loss": -number})
run.log_points([("step/loss", step, number + step / 64, step) for step in range(1, steps + 1)])
run.settle()
run.client.set_terminated(run.run_id)
"""
TRAIN = """
import json, sys
from pathlib import Path
from kmed_bench.asr.model.weights import Weights
from kmed_bench.config import load_config
from kmed_bench.core.console import configure_logging
from kmed_bench.pipeline.train_one import train_from
configure_logging("info")
split, checkpoint, out = map(Path, sys.argv[1:4])
config = load_config("sound", json.loads(sys.argv[4]))
train_from(Weights("base", checkpoint, "path", "0" * 64), config, split, out, resume=True)
"""


@pytest.fixture(scope="module", params=["server", "postgresql"])
def store(request, tmp_path_factory) -> Iterator[TrackingServer | Postgres]:
    """A store on another machine, as far as its clients see, that can be stopped and started."""
    folder = tmp_path_factory.mktemp("store")
    if request.param == "server":
        empty = request.getfixturevalue("empty_database")
        shutil.copy(empty, folder / "mlflow.db")
        with tracking_server(folder, f"sqlite:///{folder}/mlflow.db") as server:
            yield server
        return
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    if find_program("initdb") is None or as_server_user() is None:
        pytest.skip("PostgreSQL's server is not installed")
    with own_postgres() as server:
        open_store(load_config("demo", {"tracking.uri": server.uri}).tracking)
        yield server


@pytest.fixture(scope="module")
def split(tone_part, tmp_path_factory):
    return write_thirds(tone_part, tmp_path_factory.mktemp("split"))


@pytest.mark.parametrize("store", ["postgresql"], indirect=True)
def test_a_server_whose_database_is_away_is_away(store, tmp_path):
    """Its /health says OK all the same."""
    with tracking_server(tmp_path, store.uri) as server:
        await_store(server.uri, 0)
        store.stop()
        with pytest.raises(AwayError):
            await_store(server.uri, 0)
        assert requests.get(f"{server.uri}/health", timeout=10).status_code == 200
        store.start()
        await_store(server.uri, 0)


class _Proxy(http.server.BaseHTTPRequestHandler):
    """Answers what a proxy does whose server is away."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_error(502)

    def log_message(self, *_: object) -> None:
        pass


def test_a_server_behind_a_proxy_is_away():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Proxy) as proxy:
        threading.Thread(target=proxy.serve_forever).start()
        try:
            with pytest.raises(AwayError):
                await_store(f"http://127.0.0.1:{proxy.server_address[1]}", 0)
        finally:
            proxy.shutdown()


def histories(client: MlflowClient, run_id: str) -> dict[str, list[Metric]]:
    return {name: client.get_metric_history(run_id, name) for name in client.get_run(run_id).data.metrics}


def test_sixteen_writers_lose_no_metric(store, tmp_path):
    client = MlflowClient(tracking_uri=store.uri)
    experiment = client.create_experiment("sixteen", artifact_location=str(tmp_path))
    environment = {**os.environ, "KMED_CACHE": str(tmp_path / "cache")}
    words = [[store.uri, experiment, str(number), str(EPOCHS), str(STEPS)] for number in range(WRITERS)]
    writers = [forked.Forked(WRITE, one, cwd=tmp_path, env=environment) for one in words]
    for writer in writers:
        assert writer.wait(120) == 0, writer.communicate()[1].decode()
    runs = client.search_runs([experiment])
    assert sorted(run.info.run_name for run in runs) == sorted(f"writer-{number}" for number in range(WRITERS))
    for run in runs:
        number = int(run.info.run_name.partition("-")[2])
        found = {
            name: sorted((point.step, point.value) for point in points)
            for name, points in histories(client, run.info.run_id).items()
        }
        assert found == {
            "valid/cer": [(epoch, number + epoch / 8) for epoch in range(EPOCHS)],
            "valid/loss": [(epoch, -number) for epoch in range(EPOCHS)],
            "step/loss": [(step, number + step / 64) for step in range(1, STEPS + 1)],
        }
    assert not list((tmp_path / "cache").glob("unsent/*"))


def wait_for(what: str, is_so, process: forked.Forked) -> None:
    deadline = time.monotonic() + 120
    while not is_so():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"{what} did not come: {process.communicate()[1].decode()}")
        time.sleep(0.05)


def read_history(out: Path) -> pd.DataFrame:
    path = out / "seed0" / "history.csv"
    return pd.read_csv(path, index_col="epoch") if path.exists() else pd.DataFrame()


def test_a_training_goes_on_while_its_store_is_away(store, split, tiny_checkpoint, tmp_path):
    """Stopped after the first epoch, and started when the last one is done: all is delivered, nothing twice."""
    out, unsent = tmp_path / "out", tmp_path / "cache" / "unsent"
    chosen = {"tracking.uri": store.uri, "tracking.experiment": "away", "tracking.step_interval": 1, "train.epochs": 4}
    config = settings(tmp_path / "none", **chosen, **{"train.keep_checkpoints": 1})
    environment = {**os.environ, "KMED_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1", **ONCE}
    words = [str(split), str(tiny_checkpoint), str(out), json.dumps(config)]
    training = forked.Forked(TRAIN, words, cwd=tmp_path, env=environment)
    wait_for("the first epoch", lambda: len(read_history(out)) >= 2, training)
    store.stop()
    wait_for("the last epoch", lambda: len(read_history(out)) == 5, training)
    (kept,) = unsent.iterdir()
    assert (kept.stat().st_mode & 0o777, unsent.stat().st_mode & 0o777) == (0o600, 0o700)
    store.start()
    assert training.wait(120) == 0, training.communicate()[1].decode()
    said = training.communicate()[1].decode()
    assert said.count("does not answer (") == 1, said
    assert "answers again and has all" in said
    assert not list(unsent.iterdir())

    client = MlflowClient(tracking_uri=store.uri)
    (run,) = client.search_runs([client.get_experiment_by_name("away").experiment_id], "tags.`kmed.kind` = 'train'")
    assert run.info.status == "FINISHED"
    points, history = histories(client, run.info.run_id), read_history(out)
    assert all(len({point.step for point in one}) == len(one) for one in points.values())
    for name, column in history.items():
        logged = pd.Series({point.step: point.value for point in points[name]}).sort_index()
        assert logged.tolist() == column.dropna().tolist(), name
    assert [point.step for point in points["step/loss"]] == list(range(1, 9))
    stored = search_checkpoints(TrackedRun(client, run.info.run_id))
    assert [(one.epoch, one.whole) for one in stored if one.best] == [(int(run.data.metrics["best/epoch"]), True)]
    assert len(stored) == 2


LEAVE = """
import os, sys, time
from mlflow.tracking import MlflowClient
from kmed_bench.tracking.run import start_run
run = start_run(MlflowClient(tracking_uri=sys.argv[1]), sys.argv[2], "left", {})
run.log_epoch(1, {"valid/cer": 0.5})
print(run.run_id, flush=True)
while not run.is_away:
    time.sleep(0.05)
    run.log_epoch(2, {"valid/cer": 0.25}) if os.path.exists("stopped") else None
run.log_points([("step/loss", step, step / 4, step) for step in (1, 2, 3)])
os.kill(os.getpid(), 9)
"""


@fault(
    "a process is killed while it keeps metrics for a tracking server or database that is away",
    sees="warning of the next run: how many metrics it delivered, and of which run",
    survives="each metric, once",
)
def test_what_a_killed_process_kept_is_delivered_by_the_next_run(store, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("KMED_CACHE", str(tmp_path / "cache"))
    client = MlflowClient(tracking_uri=store.uri)
    experiment = client.create_experiment("left", artifact_location=str(tmp_path))
    child = forked.Forked(LEAVE, [store.uri, experiment], cwd=tmp_path, env={**os.environ, **ONCE})
    wait_for("its run", lambda: client.search_runs([experiment], "metrics.`valid/cer` > 0"), child)
    store.stop()
    (tmp_path / "stopped").touch()
    assert child.wait(60) == -9
    store.start()
    (run_id,) = end_abandoned(client)
    assert child.communicate()[0].decode().strip() == run_id
    found = {
        name: [(point.step, point.value) for point in points] for name, points in histories(client, run_id).items()
    }
    assert found == {"valid/cer": [(1, 0.5), (2, 0.25)], "step/loss": [(1, 0.25), (2, 0.5), (3, 0.75)]}
    assert client.get_run(run_id).info.status == "KILLED"
    assert f"4 metrics of run {run_id}, which its store could not take, are delivered." in caplog.messages
    assert not list((tmp_path / "cache" / "unsent").iterdir())


@fault(
    "a tracking server or database stays away when a run is to end",
    sees="error, status 2: the store without its password, how long it has not answered, to start it and use --resume",
    survives="all results; the run's end and metrics, in the cache folder, until the run is continued",
)
def test_a_store_that_stays_away_ends_a_run_that_can_be_continued(store, tmp_path, monkeypatch, caplog):
    for name, value in {**ONCE, "KMED_CACHE": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(away, "_AGAIN_S", 0.1)
    config = load_config("demo", {"tracking.uri": store.uri, "tracking.experiment": "stays-away"})
    made = []

    def work() -> None:
        with runs.standalone_run(config, kind="stage", name="s", code_version="x") as run:
            made.append(run)
            run.patience_s = 0.3
            run.log_epoch(1, {"valid/cer": 0.5})
            store.stop()
            run.log_epoch(2, {"valid/cer": 0.25})
            run.set_tags({"late": "x"})

    with pytest.raises(AwayError) as said:
        work()
    (run,) = made
    text = str(said.value)
    assert re.fullmatch(
        r"The tracking store \S+127\.0\.0\.1\S+ has not answered for 0 s, and this can't end without it\. .*/unsent/"
        rf"{run.run_id}\.jsonl; start the store, and give the same command with --resume\.",
        text,
    )
    assert "secret" not in text
    assert "secret" not in caplog.text
    assert (read_end(run.run_id) or ("",))[0] == "FAILED"
    for thread in threading.enumerate():
        if thread.name == "outbox":
            thread.join(15)
            assert not thread.is_alive()
    store.start()
    again = reopen_run(run.client, run.run_id, {})
    again.log_epoch(2, {"valid/cer": 0.25})
    again.log_epoch(3, {"valid/cer": 0.75})
    again.settle()
    points = again.client.get_metric_history(run.run_id, "valid/cer")
    assert [(point.step, point.value) for point in points] == [(1, 0.5), (2, 0.25), (3, 0.75)]

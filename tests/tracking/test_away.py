"""Many writers on one server or database, and stores that are away for a while in the middle of a training."""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import forked
import pandas as pd
import pytest
from exported import write_thirds
from killed_training import settings
from mlflow.entities import Metric
from mlflow.tracking import MlflowClient
from postgres_server import Postgres, as_server_user, find_program, own_postgres
from tracking_server import TrackingServer, tracking_server

from kmed_bench.config import load_config
from kmed_bench.tracking.registry.checkpoints import search_checkpoints
from kmed_bench.tracking.run import TrackedRun
from kmed_bench.tracking.store import open_store

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")]

WRITERS, EPOCHS, STEPS = 16, 6, 40
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
    assert not list((tmp_path / "cache").glob("unsent/*"))  # none of them was told that the store is away

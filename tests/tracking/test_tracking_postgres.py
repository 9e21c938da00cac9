"""The same runs with PostgreSQL as the backend store, where its server and driver are installed."""

import signal
from pathlib import Path

import pytest
from postgres_server import database  # noqa: F401 (a fixture)
from small_bench import Place, check_whole

from kmed_bench.config import load_config
from kmed_bench.core.errors import KmedError
from kmed_bench.tracking import read as readback
from kmed_bench.tracking import runs
from kmed_bench.tracking.registry.promotion import promote

pytest.importorskip("psycopg", reason="psycopg is not installed")

pytestmark = pytest.mark.slow


def test_a_benchmark_in_postgresql(
    database: str,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    config = load_config("demo", {"tracking.uri": database})
    with runs.bench_run(config, code_version="x") as bench:
        assert capfd.readouterr().err == ""
        with bench.child("train", "t", tags={"kmed.size": "base", "kmed.seed": "1"}) as train:
            train.log_dataset(sha256="ab" * 32, counts={"train": 3}, context="training")
            for epoch, cer in ((0, 0.5), (1, 0.4), (1, 0.3)):
                train.log_epoch(epoch, {"valid/cer": cer})
            train.log_json({"overall": {"cer": 0.3}}, "scores.json")
    record = readback.read_bench(database)
    (run,) = record.trains
    assert (record.run_id, run.run_id, run.seed) == (bench.run_id, train.run_id, 1)
    assert [tuple(row) for row in run.history.itertuples(index=False)] == [("valid/cer", 0, 0.5), ("valid/cer", 1, 0.3)]
    assert record.scores == {run.run_id: {"overall": {"cer": 0.3}}}
    assert "secret" not in str(record.params)
    with pytest.raises(KmedError, match="not in the registry"):
        promote(database, "kmed-whisper-base", 1)


def test_the_whole_run_in_postgresql(database: str, tmp_path: Path) -> None:  # noqa: F811
    place = Place(tmp_path, database)
    killed = place.killed("_finish:2", "SIGKILL")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    done = place.run("--resume")
    assert done.returncode == 0, done.stderr
    check_whole(place)
    assert "secret" not in done.stderr

"""Deleted runs of a benchmark: named and counted wherever its figures are shown without them."""

import logging
import shutil
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from small_store import SmallStore, shared_store

from kmed_bench.core.errors import KmedError
from kmed_bench.report.page import find_notices
from kmed_bench.report.tables import missing_table
from kmed_bench.tracking.original.log_export import export_logs
from kmed_bench.tracking.read import read_bench
from kmed_bench.tracking.series import SERIES_TAG

pytestmark = pytest.mark.slow


@pytest.fixture
def store(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> SmallStore:
    """A copy of the shared benchmark, to delete in."""
    shared = shared_store(tmp_path_factory.getbasetemp())
    original = Path(shared.uri.removeprefix("sqlite:///"))
    shutil.copy(original, tmp_path / "mlflow.db")  # its artifacts are read where they are
    return SmallStore(f"sqlite:///{tmp_path / 'mlflow.db'}", shared.run_id, shared.out)


def train(client: MlflowClient, store: SmallStore, name: str) -> Run:
    experiment = client.get_run(store.run_id).info.experiment_id
    (run,) = client.search_runs([experiment], f"attributes.run_name = '{name}'")
    return run


@pytest.mark.parametrize("series", [False, True])
def test_a_deleted_training_is_named_and_counted(store: SmallStore, tmp_path: Path, series: bool) -> None:
    client = MlflowClient(tracking_uri=store.uri)
    run = train(client, store, "tiny-s1")
    assert dict(read_bench(store.uri).deleted) == {}
    if series:  # then it is found twice, as a child and by the series
        for run_id in (store.run_id, run.info.run_id):
            client.set_tag(run_id, SERIES_TAG, "x")
    client.delete_run(run.info.run_id)
    record = read_bench(store.uri)
    name = f"tiny-s1 ({run.info.run_id[:8]})"
    assert list(record.deleted) == [name]
    assert record.deleted[name].endswith(f"`mlflow runs restore --run-id {run.info.run_id}` brings it back")
    assert run.info.run_id not in {kept.run_id for kept in record.trains}
    (notice,) = (text for text in find_notices(record) if "deleted" in text)
    assert notice == f"1 runs of this benchmark were deleted in the store: {name}; see “Left out”."
    table = missing_table(record).set_index("what")
    assert table.loc[f"run {name}", "reason"] == record.deleted[name]
    assert export_logs(record, tmp_path)[1][name] == record.deleted[name]


def test_a_deleted_benchmark_is_passed_over_aloud_and_shown_by_its_id_with_a_notice(
    store: SmallStore, caplog: pytest.LogCaptureFixture
) -> None:
    client = MlflowClient(tracking_uri=store.uri)
    later = client.create_run(client.get_run(store.run_id).info.experiment_id, tags={"kmed.kind": "bench"})
    client.delete_run(later.info.run_id)
    with caplog.at_level(logging.WARNING):
        assert read_bench(store.uri).run_id == store.run_id
    assert f"Passed over: 1 later benchmarks that were deleted, {later.info.run_name}" in caplog.text
    client.delete_run(store.run_id)
    named = read_bench(store.uri, store.run_id)
    assert list(named.deleted) == [f"{named.name} ({store.run_id[:8]})"]
    with pytest.raises(KmedError, match=r"has no benchmark but 2 deleted, .* brings it back"):
        read_bench(store.uri)

"""Checkpoints in the store: linked to their epoch, once each, superseded ones gone with their files."""

import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from random_whisper import save_random_whisper

from kmed_bench.config import Config, load_config
from kmed_bench.core.errors import KmedError
from kmed_bench.pipeline.kept_checkpoints import store_weights
from kmed_bench.tracking import runs
from kmed_bench.tracking.registry import checkpoints
from kmed_bench.tracking.registry.fetch import fetch_checkpoint
from kmed_bench.tracking.registry.models import log_model
from kmed_bench.tracking.run import TrackedRun
from kmed_bench.training.epochs import ScoredEpoch

SHA = "ab" * 32


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("store")
    return load_config("demo", {"tracking.uri": f"sqlite:///{folder}/mlflow.db"})


@pytest.fixture
def child(config: Config, monkeypatch: pytest.MonkeyPatch) -> Iterator[TrackedRun]:
    """A train run, linked to its data."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    with runs.bench_run(config, code_version="x") as bench, bench.child("train", "train-tiny-seed0") as run:
        run.log_dataset(sha256=SHA, counts={"train": 3, "valid": 2, "test": 1}, context="training")
        yield run


def log(run: TrackedRun, path: Path, epoch: int, cer: float, *, best: bool = False, content: bytes = b"w") -> str:
    """Write an epoch's file as a training does (never in place), and log it with its metrics."""
    path.unlink(missing_ok=True)
    path.write_bytes(content * 100 + bytes([epoch]))
    figures = {"valid/cer": cer, "valid/loss": 2.0}
    run.log_epoch(epoch, figures)
    return checkpoints.log_checkpoint(run, path, epoch=epoch, metrics=figures, split_sha256=SHA, best=best)


def files_of(config: Config) -> set[Path]:
    assert config.tracking.uri is not None
    return set(Path(config.tracking.uri.removeprefix("sqlite:///")).parent.glob("mlruns/*/models/*/artifacts/*"))


def test_a_checkpoint_belongs_to_its_epoch_and_data(child: TrackedRun, tmp_path: Path) -> None:
    model_id = log(child, tmp_path / "best.pt", 2, 0.25, best=True)
    model = child.client.get_logged_model(model_id)
    assert (model.name, model.status, model.source_run_id) == ("train-tiny-seed0-epoch02", "READY", child.run_id)
    points = {point.key: point for point in model.metrics}
    assert {(key, point.step, point.value) for key, point in points.items()} == {
        ("valid/cer", 2, 0.25),
        ("valid/loss", 2, 2.0),
    }
    assert points["valid/cer"].dataset_name == "AI Hub 208"
    assert points["valid/cer"].dataset_digest == SHA[:36]
    assert len(child.client.get_metric_history(child.run_id, "valid/cer")) == 1
    (found,) = checkpoints.search_checkpoints(child)
    assert (found.epoch, found.best, found.whole, found.n_bytes) == (2, True, True, 101)
    assert found.sha256 == checkpoints.sha256_of(tmp_path / "best.pt")


def test_no_weights_are_stored_under_another_epoch(child: TrackedRun, tmp_path: Path, config: Config) -> None:
    """A training that is continued with a larger train.keep_checkpoints has no files of the epochs before."""
    for name in ("best.pt", "epoch03.pt"):
        (tmp_path / name).write_bytes(name.encode())
    epochs = [
        ScoredEpoch(
            epoch=number,
            train_loss=1.0,
            train_cer_teacher_forced=0.5,
            valid_loss=1.0,
            epoch_s=1.0,
            valid_cer=number / 8,
            valid_wer=0.5,
            decode_s=0.1,
        )
        for number in (1, 2, 3)
    ]
    keeping = dataclasses.replace(config, train=dataclasses.replace(config.train, keep_checkpoints=2))
    child.behind = True
    store_weights(epochs, child, tmp_path, keeping, SHA)
    found = {one.epoch: (one.sha256, one.best) for one in checkpoints.search_checkpoints(child)}
    assert found == {
        1: (checkpoints.sha256_of(tmp_path / "best.pt"), True),
        3: (checkpoints.sha256_of(tmp_path / "epoch03.pt"), False),
    }


def test_logging_again_finds_the_first(child: TrackedRun, tmp_path: Path, config: Config) -> None:
    first = log(child, tmp_path / "best.pt", 1, 0.5, best=True)
    before = files_of(config)
    again = checkpoints.log_checkpoint(
        child, tmp_path / "best.pt", epoch=1, metrics={"valid/cer": 0.5}, split_sha256=SHA, best=True
    )
    assert again == first
    assert files_of(config) == before
    other = log(child, tmp_path / "best.pt", 1, 0.5, content=b"x")
    assert other != first
    assert [one.model_id for one in checkpoints.search_checkpoints(child)] == [other]
    assert len(files_of(config)) == len(before)


def test_what_a_killed_process_left_is_written_again(
    child: TrackedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(MlflowClient, "finalize_logged_model", gone)
        with pytest.raises(KeyboardInterrupt):
            log(child, tmp_path / "best.pt", 1, 0.5, best=True)
    (half,) = checkpoints.search_checkpoints(child)
    assert not half.whole
    whole = checkpoints.log_checkpoint(
        child, tmp_path / "best.pt", epoch=1, metrics={"valid/cer": 0.5}, split_sha256=SHA, best=True
    )
    assert [(one.model_id, one.whole) for one in checkpoints.search_checkpoints(child)] == [(whole, True)]


@pytest.mark.slow
@pytest.mark.parametrize(("keep", "left"), [(0, [2]), (1, [2, 5]), (2, [2, 4, 5]), (9, [1, 2, 3, 4, 5])])
def test_superseded_ones_go_with_their_files(
    child: TrackedRun, tmp_path: Path, config: Config, keep: int, left: list[int]
) -> None:
    before = files_of(config)
    path = tmp_path / "best.pt"
    bests = {1: 0.5, 2: 0.3}
    for epoch in range(1, 6):
        log(child, path, epoch, bests.get(epoch, 0.4), best=epoch in bests)
    deleted = checkpoints.keep_checkpoints(child, keep)
    kept = checkpoints.search_checkpoints(child)
    assert [one.epoch for one in kept] == left
    assert [one.epoch for one in kept if one.best] == [2]
    assert sorted(one.epoch for one in deleted) == sorted(set(range(1, 6)) - set(left))
    assert sum(one.n_bytes for one in deleted) == 101 * (5 - len(left))
    assert len(files_of(config) - before) == len(left)
    assert checkpoints.keep_checkpoints(child, keep) == []


def test_the_file_takes_no_second_place_on_the_same_disk(child: TrackedRun, tmp_path: Path, config: Config) -> None:
    before = files_of(config)
    log(child, tmp_path / "best.pt", 1, 0.5, best=True)
    (stored,) = files_of(config) - before
    assert stored.samefile(tmp_path / "best.pt")
    kept = stored.read_bytes()
    log(child, tmp_path / "best.pt", 2, 0.4, best=True)
    assert stored.read_bytes() == kept
    assert not stored.samefile(tmp_path / "best.pt")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")
def test_a_registered_checkpoint_stands_once(
    child: TrackedRun, tmp_path: Path, config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    path = save_random_whisper(tmp_path / "best.pt")
    child.log_epoch(3, {"valid/cer": 0.4, "valid/loss": 2.0})
    logged = checkpoints.log_checkpoint(child, path, epoch=3, metrics={"valid/cer": 0.4}, split_sha256=SHA, best=True)
    other = log(child, tmp_path / "other.pt", 2, 0.5)
    before = stored_copies(config, path)
    info = log_model(child, path, size="tiny", split_sha256=SHA, step=3)
    assert stored_copies(config, path) == before + 1
    for _ in range(2):  # a continued training does it again
        checkpoints.replace_by_registered(child, info.model_id)
        assert stored_copies(config, path) == 1
        assert [one.model_id for one in checkpoints.search_checkpoints(child)] == [other]
    model = child.client.get_logged_model(info.model_id)
    assert model.tags["kmed.epoch"] == "3"
    assert ("valid/cer", 3, 0.4) in {(point.key, point.step, point.value) for point in model.metrics}
    assert logged != info.model_id
    fetched = fetch_checkpoint(info.uri, tmp_path / "fetched", tracking_uri=child.uri)
    assert checkpoints.sha256_of(fetched) == checkpoints.sha256_of(path)
    assert "not recommended" not in caplog.text
    for key, value in {"kmed.recommended": "false", "kmed.verdict_text": "tiny, seed 0: worse."}.items():
        child.client.set_model_version_tag(info.name, info.version, key, value)
    child.client.set_registered_model_alias(info.name, "chosen", info.version)
    for uri in (info.uri, f"models:/{info.name}@chosen"):
        caplog.clear()
        fetch_checkpoint(uri, tmp_path / "again", tracking_uri=child.uri)
        advice = (
            f"{uri} is version {info.version}, which is not recommended over the untouched model: tiny, seed 0: worse."
        )
        assert caplog.messages == [advice]


def stored_copies(config: Config, path: Path) -> int:
    """Number of files in the store with a checkpoint's content."""
    assert config.tracking.uri is not None
    store = Path(config.tracking.uri.removeprefix("sqlite:///")).parent / "mlruns"
    return sum(checkpoints.sha256_of(path) == checkpoints.sha256_of(file) for file in store.rglob("*.pt"))


def test_a_store_that_keeps_files_is_named(
    child: TrackedRun, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no right to delete")

    log(child, tmp_path / "best.pt", 1, 0.5)
    monkeypatch.setattr("mlflow.store.artifact.local_artifact_repo.LocalArtifactRepository.delete_artifacts", refuse)
    with caplog.at_level(logging.WARNING):
        assert [one.epoch for one in checkpoints.keep_checkpoints(child, 0)] == [1]
    assert "train-tiny-seed0-epoch01 stay in the store: no right to delete" in caplog.text


def test_a_checkpoint_is_fetched_by_its_id(child: TrackedRun, tmp_path: Path) -> None:
    path = save_random_whisper(tmp_path / "best.pt")
    model_id = checkpoints.log_checkpoint(child, path, epoch=1, metrics={}, split_sha256=SHA, best=True)
    fetched = fetch_checkpoint(f"models:/{model_id}", tmp_path / "fetched", tracking_uri=child.uri)
    assert checkpoints.sha256_of(fetched) == checkpoints.sha256_of(path)


def test_a_missing_file_is_named(child: TrackedRun, tmp_path: Path) -> None:
    with pytest.raises(KmedError, match="of epoch 3 does not exist"):
        checkpoints.log_checkpoint(child, tmp_path / "x.pt", epoch=3, metrics={}, split_sha256=SHA, best=False)

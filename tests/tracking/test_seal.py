"""The seal on a test part: plans kept before training, openings counted in any experiment, by any process."""

import multiprocessing
import shutil
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from kmed_bench.config import Config, Decides, adjust, load_config
from kmed_bench.core.records import hash_settings
from kmed_bench.core.run_contracts import PLAN, Plan
from kmed_bench.pipeline.plan import SCORED, TRAINED, decisive_settings, make_plan
from kmed_bench.report.seal_tables import count_plans, plan_changes_table
from kmed_bench.tracking import runs, store
from kmed_bench.tracking.openings import read_openings
from kmed_bench.tracking.read import read_bench
from kmed_bench.tracking.seal import Seal, seal_plan

SHA = "ab" * 32


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    store._make_database(path)
    return path


@pytest.fixture
def config(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    return load_config("demo", {"tracking.uri": f"sqlite:///{shutil.copy(empty_database, tmp_path)}"})


def uri_of(config: Config) -> str:
    assert config.tracking.uri is not None
    return config.tracking.uri


def plan_of(config: Config, sha256: str = SHA) -> Plan:
    return make_plan(config, Decides.DATA | TRAINED, {"split.sha256": sha256}, {})


def bench(config: Config, folder: Path, *models: str, run_id: str | None = None) -> str:
    """Seal a plan and open the test part with these models, as a benchmark does; return its run's id."""
    tags = {"kmed.split_sha256": SHA}
    with runs.bench_run(config, code_version="1", tags=tags, run_id=run_id) as run:
        seal = seal_plan(run, plan_of(config), folder, command="run", begun=run_id is not None)
        seal.record_opening("tiny, untouched", untouched=True, identity="w")
        for model in models:
            seal.record_opening(model, identity=model)
    return run.run_id


def test_a_plan_has_all_that_decides_and_nothing_of_where(config: Config) -> None:
    config = adjust(config, {"data.source": "/home/someone/patients/208"})
    plan = plan_of(config)
    settings = plan["settings"]
    assert plan["sha256"] == hash_settings(settings)
    assert settings["data.source"] == "208"
    assert settings["train.lr"] == "2e-05"
    assert settings["split.sha256"] == SHA
    assert settings["metric"] == "cer"
    assert settings["gate.max_elderly_gap"] == "0.05"
    assert settings["split.disjoint"] == "speaker,sentence"
    assert {"normaliser_version", "eval.leak_clips", "data.transcript_side"} <= settings.keys()
    assert not {"tracking.uri", "model.weights", "train.micro_batches", "profile"} & settings.keys()
    moved = adjust(config, {"data.source": "/mnt/208", "train.micro_batches": 2, "tracking.experiment": "x"})
    assert plan_of(moved)["sha256"] == plan["sha256"]
    assert plan_of(adjust(config, {"eval.beam_size": 5}))["sha256"] != plan["sha256"]
    assert plan_of(config, "cd" * 32)["sha256"] != plan["sha256"]


@pytest.mark.slow
def test_the_plan_is_a_file_an_artifact_and_tags(config: Config, tmp_path: Path) -> None:
    run_id = bench(config, tmp_path / "results", "tiny, seed 0")
    plan = PLAN.read(tmp_path / "results" / "plan.json")
    run = MlflowClient(uri_of(config)).get_run(run_id)
    assert run.data.tags["kmed.plan_sha256"] == plan["sha256"] == plan_of(config)["sha256"]
    assert run.data.tags["kmed.plan_sealed_at"] == plan["sealed_at"]
    assert "kmed.plan_late" not in run.data.tags
    assert store.read_artifact(MlflowClient(uri_of(config)), run, "plan.json", PLAN) == plan


def test_a_resume_keeps_its_plan_and_is_no_new_opening(config: Config, tmp_path: Path) -> None:
    run_id = bench(config, tmp_path, "tiny, seed 0")
    before, sealed = read_openings(uri_of(config), SHA), PLAN.read(tmp_path / "plan.json")
    (tmp_path / "plan.json").unlink()
    bench(config, tmp_path, "tiny, seed 0", run_id=run_id)
    assert PLAN.read(tmp_path / "plan.json") == sealed
    assert read_openings(uri_of(config), SHA) == before
    assert [(o.model, o.untouched) for o in before] == [("tiny, untouched", True), ("tiny, seed 0", False)]
    assert not any(opening.contradicts_plan for opening in before)
    bench(config, tmp_path, "tiny, seed 1", run_id=run_id)
    assert [o.model for o in read_openings(uri_of(config), SHA)] == ["tiny, untouched", "tiny, seed 0", "tiny, seed 1"]


def test_benchmarks_of_all_experiments_count_and_a_changed_plan_says_what_changed(
    config: Config, tmp_path: Path
) -> None:
    bench(config, tmp_path / "a", "tiny, seed 0")
    other = adjust(config, {"tracking.experiment": "another", "train.lr": 1e-4, "eval.beam_size": 2})
    run_id = bench(other, tmp_path / "b", "tiny, seed 0")
    openings = read_openings(uri_of(config), SHA)
    assert len(openings) == 4
    assert count_plans(openings) == 2
    changed = plan_changes_table(openings)
    assert changed[["setting", "before", "after"]].to_numpy().tolist() == [
        ["eval.beam_size", "1", "2"],
        ["train.lr", "2e-05", "0.0001"],
    ]
    assert set(changed["plan"]) == {plan_of(other)["sha256"][:12]}
    assert read_bench(uri_of(config), run_id).openings == openings
    assert read_openings(uri_of(config), "cd" * 32) == ()


def test_a_plan_that_changes_in_a_continued_run_is_replaced_and_named(
    config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = bench(config, tmp_path)
    bench(adjust(config, {"eval.beam_size": 2}), tmp_path, run_id=run_id)
    tags = MlflowClient(uri_of(config)).get_run(run_id).data.tags
    assert tags["kmed.plan_replaced"] == plan_of(config)["sha256"]
    assert tags["kmed.plan_sha256"] == plan_of(adjust(config, {"eval.beam_size": 2}))["sha256"]
    assert "has changed: eval.beam_size 1 → 2." in caplog.text
    assert count_plans(read_openings(uri_of(config), SHA)) == 2


def test_a_run_that_trained_without_a_plan_is_sealed_late(config: Config, tmp_path: Path) -> None:
    with runs.bench_run(config, code_version="1") as run:
        seal_plan(run, plan_of(config), tmp_path, command="run", begun=True)
    assert MlflowClient(uri_of(config)).get_run(run.run_id).data.tags["kmed.plan_late"] == "true"


def test_evaluations_count_each_time_and_have_no_plan(config: Config, tmp_path: Path) -> None:
    bench(config, tmp_path)
    changed = adjust(config, {"eval.beam_size": 3})
    seal = Seal(
        uri_of(config),
        command="evaluate",
        split_sha256=SHA,
        settings=decisive_settings(changed, SCORED, {"split.sha256": SHA}),
    )
    seal.record_opening("best.pt")
    seal.record_opening("best.pt")
    openings = read_openings(uri_of(config), SHA)
    assert [o.command for o in openings] == ["run", "evaluate", "evaluate"]
    assert [bool(o.plan_sha256) for o in openings] == [True, False, False]
    rows = plan_changes_table(openings)
    assert set(rows["plan"]) == {"none"}
    assert rows[["setting", "before", "after"]].drop_duplicates().to_numpy().tolist() == [["eval.beam_size", "1", "3"]]


def test_deleted_records_count_and_altered_ones_are_found(config: Config, tmp_path: Path) -> None:
    bench(config, tmp_path, "tiny, seed 0")
    client = MlflowClient(uri_of(config))
    first, second = read_openings(uri_of(config), SHA)
    client.delete_run(first.run_id)
    client.set_tag(second.run_id, "kmed.plan_sha256", "f" * 64)
    openings = read_openings(uri_of(config), SHA)
    assert [o.run_id for o in openings] == [first.run_id, second.run_id]
    assert [o.contradicts_plan for o in openings] == [False, True]


def test_trainings_of_earlier_releases_count_without_a_plan(config: Config, tmp_path: Path) -> None:
    with runs.bench_run(config, code_version="0") as older:
        tags = {"kmed.split_sha256": SHA, "kmed.size": "base", "kmed.seed": "4"}
        with older.child("train", "train-base-seed4", tags=tags) as train:
            train.log_metrics({"test/cer": 0.0})
        with older.child("train", "train-base-seed5", tags=tags | {"kmed.seed": "5"}):
            pass  # ended before its test
    (opening,) = read_openings(uri_of(config), SHA)
    assert (opening.command, opening.model, opening.plan_sha256) == ("train", "base, seed 4", "")
    assert opening.run_id == train.run_id
    bench(config, tmp_path)
    assert len(read_openings(uri_of(config), SHA)) == 2


def open_often(uri: str, name: str) -> None:
    seal = Seal(uri, command="evaluate", split_sha256=SHA, settings={"metric": "cer"})
    for number in range(5):
        seal.record_opening(f"{name}{number}")


@pytest.mark.slow
def test_openings_of_processes_at_the_same_time_all_count(config: Config) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=open_often, args=(uri_of(config), name)) for name in "ab"]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
        assert process.exitcode == 0
    assert sorted(o.model for o in read_openings(uri_of(config), SHA)) == [f"{n}{i}" for n in "ab" for i in range(5)]

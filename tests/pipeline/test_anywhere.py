"""One benchmark whose trainings run in several processes: parts of a `run`, a `train` of its own, in any order."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from small_bench import PROGRAM, SETTINGS, Place

from kmed_bench.core.errors import KmedError
from kmed_bench.tracking import read as readback

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")]

PARTS = ("--train", "8", "--valid", "2", "--test", "2")


def report_of(place: Place, *more: str) -> tuple[str, str]:
    out = place.folder / "page"
    command = [sys.executable, "-m", "kmed_bench", "report", str(out), "--tracking.uri", place.uri, *more]
    subprocess.run(command, check=True, env=place.env, cwd=place.folder, capture_output=True, timeout=300)
    return (out / "missing.csv").read_text(encoding="utf-8"), (out / "runs.csv").read_text(encoding="utf-8")


def train_alone(place: Place, split: Path, seed: int) -> str:
    """Return what `train` prints as another machine would call it: the same settings, its own folders."""
    words = ["train", str(split), str(place.folder / "alone"), "--profile", "demo", "--size", "tiny"]
    words += ["--seed", str(seed), "--weights", str(place.folder / "tiny.pt")]
    words += ["--tracking.experiment", "another"]
    kept = {key: value for key, value in SETTINGS.items() if key.partition(".")[0] in ("eval", "train")}
    kept |= {key: SETTINGS[key] for key in ("epochs", "batch_size", "lr", "audio_context")}
    words += [word for key, value in kept.items() for word in (f"--{key}", str(value))]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words], cwd=place.folder, env=place.env, capture_output=True, text=True,
        timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_parts_of_a_benchmark_are_one(tmp_path: Path) -> None:
    place = Place(tmp_path)
    first = place.run("--only", "tiny:1")
    assert first.returncode == 0, first.stderr
    part = readback.read_bench(place.uri)
    assert [(train.size, train.seed) for train in part.trains] == [("tiny", 1)]
    assert part.absent == {"tiny, seed 0": "no run of it is in the store; train it with `run --only tiny:0`"}
    missing, _ = report_of(place)
    assert 'training tiny, seed 0",no run of it is in the store' in missing

    refused = place.run("--only", "tiny:7")
    assert refused.returncode == 2
    assert "--only names 'tiny:7', which is not in the plan; its trainings are: tiny:0, tiny:1." in refused.stderr

    (folder,) = (tmp_path / "out").glob("bench-demo-*")
    said = train_alone(place, folder / "split", 0)
    whole = readback.read_bench(place.uri, part.run_id)
    assert [(train.seed, train.status) for train in whole.trains] == [(1, "FINISHED"), (0, "FINISHED")]
    assert whole.absent == {}
    assert place.client.get_run(whole.trains[1].run_id).data.tags["kmed.verdict_text"] in said.splitlines()
    missing, runs = report_of(place)
    assert "training" not in missing
    assert all(train.run_id in runs for train in whole.trains)
    alone = readback.read_bench(place.uri, whole.trains[1].run_id)  # named, it stands for its series
    assert {train.run_id for train in alone.trains} == {train.run_id for train in whole.trains}

    second = place.run("--only", "tiny:0")  # the same again, elsewhere: the one that was first still counts
    assert second.returncode == 0, second.stderr
    record = readback.read_bench(place.uri, part.run_id)
    assert [train.run_id for train in record.trains] == [train.run_id for train in whole.trains]
    (_, latest) = place.runs("bench")
    assert latest.data.tags["kmed.plan_sha256"] == record.tags["kmed.plan_sha256"]
    compared = readback.read_bench(place.uri)
    assert compared.run_id == latest.info.run_id
    assert [entry["seeds"] for entry in compared.seeds] == [[0, 1]]
    assert compared.not_compared == {}
    best = min(record.trains, key=lambda train: train.metrics["best/valid_cer"])
    assert "best/valid_cer" in best.metrics
    versions = place.client.search_model_versions("name = 'kmed-whisper-tiny'")
    assert {version.tags["kmed.verdict"] for version in versions} <= {"no evidence", "kept untouched", "worse"}
    challenger = place.client.get_model_version_by_alias("kmed-whisper-tiny", "challenger")
    assert float(challenger.tags["kmed.best.valid_cer"]) == min(
        float(version.tags["kmed.best.valid_cer"]) for version in versions
    )
    with pytest.raises(KmedError, match="is a split run, not a bench"):
        readback.read_bench(place.uri, place.runs("split")[0].info.run_id)


def test_trainings_without_a_benchmark_are_reported(tmp_path: Path) -> None:
    place = Place(tmp_path)
    for words in (
        ["demo-corpus", "corpus", "--speakers", "4", "--sentences", "16"],
        ["ingest", "corpus", "manifest", "--data.roles", "patient,nurse,doctor"],
        ["split", "manifest/manifest.parquet", "split", "--disjoint", "none", "--by", "gender", *PARTS],
    ):
        subprocess.run(
            [sys.executable, "-m", "kmed_bench", *words], cwd=tmp_path, env=place.env, check=True, timeout=99
        )
    for seed in (0, 1):
        train_alone(place, tmp_path / "split", seed)
    _, runs = report_of(place)
    record = readback.read_bench(place.uri)
    assert [train.seed for train in record.trains] == [0, 1]
    assert all(train.run_id in runs for train in record.trains)
    command = ["history", "logs", "--tracking.uri", place.uri]
    subprocess.run([sys.executable, "-m", "kmed_bench", *command], cwd=tmp_path, env=place.env, check=True, timeout=99)
    log = json.loads((tmp_path / "logs" / "logging_tiny.json").read_text(encoding="utf-8"))
    assert [version["seed"] for version in log["kmed"]["versions"].values()] == [0, 1]

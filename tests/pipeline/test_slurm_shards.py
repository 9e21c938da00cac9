"""`evaluate --launcher slurm`: what its jobs would run joins to what `evaluate` writes by itself."""

import json
import sys
from pathlib import Path

import pandas as pd
import pytest
from slurm_cluster import Cluster

from kmed_bench.cli import main
from kmed_bench.core.schema import write_manifest
from kmed_bench.core.slurm_contract import JOBS, SUBMISSION
from kmed_bench.corpus.splitting.split import sort_manifest

pytestmark = pytest.mark.slow
WORDS = ["--eval.max_new_tokens", "8"]
JOBS_OF_AN_HOUR = [
    "--launcher", "slurm", "--shards", "3", "--slurm.gpus", "0", "--slurm.cpus", "1",
    "--slurm.directives", "begin=now+1hour",
]  # fmt: skip


def predictions(out: str) -> list[dict[str, object]]:
    lines = Path(out, "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "decode_s"} for line in lines]


@pytest.fixture
def manifest(tmp_path: Path, tone_part: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KMED_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    write_manifest(sort_manifest(tone_part), Path("manifest.parquet"))
    return "manifest.parquet"


def test_jobs_decode_shards_and_the_last_one_joins_them(
    slurm: Cluster, manifest: str, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["evaluate", str(tiny_checkpoint), manifest, "alone", *WORDS]) == 0
    words = ["evaluate", str(tiny_checkpoint), manifest, "out", *WORDS, *JOBS_OF_AN_HOUR]
    monkeypatch.setattr(sys, "argv", ["kmed-bench", *words])
    assert main(words) == 0
    (folder,) = Path("out").glob("slurm-*")
    submission, jobs = SUBMISSION.read(folder / "submission.json"), JOBS.read(folder / "jobs.json")["jobs"]
    assert len(slurm.states(jobs["tasks"])) == 3
    slurm.ask("scancel", *jobs.values())
    for task in submission["tasks"][:-1]:  # the last shard's job is lost: the last job decodes it
        assert main(task) == 0
    assert not Path("out/predictions.jsonl").exists()
    assert main(submission["last"]) == 0
    assert predictions("out") == predictions("alone")


@pytest.mark.parametrize("more", [["--shard", "1"], ["--merge-only"]])
def test_all_shards_are_submitted(manifest: str, more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "tiny", manifest, "out", *JOBS_OF_AN_HOUR, *more]) == 2
    assert "leave --shard and --merge-only out" in capsys.readouterr().err

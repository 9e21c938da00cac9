"""`train` in a folder that has a training: the same one is found, another one overwrites nothing; its latency."""

from pathlib import Path

import pandas as pd
import pytest
from exported import write_thirds
from killed_training import settings
from mlflow.tracking import MlflowClient

from kmed_bench.asr.model.weights import Weights
from kmed_bench.config import load_config
from kmed_bench.core.errors import KmedError
from kmed_bench.core.run_contracts import SPEAKER_ERRORS
from kmed_bench.pipeline.train_one import train_from
from kmed_bench.scoring.gate import UNTOUCHED_NAME
from kmed_bench.tracking.store import read_artifact

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")]


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".log" and not path.name.startswith(".")
    }


def test_a_finished_training_stays(
    tone_part: pd.DataFrame, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KMED_CACHE", str(tmp_path / "cache"))
    split, out, uri = write_thirds(tone_part, tmp_path / "split"), tmp_path / "out", f"sqlite:///{tmp_path}/mlflow.db"
    weights = Weights("base", tiny_checkpoint, "path", "0" * 64)
    short = settings(tmp_path / "mlflow.db", **{"train.epochs": 1})
    first = train_from(weights, load_config("sound", short), split, out)
    assert first is not None
    before = contents(out)
    elsewhere = short | {"tracking.uri": f"sqlite:///{tmp_path}/other.db", "train.checkpoint_steps": 9}
    for overrides in (short, elsewhere):
        found = train_from(weights, load_config("sound", overrides), split, out)
        assert found is not None
        assert found[0] == first[0]
    others = ({"train.lr": 5e-4}, {"train.epochs": 2}, {"eval.max_new_tokens": 9}, {"data.transcript_side": "spelling"})
    for other in others:
        with pytest.raises(KmedError, match="choose another folder"):
            train_from(weights, load_config("sound", short | other), split, out)
    with pytest.raises(KmedError, match="is not overwritten; choose another folder"):
        train_from(Weights("base", tiny_checkpoint, "path", "1" * 64), load_config("sound", short), split, out)
    assert contents(out) == before

    client = MlflowClient(tracking_uri=uri)
    run = client.get_run(first[0].run_id)
    metrics = run.data.metrics
    assert len(client.search_runs([run.info.experiment_id])) == 1
    assert metrics["latency/clips"] == len(pd.read_parquet(split / "test.parquet"))
    assert metrics["latency/warm_up_clips"] == 2
    assert 0 < metrics["latency/clip_s_p50"] <= metrics["latency/clip_s_p95"]
    assert 0 <= metrics["latency/others_load"] <= 1
    assert run.data.tags["kmed.split_label"] == "leaking speakers, sentences"
    untouched = read_artifact(client, run, UNTOUCHED_NAME, SPEAKER_ERRORS)
    assert untouched is not None
    columns = untouched["speakers"]
    assert sum(columns["cer_errors"]) / sum(columns["cer_length"]) == pytest.approx(metrics["untouched/test_cer"])

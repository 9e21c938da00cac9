"""`train` in a folder that has a training: the same one is found, another one overwrites nothing; its latency."""

import logging
from pathlib import Path

import pandas as pd
import pytest
from exported import write_thirds
from killed_training import settings
from mlflow.tracking import MlflowClient

from kmed_bench.asr.model.weights import Weights
from kmed_bench.config import Config, load_config
from kmed_bench.core.errors import KmedError
from kmed_bench.core.run_contracts import SPEAKER_ERRORS
from kmed_bench.corpus.splitting.split import Split, read_split
from kmed_bench.pipeline import estimates
from kmed_bench.pipeline.estimates import Outlook
from kmed_bench.pipeline.pace import Pace
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


def _check_disk(config: Config, split: Split, checkpoint: Path, folder: Path) -> None:
    """Features and checkpoints were estimated within a tenth; the store and the small files are not counted."""
    files = [path.stat() for name in ("*.pt", "frames.f32") for path in folder.rglob(name)]
    written = sum({file.st_ino: file.st_size for file in files}.values())  # the store's checkpoint is a link
    pace = Pace(step_s=1.0, loss_s=1.0, untouched_s=1.0, tuned_s=1.0, weights_bytes=checkpoint.stat().st_size)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("KMED_CACHE", str(folder / "none"))
        outlook = Outlook(config, split, [("base", 0)], {"base": pace}, 0.5)
    assert outlook.n_bytes == pytest.approx(written, rel=0.1)


def test_a_finished_training_stays(
    tone_part: pd.DataFrame,
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KMED_CACHE", str(tmp_path / "cache"))
    split, out, uri = write_thirds(tone_part, tmp_path / "split"), tmp_path / "out", f"sqlite:///{tmp_path}/mlflow.db"
    weights = Weights("base", tiny_checkpoint, "path", "0" * 64)
    short = settings(tmp_path / "mlflow.db", **{"train.epochs": 1})
    with caplog.at_level(logging.INFO):
        monkeypatch.setattr(estimates, "WORTH", 0)  # however little there is to do
        first = train_from(weights, load_config("sound", short), split, out)
    assert first is not None
    said = [line.split(":")[0] for line in caplog.messages if line.startswith("Estimate")]
    assert said == ["Estimate", "Estimate after the first epoch of base"]
    _check_disk(load_config("sound", short), read_split(split), tiny_checkpoint, tmp_path)
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

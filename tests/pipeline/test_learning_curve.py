"""`curve` on tones with a random model: what is trained, found again, interrupted, and what stays closed."""

import json
import logging
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from exported import write_thirds
from killed_training import settings
from mlflow.tracking import MlflowClient

from kmed_bench.asr.model.weights import Weights
from kmed_bench.config import load_config
from kmed_bench.core.curve_contracts import CURVE
from kmed_bench.core.errors import KmedError
from kmed_bench.core.predictions import read_predictions
from kmed_bench.pipeline.curve import estimate
from kmed_bench.pipeline.curve.trace import learn_curve
from kmed_bench.pipeline.train_one import train_from
from kmed_bench.pipeline.trainer import Trainer
from kmed_bench.report.learning_curve import WRITTEN
from kmed_bench.scoring import score_predictions
from kmed_bench.tracking.openings import read_openings
from kmed_bench.tracking.store import search_runs

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")]
FRACTIONS: dict[str, Any] = {"curve.fractions": "0.5,1", "train.epochs": 1, "train.spec_augment": False}
KOREAN = {"train.seeds": "0", "report.lang": "ko"}


def kinds(client: MlflowClient) -> dict[str, int]:
    found = [run.data.tags["kmed.kind"] for run in search_runs(client, "")]
    return {kind: found.count(kind) for kind in set(found)}


def test_a_curve_trains_what_is_missing_and_opens_nothing(
    tone_part: pd.DataFrame,
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KMED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(estimate, "WORTH", 0)  # however little there is to do
    split, out, client = write_thirds(tone_part, tmp_path / "split"), tmp_path / "out", MlflowClient(
        tracking_uri=f"sqlite:///{tmp_path}/mlflow.db"
    )  # fmt: skip
    weights = Weights("base", tiny_checkpoint, "path", "0" * 64)
    config = load_config("sound", settings(tmp_path / "mlflow.db", **FRACTIONS, **{"train.seeds": "0"}))
    whole = train_from(weights, config, split, tmp_path / "train")
    assert whole is not None
    sha256 = json.loads((split / "split.json").read_text())["sha256"]
    opened = len(read_openings(str(client.tracking_uri), sha256))

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_train_epochs", stop)
        with pytest.raises(KeyboardInterrupt):
            learn_curve(config, weights, split, out)
    assert kinds(client) == {"train": 1, "curve": 1, "point": 1, "opening": opened}

    with caplog.at_level(logging.INFO):
        outcome = learn_curve(config, weights, split, out)
    curve = CURVE.read(out / "curve.json")
    assert curve == outcome.curve
    assert kinds(client) == {"train": 1, "curve": 1, "point": 1, "opening": opened}  # all continued, nothing opened
    assert any(line.startswith("Estimate: about") for line in caplog.messages)
    half, full = curve["trainings"]
    assert (half["reused"], full["reused"], full["run_id"]) == (False, True, whole[0].run_id)
    assert full["cer"] == pytest.approx(whole[0].best_valid_cer, abs=1e-6)
    assert (half["n_speakers"], half["n_clips"], full["n_clips"]) == (1, len(_half(split, out, curve)), 4)
    decoded = read_predictions(out / "0.5-draw0" / "seed0" / "predictions_valid.jsonl")
    assert half["cer"] == pytest.approx(score_predictions(decoded)["overall"]["cer"])
    table = pd.read_csv(out / "curve.csv")
    assert table["hours"].tolist() == pytest.approx([0.0, half["hours"], full["hours"]])
    point = client.get_run(half["run_id"])
    assert point.info.status == "FINISHED"
    assert point.data.metrics["curve/valid_cer"] == pytest.approx(half["cer"])
    assert point.data.tags["mlflow.parentRunId"] == curve["run_id"]
    assert point.data.params["train.epochs"] == "1"
    parent = client.get_run(curve["run_id"])
    assert (parent.info.status, parent.data.tags["kmed.split_sha256"]) == ("FINISHED", sha256)
    assert parent.data.tags["curve.fractions"] == "0.5,1.0"
    assert {file.path for file in client.list_artifacts(curve["run_id"], "report")} == {
        f"report/{name}" for name in WRITTEN
    }

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("nothing is left to train or to decode")

    with monkeypatch.context() as patched:
        patched.setattr("kmed_bench.training.epochs.predict_part", refuse)
        korean = load_config("sound", settings(tmp_path / "mlflow.db", **FRACTIONS, **KOREAN))
        again = learn_curve(korean, weights, split, out)
    assert again.curve == curve  # in another language it is the same one
    assert '<html lang="ko">' in again.report.read_text(encoding="utf-8")
    assert client.get_run(curve["run_id"]).data.tags["mlflow.note.content"].startswith("2 trainings of base on ")
    (out / "untouched" / "predictions_untouched.jsonl").unlink()  # as `clean --kind predictions` does
    assert learn_curve(config, weights, split, out).curve == curve
    for other in ({"train.lr": 1e-4}, {"curve.seed": 1}):
        changed = load_config("sound", settings(tmp_path / "mlflow.db", **FRACTIONS, **other))
        with pytest.raises(KmedError, match="holds a learning curve of another size"):
            learn_curve(changed, weights, split, out)

    tested = learn_curve(config, weights, split, tmp_path / "tested", part="test").curve
    openings = read_openings(str(client.tracking_uri), sha256)
    assert len(openings) == opened + 3  # the untouched model and the two amounts
    assert [one["reused"] for one in tested["trainings"]] == [True, True]  # the half by the first curve
    assert tested["part"] == "test"
    assert kinds(client)["point"] == 1


def _half(split: Path, out: Path, curve: Any) -> pd.DataFrame:
    """The rows of the subset's speaker, found by its number of clips and its hours."""
    train = pd.read_parquet(split / "train.parquet")
    hours = train.groupby("speaker_id")["duration_s"].sum() / 3600
    speaker = (hours - curve["trainings"][0]["hours"]).abs().idxmin()
    return train[train["speaker_id"] == speaker]

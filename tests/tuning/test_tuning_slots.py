"""`tune --slots`: processes of one machine that the command starts by itself."""

import os
import re
import sys
from collections import Counter
from pathlib import Path

import optuna
import pandas as pd
import pytest
import torch
import whisper
from optuna.trial import TrialState
from random_whisper import save_random_whisper

from kmed_bench import cli
from kmed_bench.config import SplitConfig
from kmed_bench.corpus.splitting.split import split_manifest, write_split

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")]
STORAGE = "sqlite:///optuna.db"
WORDS = [
    "--size", "tiny", "--trials", "3", "--epochs", "1", "--batch_size", "2", "--audio_context", "dynamic",
    "--eval.audio_context", "dynamic", "--eval.max_new_tokens", "8", "--train.precision", "fp32",
    "--tune.space", "{train.lr: {low: 1.0e-6, high: 1.0e-3, log: true}}", "--slots", "2", "--threads", "1",
]  # fmt: skip


@pytest.fixture
def tune(tone_part: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A function that runs the command with weights and returns its exit status."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KMED_CACHE", str(tmp_path / "cache"))
    write_split(split_manifest(tone_part, SplitConfig(train=6, valid=3, test=3, by=(), disjoint=())), Path("split"))

    def run(weights: Path) -> int:
        words = ["tune", "split", "--out", "tune", "--weights", str(weights), "--tune.storage", STORAGE, *WORDS]
        monkeypatch.setattr(sys, "argv", ["kmed-bench", *words])
        return cli.main(words)

    return run


def save_random_tiny(folder: Path) -> Path:
    torch.manual_seed(0)
    dims = whisper.model.ModelDimensions(80, 1500, 384, 6, 4, 51865, 448, 384, 6, 4)
    state = {name: 0.02 * torch.randn_like(t) for name, t in whisper.model.Whisper(dims).state_dict().items()}
    torch.save({"dims": vars(dims), "model_state_dict": state}, folder / "tiny.pt")
    return folder / "tiny.pt"


def test_slots_share_a_study(tune, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tune(save_random_tiny(tmp_path)) == 0
    said = capsys.readouterr()
    assert "Lowest valid CER" in said.out
    (study,) = optuna.get_all_study_summaries(STORAGE)
    trials = optuna.load_study(study_name=study.study_name, storage=STORAGE).trials
    assert Counter(trial.state for trial in trials) == {TrialState.COMPLETE: 3}
    # Either may be first with all of them, but both work on the study, and this process on none of its trials.
    assert str(os.getpid()) not in {trial.user_attrs["kmed.process"].split(":")[1] for trial in trials}
    assert f"[1] Study {study.study_name}" in said.err
    assert f"[2] Study {study.study_name}" in said.err
    assert len(re.findall(r"\[[12]\] Trial \d: valid CER", said.err)) == 3


def test_a_study_on_which_no_slot_can_work_says_why(tune, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("optuna.db").write_text("not a database " * 100, encoding="ascii")
    assert tune(save_random_tiny(tmp_path)) == 2
    said = capsys.readouterr().err
    assert "kmed-bench: No slot could work on the study: " in said
    assert "optuna.db" in said


def test_weights_of_another_size_are_named_before_a_slot_begins(
    tune, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tune(save_random_whisper(tmp_path / "small.pt")) == 2
    said = capsys.readouterr().err
    assert "which is not Whisper tiny" in said
    assert "in slot" not in said

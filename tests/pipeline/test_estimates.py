"""Estimates: a plan that leaves nothing behind, sums and corrections by hand, disk space against what was written."""

import dataclasses
import logging
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from exported import write_thirds
from killed_training import settings

from kmed_bench import cli
from kmed_bench.asr.features.store import build_features
from kmed_bench.asr.model import weights as weights_module
from kmed_bench.asr.model.weights import Weights
from kmed_bench.asr.runtimes.backend import Backend
from kmed_bench.config import Config, load_config
from kmed_bench.core import progress
from kmed_bench.core.errors import KmedError
from kmed_bench.core.progress import rough_duration
from kmed_bench.corpus.splitting.split import Split, read_split
from kmed_bench.pipeline import dry_run, estimates
from kmed_bench.pipeline.dry_run import _disk_lines, _missing_lines
from kmed_bench.pipeline.estimates import Outlook, foresee, free_bytes
from kmed_bench.pipeline.latency import N_CLIPS, N_WARM_UP
from kmed_bench.pipeline.pace import Pace, measure_pace, sample_speech, time_backend
from kmed_bench.training.epochs import ScoredEpoch

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")
PACE = Pace(step_s=2.0, loss_s=0.5, untouched_s=8.0, tuned_s=4.0, weights_bytes=1000)
SMALL = {
    "model.sizes": "tiny,small", "train.seeds": "0,1", "train.epochs": 2, "train.batch_size": 2,
    "train.audio_context": "dynamic", "eval.audio_context": "dynamic", "eval.max_new_tokens": 8,
    "data.demo_speakers": 4, "data.demo_sentences": 16, "data.roles": "patient,nurse,doctor",
    "split.train": 8, "split.valid": 2, "split.test": 2, "split.disjoint": "none",
}  # fmt: skip


@pytest.fixture(scope="module")
def thirds(tone_part: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_thirds(tone_part, tmp_path_factory.mktemp("thirds"))


@pytest.fixture
def split(thirds: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Split:
    monkeypatch.setenv("KMED_CACHE", str(tmp_path / "cache"))
    return read_split(thirds)


def make_outlook(split: Split, **overrides: object) -> Outlook:
    config = load_config(
        "sound", {"train.epochs": 3, "train.batch_size": 3, "train.audio_context": "dynamic"} | overrides
    )
    paces = {"tiny": PACE, "base": dataclasses.replace(PACE, step_s=5.0, weights_bytes=3000)}
    return Outlook(config, split, [("tiny", 0), ("tiny", 1), ("base", 0)], paces, 0.5)


def test_stages_add_up(split):
    outlook = make_outlook(split)
    seconds = sum(float(rows["duration_s"].sum()) for rows in split.parts.values())
    # 2 steps an epoch and 4 valid clips, three times; 4 test clips, and 6 alone for latency; the store.
    tiny, base = (3 * (2 * step_s + 4 * (0.5 + 4.0)) + 10 * 4.0 + 15 for step_s in (2.0, 5.0))
    expected = {
        "features": seconds * 0.5,
        "tiny, untouched": 8 * 8.0 + 4 * 0.5,
        "tiny, seed 0": tiny,
        "tiny, seed 1": tiny,
        "base, untouched": 8 * 8.0 + 4 * 0.5,
        "base, seed 0": base,
        "comparisons, report": 10.0,
    }
    assert {stage.name: stage.duration_s for stage in outlook.stages()} == pytest.approx(expected)
    assert outlook.total_s == pytest.approx(sum(expected.values()))
    # fp32 features, and for each training best, last and the registered copy.
    assert outlook.n_bytes == int(seconds * 100 * 80 * 4) + 3 * (1000 + 1000 + 3000)
    assert outlook.state_bytes == 9 * 3000
    assert outlook.size_s("tiny", 2) == pytest.approx(66 + 2 * tiny)
    assert "tiny, seed 1 2 min" in outlook.describe()


@pytest.mark.parametrize(
    ("overrides", "copies"),
    [({"tracking.register": False}, 2), ({"train.keep_checkpoints": 1}, 4), ({"train.keep_checkpoints": 9}, 5)],
)
def test_checkpoints_that_are_kept_are_counted(split, overrides, copies):
    stages = {stage.name: stage.n_bytes for stage in make_outlook(split, **overrides).stages()}
    assert stages["base, seed 0"] == copies * 3000


def test_a_frozen_encoders_outputs_are_counted(split):
    stages = {stage.name: stage.n_bytes for stage in make_outlook(split, **{"train.freeze_encoder": True}).stages()}
    n_positions = int(50 * float(split.parts["train"]["duration_s"].sum())) + 32 * 4
    assert stages["tiny, encoder outputs"] == n_positions * 384 * 4


def test_the_first_epoch_of_a_size_corrects_its_estimate_once(split, caplog):
    caplog.set_level(logging.INFO)
    outlook, epoch = make_outlook(split), {"epoch": 1, "train_loss": 1.0, "train_cer_teacher_forced": 0.5}
    rest = {"valid_loss": 1.0, "valid_cer": 0.5, "valid_wer": 0.5, "epoch_s": 32.0, "decode_s": 4.0}
    before = outlook.total_s
    for _ in range(2):
        outlook.correct("tiny", ScoredEpoch(**epoch, **rest))
    assert outlook.total_s == pytest.approx(before + 2 * 3 * 2 * 14.0)  # a step takes 16 s, not 2
    (line,) = caplog.messages
    assert line == (
        "Estimate after the first epoch of tiny: a training about 3 min (before: 2 min), all of it 12 min (9 min)."
    )


def test_little_work_is_not_measured(split):
    config, weights = load_config("sound", {"train.epochs": 39, "train.batch_size": 4}), {}
    assert foresee(config, split, weights, [("base", 0)]) is None  # 39 steps; measuring takes 4
    assert foresee(config, split, weights, [], planned=True) is None


def test_a_failed_measurement_stops_a_plan_and_no_run(split, tmp_path, caplog):
    config = load_config("sound", {"train.epochs": 40, "train.batch_size": 2})
    gone = {"base": Weights("base", tmp_path / "gone.pt", "path", "0" * 64)}
    assert foresee(config, split, gone, [("base", 0)]) is None
    assert caplog.messages[-1].startswith("No estimate, since measuring failed: Checkpoint")
    with pytest.raises(KmedError, match="does not exist"):
        foresee(config, split, gone, [("base", 0)], planned=True)


def test_a_pace_is_measured_without_a_trace(split, tiny_checkpoint, tmp_path):
    config = load_config("sound", settings(tmp_path / "none.db"))
    sample, features_s = sample_speech(split, config, tmp_path / "sample")
    assert {part: len(rows) for part, rows in sample.split.parts.items()} == {"train": 4, "valid": 4}
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    pace = measure_pace(Weights("base", tiny_checkpoint, "path", "0" * 64), sample, config)
    assert pace is not None
    assert min(features_s, pace.step_s, pace.loss_s, pace.untouched_s, pace.tuned_s) > 0
    assert pace.weights_bytes == pytest.approx(tiny_checkpoint.stat().st_size, rel=0.05)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    assert not (tmp_path / "cache").exists()
    assert pace.shared(4).step_s == pace.step_s / 4
    assert pace.shared(4).weights_bytes == pace.weights_bytes
    one = dataclasses.replace(config, train=dataclasses.replace(config.train, batch_size=4))
    assert measure_pace(Weights("base", tiny_checkpoint, "path", "0" * 64), sample, one) is None  # one step


def test_processes_share_all_but_the_test_part_of_a_fine_tuned_model(split):
    config = load_config()
    alone = Outlook(config, split, [("base", 0)], {"base": PACE}, 0.5)
    both = Outlook(config, split, [("base", 0)], {"base": PACE.shared(2)}, 0.5, n_processes=2)
    n_test = len(split.parts["test"])
    decoding_s = (n_test + N_WARM_UP + min(N_CLIPS, n_test)) * PACE.tuned_s
    single_s = decoding_s + 15.0  # and what the store and the files take
    (features, untouched, training, report), (_, untouched_2, training_2, _) = alone.stages(), both.stages()
    assert untouched_2.duration_s == pytest.approx(untouched.duration_s / 2)
    assert training_2.duration_s - single_s == pytest.approx((training.duration_s - single_s) / 2)
    assert (features.cached, untouched.cached, training.cached, report.cached) == (True, False, False, False)


def test_any_model_is_timed_on_a_few_clips(tone_part):
    calls: list[int] = []

    class Counting(Backend):
        batch_size = 3

        def transcribe(self, clips):
            calls.append(len(clips))
            return ["" for _ in clips]

        def decode(self, rows):
            raise AssertionError(rows)

    assert time_backend(Counting(), tone_part) >= 0
    assert calls == [1, 3, 1]  # one that is not timed, and four in batches


def test_free_space_is_that_of_the_disk_a_folder_would_be_on(tmp_path):
    assert free_bytes(tmp_path / "not" / "there") == pytest.approx(free_bytes(tmp_path), rel=0.1)


def test_features_that_the_cache_has_take_nothing(split, tmp_path):
    before = make_outlook(split).stages()[0]
    build_features(split.parts["train"], tmp_path / "cache" / "features")
    rest = sum(float(split.parts[part]["duration_s"].sum()) for part in ("valid", "test"))
    assert make_outlook(split).stages()[0] == estimates.Stage(
        "features", pytest.approx(rest * 0.5), int(rest * 32_000), cached=True
    )
    assert before.duration_s > rest * 0.5


def listing(folder: Path) -> dict[str, int]:
    """Every file with its time of change, and every folder."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*")}
    return {name: 0 if path.is_dir() else path.lstat().st_mtime_ns for name, path in found.items()}


@pytest.fixture
def planned(tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Settings of a small benchmark of two sizes, of which only tiny has weights, and an empty folder to stand in."""
    for name in ("temporary", "cache"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KMED_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    cached = Weights("tiny", tiny_checkpoint, "cache", "0" * 64)
    monkeypatch.setattr(weights_module, "_cached", {"tiny": cached}.get)
    return load_config("demo", SMALL)


@pytest.mark.slow
def test_a_plan_leaves_nothing_behind(planned, tmp_path, monkeypatch, capsys):
    labels: set[str] = set()
    block = progress._Lines.block
    monkeypatch.setattr(
        progress._Lines, "block", lambda self, line, beats: (labels.add(line._label), block(self, line, beats))[1]
    )
    before = listing(tmp_path)
    words = [word for key, value in SMALL.items() for word in (f"--{key}", str(value))]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cli, "prepare_user", lambda: None)
        assert cli.main(["run", "--profile", "demo", "--plan", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert listing(tmp_path) == before
    assert lines[0].startswith(
        "Plan of profile demo: 4 trainings (tiny:0, tiny:1, small:0, small:1) of 2 epochs, on 8/2/2"
    )
    assert lines[1] == f"Results would go to kmed-output, runs to sqlite:///{tmp_path}/mlflow.db."
    rows = [line for line in lines if line.startswith("  ")]
    assert [row[2:26].strip() for row in rows] == [
        "corpus, split", "features", "tiny, untouched", "tiny, seed 0", "tiny, seed 1", "comparisons, report", "in all",
    ]  # fmt: skip
    (missing,) = [line for line in lines if line.startswith("Not in this")]
    assert missing.startswith("Not in this: small, of which no weights are at hand")
    assert "tiny's time by layers × width²" in missing
    assert lines[-1] == "Nothing was kept: no split, no features, and no run."
    loops = {"Generating the demo corpus", "Reading the download", "Reading label", "Drawing the split"}
    assert labels >= loops | {"Measuring the pace", "Features of train", "Validation loss"}
    del planned


def test_a_plan_continues_nothing(planned, tmp_path, capsys):
    before = listing(tmp_path)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cli, "prepare_user", lambda: None)
        assert cli.main(["run", "--profile", "demo", "--plan", "--resume"]) == 2
    assert "leave one out" in capsys.readouterr().err
    assert listing(tmp_path) == before
    del planned


def test_a_plan_without_weights_says_so(split, tmp_path):
    (line,) = _missing_lines([("tiny", 0), ("tiny", 1)], None)
    assert line == "Not in this: tiny, of which no weights are at hand; `run` tries to fetch them."
    # base's time for one seed, times 4 layers of width 384 to 6 of width 512
    (line,) = _missing_lines([("tiny", 0)], base := Outlook(load_config(), split, [("base", 0)], {"base": PACE}, 0.5))
    taken = rough_duration(base.size_s("base", 1) * 4 * 384**2 / (6 * 512**2))
    assert f"about {taken} (base's time by layers" in line
    corpus = estimates.Stage("corpus, split", 1.0, 2**20)
    assert "does not fit" not in _disk_lines(tmp_path, corpus, base)[0]
    full = dataclasses.replace(corpus, n_bytes=2**60)
    assert _disk_lines(tmp_path, full, base)[0].endswith("It does not fit: make room, or name another --out.")


@pytest.mark.parametrize(
    ("n_out", "n_cache", "said"),
    [
        (1, 1, ""),
        (9, 1, "make room, or name another --out."),
        (1, 9, "make room, or set KMED_CACHE to a larger disk."),
        (9, 9, "make room, or name another --out and set KMED_CACHE to a larger disk."),
    ],
)
def test_each_of_two_disks_must_hold_its_own(tmp_path, monkeypatch, n_out, n_cache, said):
    monkeypatch.setattr(dry_run, "disk_of", lambda folder: folder == tmp_path)
    monkeypatch.setattr(dry_run, "free_bytes", lambda _: 5)

    class Two:
        state_bytes, n_bytes = 1, n_out + n_cache - 1

        def stages(self):
            return [estimates.Stage("features", 1.0, n_cache, cached=True)]

    (line,) = _disk_lines(tmp_path, estimates.Stage("corpus, split", 1.0, 0), Two())
    assert line.partition("It does not fit: ")[2] == said


def test_slots_share_trainings_but_wait_for_an_untouched_model(split: Split) -> None:
    trainings = [("tiny", 0), ("tiny", 1), ("tiny", 2), ("tiny", 3)]

    def in_slots(n: int) -> Outlook:
        return Outlook(load_config(), split, trainings, {"tiny": PACE}, 0.5, n_slots=n)

    one, two, four, eight = (in_slots(n) for n in (1, 2, 4, 8))
    work_s = one.size_s("tiny", 4)
    others_s = one.total_s - work_s
    assert two.total_s == pytest.approx(others_s + work_s / 2)
    assert four.total_s == pytest.approx(others_s + one.size_s("tiny", 1))
    assert eight.total_s == four.total_s
    assert (two.state_bytes, eight.state_bytes) == (2 * one.state_bytes, 4 * one.state_bytes)
    assert "in all in 2 slots" in two.describe()

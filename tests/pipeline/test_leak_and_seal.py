"""Left-out utterances and openings of the test part in real runs: benchmark, resume, evaluation, a changed plan."""

import os
from pathlib import Path

import pandas as pd
import pytest
from file_modes import check_modes
from small_bench import Place

from kmed_bench import cli
from kmed_bench.config import load_config
from kmed_bench.core.errors import KmedError
from kmed_bench.core.predictions import read_predictions
from kmed_bench.core.records import Opening
from kmed_bench.core.run_contracts import LEAK, PLAN
from kmed_bench.core.schema import CELLS
from kmed_bench.corpus.splitting.cells import CELL, sample_cells
from kmed_bench.corpus.splitting.split import read_left_out, read_split
from kmed_bench.pipeline.leak_cells import with_left_out
from kmed_bench.tracking.openings import read_openings

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")]
LIMIT = 6
DISJOINT = {
    "data.demo_speakers": 12, "data.demo_sentences": 60, "split.train": 40, "split.valid": 6, "split.test": 10,
    "split.disjoint": "speaker,sentence", "seeds": 0, "eval.leak_clips": LIMIT,
}  # fmt: skip
QUICK = ["--eval.audio_context", "dynamic", "--eval.max_new_tokens", "8", "--eval.leak_clips", str(LIMIT)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A finished benchmark whose left-out utterances were decoded."""
    made = Place(tmp_path_factory.mktemp("sealed"))
    made.words += [word for key, value in DISJOINT.items() for word in (f"--{key}", str(value))]
    before = os.umask(0o022)
    done = made.run()
    os.umask(before)
    assert done.returncode == 0, done.stdout + done.stderr
    return made


@pytest.fixture
def environment(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "KMED_CACHE"):
        monkeypatch.setenv(name, place.env[name])


def results(place: Place) -> Path:
    """The first benchmark's folder."""
    (first, *_) = place.runs("bench")
    return place.folder / "out" / f"bench-demo-{first.info.run_id[:8]}"


def openings(place: Place) -> tuple[Opening, ...]:
    return read_openings(place.uri, read_split(results(place) / "split").sha256)


def test_figures_follow_the_umask_and_transcripts_do_not(place: Place) -> None:
    private = check_modes(place.folder, 0o022)
    assert {"left_out.parquet", "predictions_left_out.jsonl", "predictions_left_out_untouched.jsonl"} <= private


def test_left_out_utterances_are_decoded_by_both_models_and_none_was_trained_on(place: Place) -> None:
    folder = results(place)
    split = read_split(folder / "split")
    left_out = read_left_out(folder / "split", split)
    sample = sample_cells(left_out, LIMIT, 0)
    manifest = pd.read_parquet(folder / "manifest" / "manifest.parquet")
    used = {name for part in split.parts.values() for name in part["utterance_id"]}
    assert set(left_out["utterance_id"]) == set(manifest["utterance_id"]) - used
    trained = folder / "tiny" / "seed0"
    for name in ("predictions_left_out.jsonl", "predictions_left_out_untouched.jsonl"):
        decoded = [prediction.utterance_id for prediction in read_predictions(trained / name)]
        assert decoded == list(sample["utterance_id"])
        assert not set(decoded) & used
    leak = LEAK.read(trained / "leak.json")
    counts = left_out[CELL].value_counts()
    assert leak["left_out"] == {cell: int(counts.get(cell, 0)) for cell in leak["left_out"]}
    assert sum(leak["left_out"].values()) == len(left_out)
    assert [leak["cells"][cell]["n_decoded"] for cell in CELLS] == [
        *(min(LIMIT, int(counts[cell])) for cell in CELLS[:3]),
        10,
    ]
    assert leak["sample"] == {"limit": LIMIT, "seed": 0}


def test_store_and_report_have_the_cells(place: Place) -> None:
    (train,), folder = place.runs("train"), results(place)
    leak, metrics = LEAK.read(folder / "tiny" / "seed0" / "leak.json"), train.data.metrics
    for cell in CELLS:
        assert metrics[f"leak/cer/{cell}"] == leak["cells"][cell]["tuned"]["cer"]
    assert metrics["leak/cer/unseen_unseen"] == pytest.approx(metrics["test/cer"])
    assert metrics["leak/untouched_cer/unseen_unseen"] == pytest.approx(metrics["untouched/test_cer"])
    gains = [metrics[f"leak/gain/{cell}"] for cell in ("seen_seen", "unseen_unseen")]
    assert metrics["leak/difference/leak"] == pytest.approx(gains[0] - gains[1])
    table = pd.read_csv(folder / "report" / "leak_cells.csv").set_index("cell")
    assert table["cer"].to_dict() == pytest.approx({cell: metrics[f"leak/cer/{cell}"] for cell in CELLS})
    page = (folder / "report" / "index.html").read_text(encoding="utf-8")
    assert "Where the gain comes from" in page
    assert f"At most {LIMIT} of each cell were drawn at random (seed 0)" in page


def test_the_plan_was_sealed_before_training_and_both_openings_name_it(place: Place) -> None:
    (bench,), (train,) = place.runs("bench"), place.runs("train")
    plan = PLAN.read(results(place) / "plan.json")
    assert bench.data.tags["kmed.plan_sha256"] == plan["sha256"]
    assert plan["settings"]["eval.leak_clips"] == str(LIMIT)
    sealed_ms = pd.Timestamp(plan["sealed_at"]).timestamp() * 1000
    assert sealed_ms < min(p.timestamp for p in place.client.get_metric_history(train.info.run_id, "train/loss"))
    found = openings(place)
    assert [(o.model, o.untouched, o.plan_sha256) for o in found] == [
        ("tiny, untouched", True, plan["sha256"]),
        ("tiny, seed 0", False, plan["sha256"]),
    ]
    page = (results(place) / "report" / "index.html").read_text(encoding="utf-8")
    assert "This test part has been opened twice, first on" in page
    assert "under 1 plan: once by an untouched model, once by another one." in page
    assert "before training began" in page


def test_a_resume_that_decodes_nothing_opens_nothing(place: Place) -> None:
    before = openings(place)
    done = place.run("--resume")
    assert done.returncode == 0, done.stderr
    assert "done before, not run again" in done.stderr
    assert openings(place) == before


@pytest.mark.usefixtures("environment")
def test_evaluations_count_and_find_the_same_cells(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split, before = results(place) / "split", openings(place)
    trained = results(place) / "tiny" / "seed0"
    words = ["evaluate", str(place.folder / "tiny.pt"), str(split), str(tmp_path / "untouched"), *QUICK]
    assert cli.main(words) == 0
    alone = LEAK.read(tmp_path / "untouched" / "leak.json")
    assert alone["differences"] == {}
    words = ["evaluate", str(trained / "best.pt"), str(split), str(tmp_path / "tuned"), *QUICK]
    assert cli.main([*words, "--against", str(tmp_path / "untouched")]) == 0
    here, there = LEAK.read(tmp_path / "tuned" / "leak.json"), LEAK.read(trained / "leak.json")
    for cell in CELLS:
        assert here["cells"][cell]["tuned"]["cer"] == pytest.approx(there["cells"][cell]["tuned"]["cer"])
        assert here["cells"][cell]["gain"] == pytest.approx(there["cells"][cell]["gain"])
    assert here["differences"]["leak"]["gain"] == pytest.approx(there["differences"]["leak"]["gain"])
    words = ["evaluate", str(trained / "best.pt"), str(split), str(tmp_path / "valid"), "--part", "valid", *QUICK[:4]]
    assert cli.main(words) == 0  # not the test part
    assert [(o.command, o.model, o.plan_sha256) for o in openings(place)[len(before) :]] == [
        ("evaluate", "tiny.pt", ""),
        ("evaluate", "best.pt", ""),
    ]
    capsys.readouterr()
    assert cli.main(["openings", str(split)]) == 0
    printed = capsys.readouterr().out
    assert "This test part has been opened 4 times" in printed
    assert "Of these, twice without a plan." in printed


def test_a_killed_run_of_another_plan_opens_once_per_model_and_names_the_change(place: Place) -> None:
    before = len(openings(place))
    more = ("--train.lr", "5e-4")
    killed = place.run(*more, MOMENT="_finish:1", SIGNAL="SIGKILL")
    assert killed.returncode != 0
    assert len(openings(place)) == before + 1  # the untouched model
    done = place.run(*more, "--resume")
    assert done.returncode == 0, done.stderr
    assert [o.model for o in openings(place)[before:]] == ["tiny, untouched", "tiny, seed 0"]
    bench = place.runs("bench")[-1]
    report = place.folder / "out" / f"bench-demo-{bench.info.run_id[:8]}" / "report"
    changed = pd.read_csv(report / "plan_changes.csv", dtype=str)
    row = changed[changed["plan"] == bench.data.tags["kmed.plan_sha256"][:12]].iloc[0]
    assert (row["setting"], row["before"], row["after"]) == ("train.lr", "0.001", "0.0005")
    page = (report / "index.html").read_text(encoding="utf-8")
    assert "This test part was opened under 2 plans; see" in page


def test_a_split_that_leaks_or_a_part_that_is_not_the_test_is_refused(place: Place, tmp_path: Path) -> None:
    folder = results(place) / "split"
    split = read_split(folder)
    split.report["leakage"]["speakers"] = 3
    config = load_config("demo", {"eval.leak_clips": LIMIT})
    with pytest.raises(KmedError, match=r"eval\.leak_clips is 6, but the parts of .* share speakers"):
        with_left_out(split, folder, config)
    assert with_left_out(split, folder, load_config("demo")) is split
    assert cli.main(["evaluate", "m.pt", str(folder), str(tmp_path), "--part", "valid", *QUICK]) == 2

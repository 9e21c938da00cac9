"""`clean`: what it lists, what it removes, and what it never does, on files that the program's own writers made."""

import functools
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fault_table import fault
from filelock import FileLock
from mlflow.tracking import MlflowClient

from kmed_bench import cli
from kmed_bench.config import load_config
from kmed_bench.core.array_cache import INDEX, get_or_create
from kmed_bench.core.contracts import SCORES
from kmed_bench.core.files import temporary_beside, write_json
from kmed_bench.core.predictions import Prediction, write_predictions
from kmed_bench.core.run_contracts import UNTOUCHED
from kmed_bench.core.scratch import scratch_folder, scratch_for_libraries
from kmed_bench.core.shard_contracts import SHARD
from kmed_bench.pipeline import kept_files, removal
from kmed_bench.pipeline.shards.files import write_shard_file
from kmed_bench.pipeline.training_record import TRAINING_LOCK, TrainingRecord, TrainOutcome, write_training_record
from kmed_bench.tracking import runs
from kmed_bench.tracking.processes import PROCESS_TAG, this_process
from kmed_bench.tracking.registry.checkpoints import log_checkpoint, search_checkpoints
from kmed_bench.tracking.run import TrackedRun
from kmed_bench.tracking.store import artifact_folder, local_folder
from kmed_bench.training.state import StateKeeper

PREDICTION = Prediction(
    **dict.fromkeys(("speaker_id", "sentence_id", "gender", "age", "dialect", "region", "role"), "N/A"),
    utterance_id="u1",
    reference="머리가 아파요",
    hypothesis="머리가 아파",
    duration_s=1.0,
    decode_s=0.1,
)
DEAD = "4999999"  # over any process id that Linux gives
SHA = "ab" * 32


class Place:
    """A folder of results, a cache and a store."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.results, self.cache = folder, folder / "kmed-output", folder / "cache"
        self.uri = f"sqlite:///{folder}/mlflow.db"

    @functools.cached_property
    def client(self) -> MlflowClient:
        return MlflowClient(tracking_uri=self.uri)

    def clean(self, *words: str) -> int:
        return cli.main(["clean", *words, "--tracking.uri", self.uri])

    def files(self) -> dict[str, int]:
        """Name and size of each file outside the store, lock files left out."""
        found = {}
        for path in self.folder.rglob("*"):
            name = path.relative_to(self.folder).as_posix()
            if (path.is_file() or path.is_symlink()) and not name.startswith("ml") and path.suffix != ".lock":
                found[name] = path.lstat().st_size
        return found

    def removed_by(self, *words: str, status: int = 0) -> set[str]:
        before = self.files()
        assert self.clean(*words) == status
        after = self.files()
        assert after.items() <= before.items()
        return before.keys() - after.keys()


def write_training(folder: Path, run: TrackedRun, *, finished: bool) -> None:
    """Write what a training leaves, by the program's own writers."""
    folder.mkdir(parents=True)
    for name in ("best.pt", "last.pt"):
        torch.save({"dims": {}, "model_state_dict": {"w": torch.full((5,), hash(name) % 7)}}, folder / name)
    outcome = TrainOutcome(run.run_id, "tiny", 0, folder / "best.pt", 1, 0.3, 0.4, 0.2) if finished else None
    write_training_record(folder, TrainingRecord(fingerprint="f", epochs=1, run_id=run.run_id, outcome=outcome))
    StateKeeper(folder, "f", resume=False).save({"model": {}})
    write_predictions(folder / "predictions.jsonl", [PREDICTION])
    write_json(folder / "scores.json", {**SCORES.head, "overall": {}})
    log_checkpoint(run, folder / "best.pt", epoch=1, metrics={}, split_sha256=SHA, best=True)


def write_features(cache: Path, digits: str) -> Path:
    def write(folder: Path) -> None:
        (folder / "frames.f32").write_bytes(np.zeros(80, np.float32).tobytes())
        (folder / INDEX).write_text("{}")

    return get_or_create(cache, f"frames-{digits * 16}", write, what="The features", needed_bytes=1_000)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, str]:
    """One of everything, and the id of its train run, which ended; each test gets a copy."""
    place = Place(tmp_path_factory.mktemp("left") / "a")
    place.folder.mkdir()
    config = load_config("demo", {"tracking.uri": place.uri, "tracking.experiment": "left"})
    with runs.bench_run(config, code_version="x") as bench, bench.child("train", "train-tiny-seed0") as train:
        write_training(place.results / f"bench-demo-{bench.run_id[:8]}" / "tiny" / "seed0", train, finished=False)
        train.ends_as = "KILLED"
    write_features(place.cache / "features", "a")
    (place.cache / "weights").mkdir()
    for name in ("base-from-wheel-905e5bf8336b.pt", "base-from-wheel-905e5bf8336b.sha256"):
        (place.cache / "weights" / name).write_text("weights")
    chunks = place.results / "m" / ".ingest"
    chunks.mkdir(parents=True)
    (chunks / f"{'0' * 32}.arrow").write_bytes(b"chunk")
    os.utime(chunks / f"{'0' * 32}.arrow", (time.time() - 7_200,) * 2)
    write_shard(place.results / "evaluated")
    dead_name(temporary_beside(place.results / "m" / "manifest.parquet")).write_text("half")
    return place, train.run_id


def write_shard(out: Path, *, age_s: float = 7_200) -> Path:
    """Write a shard of an evaluation that is not joined."""
    head: Any = {**SHARD.head, "made_of": {}, "part": "test", "shards": 2, "shard": 0, "block": None, "wall_s": 1.0}
    head |= {"audio_context": "full", "runtime": {}, "machine": "", "parameters": 1, "model_bytes": 1}
    path = write_shard_file(out, {**head, "peak_memory_bytes": None}, [PREDICTION]).path
    os.utime(path, (time.time() - age_s,) * 2)
    return path.parent


def dead_name(path: Path) -> Path:
    """The name that a process that is gone would have given."""
    return path.with_name(path.name.replace(f"_{os.getpid()}_", f"_{DEAD}_"))


@pytest.fixture
def place(made: tuple[Place, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    original, _ = made
    shutil.copytree(original.folder, tmp_path / "a", symlinks=True)  # the store's paths are adapted when it is opened
    copied = Place(tmp_path / "a")
    monkeypatch.chdir(copied.folder)
    monkeypatch.setenv("KMED_CACHE", str(copied.cache))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return copied


@pytest.fixture
def train_id(made: tuple[Place, str]) -> str:
    return made[1]


def names(paths: set[str]) -> set[str]:
    return {Path(path).name for path in paths}


def seed_folder(place: Place) -> Path:
    (found,) = place.results.glob("bench-*/tiny/seed0")
    return found


def test_the_table_names_everything_and_changes_nothing(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    before = place.files()
    assert place.clean() == 0
    assert place.files() == before
    lines = capsys.readouterr().out.splitlines()[1:]
    rows = {line.split()[0]: line for line in lines}
    assert set(rows) == set(kept_files.KINDS) - {"encodings", "scratch"}
    assert "train-tiny-seed0 KILLED" in rows["states"]
    assert "can't be undone: the training can't be resumed" in rows["states"]
    last, best = (line for line in lines if line.startswith("checkpoints"))
    assert "can't be undone, unless the store has this epoch too" in last
    assert "fetched from the store again" in best
    assert "computed again from the audio" in rows["features"]


REMOVED = {
    "leftovers": 1,
    "chunks": {f"{'0' * 32}.arrow"},
    "features": {"frames.f32", "index.json", "checksums.json"},
    "shards": {"00000-of-00002.jsonl"},
    "states": {"state.pt"},
    "predictions": {"predictions.jsonl"},
    "checkpoints": {"best.pt", "last.pt"},
    "scores": {"scores.json"},
    "weights": {"base-from-wheel-905e5bf8336b.pt", "base-from-wheel-905e5bf8336b.sha256"},
}


def test_each_kind_goes_alone(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    for kind, expected in REMOVED.items():
        removed = names(place.removed_by("--kind", kind, "--remove", "--yes"))
        assert (len(removed) if isinstance(expected, int) else removed) == expected, kind
    assert names(set(place.files())) == {"training.json"}
    capsys.readouterr()
    assert place.clean("--remove", "--yes") == 0  # safe to repeat
    assert capsys.readouterr().out.splitlines() == ["Nothing was left behind.", "Removed 0 of 0: 0 B."]


def test_weights_go_only_by_name_and_folders_only_if_named(place: Place) -> None:
    removed = place.removed_by(str(place.results), "--remove", "--yes")
    assert {name.split("/")[0] for name in removed} == {"kmed-output"}
    assert names(place.removed_by("--remove", "--yes")) == {"frames.f32", "index.json", "checksums.json"}
    assert (place.cache / "weights" / "base-from-wheel-905e5bf8336b.pt").exists()


@fault("`clean --remove` without a terminal and without --yes", sees="error, status 2: add --yes", survives="all")
def test_without_a_terminal_it_refuses(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert place.removed_by("--kind", "states", "--remove", status=2) == set()
    said = capsys.readouterr()
    assert "Without a way back:\n" in said.out
    assert "state.pt: can't be undone: the training can't be resumed." in said.out
    assert "add --yes" in said.err


@pytest.mark.parametrize(("answer", "status"), [("y", 0), ("", 2), ("n", 2)])
def test_it_asks_at_a_terminal(place: Place, monkeypatch: pytest.MonkeyPatch, answer: str, status: int) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: answer)
    removed = names(place.removed_by("--kind", "scores", "--remove", status=status))
    assert removed == ({"scores.json"} if status == 0 else set())


def test_a_run_that_begins_before_the_answer_keeps_its_files(
    place: Place, train_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin(_: str) -> str:
        place.client.update_run(train_id, status="RUNNING")
        place.client.set_tag(train_id, PROCESS_TAG, this_process())
        return "yes"

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", begin)
    assert place.removed_by("--kind", "states", "--remove", status=1) == set()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--kind", "features,models"], "models; the kinds are: leftovers, scratch, chunks"),
        (["--older-than", "30"], "such as 12h, 30d or 2w"),
        (["--older-than", "-1d"], "older-than"),
        (["nowhere"], "nowhere is not a folder"),
        (["--store", "--kind", "states"], "--store looks at the MLflow store alone"),
    ],
)
def test_arguments_that_mean_nothing(
    place: Place, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert place.removed_by(*words, "--remove", "--yes", status=2) == set()
    assert said in capsys.readouterr().err


def test_age_is_that_of_the_last_use(place: Place) -> None:
    write_features(place.cache / "features", "b")
    month_s = time.time() - 31 * 86_400
    for path in (place.cache / "features" / f"frames-{'a' * 16}").iterdir():
        os.utime(path, (month_s, month_s))
    removed = place.removed_by("--older-than", "30d", "--remove", "--yes")
    assert {Path(name).parent.name for name in removed} == {f"frames-{'a' * 16}"}
    write_features(place.cache / "features", "b")
    assert place.removed_by("--older-than", "1h", "--kind", "features", "--remove", "--yes") == set()


@fault("files of a run that is RUNNING, its process alive", sees="status 1: left, the run is running", survives="all")
@pytest.mark.parametrize("of", ["train", "bench"])
def test_what_a_living_run_owns_stays(place: Place, train_id: str, of: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = place.client.get_run(train_id)
    run_id = train_id if of == "train" else run.data.tags["mlflow.parentRunId"]
    place.client.update_run(run_id, status="RUNNING")
    place.client.set_tag(run_id, PROCESS_TAG, this_process())
    assert place.removed_by("--kind", "states,predictions,checkpoints", "--remove", "--yes", status=1) == set()
    said = capsys.readouterr().out
    assert "Removed 0 of 4" in said
    assert "state.pt: train-tiny-seed0 is running." in said
    place.client.set_tag(run_id, PROCESS_TAG, this_process().replace(f":{os.getpid()}:", f":{DEAD}:"))
    assert names(place.removed_by("--kind", "states", "--remove", "--yes")) == {"state.pt"}


def test_runs_of_another_store_stay(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        cli.main(["clean", "--kind", "states", "--remove", "--yes", "--tracking.uri", f"sqlite:///{tmp_path}/b"]) == 1
    )
    assert "is not in the store, so it may be running; name its store with --tracking.uri" in capsys.readouterr().out
    assert not (tmp_path / "b").exists()
    assert (seed_folder(place) / "state.pt").exists()


@fault(
    "checkpoint of a training whose model the store has lost", sees="status 1: left, it is nowhere else", survives="all"
)
@pytest.mark.parametrize("loss", ["deleted run", "no file", "another file"])
def test_a_checkpoint_that_is_nowhere_else_stays(place: Place, train_id: str, loss: str) -> None:
    assert place.clean() == 0  # opens the copied store
    (stored,) = search_checkpoints(TrackedRun(place.client, train_id))
    folder = local_folder(place.client.get_logged_model(stored.model_id).artifact_location)
    assert folder is not None
    assert folder.is_relative_to(place.folder)
    if loss == "deleted run":
        place.client.delete_run(train_id)
    elif loss == "no file":
        (folder / "best.pt").unlink()
    else:
        torch.save({"dims": {}, "model_state_dict": {"w": torch.ones(9)}}, seed_folder(place) / "best.pt")
    assert place.removed_by("--kind", "checkpoints", "--remove", "--yes", status=1) == set()


@fault("features that another process has open", sees="status 1: left, which process has it open", survives="all")
def test_what_another_process_has_open_stays(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    (frames,) = place.cache.glob("features/frames-*/frames.f32")
    with frames.open("rb") as stream, subprocess.Popen(["sleep", "60"], stdin=stream) as holder:
        assert place.removed_by("--kind", "features", "--remove", "--yes", status=1) == set()
        holder.kill()
    assert f"process {holder.pid} has it open" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["features", "states"])
def test_what_is_locked_stays(place: Place, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    (store,) = place.cache.glob("features/frames-*")
    locks = {"features": store.parent / ".locks" / f"{store.name}.lock", "states": seed_folder(place) / TRAINING_LOCK}
    with FileLock(locks[kind]):
        assert place.removed_by("--kind", kind, "--remove", "--yes", status=1) == set()
    assert "is at work on it" in capsys.readouterr().out
    assert place.removed_by("--kind", kind, "--remove", "--yes") != set()


FOREIGN = ("best.pt", "state.pt", "predictions.jsonl", "scores.json", "leak.json", "epoch07.pt", "last.pt.bak")


@pytest.mark.parametrize("beside", ["nothing", "a training"])
@pytest.mark.parametrize(
    "content", [b"", b"x", b"{}", b"[1]", b'{"format": "hf"}', pytest.param(b"[" * 100_000, id="deep")]
)
def test_files_of_others_stay(place: Place, beside: str, content: bytes) -> None:
    folder = place.results / "theirs" if beside == "nothing" else seed_folder(place)
    folder.mkdir(exist_ok=True)
    for name in FOREIGN:
        (folder / name).write_bytes(content)
    strange = place.cache / "features" / f"frames-{'c' * 16}"
    strange.mkdir()
    (strange / "notes.txt").write_text("mine")
    kept = {
        path.relative_to(place.folder).as_posix() for path in (strange / "notes.txt", *map(folder.joinpath, FOREIGN))
    }
    assert not kept & place.removed_by("--remove", "--yes", status=1)


def test_others_checkpoints_and_predictions_stay_though_their_format_is_right(place: Place) -> None:
    theirs = place.results / "theirs"
    theirs.mkdir()
    shutil.copy(seed_folder(place) / "best.pt", theirs)
    shutil.copy(seed_folder(place) / "predictions.jsonl", theirs)
    for artifacts in (place.results / "mlruns" / "1", place.results / "served" / "artifacts"):
        artifacts.mkdir(parents=True)
        shutil.copy(seed_folder(place) / "scores.json", artifacts)
    removed = place.removed_by("--remove", "--yes", status=1)
    assert not any("theirs" in name or "mlruns" in name or "served" in name for name in removed)


def test_links_are_not_followed(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.move(place.results, elsewhere)
    place.results.mkdir()
    for bench in elsewhere.iterdir():
        (place.results / bench.name).symlink_to(bench)
    (store,) = place.cache.glob("features/frames-*")
    store.rename(tmp_path / store.name)
    store.symlink_to(tmp_path / store.name)
    (place.results / "state.pt").symlink_to(next(elsewhere.glob("bench-*/tiny/seed0")) / "state.pt")
    before = set(elsewhere.rglob("*"))
    assert place.removed_by("--remove", "--yes", status=1) == set()
    assert set(elsewhere.rglob("*")) == before
    assert (store / "frames.f32").exists()
    assert capsys.readouterr().out.count("it is a link") >= 2


def test_a_living_writers_temporary_file_stays(place: Place) -> None:
    mine = temporary_beside(place.results / "m" / "rejects.csv")
    mine.write_text("half")
    removed = place.removed_by("--kind", "leftovers", "--remove", "--yes", status=1)
    assert len(removed) == 1
    assert mine.exists()


def test_scratch_of_killed_processes_goes_and_that_of_living_ones_stays(place: Place, tmp_path: Path) -> None:
    with scratch_for_libraries(), scratch_folder() as inner:
        (outer,) = tmp_path.glob(".kmed-bench.*")
        assert inner.parent == outer  # as whatever a library writes
        assert outer.stat().st_mode & 0o777 == 0o700
        left = dead_name(outer)
        shutil.copytree(outer, left)
        (left / "predictions.jsonl").write_text("{}")
        (tmp_path / "tmpab12").mkdir()
        tempfile.tempdir = str(tmp_path)
        assert place.removed_by("--kind", "scratch", "--remove", "--yes") == set()
        assert outer.exists()
        assert not left.exists()
    assert not outer.exists()
    assert (tmp_path / "tmpab12").exists()


@fault("`clean --remove` interrupted", sees="what was removed by then; status 130", survives="whole things")
def test_an_interrupted_removal_leaves_whole_things_or_leftovers(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(path: Path) -> None:
        next(Path(path).iterdir()).unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(removal.shutil, "rmtree", stop)
        assert place.clean("--kind", "features", "--remove", "--yes") == 130
    assert "Removed 0 of 1" in capsys.readouterr().out
    (left,) = (path for path in (place.cache / "features").iterdir() if path.name != ".locks")
    assert left.name.startswith(".frames-")
    left.rename(dead_name(left))  # as if it had been killed
    assert len(place.removed_by(str(place.cache), "--remove", "--yes")) == 2


def test_what_changes_meanwhile_stays(place: Place) -> None:
    (state,) = (kept for kept in kept_files.find_kept([place.results]) if kept.kind == "states")
    os.utime(state.path)
    assert "changed since" in removal.remove(state)
    assert state.path.exists()


def test_the_state_of_a_finished_training_costs_nothing(place: Place, train_id: str) -> None:
    folder = seed_folder(place)
    outcome = TrainOutcome(train_id, "tiny", 0, folder / "best.pt", 1, 0.3, 0.4, 0.2)
    write_training_record(folder, TrainingRecord(fingerprint="f", epochs=1, run_id=train_id, outcome=outcome))
    (state,) = (kept for kept in kept_files.find_kept([place.results]) if kept.kind == "states")
    assert not state.is_final


def test_files_of_deleted_runs_in_the_store(place: Place, train_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert place.clean() == 0  # opens the copied store
    place.client.log_text(train_id, "a" * 5_000, "notes.txt")
    bench_id = place.client.get_run(train_id).data.tags["mlflow.parentRunId"]
    kept = artifact_folder(place.client.get_run(bench_id))
    assert kept is not None
    n_kept = len(list(kept.rglob("*")))
    place.client.delete_run(train_id)
    capsys.readouterr()
    assert place.clean("--store") == 0
    (row,) = capsys.readouterr().out.splitlines()[1:]
    assert row.split()[:3] == ["train-tiny-seed0", train_id, "train"]
    place.client.create_registered_model("kmed-whisper-tiny")
    place.client.create_model_version("kmed-whisper-tiny", f"runs:/{train_id}/x", run_id=train_id)
    assert place.clean("--store", "--remove", "--yes") == 1
    assert "kmed-whisper-tiny version 1 points to it; delete that first" in capsys.readouterr().out
    place.client.delete_model_version("kmed-whisper-tiny", "1")
    assert place.clean("--store", "--remove") == 2
    assert place.clean("--store", "--remove", "--yes") == 0
    assert "mlflow gc" in capsys.readouterr().out
    assert not list(place.folder.glob(f"mlruns/*/{train_id}/artifacts"))
    assert not list(place.folder.glob("mlruns/*/models/*/artifacts"))
    assert len(list(kept.rglob("*"))) == n_kept
    assert place.clean("--store", "--remove", "--yes") == 0
    assert capsys.readouterr().out.startswith("Nothing was left behind.")


def test_shards_stay_while_an_evaluation_may_be_at_work(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    recent = write_shard(place.results / "now", age_s=60)
    strange = write_shard(place.results / "strange")
    (strange / "notes.txt").write_text("mine")
    theirs = place.results / "theirs" / "shards"
    theirs.mkdir(parents=True)
    (theirs / "00000-of-00002.jsonl").write_text("{}")
    removed = place.removed_by("--kind", "shards", "--remove", "--yes", status=1)
    assert names(removed) == {"00000-of-00002.jsonl"}
    assert len(removed) == 1
    assert (recent / "00000-of-00002.jsonl").exists()
    assert (strange / "notes.txt").exists()
    assert (theirs / "00000-of-00002.jsonl").exists()
    said = capsys.readouterr().out
    assert "it was written within the last hour, so an evaluation may be at work" in said
    assert "it holds notes.txt, which is no shard" in said


def test_transcripts_of_untouched_models_and_of_curves_are_found(tmp_path: Path) -> None:
    parts = ("_untouched", "_left_out", "_left_out_untouched", "_valid", "_test")
    expected = {tmp_path / f"predictions{part}.jsonl" for part in parts}
    for path in expected | {tmp_path / "predictions_of_mine.jsonl"}:
        write_predictions(path, [PREDICTION])
    assert all(kept.refused for kept in kept_files.find_kept([tmp_path]))
    write_json(tmp_path / "untouched.json", UNTOUCHED.head)
    found = [kept for kept in kept_files.find_kept([tmp_path]) if kept.kind == "predictions"]
    assert {kept.path for kept in found} == expected
    assert not any(kept.refused for kept in found)

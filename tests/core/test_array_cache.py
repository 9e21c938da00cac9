import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from kmed_bench.asr.features.store import build_features
from kmed_bench.core.array_cache import get_or_create
from kmed_bench.core.errors import KmedError
from kmed_bench.core.quantities import gib

NAME = "frames-0123456789abcdef"
OTHER = "frames-fedcba9876543210"

# Builds a part's frames, and writes a line for each clip it computes; argument 4 is where it stops for good.
BUILDER = """
import sys, time
from pathlib import Path
import pandas as pd
from kmed_bench.asr.features.store import build_features

part, cache, log, stop = pd.read_parquet(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])

def progress(done, total):
    with log.open("a") as stream:
        stream.write(f"{done}\\n")
    time.sleep(600 if done == stop else 0.05)

print(float(build_features(part, cache, progress=progress).window(part["utterance_id"].tolist(), 200).sum()))
"""


def fill(folder: Path, n_bytes: int = 1_000) -> None:
    (folder / "data").write_bytes(bytes(n_bytes))
    (folder / "index.json").write_text(json.dumps({"n": n_bytes}))


def refuse(folder: Path) -> None:
    raise AssertionError("written again")


def start_builder(part: Path, cache: Path, log: Path, stop: int = 0) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", BUILDER, str(part), str(cache), str(log), str(stop)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def stores_in(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.name != ".locks")


def test_a_store_is_written_once(tmp_path):
    folder = get_or_create(tmp_path, NAME, fill, what="A store", needed_bytes=2_000)
    assert folder == tmp_path / NAME
    assert sorted(p.name for p in folder.iterdir()) == ["checksums.json", "data", "index.json"]
    assert get_or_create(tmp_path, NAME, refuse, what="A store", needed_bytes=2_000) == folder
    assert stores_in(tmp_path) == [NAME]


def test_a_writer_that_fails_leaves_nothing(tmp_path):
    def fail(folder: Path) -> None:
        fill(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get_or_create(tmp_path, NAME, fail, what="A store", needed_bytes=1)
    assert stores_in(tmp_path) == []


def test_a_disk_that_fills_up_is_said(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("this system has no device that is always full")

    def fill_up(folder: Path) -> None:
        with Path("/dev/full").open("wb") as stream:
            stream.write(b"x")

    with pytest.raises(KmedError, match="A store did not fit on the disk"):
        get_or_create(tmp_path, NAME, fill_up, what="A store", needed_bytes=1)
    assert stores_in(tmp_path) == []


def test_what_a_writer_was_granted_counts_at_once(tmp_path):
    def write(folder: Path) -> None:
        # Another process asks while this store has nothing on disk yet.
        with pytest.raises(KmedError, match=r"B need .* stores take 5\.7 MiB of a budget of 9\.5 MiB"):
            get_or_create(tmp_path, OTHER, refuse, what="B", needed_bytes=5_000_000, budget_bytes=10_000_000)
        fill(folder, 10)

    get_or_create(tmp_path, NAME, write, what="A", needed_bytes=6_000_000, budget_bytes=10_000_000)
    # Less was needed than was granted: now there is room.
    get_or_create(tmp_path, OTHER, fill, what="B", needed_bytes=5_000_000, budget_bytes=10_000_000)


def test_the_stores_longest_unused_are_named_first(tmp_path):
    names = [f"frames-{i:016x}" for i in range(5)]
    for age, name in enumerate(names):
        get_or_create(tmp_path, name, fill, what="A store", needed_bytes=1)
        os.utime(tmp_path / name / "index.json", (time.time() - 100 + age,) * 2)
    get_or_create(tmp_path, names[0], refuse, what="A store", needed_bytes=1)  # used: now the newest
    with pytest.raises(KmedError) as error:
        get_or_create(tmp_path, NAME, refuse, what="A store", needed_bytes=10**9, budget_bytes=10**8)
    named = [name for name in str(error.value).replace(",", " ").split() if name.startswith("frames-")]
    assert named == names[1:4]


def test_leftovers_go_after_a_day_and_those_of_the_same_store_at_once(tmp_path):
    for name, hours in ((NAME, 0.0), (OTHER, 1.0), (f"encoded-{'a' * 16}", 25.0)):
        aside = tmp_path / f".{name}.x1y2_z3"
        aside.mkdir()
        fill(aside)
        for path in (*aside.iterdir(), aside):
            os.utime(path, (time.time() - hours * 3600,) * 2)
    (tmp_path / ".something-else").mkdir()
    os.utime(tmp_path / ".something-else", (0, 0))
    get_or_create(tmp_path, NAME, fill, what="A store", needed_bytes=1)
    # The one of an hour ago may still have a writer, on another machine for instance.
    assert stores_in(tmp_path) == [f".{OTHER}.x1y2_z3", ".something-else", NAME]


def test_sizes_are_said_in_fitting_units():
    assert [gib(n) for n in (5 * 2**19, 3 * 2**29)] == ["2.5 MiB", "1.5 GiB"]


@pytest.mark.slow
def test_two_processes_at_once_make_one_store(tone_part, tmp_path):
    part, cache, log = tmp_path / "part.parquet", tmp_path / "cache", tmp_path / "log"
    tone_part.to_parquet(part)
    builders = [start_builder(part, cache, log) for _ in range(2)]
    sums = [float(builder.communicate(timeout=300)[0]) for builder in builders]
    assert [builder.returncode for builder in builders] == [0, 0]
    assert sums[0] == sums[1]
    # One computed every clip once; the other waited and read.
    assert log.read_text().split() == [str(i) for i in range(1, 13)]
    assert len(stores_in(cache)) == 1


@pytest.mark.slow
def test_a_killed_writer_leaves_nothing_that_is_read(tone_part, tmp_path):
    part, cache, log = tmp_path / "part.parquet", tmp_path / "cache", tmp_path / "log"
    tone_part.to_parquet(part)
    with start_builder(part, cache, log, stop=6) as builder:
        while not (log.exists() and log.read_text().endswith("6\n")):
            assert builder.poll() is None
            time.sleep(0.05)
        builder.send_signal(signal.SIGKILL)
    (aside,) = stores_in(cache)
    assert aside.startswith(".frames-")
    store = build_features(tone_part, cache)  # the lock is free, the remains don't count
    assert stores_in(cache) == [store.key]
    names = tone_part["utterance_id"].tolist()
    again = build_features(tone_part, tmp_path / "other")
    assert store.window(names, 200).equal(again.window(names, 200))


def damage(folder: Path, how: str) -> None:
    frames = next(path for path in folder.iterdir() if path.suffix != ".json")
    content = frames.read_bytes()
    changed = bytearray(content)
    changed[len(content) // 2] ^= 1
    if how == "cut":
        os.truncate(frames, 100)
    elif how == "gone":
        frames.unlink()
    elif how == "no checksums":
        (folder / "checksums.json").unlink()
    elif how == "index cut":
        os.truncate(folder / "index.json", 20)
    elif how == "checksums cut":
        os.truncate(folder / "checksums.json", 20)
    elif how == "other checksums":
        (folder / "checksums.json").write_text("[3]")
    elif how == "deep checksums":
        (folder / "checksums.json").write_text("[" * 100_000)
    else:
        frames.write_bytes({"zeros": bytes(len(content)), "one bit": bytes(changed), "longer": content + b"\0"}[how])


@pytest.mark.parametrize(
    "how",
    [
        *("cut", "zeros", "one bit", "longer", "gone"),
        *("index cut", "no checksums", "checksums cut", "other checksums", "deep checksums"),
    ],
)
def test_a_damaged_store_is_made_again_and_said(tmp_path, tone_part, how, caplog):
    names = tone_part["utterance_id"].tolist()
    expected = build_features(tone_part, tmp_path).window(names, 120).clone()
    (folder,) = (path for path in tmp_path.iterdir() if path.name != ".locks")
    damage(folder, how)
    assert torch.equal(build_features(tone_part, tmp_path).window(names, 120), expected)
    assert f"in {folder} are damaged" in caplog.text
    caplog.clear()
    build_features(tone_part, tmp_path)
    assert not caplog.text
    assert stores_in(tmp_path) == [folder.name]

"""Full disks, users without a home, signals and closed streams under the commands that use a model or the store."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from command_line import command, left_on_disk, other_user, run, said, small_disk, surroundings
from fault_table import fault
from random_whisper import save_random_whisper
from small_store import make_store

from kmed_bench.config import SplitConfig
from kmed_bench.core.schema import read_manifest
from kmed_bench.corpus.splitting.split import split_manifest, write_split

pytestmark = pytest.mark.slow

EVAL = ["--eval.audio_context", "dynamic", "--eval.max_new_tokens", "8", "--eval.bootstrap_draws", "20"]
TRAIN = ["--size", "tiny", "--weights", "tiny.pt", "--epochs", "1", "--train.audio_context", "dynamic"]
TRAIN += ["--train.precision", "fp32", "--batch_size", "4", *EVAL]
SPACE = "{train.lr: {low: 1.0e-6, high: 0.1, log: true}}"
COMMANDS = {
    "train": ["train", "split", "out", *TRAIN],
    "tune": ["tune", "split", "--out", "out", *TRAIN, "--trials", "1", "--tune.space", SPACE],
    "evaluate": ["evaluate", "tiny.pt", "split", "out", *EVAL],
    "export --format openai": ["export", "tiny.pt", "out", "--format", "openai"],
    "export --format hf": ["export", "tiny.pt", "out", "--format", "hf"],
    "export --format ct2": ["export", "tiny.pt", "out", "--format", "ct2"],
    "report": ["report", "out"],
    "history": ["history", "out"],
    "package": ["package", "predictions.jsonl", "out"],
}
TRAINING = ("train", "tune")
FREE = {  # of the small disk: some files fit, the next one does not
    "train": "16k",
    "tune": "100k",
    "evaluate": "12k",
    "report": "300k",
    "history": "4k",
    "package": "4k",
}
# A training adds about 100 KiB to the store.
ROOM_FOR_A_PART = "cp mlflow.db $mounted; cat /dev/zero > $mounted/filler || true; truncate -s -60K $mounted/filler"
NAMES = ("kmed-bench.log", ".training.lock", ".untouched.lock")  # may be empty


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, a split, predictions and a store with a benchmark, which no test changes."""
    folder = tmp_path_factory.mktemp("place")
    store = make_store(folder / "made")
    (results,) = store.out.glob("bench-*")
    config = SplitConfig(train=8, valid=2, test=3, by=(), disjoint=())
    write_split(split_manifest(read_manifest(results / "manifest" / "manifest.parquet"), config), folder / "split")
    save_random_whisper(folder / "tiny.pt")
    shutil.copy(results / "tiny" / "seed0" / "predictions.jsonl", folder)
    return folder


@pytest.fixture
def here(place: Path, tmp_path: Path) -> Path:
    """A folder of one test, with what `place` has."""
    for name in ("tiny.pt", "split", "predictions.jsonl", "cache"):
        (tmp_path / name).symlink_to(place / name)
    (place / "cache").mkdir(exist_ok=True)
    shutil.copy(place / "made" / "mlflow.db", tmp_path)
    return tmp_path


def smaller(name: str, folder: Path) -> dict[str, str]:
    return {"SMALLER": str(folder / "tiny.pt")} if name in TRAINING else {}


def fits(name: str) -> pytest.MarkDecorator:
    return fault(
        f"disk of the results is full: {name}",
        sees="error, status 2: the file or folder and the cause",
        survives="what was there; no half file under a final name",
    )


@pytest.mark.parametrize("name", [pytest.param(name, marks=fits(name)) for name in COMMANDS])
def test_a_full_disk_is_one_line_and_nothing_half(here: Path, name: str) -> None:
    out = here / "out"
    filler = "head -c 4096 /dev/zero > $mounted/filler" if name in ("history", "package") else ""
    disk = small_disk(out, FREE.get(name, "4m"), filler)
    # An export wants a folder that does not exist yet.
    words = [word if word != "out" else "out/new" if name.startswith("export") else "out" for word in COMMANDS[name]]
    done = run(here, *words, inside=disk, **smaller(name, here))
    assert done.returncode == 2, done.stderr
    (line,) = said(done)
    assert "out" in line
    assert "No space left on device" in line or (name == "train" and "are free; make room" in line)
    left = left_on_disk(done)
    assert [path for path in left if Path(path).name.startswith(".") and Path(path).name not in NAMES] == []
    assert [path for path, size in left.items() if size == 0 and Path(path).name not in NAMES] == []
    assert not any(path.startswith("new") for path in left)


@pytest.mark.parametrize("name", COMMANDS)
@fault(
    "folder for results below a file: train, tune, evaluate, export, report, history, package",
    sees="error, status 2: the path and the cause",
    survives="what was there",
)
def test_an_output_folder_that_cannot_be_made(here: Path, name: str) -> None:
    (here / "file").touch()
    done = run(here, *("file/out" if word == "out" else word for word in COMMANDS[name]), **smaller(name, here))
    assert done.returncode == 2
    (line,) = said(done)
    assert "file" in line
    assert "Not a directory" in line or "File exists" in line


@pytest.mark.parametrize(
    ("name", "size", "prepare"),
    [
        ("evaluate", "8k", ""),
        ("train", "600k", ""),
        ("train", "4m", ROOM_FOR_A_PART),
        ("report", "2m", "cp mlflow.db $mounted; mount -o remount,ro $mounted"),
        ("evaluate", "2m", "cp mlflow.db $mounted; mount -o remount,ro $mounted"),
    ],
)
@fault(
    "disk of the tracking store is full or read-only",
    sees="error, status 2: the store's file or artifact folder and the cause, in one line",
    survives="the store and the results that were written; a read-only store can be reported",
)
def test_a_store_without_room_is_one_line(here: Path, name: str, size: str, prepare: str) -> None:
    disk, uri = small_disk(here / "store", size, prepare), f"sqlite:///{here}/store/mlflow.db"
    done = run(here, *COMMANDS[name], inside=disk, **smaller(name, here), MLFLOW_TRACKING_URI=uri)
    lines = said(done)
    if name == "report":
        assert (done.returncode, lines) == (0, [])
        return
    assert done.returncode == 2
    (line,) = lines
    assert f"{here}/store" in line
    assert "full" in line or "No space left" in line or "readonly" in line or "disk" in line


@pytest.mark.parametrize("name", ["evaluate", "report", "train"])
@fault(
    "tracking store on a server that does not answer",
    sees="error, status 2: the address without its password",
    survives="all results",
)
def test_an_address_is_named_without_its_password(here: Path, name: str) -> None:
    uri = "postgresql://someone:hidden@127.0.0.1:9/db"
    done = run(here, *COMMANDS[name], **smaller(name, here), MLFLOW_TRACKING_URI=uri)
    assert done.returncode == 2
    (line,) = said(done)
    assert "postgresql://***@127.0.0.1:9/db" in line
    assert b"hidden" not in done.stdout + done.stderr
    assert not (here / "out" / "scores.json").exists()


@fault(
    "HOME that can't be written, no KMED_CACHE",
    sees="error, status 2: the cache folder, and to set KMED_CACHE",
    survives="what was there",
)
def test_a_cache_without_a_home_is_named(here: Path) -> None:
    home = here / "locked"
    home.mkdir(mode=0o555)
    user = dict.fromkeys(("KMED_CACHE", "XDG_CACHE_HOME", "LOGNAME", "USER"), "-")
    done = run(here, *COMMANDS["evaluate"], inside=other_user(), **user, HOME=str(home))
    assert done.returncode == 2
    (line,) = said(done)
    assert f"{home}/.cache can't be read or written: Permission denied. Set KMED_CACHE" in line


@pytest.mark.parametrize("name", ["evaluate", "train", "report", "export --format hf"])
@fault("user without an account, HOME unset, KMED_CACHE set", sees="nothing; status 0", survives="all results")
def test_a_user_without_an_account_gets_all_results(here: Path, name: str) -> None:
    none = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "LOGNAME", "USER", "USERNAME", "LNAME"), "-")
    own = none | {"KMED_CACHE": str(here / "own"), "MPLCONFIGDIR": str(here / "own")}
    done = run(here, *COMMANDS[name], inside=other_user(), **smaller(name, here), **own)
    assert (done.returncode, said(done)) == (0, []), done.stderr


@fault("TMPDIR names a folder that is not there", sees="nothing; status 0", survives="all results")
def test_a_missing_tmpdir_costs_nothing(here: Path) -> None:
    done = run(here, *COMMANDS["evaluate"], TMPDIR=str(here / "none"))
    assert (done.returncode, said(done)) == (0, [])


@fault("no folder for temporary files can be written", sees="error, status 2: set TMPDIR", survives="what was there")
def test_no_folder_for_temporary_files(here: Path, place: Path) -> None:
    prepare = "mount -t tmpfs none /mnt; for folder in /tmp /var/tmp; do mount --bind $folder $folder; "
    prepare += "mount -o remount,bind,ro $folder; done; cd /proc; mounted=/mnt"
    disk = small_disk(here / "disk", "1m", prepare)
    words = ["export", str(place / "tiny.pt"), "/mnt/out", "--format", "hf"]
    done = run(here, *words, inside=disk, MLFLOW_TRACKING_URI="sqlite:////mnt/mlflow.db")
    assert done.returncode == 2, done.stderr
    (line,) = said(done)
    assert "No usable temporary directory found" in line
    assert "set TMPDIR" in line


def begun(folder: Path, process: "subprocess.Popen[bytes]", sign: str) -> None:
    """Wait until a command has left a first sign of its work."""
    until_s = time.monotonic() + 300
    while not list(folder.glob(sign)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until_s
        time.sleep(0.005)


SIGNS = {
    "demo-corpus": (["demo-corpus", "out", "--speakers", "20", "--sentences", "110"], ".out.*", "SIGINT"),
    "ingest": (["ingest", "corpus", "out", "--data.workers", "2"], "out/.ingest/*", "SIGTERM"),
    "evaluate": ([*COMMANDS["evaluate"], "--part", "train"], "out/kmed-bench.log", "SIGINT"),
    "tune": (COMMANDS["tune"], "out/kmed-bench.log", "SIGINT"),
    "export": (COMMANDS["export --format ct2"], ".out.*", "SIGTERM"),
    "report": (COMMANDS["report"], "out/*.csv", "SIGINT"),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=fault(
                f"{'Ctrl-C' if SIGNS[name][2] == 'SIGINT' else 'SIGTERM'} in {name}",
                sees="interrupted; status 130",
                survives="what was there; nothing half under a final name, no temporary file",
            ),
        )
        for name in SIGNS
    ],
)
def test_an_interrupted_command_ends_with_130(here: Path, place: Path, name: str) -> None:
    words, sign, number = SIGNS[name]
    (here / "corpus").symlink_to(place / "made" / "corpus")
    environment = smaller(name, here)
    start = command(words, environment)
    if not environment:  # as it is installed
        start = [str(Path(sys.executable).with_name("kmed-bench")), *words]
    process = subprocess.Popen(
        start,
        cwd=here,
        env=surroundings(here) | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,  # a background job ignores it
    )
    begun(here, process, sign)
    process.send_signal(getattr(signal, number))
    out, err = process.communicate(timeout=300)
    assert process.returncode == 130, (out, err)
    assert b"Traceback" not in err, err
    assert err.decode().splitlines()[-1].startswith("kmed-bench: ")
    assert list(here.rglob(".out.*")) == []
    assert [path for path in (here / "out").rglob("*.json") if path.stat().st_size == 0] == []


@fault("clip with NaN in the test part: evaluate", sees="error, status 2: the clip", survives="what was there")
def test_a_clip_of_no_numbers_is_named(here: Path) -> None:
    rows = read_manifest(here / "split" / "test.parquet")
    samples = np.zeros(16_000, np.float32)
    samples[8_000] = np.nan
    clips = []
    for i in range(9):
        path = here / f"clip{i}.wav"
        soundfile.write(path, samples if i == 4 else np.zeros_like(samples), 16_000, subtype="FLOAT")
        about = {"utterance_id": f"clip{i}", "audio": str(path), "duration_s": 1.0, "rate_hz": 16_000}
        clips.append(rows.iloc[i % len(rows)].to_dict() | about)
    part = pd.DataFrame(clips)
    config = SplitConfig(train=1, valid=1, test=7, by=(), disjoint=())
    write_split(split_manifest(part, config), here / "quiet")
    tested = list(pd.read_parquet(here / "quiet" / "test.parquet")["utterance_id"])
    assert "clip4" in tested
    done = run(here, "evaluate", "tiny.pt", "quiet", "out", *EVAL)
    assert done.returncode == 2
    (line,) = said(done)
    assert "clip4" in line
    assert not (here / "out" / "predictions.jsonl").exists()


@pytest.mark.parametrize("name", ["evaluate", "report", "train"])
@fault(
    "standard output and standard error closed: train, evaluate, report",
    sees="nothing; status 0",
    survives="all results",
)
def test_closed_streams_cost_no_result(here: Path, name: str) -> None:
    done = run(here, *COMMANDS[name], before=lambda: [os.close(1), os.close(2)], **smaller(name, here))
    assert done.returncode == 0
    expected = {"evaluate": "scores.json", "report": "index.html", "train": "seed0/best.pt"}[name]
    assert (here / "out" / expected).stat().st_size > 0


@pytest.mark.parametrize("name", ["evaluate", "history"])
@fault(
    "reader of standard output has left: evaluate, history",
    sees="nothing; status 1",
    survives="the files that were written",
)
def test_a_reader_that_has_left_costs_no_result(here: Path, name: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = run(here, *COMMANDS[name], stdout=writing)
    finally:
        os.close(writing)
    assert (done.returncode, said(done)) == (1, [])
    sizes = [path.stat().st_size for path in (here / "out").glob("*.json")]
    assert sizes
    assert min(sizes) > 0


@pytest.mark.parametrize("words", [COMMANDS["evaluate"], ["power", "split"]], ids=["evaluate", "power"])
@fault(
    "standard output on a full disk: evaluate, power", sees="error, status 2: standard output", survives="all results"
)
def test_a_full_disk_under_the_results_that_are_printed(here: Path, words: list[str]) -> None:
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        done = run(here, *words, stdout=full.fileno())
    assert done.returncode == 2
    (line,) = said(done)
    assert "standard output can't be read or written: No space left on device" in line


@pytest.mark.parametrize("encoding", ["ascii", "cp949"])
@fault(
    "terminal whose encoding has no Hangul, or not all: evaluate, report",
    sees="escapes in its place; status 0",
    survives="all results",
)
def test_a_terminal_without_hangul(here: Path, encoding: str) -> None:
    for words in (["evaluate", "tiny.pt", "split", "결과", *EVAL], ["report", "보고서"]):
        done = run(here, *words, PYTHONIOENCODING=encoding)
        assert (done.returncode, said(done)) == (0, [])
        assert encoding != "ascii" or done.stdout.isascii()


NO_UTF8 = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize("name", ["report", "export --format hf"])
@fault("locale C without UTF-8: report, export", sees="nothing; status 0", survives="all results")
def test_a_locale_without_utf8_costs_nothing(here: Path, name: str) -> None:
    done = run(here, *COMMANDS[name], **smaller(name, here), **NO_UTF8)
    assert (done.returncode, said(done)) == (0, []), done.stderr


@pytest.mark.parametrize("name", ["evaluate", "train"])
@fault(
    "locale C without UTF-8, and audio files with Hangul in their names",
    sees="error, status 2: the encoding and PYTHONUTF8=1",
    survives="what was there",
)
def test_file_names_that_a_locale_has_no_letters_for(here: Path, name: str) -> None:
    done = run(here, *COMMANDS[name], **smaller(name, here), **NO_UTF8)
    assert done.returncode == 2
    (line,) = said(done)
    assert "this locale's encoding" in line
    assert "set PYTHONUTF8=1" in line

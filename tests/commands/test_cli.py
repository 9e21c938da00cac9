"""Bad input: one paragraph that names the thing and the remedy, a non-zero exit, no traceback, no orphan run."""

import contextlib
import json
import os
import pty
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from kmed_bench.cli import main, parse
from kmed_bench.commands.options import ALIASES, resolve, spell_settings
from kmed_bench.config import Config, flatten
from kmed_bench.config.describe import describe_settings
from kmed_bench.config.gate import GATE_LIMITS

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user would, on a machine with nothing cached and no download site."""
    # Tests that opened a store in this process left its address in the environment.
    known = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_TRACKING")}
    env = {**known, "KMED_CACHE": str(cwd / "cache"), "XDG_CACHE_HOME": str(cwd / "xdg"), **environment}
    command = [sys.executable, "-m", "kmed_bench", *arguments]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=300)


def statuses(cwd: Path) -> set[str]:
    if not (cwd / "mlflow.db").exists():
        return set()
    connection = sqlite3.connect(cwd / "mlflow.db")
    try:
        return {row[0] for row in connection.execute("select status from runs")}
    finally:
        connection.close()


def folder_without_audio(tmp_path: Path) -> Path:
    folder = tmp_path / "labels-only" / "Training"
    folder.mkdir(parents=True)
    label = {
        "전사정보": {"LabelText": "아파요"},
        "화자정보": {"Gender": "Female", "Age": "60~69", "Region": "부산/대구/울산/경상", "Dialect": "경상"},
        "파일정보": {"FileName": "PA_0001-0001-01-03-F-08-D.wav", "FileLength": "1.0"},
    }
    (folder / "PA_0001-0001-01-03-F-08-D.json").write_text(json.dumps(label, ensure_ascii=False), encoding="utf-8")
    return folder.parent


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["run", "--source", "nowhere", "--sizes", "base"], "nowhere does not exist"),
        (["run", "--source", "empty", "--sizes", "base"], "empty"),
        (["run", "--source", "labels-only", "--sizes", "base"], "labels-only"),
        (["run", "--sizes", "huge"], "huge; choose from tiny, base, small"),
        (["run", "--train.learning_rate", "1"], "'train.learning_rate' is not a setting"),
        (["run", "--sizes", "tiny"], "Whisper tiny: no weights"),
        (["run", "--sizes", "base", "--weights", "gone.pt"], "gone.pt does not exist"),
        (["ingest", "nowhere", "out"], "nowhere"),
        (["split", "nowhere.parquet", "out"], "nowhere.parquet does not exist"),
        (["train", "nowhere", "out", "--size", "huge"], "huge; choose from"),
        (["report", "out"], "has no benchmark"),
        (["score", "nowhere.jsonl", "out"], "nowhere.jsonl do not exist"),
        (["run", "--profile", "nope"], "'nope' is unknown"),
        (["promote", "kmed-whisper-base", "1"], "kmed-whisper-base"),
        (["evaluate", "base", "nowhere", "out"], "nowhere"),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, list) else "",
)
def test_bad_input_is_explained(tmp_path, arguments, named):
    (tmp_path / "empty").mkdir()
    folder_without_audio(tmp_path)
    # Port 9 of this machine answers nobody: the download site of a closed network.
    done = run(*arguments, cwd=tmp_path, https_proxy="http://127.0.0.1:9")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert named in done.stderr
    message = [line for line in done.stderr.splitlines() if line.startswith("kmed-bench: ")]
    assert len(message) == 1  # one paragraph
    assert "RUNNING" not in statuses(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["run", "--epochs"], "argument --train.epochs/--epochs: expected one argument"),
        (["run", "--train.epochs"], "expected one argument"),
        (["run", "extra"], "Argument 'extra' is not understood; see `kmed-bench run --help`"),
        (["run", "--x"], "Argument '--x' is not understood"),
        (["split", "m"], "split: the following arguments are required: out; see `kmed-bench split --help`"),
        (["run", "--train.lrr", "1"], "'train.lrr' is not a setting; did you mean train.lr"),
        (["train", "s", "o", "--train.features=fp16"], "'train.features' was renamed 'features.dtype'"),
        (["run", "--eval.repetition_guard", "8"], "renamed 'eval.no_repeat_ngram_size'"),
        (["report", "out", "--train.lr", "1"], "`report` does not read the setting train.lr"),
        (["evaluate", "m", "s", "o", "--lr=1"], "`evaluate` does not read the setting train.lr"),
        (["train", "s", "o", "--seeds", "1"], "Argument '--seeds' is --train.seeds or --seed in `train`."),
        (["train", "s", "o"], "name one of each with --size and --seed"),
        (["train", "s", "o", "--size", "base", "--seed", "1,2"], "name one of each with --size and --seed"),
        (["tune", "s", "--size", "base,tiny"], "`tune` takes one size, and --size is base,tiny"),
        (["settings", "trian"], "'trian' is neither a setting nor a group of settings; the groups are data, split"),
        (["settings", "--profile", "nope"], "Profile 'nope' is unknown"),
        (["train", "--help", "--profile", "nope"], "Profile 'nope' is unknown"),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, list) else "",
)
def test_faulty_words_are_explained(arguments, named, capsys):
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("kmed-bench: ")
    assert named in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("words", [["--train.lr", "1e-5"], ["--train.lr=1e-5"], ["--lr", "1e-5"], ["--lr=1e-5"]])
def test_a_setting_is_taken_before_and_behind_the_other_arguments(words):
    for arguments in (["train", *words, "S", "O", "--size", "base"], ["train", "S", "O", "--size=base", *words]):
        args = parse(arguments)
        assert args.overrides == {"train.lr": "1e-5", "model.sizes": "base"}
        assert (args.split, args.out) == (Path("S"), Path("O"))
        assert resolve(args).train.lr == 1e-5
    assert parse(["run", *words, "--epochs", "profile"]).overrides == {"train.lr": "1e-5"}


def test_short_names_are_of_their_command():
    assert parse(["split", "m", "o", "--seed", "3", "--train", "40"]).overrides == {
        "split.seed": "3",
        "split.train": "40",
    }
    assert parse(["train", "s", "o", "--seed", "3"]).overrides == {"train.seeds": "3"}
    assert parse(["demo-corpus", "o", "--seed", "3"]).overrides == {"data.demo_seed": "3"}
    assert parse(["compare", "a", "b", "--policy", "spelling"]).overrides == {"data.transcript_side": "spelling"}


def help_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main([*words])
    assert ended.value.code == 0
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("command", "project", "said"),
    [
        ("split", False, "take --train 27 --disjoint speaker; fewer in --by, or `kmed-bench run --split.train 5`."),
        ("run", False, "take --split.train 27 --split.disjoint speaker; fewer in --split.by, or {quoted}."),
        ("run", True, "take -P split.train=27 -P split.disjoint=speaker; fewer in -P split.by=…, or {quoted}."),
        ("ingest", True, "take --split.train 27 --split.disjoint speaker; fewer in --split.by, or {quoted}."),
    ],
)
def test_messages_spell_settings_as_the_command_takes_them(command, project, said):
    needed = {"split": ["m", "o"], "ingest": ["s", "o"]}.get(command, [])
    quoted = "`kmed-bench run --split.train 5`"
    message = f"take --split.train 27 --split.disjoint speaker; fewer in --split.by, or {quoted}."
    flags = parse([command, *needed]).flags
    assert spell_settings(message, flags, project=project) == said.format(quoted=quoted)


def test_help_shows_the_settings_that_the_command_reads(capsys):
    text = help_of(capsys, "train", "--help")
    for key, setting in describe_settings().items():
        read = key.startswith(("train.", "eval.", "features.", "tracking.")) or key in (
            "data.transcript_side",
            "model.sizes",
            "model.weights",
            *GATE_LIMITS,
        )
        assert (f"--{key}" in text) == read, key
        if read:
            assert setting.meaning in text
            assert f"[{setting.kind}]" in text
            assert f"(default: {setting.default}" in text
    assert "--train.lr, --lr [number > 0]" in text
    assert "--train.seeds, --seed [list" in text
    assert "(default: 0; sound: 0,1,2)" in text


def test_help_shows_the_values_of_the_profile_that_is_given(capsys, tmp_path):
    for words in (["--help", "--profile", "demo"], ["--profile=demo", "--help"]):
        text = help_of(capsys, "run", *words)
        assert "(default: 20; demo: 3)" in text
        assert "sound:" not in text
    mine = tmp_path / "mine.yaml"
    mine.write_text("train: {lr: 1.0e-5}", encoding="utf-8")
    assert "(default: 2e-05; mine: 1e-05)" in help_of(capsys, "run", "--profile", str(mine), "--help")


def test_settings_are_listed(capsys):
    assert main(["settings"]) == 0
    everything = capsys.readouterr().out
    assert all(f"  {key}  [" in everything for key in describe_settings() if key != "tune.objectives")
    assert main(["settings", "train.epochs", "--profile", "demo"]) == 0
    assert "(default: 20; demo: 3; decides: training)" in " ".join(capsys.readouterr().out.split())
    assert main(["settings", "--markdown"]) == 0
    assert capsys.readouterr().out == (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("columns", [60, 120, 200])
def test_settings_on_a_terminal(columns, tmp_path):
    """A table where there is room for one, plain text elsewhere; never wider than the terminal."""
    master, slave = pty.openpty()
    code = "import sys; from kmed_bench.cli import main; sys.exit(main(['settings', 'eval']))"
    env = {**os.environ, "COLUMNS": str(columns), "TERM": "dumb"}
    with subprocess.Popen([sys.executable, "-c", code], stdout=slave, env=env, cwd=tmp_path) as process:
        os.close(slave)
        said = b""
        with contextlib.suppress(OSError):  # Linux's way of saying that the other end is closed
            while part := os.read(master, 65536):
                said += part
    os.close(master)
    assert process.returncode == 0
    lines = said.decode().replace("\r", "").splitlines()
    assert max(map(len, lines)) <= columns
    assert any("Decides" in line for line in lines) == (columns >= 110)
    assert sum("eval.beam_size" in line for line in lines) == 1


def test_a_reader_that_leaves_gets_no_traceback(tmp_path):
    command = f"{sys.executable} -m kmed_bench settings | head -1"
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("data: ")
    assert done.stderr == ""


@pytest.mark.slow
def test_help_imports_no_heavy_library():
    code = (
        "import sys\nfrom kmed_bench.cli import main\ntry:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'mlflow', 'pandas', 'numpy', 'optuna'} & set(sys.modules)\nsys.exit(str(heavy or 0))"
    )
    for words in (["--help"], ["train", "--help"], ["settings"]):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
        assert done.stderr.strip() == "0"
        assert "train" in done.stdout


def test_headline_names_are_settings():
    assert set(ALIASES.values()) <= set(flatten(Config()))


def test_no_command_prints_usage_and_fails(capsys):
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
    assert "usage: kmed-bench" in capsys.readouterr().err


def test_telemetry_is_off_before_mlflow_is_imported():
    code = (
        "import os; os.environ.pop('MLFLOW_DISABLE_TELEMETRY', None); import kmed_bench.cli, sys; "
        "assert 'mlflow' not in sys.modules; print(os.environ['MLFLOW_DISABLE_TELEMETRY'])"
    )
    env = {key: value for key, value in os.environ.items() if key != "MLFLOW_DISABLE_TELEMETRY"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "true"


@pytest.mark.slow
def test_demo_corpus_ingest_and_split_alone(tmp_path):
    made = run("demo-corpus", "corpus", "--speakers", "12", "--sentences", "60", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    read = run("ingest", "corpus", "manifest", cwd=tmp_path)
    assert read.returncode == 0, read.stderr
    quality = json.loads((tmp_path / "manifest" / "quality.json").read_text(encoding="utf-8"))
    assert quality["labels"] == quality["usable"] + sum(quality["rejected"].values())
    assert f"  usable: {quality['usable']}" in read.stdout.splitlines()
    assert read.stdout.endswith("Page: manifest/data.html\n")
    page = (tmp_path / "manifest" / "data.html").read_text(encoding="utf-8")
    assert "Demo corpus: synthetic speech says nothing about patients." in page
    drawn = run(
        "split", "manifest/manifest.parquet", "split", "--train", "40", "--valid", "8", "--test", "8",
        "--by", "gender", "--disjoint", "speaker,sentence", "--freeze", "frozen.json", cwd=tmp_path,
    )  # fmt: skip
    assert drawn.returncode == 0, drawn.stderr
    report = json.loads((tmp_path / "split" / "split.json").read_text(encoding="utf-8"))
    assert report["counts"] == {"train": 40, "valid": 8, "test": 8}
    assert report["leakage"] == {"speakers": 0, "sentences": 0, "utterances": 0, "recordings": 0}
    assert (report["power"]["part"], report["power"]["n_clips"]) == ("test", 8)
    assert "Power of test: " in drawn.stdout
    again = run("split", "manifest/manifest.parquet", "again", "--frozen", "frozen.json", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert json.loads((tmp_path / "again" / "split.json").read_text(encoding="utf-8"))["sha256"] == report["sha256"]


@pytest.mark.slow
def test_doctor_names_what_is_missing(tmp_path):
    done = run("doctor", cwd=tmp_path, https_proxy="http://127.0.0.1:9")
    lines = {line[9:20].strip(): line for line in done.stdout.splitlines()}
    assert lines["tiny"].startswith("MISSING")
    assert "put it into" in lines["tiny"]
    assert lines["base"].startswith("ok")
    assert lines["tracking"].startswith("ok")
    assert done.returncode == 1  # tiny and small are missing on this machine


@pytest.mark.slow
def test_weights_says_where_each_comes_from(tmp_path):
    done = run("weights", cwd=tmp_path)
    assert done.returncode == 0
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["tiny", "base", "small"]
    assert run("weights", "tiny", cwd=tmp_path, https_proxy="http://127.0.0.1:9").returncode == 1

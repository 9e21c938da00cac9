"""Bad input: one paragraph that names the thing and the remedy, a non-zero exit, no traceback, no orphan run."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from kmed_bench.cli import main
from kmed_bench.commands.options import ALIASES
from kmed_bench.config import Config, flatten


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
        (["report", "out"], "holds no benchmark"),
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
    "arguments", [["run", "--epochs"], ["run", "--train.epochs"], ["run", "extra"], ["run", "--x"]]
)
def test_words_that_are_no_settings(arguments, capsys):
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith("kmed-bench: ")


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


def test_demo_corpus_ingest_and_split_alone(tmp_path):
    made = run("demo-corpus", "corpus", "--speakers", "12", "--sentences", "60", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    read = run("ingest", "corpus", "manifest", cwd=tmp_path)
    assert read.returncode == 0, read.stderr
    quality = json.loads((tmp_path / "manifest" / "quality.json").read_text(encoding="utf-8"))
    assert quality["labels"] == quality["usable"] + sum(quality["rejected"].values())
    drawn = run(
        "split", "manifest/manifest.parquet", "split", "--train", "40", "--valid", "8", "--test", "8",
        "--by", "gender", "--disjoint", "speaker,sentence", "--freeze", "frozen.json", cwd=tmp_path,
    )  # fmt: skip
    assert drawn.returncode == 0, drawn.stderr
    report = json.loads((tmp_path / "split" / "split.json").read_text(encoding="utf-8"))
    assert report["counts"] == {"train": 40, "valid": 8, "test": 8}
    assert report["leakage"] == {"speakers": 0, "sentences": 0, "utterances": 0}
    again = run("split", "manifest/manifest.parquet", "again", "--frozen", "frozen.json", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert json.loads((tmp_path / "again" / "split.json").read_text(encoding="utf-8"))["sha256"] == report["sha256"]


def test_doctor_names_what_is_missing(tmp_path):
    done = run("doctor", cwd=tmp_path, https_proxy="http://127.0.0.1:9")
    lines = {line[9:20].strip(): line for line in done.stdout.splitlines()}
    assert lines["tiny"].startswith("MISSING")
    assert "put it into" in lines["tiny"]
    assert lines["base"].startswith("ok")
    assert lines["tracking"].startswith("ok")
    assert done.returncode == 1  # tiny and small are missing on this machine


def test_weights_says_where_each_comes_from(tmp_path):
    done = run("weights", cwd=tmp_path)
    assert done.returncode == 0
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["tiny", "base", "small"]
    assert run("weights", "tiny", cwd=tmp_path, https_proxy="http://127.0.0.1:9").returncode == 1

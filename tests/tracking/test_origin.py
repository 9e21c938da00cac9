"""What a store tells of who ran the program and where: neither the account nor a path of the machine."""

import json
import shutil
import sqlite3
import sys
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from random_whisper import save_random_whisper

from kmed_bench import cli
from kmed_bench.config import load_config
from kmed_bench.core.errors import KmedError
from kmed_bench.tracking import runs
from kmed_bench.tracking.project_runs import begin_call, end_call
from kmed_bench.tracking.registry import models as registry
from kmed_bench.tracking.registry.checkpoints import search_checkpoints
from kmed_bench.tracking.stages import tag_own_run

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
    pytest.mark.filterwarnings("ignore:unclosed file .*tiktoken:ResourceWarning"),
]
NAME = "hong-gildong"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An account and a program whose names may not be stored; the store itself is elsewhere."""
    home = tmp_path / NAME
    home.mkdir()
    for variable in ("LOGNAME", "USER"):
        monkeypatch.setenv(variable, NAME)
    monkeypatch.setattr(sys, "argv", [str(home / "bin" / "kmed-bench")])
    return home


def stored(database: Path) -> str:
    with sqlite3.connect(database) as connection:
        text = "\n".join(connection.iterdump())
    connection.close()
    return text


def test_a_store_names_no_account_and_no_program(named: Path, tmp_path: Path, empty_database: Path) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    (folder / "mlflow.db").write_bytes(empty_database.read_bytes())
    checkpoint = save_random_whisper(named / "tiny.pt")
    config = load_config("demo", {"tracking.uri": f"sqlite:///{folder}/mlflow.db", "tracking.sign_key": str(named)})
    with runs.bench_run(config, code_version="x") as bench, bench.child("train", "t") as child:
        info = registry.log_model(child, checkpoint, size="tiny", metrics={"test/cer": 0.25})
    assert search_checkpoints(child) == []
    client = MlflowClient(tracking_uri=config.tracking.uri)
    tags = client.get_run(child.run_id).data.tags
    assert (tags["mlflow.user"], tags["mlflow.source.name"]) == ("kmed-bench", "kmed-bench")
    assert not {"mlflow.source.git.branch", "mlflow.source.git.repoURL"} & set(tags)
    assert client.get_run(child.run_id).info.user_id == "kmed-bench"
    logged = client.get_logged_model(info.model_id).tags
    assert (logged["mlflow.user"], logged["mlflow.source.name"]) == ("kmed-bench", "kmed-bench")
    assert not logged.get("mlflow.source.git.repoURL")
    # sign_key itself ends in the name, and the name of a file is what a run may hold
    texts = [line for line in stored(folder / "mlflow.db").splitlines() if NAME in line]
    assert [line for line in texts if "tracking.sign_key" not in line] == []
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".db", ".pt")]
    assert len(files) > 8
    holding = [
        path.name for path in files if NAME.encode() in path.read_bytes().replace(b"sign_key: hong-gildong", b"")
    ]
    assert holding == []


@pytest.mark.parametrize("does", ["tracks", "fails", "plans"])
def test_a_run_that_mlflow_run_made_is_overwritten(
    does: str, named: Path, tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = tmp_path / "mlflow.db"
    database.write_bytes(empty_database.read_bytes())
    uri = f"sqlite:///{database}"
    client = MlflowClient(tracking_uri=uri)
    made = {
        "mlflow.user": NAME,
        "mlflow.source.name": f"file://{named}#sub",
        "mlflow.source.git.repoURL": f"ssh://{NAME}@host/repository",
        "mlflow.project.entryPoint": "main",
    }
    run_id = client.create_run("0", tags=made).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    if does == "tracks":
        with runs.bench_run(load_config("demo", {"tracking.uri": uri}), code_version="x") as bench:
            assert bench.run_id == run_id
        tag_own_run("run")  # the command is over, and so is its run: nothing is overwritten
    else:
        tag_own_run(*{"fails": ("promote", KmedError("no")), "plans": ("run --plan",)}[does])
    run = client.get_run(run_id)
    tags = run.data.tags
    expected = {
        "tracks": ("bench", "bench-", None),
        "fails": ("call", "call-promote", "no"),
        "plans": ("call", "call-run-plan", None),
    }
    kind, name, failure = expected[does]
    assert (tags["kmed.kind"], tags.get("kmed.failure")) == (kind, failure)
    assert run.info.run_name.startswith(name)
    assert ("logged nothing" in tags["mlflow.note.content"]) == (does != "tracks")
    assert NAME not in json.dumps(tags)
    assert (tags["mlflow.user"], tags["mlflow.source.git.repoURL"]) == ("kmed-bench", "")
    assert tags["mlflow.project.entryPoint"] == "main"


@pytest.mark.parametrize(
    ("words", "status", "failure"),
    [
        (["history", "OUT", "--eval.bootstrap_draws", "9"], 2, "`history` does not read the setting"),
        (["promote", "model", "1", "--dry-run", "true"], 1, "The gate refused model version 1; data: "),
        (["report", "OUT", "--bench", "0"], 2, ""),
    ],
)
def test_a_call_that_is_not_done_says_why(
    words: list[str],
    status: int,
    failure: str,
    named: Path,
    tmp_path: Path,
    empty_database: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    database = tmp_path / "mlflow.db"
    database.write_bytes(empty_database.read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
    client = MlflowClient(tracking_uri=f"sqlite:///{database}")
    client.create_registered_model("model")
    client.create_model_version("model", "file:///none", tags={"kmed.synthetic": "true"})
    made = {"mlflow.user": NAME, "mlflow.source.name": f"file://{named}", "mlflow.project.entryPoint": words[0]}
    run_id = client.create_run("0", tags=made).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    assert cli.main(words) == status
    run = client.get_run(run_id)
    assert run.data.tags["kmed.kind"] == "call"
    assert run.data.tags["kmed.failure"].startswith(failure)
    assert run.info.run_name == f"call-{words[0]}"
    assert NAME not in json.dumps(run.data.tags)
    capsys.readouterr()


@pytest.mark.parametrize(("status", "tag"), [("FAILED", "kmed.failure"), ("KILLED", "kmed.ended")])
def test_a_call_that_is_started_elsewhere_names_no_account_either(
    status: str, tag: str, named: Path, tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = tmp_path / "mlflow.db"
    database.write_bytes(empty_database.read_bytes())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
    project = named / "kmed-bench"
    project.mkdir()
    shutil.copy(ROOT / "MLproject", project)
    shutil.copy(ROOT / "conda.yaml", project)
    call = begin_call(str(project), "evaluate", None, {"model": "base"}, {"launcher": "slurm"}, "0")
    client = MlflowClient()
    assert client.get_run(call.run_id).data.tags["mlflow.project.entryPoint"] == "evaluate"
    assert NAME not in json.dumps(client.get_run(call.run_id).data.tags)  # while the jobs wait
    assert "--launcher slurm" in call.command
    end_call(call.run_id, status, "why")
    run = client.get_run(call.run_id)
    assert run.info.status == status
    assert (run.data.tags["kmed.kind"], run.data.tags[tag]) == ("call", "why")

"""A ward's server with users, PostgreSQL and TLS, as docs/server.md sets it up: credentials, refusals, secrecy."""

import contextlib
import http.server
import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from fault_table import fault
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from postgres_server import database, find_program  # noqa: F401 (a fixture)
from random_whisper import save_random_whisper
from ward_server import DATABASE_PASSWORD, PASSWORDS, Ward, as_admin, blocks, ward, without_mlflow  # noqa: F401

from kmed_bench.cli import main
from kmed_bench.config import load_config
from kmed_bench.core.errors import KmedError
from kmed_bench.report.page import write_report
from kmed_bench.tracking import read as readback
from kmed_bench.tracking import runs
from kmed_bench.tracking.bundles import describe_runs
from kmed_bench.tracking.registry import checkpoints
from kmed_bench.tracking.registry import models as registry
from kmed_bench.tracking.registry.fetch import fetch_checkpoint
from kmed_bench.tracking.registry.promotion import promote
from kmed_bench.tracking.store import open_store, ui_command

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")]

SHA = "ab" * 32
CA = "MLFLOW_TRACKING_SERVER_CERT_PATH"
USER, PASSWORD, TOKEN = (f"MLFLOW_TRACKING_{name}" for name in ("USERNAME", "PASSWORD", "TOKEN"))
GUEST = "guest-of-the-ward"
ORIGINAL = {
    "mata_data": {"model_name": "whisper-base", "path": "x", "save_model_name": "x", "save_logging_file_name": "x"}
    | {"batch_size": 4, "epochs": 1, "start_epoch": 0, "ver_start": 0, "lr": 2e-05, "max_len": 80, "device": "cuda"},
    "result_ver": {"0": {"time": None, "result": [[0, 0.07, 10.5, 0.03, 4.0]]}},
}


@pytest.fixture(autouse=True)
def _clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder and a home of the test's own, without a store."""
    for name in list(os.environ):
        if name.startswith(("MLFLOW_TRACKING", "MLFLOW_REGISTRY", "REQUESTS_CA")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KMED_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def guest(ward: Ward) -> str:  # noqa: F811
    """A user without a role, who may read all and own what nobody owns."""
    with contextlib.suppress(MlflowException):  # an earlier test made it
        as_admin(ward, f"users.create_user({GUEST!r}, {GUEST!r})")
    return GUEST


def enter(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def with_user(ward: Ward, user: str, password: str) -> str:  # noqa: F811
    return ward.uri.replace("://", f"://{user}:{quote(password, safe='')}@")


@pytest.mark.parametrize("way", ["variables", "address", "file", "bundle", "insecure"])
def test_every_way_to_sign_in_is_taken(
    way: str,
    ward: Ward,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    recwarn: pytest.WarningsRecorder,
) -> None:
    environment = ward.client("kim")
    if way == "address":
        environment |= {"MLFLOW_TRACKING_URI": with_user(ward, "kim", PASSWORDS["kim"]), PASSWORD: "not this one"}
    if way == "file":
        place = tmp_path / "home" / ".mlflow" / "credentials"
        place.parent.mkdir(parents=True)
        password = environment.pop(PASSWORD).replace("%", "%%")
        place.write_text(f"[mlflow]\n{USER.lower()} = {environment.pop(USER)}\n{PASSWORD.lower()} = {password}\n")
    if way in ("bundle", "insecure"):
        authority = environment.pop(CA)
        environment |= (
            {"REQUESTS_CA_BUNDLE": authority} if way == "bundle" else {"MLFLOW_TRACKING_INSECURE_TLS": "true"}
        )
    enter(monkeypatch, environment)
    uri = open_store(load_config("demo").tracking)
    assert ui_command(uri) == ward.uri
    assert ("nobody checks that the server" in caplog.text) == (way == "insecure")
    assert [str(warning.message) for warning in recwarn if "Unverified" in str(warning.message)] == []


REFUSALS = [
    ("no user", {USER: "", PASSWORD: ""}, "HTTP 401): set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
    ("no password", {PASSWORD: ""}, f"HTTP 401): of {USER} and {PASSWORD} only one is set"),
    ("a wrong password", {PASSWORD: "wrong-password"}, f"HTTP 401): correct {USER} and {PASSWORD}"),
    ("a wrong password in its address", {"USER_INFO": "kim:wrong-password@"}, "the user and password in the address"),
    ("an unknown CA", {CA: ""}, "(certificate verify failed: unable to get local issuer certificate). Name the file"),
    ("a CA's file that is not there", {CA: "/none/ca.pem"}, f"correct {CA} or REQUESTS_CA_BUNDLE"),
    ("a token with a line break", {USER: "", PASSWORD: "", TOKEN: "secret-token\n"}, f"{TOKEN} holds a line break"),
]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        pytest.param(
            changed, said, id=kind, marks=fault(f"a tracking server: {kind}", sees=f"error, status 2: …{said}")
        )
        for kind, changed, said in REFUSALS
    ],
)
def test_a_refusal_is_one_line(
    changed: dict[str, str],
    said: str,
    ward: Ward,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    environment = ward.client("kim") | changed
    environment["MLFLOW_TRACKING_URI"] = ward.uri.replace("://", f"://{environment.pop('USER_INFO', '')}")
    enter(monkeypatch, {name: value for name, value in environment.items() if value})
    assert main(["report", "out"]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("kmed-bench: ")
    assert said in line
    assert not re.search("wrong-password|secret-token|kim", line)


@fault(
    "a registry of its own refuses the password", sees="error, status 2: …correct the user and password in the address"
)
def test_a_registry_of_its_own_may_have_another_user(
    ward: Ward,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    enter(monkeypatch, ward.client("kim") | {"MLFLOW_REGISTRY_URI": with_user(ward, "lee", PASSWORDS["lee"])})
    config = load_config("demo", {"tracking.uri": ward.uri})
    assert open_store(config.tracking) == ward.uri
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", with_user(ward, "lee", "wrong-password"))
    assert main(["report", "out", "--tracking.uri", ward.uri]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert f"{ward.uri.replace('://', '://***@')} did not accept who asks (HTTP 401): correct the user" in line


class _TokenServer(http.server.BaseHTTPRequestHandler):
    """A proxy that signs people in by token, as far as the first request."""

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer()

    def _answer(self) -> None:
        known = self.headers["Authorization"] == "Bearer token-of-today"
        self.send_response(200 if known else 401)
        self.end_headers()
        self.wfile.write(b'{"experiments": []}' if known else b"token expired")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def token_server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _TokenServer) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@fault("a tracking server's token has expired", sees="error, status 2: …MLFLOW_TRACKING_TOKEN is wrong or has expired")
def test_a_token_is_sent_and_may_expire(
    token_server: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(TOKEN, "token-of-today")
    config = load_config("demo", {"tracking.uri": token_server})
    assert open_store(config.tracking) == token_server
    monkeypatch.setenv(TOKEN, "token-of-yesterday")
    assert main(["report", "out", "--tracking.uri", token_server]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "(HTTP 401): MLFLOW_TRACKING_TOKEN is wrong or has expired" in line


@fault(
    "the user or password of a PostgreSQL store is wrong",
    sees="error, status 2: the address without its password, and how to quote one",
)
def test_a_wrong_password_of_a_database_is_one_line(
    ward: Ward,  # noqa: F811
    capfd: pytest.CaptureFixture[str],
) -> None:
    uri = ward.settings["MLFLOW_BACKEND_STORE_URI"].replace(DATABASE_PASSWORD, "wrong-password")
    assert main(["report", "out", "--tracking.uri", uri]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert re.search(r"The database postgresql://\*\*\*@127.0.0.1:\d+/mlflow refused the user or its password", line)


@fault(
    "a user of a tracking server without EDIT on an experiment or a registered model",
    sees="error, status 2: HTTP 403, what was asked, and what to ask the administrator for",
    survives="all results",
)
def test_two_users_share_a_benchmark_and_no_secret_is_kept(
    ward: Ward,  # noqa: F811
    guest: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """One user benchmarks, one may only read, one promotes; then all that was written is searched for passwords."""
    enter(monkeypatch, ward.client("kim"))
    monkeypatch.delenv(PASSWORD)
    uri = with_user(ward, "kim", PASSWORDS["kim"])
    storage = f"postgresql://optuna:{DATABASE_PASSWORD}@127.0.0.1/optuna?sslpassword={DATABASE_PASSWORD}"
    webhook = f"https://example.org/hooks/{DATABASE_PASSWORD}"
    config = load_config("demo", {"tracking.uri": uri, "tune.storage": storage, "gate.webhook": webhook})
    checkpoint = save_random_whisper(tmp_path / "tiny.pt")
    with runs.bench_run(config, code_version="x") as bench:
        with bench.child("split", "split") as split:
            split.log_json({"sha256": SHA, "counts": {"train": 3, "valid": 2, "test": 1}}, "split.json")
        with bench.child("train", "train-tiny-seed0", tags={"kmed.size": "tiny", "kmed.seed": "0"}) as train:
            train.log_metrics({"test/cer": 0.3, "best/epoch": 2})
            info = registry.log_model(train, checkpoint, size="tiny", split_sha256=SHA, step=2)
    with pytest.raises(KmedError), runs.bench_run(config, code_version="x"):
        raise KmedError(f"{uri} and {storage} are away")

    enter(monkeypatch, ward.client("kim") | {USER: guest, PASSWORD: guest})
    log = tmp_path / "logging_base.json"
    log.write_text(json.dumps(ORIGINAL), encoding="utf-8")
    for command, asked in (
        (["promote", info.name, info.version, "--force", "--reason", "a trial"], "model-versions/set-tag"),
        (["import-log", str(log), "--tracking.experiment", "kmed-bench"], "runs/create"),
    ):
        capfd.readouterr()
        assert main(command) == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert f"(HTTP 403, /api/2.0/mlflow/{asked})" in line
        assert "EDIT on the experiment" in line

    enter(monkeypatch, ward.client("lee"))
    uri = open_store(load_config("demo").tracking)
    record = readback.read_bench(uri, bench.run_id)
    assert [run.metrics["test/cer"] for run in record.trains] == [0.3]
    assert "train-tiny" in write_report(record, tmp_path / "report").read_text(encoding="utf-8")
    assert promote(uri, info.name, info.version, force=True, reason="a trial")["promoted"] is True
    fetched = fetch_checkpoint(f"models:/{info.name}@champion", tmp_path / "fetched", tracking_uri=uri)
    assert fetched.read_bytes() == checkpoint.read_bytes()
    said = "".join(capfd.readouterr())
    assert "View run" not in said
    stored = _backed_up(ward, database_of(ward)) | {"console": said.encode()}
    stored |= {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    secrets = [*PASSWORDS.values(), *(quote(value, safe="") for value in PASSWORDS.values()), DATABASE_PASSWORD]
    found = {(place, secret) for place, content in stored.items() for secret in secrets if secret.encode() in content}
    assert found == set()
    assert b"https://***@127.0.0.1" in stored["mlflow.dump"]
    assert b"postgresql://***@127.0.0.1/optuna?sslpassword=***" in stored["mlflow.dump"]


@pytest.mark.parametrize(("user", "kept"), [("lee", [2]), (GUEST, [1, 2])])
@fault(
    "a tracking server does not let a user delete superseded checkpoints",
    sees="warning, once for each checkpoint: it stays, and which permission it takes",
    survives="the training and all its checkpoints",
)
def test_superseded_checkpoints_go_or_stay_with_a_warning(
    user: str,
    kept: list[int],
    ward: Ward,  # noqa: F811
    guest: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One who has EDIT on the experiment alone can train in it, and can't delete."""
    enter(monkeypatch, ward.client("kim"))
    config = load_config("demo", {"tracking.experiment": f"of-{user}"})
    experiment = MlflowClient(tracking_uri=ward.uri).create_experiment(f"of-{user}")
    as_admin(ward, f"users.grant_user_permission({guest!r}, 'experiment', {experiment!r}, 'EDIT')")
    enter(monkeypatch, {USER: user, PASSWORD: PASSWORDS.get(user, guest)})
    with runs.standalone_run(config, kind="train", name="t", code_version="x") as run:
        for epoch in (1, 2):
            path = tmp_path / f"{epoch}.pt"
            path.write_bytes(bytes([epoch]) * 1_000)
            checkpoints.log_checkpoint(
                run, path, epoch=epoch, metrics={"valid/cer": 0.5}, split_sha256=SHA, best=epoch == 2
            )
            checkpoints.keep_checkpoints(run, 0)
        deleted = checkpoints.keep_checkpoints(run, 0)
        assert [one.epoch for one in checkpoints.search_checkpoints(run)] == kept
    assert deleted == []
    said = [message for message in caplog.messages if "stays in the store" in message]
    assert len(said) == len(kept) - 1
    assert all("MANAGE on logged models" in message for message in said)


def test_a_run_that_a_server_does_not_show_is_missing_or_forbidden(
    ward: Ward,  # noqa: F811
    guest: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    enter(monkeypatch, ward.client("kim"))
    client = MlflowClient(tracking_uri=ward.uri)
    experiment = client.create_experiment("closed")
    run_id = client.create_run(experiment, tags={"kmed.kind": "bench"}).info.run_id
    as_admin(ward, f"users.grant_user_permission({guest!r}, 'experiment', {experiment!r}, 'DENY')")
    with pytest.raises(KmedError, match="is still RUNNING"):
        describe_runs(ward.uri, [run_id], {}, 1)
    for user, password, asked in ((guest, guest, run_id), ("kim", PASSWORDS["kim"], "0" * 32)):
        enter(monkeypatch, {USER: user, PASSWORD: password})
        with pytest.raises(KmedError, match="not in the tracking store, or its server does not show it to this user"):
            describe_runs(ward.uri, [asked], {}, 1)
    enter(monkeypatch, {USER: guest, PASSWORD: "wrong"})
    with pytest.raises(KmedError, match="HTTP 401"):
        describe_runs(ward.uri, [run_id], {}, 1)


def database_of(ward: Ward) -> str:  # noqa: F811
    return ward.settings["MLFLOW_BACKEND_STORE_URI"]


def _backed_up(ward: Ward, uri: str) -> dict[str, bytes]:  # noqa: F811
    """Back up and restore by the page's commands, check that the runs are back, and return the content."""
    import psycopg

    folder = ward.folder / "backup"
    folder.mkdir()
    command = blocks("sh")[-1].replace("/srv/mlflow", str(ward.folder))
    programs = find_program("pg_dump")
    assert programs is not None
    environment = without_mlflow() | {"MLFLOW_BACKEND_STORE_URI": uri}
    environment["PATH"] += f"{os.pathsep}{Path(programs).parent}"
    subprocess.run(["bash", "-ec", command], env=environment, check=True, timeout=120)
    restored = f"{uri}_auth"
    with psycopg.connect(uri) as connection:
        runs_before = connection.execute("SELECT count(*) FROM runs").fetchone()
    restore = ["pg_restore", "--clean", "--if-exists", "--dbname", restored, str(folder / "mlflow.dump")]
    subprocess.run(restore, env=environment, check=True, timeout=120)
    with psycopg.connect(restored) as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == runs_before != (0,)
    content = {}
    for name in ("mlflow", "mlflow_auth"):
        shown = ["pg_restore", "--file", "-", str(folder / f"{name}.dump")]
        content[f"{name}.dump"] = subprocess.run(
            shown, env=environment, check=True, capture_output=True, timeout=120
        ).stdout
    return content | {str(path): path.read_bytes() for path in (ward.folder / "artifacts").rglob("*") if path.is_file()}

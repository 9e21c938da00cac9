"""The server of docs/server.md, made from the blocks of that page: PostgreSQL, users with passwords, TLS of its own."""

import contextlib
import dataclasses
import datetime
import ipaddress
import os
import re
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from postgres_server import database, find_program  # noqa: F401 (a fixture)

PAGE = Path(__file__).resolve().parents[1] / "docs" / "server.md"
START_WITHIN_S = 180.0
# Signs that an address must quote, and one that ends it for some readers.
PASSWORDS = {"admin": "Wächter:of/the@ward", "kim": "kim's, %41 p@ss/word", "lee": "lee-of-the-night-shift"}
DATABASE_PASSWORD = "only-for-the-database"


@dataclasses.dataclass(frozen=True)
class Ward:
    """A running server, and what its clients and its administrator know."""

    uri: str
    authority: Path
    folder: Path
    settings: Mapping[str, str]

    def client(self, user: str) -> dict[str, str]:
        """The variables that docs/server.md tells a user to set."""
        return {
            "MLFLOW_TRACKING_URI": self.uri,
            "MLFLOW_TRACKING_USERNAME": user,
            "MLFLOW_TRACKING_PASSWORD": PASSWORDS[user],
            "MLFLOW_TRACKING_SERVER_CERT_PATH": str(self.authority),
        }


def blocks(language: str) -> list[str]:
    """The page's code blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def without_mlflow() -> dict[str, str]:
    """This process's environment without a store; programs beside this Python are found."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "REQUESTS_"))}
    return kept | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def make_certificates(folder: Path) -> Path:
    """Write a server's certificate and key, and return the file of the authority that signed it."""
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("Hospital CA", "localhost")]
    hosts = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    now = datetime.datetime.now(datetime.UTC)
    for number, file in enumerate(("ca.pem", "cert.pem")):
        made = (
            x509.CertificateBuilder()
            .subject_name(names[number])
            .issuer_name(names[0])
            .public_key(keys[number].public_key())
            .serial_number(number + 1)
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=number == 0, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(keys[number].public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(keys[0].public_key()), critical=False)
            .add_extension(hosts, critical=False)
            .sign(keys[0], hashes.SHA256())
        )
        (folder / file).write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key = keys[1].private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(key)
    return folder / "ca.pem"


@pytest.fixture(scope="module")
def ward(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:  # noqa: F811
    """The page's server with the page's two users, where `kmed-bench[server]` is installed."""
    for name in ("psycopg", "flask_wtf"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    with running_ward(database, tmp_path_factory.mktemp("ward")) as made:
        yield made


@contextlib.contextmanager
def running_ward(database: str, folder: Path) -> Iterator[Ward]:  # noqa: F811
    """Yield a server in a folder, made by the page's blocks from a database server's address."""
    import psycopg

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = database.partition("@")[2].partition("/")[0]
    uri = f"https://127.0.0.1:{port}"
    values = {
        "DATABASE-PASSWORD": DATABASE_PASSWORD, "127.0.0.1:5432": address, "ADMIN-PASSWORD": PASSWORDS["admin"],
        "SIGNING-KEY": "0123456789abcdef", "127.0.0.1:5000": f"127.0.0.1:{port}", "--port 5000": f"--port {port}",
        "/srv/mlflow": str(folder), "https://mlflow.ward.example": uri, "--workers 2": "--workers 1",
        "PASSWORD-OF-KIM": PASSWORDS["kim"], "PASSWORD-OF-LEE": PASSWORDS["lee"],
    }  # fmt: skip

    def filled(block: str) -> str:
        for sign, value in values.items():
            block = block.replace(sign, value)
        return block

    with psycopg.connect(database, autocommit=True) as connection:
        for statement in filled(blocks("sql")[0]).split(";\n"):
            connection.execute(statement)
    authority = make_certificates(folder)
    environment, start = (filled(block) for block in blocks("sh")[:2])
    settings = dict(line.split("=", 1) for line in environment.splitlines())
    settings["MLFLOW_UVICORN_OPTS"] = f"--ssl-certfile {folder}/cert.pem --ssl-keyfile {folder}/key.pem"
    (folder / "server.env").write_text("".join(f"{name}='{value}'\n" for name, value in settings.items()))
    (folder / "auth.ini").write_text(filled(blocks("ini")[0]), encoding="utf-8")
    command = ["bash", "-c", start]
    log = folder / "log.txt"
    with (
        log.open("wb") as stream,
        subprocess.Popen(
            command, cwd=folder, env=without_mlflow(), stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        ) as process,
    ):
        try:
            _await(uri, authority, process, log)
            made = Ward(uri, authority, folder, settings)
            as_admin(made, filled(blocks("python")[0]))
            yield made
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # it would wait for idle connections


def _await(uri: str, authority: Path, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_WITHIN_S
    while True:
        try:
            if requests.get(f"{uri}/health", verify=str(authority), timeout=5).status_code == 200:
                return
        except requests.ConnectionError:
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the server did not start:\n{log.read_text(errors='replace')[-3_000:]}")
        time.sleep(0.3)


def as_admin(ward: Ward, program: str) -> None:
    """Run a program as the administrator, with ``users`` as the page makes it."""
    begin = blocks("python")[0].partition("trainers =")[0].replace("https://mlflow.ward.example", ward.uri)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's server imports a deprecated module of starlette
        for name, value in ward.client("admin").items():
            patch.setenv(name, value)
        exec(begin + program, {})

"""What scripts/check_marked_job.py finds: a mark in every writing and packing, and where it may be."""

import base64
import gzip
import io
import json
import sqlite3
import unicodedata
import urllib.parse
import zipfile
import zlib
from pathlib import Path

import pandas as pd
import pytest
from script_modules import load_script

from kmed_bench.cli import parse

check = load_script("check_marked_job")

MARKS = {"transcript": "뷁쉙튽얂", "id": "PA_7310"}
NFD = unicodedata.normalize("NFD", MARKS["transcript"])
WRITTEN = {
    "UTF-8": "뷁쉙튽얂".encode(),
    "UTF-16": "xy뷁쉙튽얂".encode("utf-16"),
    "UTF-16, big": "뷁쉙튽얂".encode("utf-16-be"),
    "CP949": "뷁쉙튽얂".encode("cp949"),
    "decomposed": NFD.encode(),
    "hex": "뷁쉙튽얂".encode().hex().encode(),
    "HEX of CP949": "뷁쉙튽얂".encode("cp949").hex().upper().encode(),
    "JSON": json.dumps("뷁쉙튽얂").encode(),
    "JSON in capitals": json.dumps("뷁쉙튽얂").upper().replace("\\U", "\\u").encode(),
    "JSON, decomposed": json.dumps(NFD).encode(),
    "address": urllib.parse.quote("뷁쉙튽얂").encode(),
    "address, decomposed, small": urllib.parse.quote(NFD).lower().encode(),
    "HTML": "뷁쉙튽얂".encode("ascii", "xmlcharrefreplace"),
    "bytes as Python shows them": repr("뷁쉙튽얂".encode()).encode(),
} | {f"base64 after {n} bytes": base64.b64encode(b"abc"[:n] + "뷁쉙튽얂 z".encode()) for n in range(3)}


@pytest.mark.parametrize("content", WRITTEN.values(), ids=WRITTEN)
def test_every_writing_is_found(content: bytes) -> None:
    assert set(check.search("a", b"before " + content + b" after", MARKS)) == {"transcript"}


def _zip(content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inner", content)
    return stream.getvalue()


def _png(content: bytes) -> bytes:
    data = b"Comment\0\0" + zlib.compress(content)
    return b"\x89PNG\r\n\x1a\n" + len(data).to_bytes(4, "big") + b"zTXt" + data + zlib.crc32(data).to_bytes(4, "big")


def _parquet(content: bytes) -> bytes:
    stream = io.BytesIO()
    pd.DataFrame({"id": [content.decode()] * 9}).to_parquet(stream, compression="zstd")
    return stream.getvalue()


def _database(content: bytes) -> bytes:
    """Return a database whose page ends in the middle of the content."""
    database = sqlite3.connect(":memory:")
    database.execute("PRAGMA page_size = 512")
    database.execute("CREATE TABLE t (x TEXT)")
    database.executemany(
        "INSERT INTO t VALUES (?)", [("a" * n + content.decode() + "b" * 600,) for n in range(450, 512)]
    )
    database.commit()
    return bytes(database.serialize())


@pytest.mark.parametrize(
    "pack",
    [_zip, gzip.compress, _png, _parquet, _database, lambda c: _zip(gzip.compress(c)),
     lambda c: b"<img src='data:image/png;base64," + base64.b64encode(_png(c)) + b"'>"],
    ids=["zip", "gzip", "picture", "parquet", "database", "gzip in zip", "picture in a page"],
)  # fmt: skip
def test_every_packing_is_opened(pack) -> None:
    packed = pack(b"one PA_7310 two" * 3)
    assert set(check.search("a", packed, MARKS)) == {"id"}
    assert check.search("a", pack(b"nothing of the kind"), MARKS) == {}


def test_a_mark_is_allowed_only_where_nobody_else_reads_it(tmp_path: Path) -> None:
    files = {
        "work/out/report/index.html": 0o600, "work/mlruns/a/scores.json": 0o600, "work/private/a.jsonl": 0o600,
        "work/open/a.jsonl": 0o644, "work/package/package.json": 0o644, "work/report/PA_7310.png": 0o644,
    }  # fmt: skip
    for name, mode in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text("" if path.suffix == ".png" else "PA_7310")
        path.chmod(mode)
        path.parent.chmod(0o700)
    faults, counts = check.judge(tmp_path, MARKS)
    assert [fault.split(":")[0] for fault in faults] == [
        "work/mlruns/a/scores.json has the id",
        "work/open/a.jsonl has the id, and modes 644 in 700",
        "work/out/report/index.html has the id",
        "work/report/PA_7310.png has the id",
    ]
    assert (counts["files"], counts["leaving"], counts["private with marks"]) == (6, 4, 2)


def test_the_commands_are_commands() -> None:
    for _, words in check.COMMANDS:
        parse(check.shlex.split(words))

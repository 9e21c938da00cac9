"""Files written whole or not at all, JSON, and lines of JSON."""

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from fault_table import fault

from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import (
    creating,
    is_leftover,
    read_json,
    read_json_lines,
    remove_leftovers,
    replacing,
    replacing_folder,
    sha256_of,
    temporary_beside,
    write_json,
    write_text_atomically,
)
from kmed_bench.core.surroundings import machine

# Writes half of a file and is killed: argument 1 names what writes, argument 2 the target.
KILLED = """
import os, signal, sys
from pathlib import Path
from kmed_bench.core import files

with getattr(files, sys.argv[1])(Path(sys.argv[2])) as temporary:
    (temporary / "half" if temporary.is_dir() else temporary).write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def umask():
    """Set a umask for the test, and the old one afterwards."""
    before = os.umask(0o027)
    yield
    os.umask(before)


def test_a_file_is_replaced_with_the_rights_that_the_umask_leaves(tmp_path, umask):
    path = tmp_path / "new" / "a.txt"
    for text in ("one", "가 two\n"):
        write_text_atomically(path, text)
        assert path.read_bytes() == text.encode()
        assert path.stat().st_mode & 0o777 == 0o640
    assert list(path.parent.iterdir()) == [path]
    with replacing_folder(tmp_path / "folder") as temporary:
        (temporary / "inner").mkdir(mode=0o700)
        with replacing(temporary / "inner" / "a", private=True) as private:  # as libraries write weights
            private.write_text("x")
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "folder").rglob("*")}
    assert modes == {"inner": 0o750, "a": 0o640}
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o750


def test_a_private_file_is_its_owners_alone_from_the_first_byte(tmp_path, umask):
    path = tmp_path / "a.txt"
    path.write_text("old")
    path.chmod(0o644)
    with replacing(path, private=True) as temporary:
        assert temporary.stat().st_mode & 0o777 == 0o600
        temporary.write_text("new")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("new", 0o600)
    write_json(tmp_path / "below" / "made" / "a.json", {}, private=True)
    folders = [(tmp_path / name).stat().st_mode & 0o777 for name in ("below", "below/made")]
    assert folders == [0o750, 0o700]
    with creating(tmp_path / "db") as fresh:
        assert fresh.parent.stat().st_mode & 0o777 == 0o700
        fresh.write_text("x")
    assert (tmp_path / "db").stat().st_mode & 0o777 == 0o600


def fail(writer: Any, path: Path, error: type[BaseException]) -> None:
    with writer(path) as temporary:
        (temporary / "half" if temporary.is_dir() else temporary).write_text("half")
        raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("writer", [replacing, replacing_folder, creating])
def test_a_writer_that_fails_leaves_what_was_there(tmp_path, writer, error):
    (tmp_path / "old").write_text("old")
    with pytest.raises(error):
        fail(writer, tmp_path / ("old" if writer is replacing else "new"), error)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old").read_text() == "old"


@pytest.mark.parametrize("how", ["replacing", "replacing_folder", "creating"])
def test_a_writer_that_is_killed_leaves_what_was_there(tmp_path, how):
    path = tmp_path / "target"
    if how == "replacing":
        path.write_text("old")
    command = [sys.executable, "-c", KILLED, how, str(path)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert (path.read_text() == "old") if how == "replacing" else not path.exists()
    (left,) = (p for p in tmp_path.iterdir() if p != path)
    assert left.name.startswith(".target.")


def test_content_reaches_the_disk_before_the_name(tmp_path):
    calls: list[str] = []

    def note(_frame: Any, event: str, argument: Any) -> None:
        name = getattr(argument, "__name__", "")
        if event == "c_call" and name in ("fsync", "replace", "rename"):
            calls.append(name)

    sys.setprofile(note)
    try:
        write_text_atomically(tmp_path / "a", "x")
        with replacing_folder(tmp_path / "b") as temporary:
            (temporary / "one").write_text("1")
            (temporary / "two").write_text("2")
    finally:
        sys.setprofile(None)
    assert calls == ["fsync", "replace", "fsync", "fsync", "fsync", "replace", "fsync"]


def test_a_folder_is_listed_at_the_first_write_into_it_only(tmp_path, monkeypatch):
    listed, iterdir = [], Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda folder: listed.append(folder) or iterdir(folder))
    for name in ("a", "b", "a"):
        write_text_atomically(tmp_path / name, "x")
    assert listed == [tmp_path]


def test_a_folder_takes_the_place_of_an_empty_one_only(tmp_path):
    (tmp_path / "out").mkdir()
    for name in ("a", "b"):
        try:
            with replacing_folder(tmp_path / "out") as temporary:
                (temporary / name).write_text("x")
        except OSError:
            assert name == "b"
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_the_first_creator_wins(tmp_path):
    path = tmp_path / "db"
    with creating(path) as slow:
        with creating(path) as fast:
            fast.write_text("first")
        slow.write_text("second")
        (slow.parent / "db-journal").write_text("beside")
    assert path.read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["db"]


def test_leftovers_are_removed_and_nothing_else(tmp_path):
    own = machine()[:6]
    kept = (".hidden", f"a.{own}_7_0a1b", f".a.{own}_7_0a1", f".a.{own}_7x_0a1b", ".a.0a1b2c3d", "state.pt")
    for name in (*kept, f".state.pt.{own}_7_0a1b", ".a.b.ffffff_12345_ffff"):
        (tmp_path / name).write_text("x")
    remove_leftovers(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == set(kept)
    remove_leftovers(tmp_path / "none")


@fault(
    "killed while it writes a file or folder",
    sees="nothing: the next writer of that name removes what was left beside it",
    survives="what was there under the name; temporary files of living writers",
)
def test_the_next_writer_removes_what_a_killed_one_left(tmp_path):
    own = machine()[:6]
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    living = {f".out.{own}_{os.getpid()}_0a1b", f".other.{own}_{gone.pid}_0a1b", ".out.000000_1_0a1b", ".out.0a1b2c3d"}
    left = {f".out.{own}_{gone.pid}_0a1b", ".out.000000_1_ffff"}
    for name in living | left:
        (tmp_path / name).write_text("x")
    os.utime(tmp_path / ".out.000000_1_ffff", (0, 0))  # of another machine, years ago
    (tmp_path / f".out.{own}_{gone.pid}_ffff").mkdir()
    (tmp_path / f".out.{own}_{gone.pid}_ffff" / "half").write_text("x")
    write_text_atomically(tmp_path / "out", "whole")
    assert {p.name for p in tmp_path.iterdir()} == living | {"out"}


@pytest.mark.parametrize("name", ["가" * 85, "b" * 255, "c" * 220])
def test_a_name_of_any_length_is_written_and_freed_of_what_a_killed_writer_left(tmp_path, name):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left = temporary_beside(tmp_path / name).name.replace(f"_{os.getpid()}_", f"_{gone.pid}_")
    for other in (left, temporary_beside(tmp_path / f"{name[:-1]}x").name.replace(f"_{os.getpid()}_", f"_{gone.pid}_")):
        (tmp_path / other).write_text("x")
    write_text_atomically(tmp_path / name, "whole")
    assert {path.name for path in tmp_path.iterdir()} == {name, other}
    assert is_leftover(tmp_path / other)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
def test_the_full_disk_behind_a_librarys_error_is_named(tmp_path):
    opened = Path("/dev/full").open
    with (
        pytest.raises(OSError, match="No space") as caught,
        replacing(tmp_path / "m"),
        opened("wb", buffering=0) as full,
    ):
        torch.save({"x": torch.zeros(9)}, full)  # raises a RuntimeError of its own
    assert caught.value.filename == str(tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def _refuse():
    try:
        raise OSError(28, "No space left on device")
    except OSError:
        raise KmedError("refused") from None


def test_an_error_of_our_own_hides_no_disk(tmp_path):
    with pytest.raises(KmedError, match="refused"), replacing(tmp_path / "out"):
        _refuse()


def test_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()


@pytest.mark.parametrize("content", [b"{", b"", b"\xff", b"[" * 100_000, b"9" * 5000], ids=range(5))
def test_what_is_not_json_is_named(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(KmedError, match=r"a\.json is not (valid JSON \(.*write it again|UTF-8)"):
        read_json(tmp_path / "a.json")
    (tmp_path / "lines").write_bytes(b'{"a": 1}\n\n' + (content or b"{") + b"\n")
    with pytest.raises(KmedError, match=r"lines(, line 3)? is not (JSON|UTF-8)"):
        list(read_json_lines(tmp_path / "lines"))


def test_lines_have_their_place(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('\ufeff{"a": 1}\n  \n{"b": "가"}', encoding="utf-8")
    assert list(read_json_lines(path)) == [(f"{path}, line 1", {"a": 1}), (f"{path}, line 3", {"b": "가"})]
    for value in ("[1]", "null", '"text"', "3"):
        path.write_text('{"a": 1}\n' + value, encoding="utf-8")
        with pytest.raises(KmedError, match=r"line 2 is not a JSON object but .*; write one object per utterance"):
            list(read_json_lines(path))

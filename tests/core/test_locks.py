"""Locks between processes, held by a real one."""

import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_table import fault
from filelock import FileLock

from kmed_bench.core import locks
from kmed_bench.core.errors import KmedError

HOLDER = """
import sys
from filelock import FileLock
with FileLock(sys.argv[1]):
    print(flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def lock_held(path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        yield holder


@fault("a lock file is held for a while", sees="one message: what is waited for, who holds it", survives="all")
def test_a_lock_is_waited_for_with_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(locks, "_SAY_AFTER_S", 0.05)
    caplog.set_level("INFO", "kmed_bench")
    path = tmp_path / "new" / "a.lock"
    path.parent.mkdir()
    with lock_held(path) as holder:
        assert holder.stdin is not None
        release = threading.Timer(0.3, holder.stdin.close)
        release.start()
        with locks.locked(path, "the cache"):
            release.join()
            holder.wait()
    assert caplog.messages == [f"Waiting for the cache, which process {holder.pid} (python) holds ({path})."]


@fault("a lock file is held too long", sees="error: what was not free, who holds it", survives="all")
def test_a_lock_that_stays_held_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    with lock_held(path) as holder:
        held = rf"The cache is not free after 0 s: process {holder.pid} \(.+\) holds {path}"
        with pytest.raises(KmedError, match=held), locks.locked(path, "the cache", wait_s=0.1):
            pass
        holder.communicate()


def test_a_lock_that_is_not_waited_for_is_refused_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "kmed_bench")
    path = tmp_path / "a.lock"
    with lock_held(path) as holder:
        held = rf"The training is not free: process {holder.pid} \(.+\) holds {path}\. Wait for it or stop it"
        with pytest.raises(KmedError, match=held), locks.locked(path, "the training", wait_s=0):
            pass
        assert caplog.messages == []
        holder.communicate()


@fault("a lock file is left by a killed process", sees="nothing: it locks nothing", survives="all")
def test_the_lock_of_a_killed_process_is_free(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.lock"
    with lock_held(path) as holder:
        holder.kill()
        holder.wait()
        with locks.locked(path, "the cache", wait_s=0.0):
            assert FileLock(path).lock_file == str(path)
    assert not caplog.messages
    assert locks.name_holder(path) == "another process"
    assert locks.name_holder(tmp_path / "none") == "another process"

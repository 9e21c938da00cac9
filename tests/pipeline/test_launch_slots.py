"""Slots: how many there are, what each process gets, and that what ends one ends no other."""

import dataclasses
import json
import queue
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from kmed_bench.config import PROFILES, config_from_tree, load_config, to_yaml
from kmed_bench.core.console import configure_logging
from kmed_bench.core.errors import KmedError
from kmed_bench.pipeline.launch import slots
from kmed_bench.pipeline.launch.slots import Ended, Listener, Slot, Task, make_slots, run_in_slots, visible_gpus
from kmed_bench.pipeline.launch.watch import Watch

TWO = [Slot(1, None, 1), Slot(2, None, 3)]


class Heard(Listener):
    """Keeps what it hears, and how many processes were at work at most."""

    def __init__(self) -> None:
        self.said: list[tuple[int, Mapping[str, Any]]] = []
        self.ends: dict[str, Ended] = {}
        self.working: set[str] = set()
        self.most = 0

    def begun(self, slot: Slot, name: str) -> None:
        self.working.add(name)
        self.most = max(self.most, len(self.working))

    def message(self, slot: Slot, said: Mapping[str, Any]) -> None:
        self.said.append((slot.number, said))

    def ended(self, slot: Slot, name: str, how: Ended) -> None:
        self.working.remove(name)
        self.ends[name] = how


@pytest.mark.parametrize(
    ("wanted", "threads", "gpus", "expected"),
    [
        ("auto", None, [], [(None, 8)]),
        ("auto", None, ["0", "1"], [("0", 4), ("1", 4)]),
        ("3", None, ["4", "7"], [("4", 2), ("7", 2), ("4", 2)]),
        ("2", 1, [], [(None, 1), (None, 1)]),
        ("16", None, [], [(None, 1)] * 16),
    ],
)
def test_gpus_and_cores_are_shared_out(wanted, threads, gpus, expected) -> None:
    found = make_slots(wanted, threads, gpus, 8)
    assert [(slot.gpu, slot.n_threads) for slot in found] == expected
    assert [slot.number for slot in found] == list(range(1, len(expected) + 1))


@pytest.mark.parametrize("wanted", ["0", "-1", "two", "129", ""])
def test_a_wrong_number_of_slots_is_named(wanted: str) -> None:
    with pytest.raises(KmedError, match=r"--slots is .*; give auto, for one per GPU, or a number from 1 to 128"):
        make_slots(wanted, None, [], 8)


def test_gpus_keep_the_names_that_the_process_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus(2) == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, MIG-1f2e")
    assert visible_gpus(2) == ["3", "MIG-1f2e"]
    assert visible_gpus(0) == []


def test_each_process_has_the_environment_of_its_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "of-the-parent")
    own = Slot(2, "5", 3).environment()
    assert (own["CUDA_VISIBLE_DEVICES"], own["OMP_NUM_THREADS"]) == ("5", "3")
    assert "MLFLOW_RUN_ID" not in own
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert Slot(1, None, 1).environment()["CUDA_VISIBLE_DEVICES"] == "1"


def test_tasks_run_in_their_order_and_no_more_than_slots_at_a_time() -> None:
    program = 'import json, os; told = json.loads(sys.stdin.readline()); print(json.dumps({"log": "info", **told, "threads": os.environ["OMP_NUM_THREADS"]}))'  # noqa: E501
    heard = Heard()
    run_in_slots({f"t{i}": Task(program, told={"n": i}) for i in range(5)}, TWO, heard)
    assert heard.most == 2
    assert {name: how.status for name, how in heard.ends.items()} == {f"t{i}": 0 for i in range(5)}
    assert sorted(said["n"] for _, said in heard.said) == list(range(5))
    assert {(number, said["threads"]) for number, said in heard.said} <= {(1, "1"), (2, "3")}


def test_what_ends_one_process_ends_no_other() -> None:
    tasks = {
        "killed": Task("import os, signal; os.kill(os.getpid(), signal.SIGKILL)"),
        "failed": Task("""print('{"failed": "no weights"}'); sys.exit(1)"""),
        "silent": Task("print('[1, 2]'); print('not JSON'); sys.exit(3)"),
        "refused": Task("""print('kmed-bench: --trials is 0; give 1.', file=sys.stderr); sys.exit(2)"""),
        "whole": Task("pass"),
    }
    heard = Heard()
    run_in_slots(tasks, TWO, heard)
    assert heard.ends["whole"].status == 0
    assert heard.ends["failed"].reason() == "no weights"
    assert heard.ends["refused"].reason() == "--trials is 0; give 1."
    assert heard.ends["silent"].reason() == "its process ended with status 3"
    assert "SIGKILL" in heard.ends["killed"].reason()
    assert "use fewer slots" in heard.ends["killed"].reason()
    assert {said["printed"] for _, said in heard.said if "printed" in said} >= {"[1, 2]", "not JSON"}


WAITS = (
    "import signal, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(130)); "
    """print('{"log": "info"}', flush=True); time.sleep(60)"""
)


def test_an_interrupt_stops_every_process_and_waits_for_them() -> None:
    class Interrupts(Heard):
        def message(self, slot: Slot, said: Mapping[str, Any]) -> None:
            super().message(slot, said)
            if len(self.said) == 2:
                raise KeyboardInterrupt

    heard = Interrupts()
    with pytest.raises(KeyboardInterrupt):
        run_in_slots({"a": Task(WAITS), "b": Task(WAITS), "never": Task("pass")}, TWO, heard)
    assert heard.ends == {name: Ended(130, "", stopped=True) for name in ("a", "b")}


def test_an_interrupt_at_a_processs_end_loses_none_of_them() -> None:
    class Interrupts(Heard):
        def ended(self, slot: Slot, name: str, how: Ended) -> None:
            super().ended(slot, name, how)
            if name == "short":
                raise KeyboardInterrupt

    heard = Interrupts()
    with pytest.raises(KeyboardInterrupt):
        run_in_slots({"short": Task("pass"), "long": Task(WAITS)}, TWO, heard)
    assert heard.ends["short"] == Ended(0, "")
    assert heard.ends["long"].stopped
    assert heard.ends.keys() == {"short", "long"}


def test_a_process_whose_last_event_is_lost_is_waited_for() -> None:
    heard, events = Heard(), queue.Queue[Any]()
    one = slots._start(TWO[0], "a", Task("pass"), events)
    heard.begun(one.slot, one.name)
    one.listens.join()
    while not events.empty():  # an interrupt came after they were taken
        events.get()
    working = [one]
    slots._drain(working, events, heard)
    assert working == []
    assert heard.ends == {"a": Ended(0, "", stopped=True)}


def test_a_second_interrupt_kills_what_does_not_stop() -> None:
    deaf = WAITS.replace("lambda *_: sys.exit(130)", "signal.SIG_IGN")

    class Interrupts(Heard):
        def message(self, slot: Slot, said: Mapping[str, Any]) -> None:
            signal.setitimer(signal.ITIMER_REAL, 0.5)
            raise KeyboardInterrupt

    def second(*_: object) -> None:
        raise KeyboardInterrupt

    heard, before = Interrupts(), signal.signal(signal.SIGALRM, second)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_in_slots({"a": Task(deaf)}, TWO, heard)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert heard.ends["a"].status == -signal.SIGKILL


def test_processes_stop_when_their_parent_is_killed(tmp_path: Path) -> None:
    child = (
        "import os, pathlib; from kmed_bench.core.relay import Relay; "
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid())); sys.stdin.readline(); "
        "Relay().start('info'); import time; time.sleep(60)"
    )
    parent = textwrap.dedent(f"""
        from kmed_bench.pipeline.launch.slots import Listener, Slot, Task, run_in_slots
        run_in_slots({{"a": Task({child!r})}}, [Slot(1, None, 1)], Listener())
    """)
    with subprocess.Popen([sys.executable, "-c", parent]) as process:
        while not (tmp_path / "pid").is_file() or not (tmp_path / "pid").read_text():
            assert process.poll() is None
            time.sleep(0.02)
        left = psutil.Process(int((tmp_path / "pid").read_text()))
        process.kill()
    left.wait(timeout=60)  # raises if it is still there
    assert not psutil.pid_exists(left.pid)


@pytest.mark.parametrize("profile", PROFILES)
def test_settings_reach_a_process_as_they_are(profile: str) -> None:
    config = load_config(
        profile, {"train.seeds": "3,4", "split.by": "gender", "tune.space": "{train.lr: [1e-5, 2e-5]}"}
    )
    told = json.loads(json.dumps(dataclasses.asdict(config)))
    assert config_from_tree(told) == config
    assert to_yaml(config_from_tree(told)) == to_yaml(config)


@pytest.mark.usefixtures("package_log")
def test_a_slots_block_is_shown_until_it_ends(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging()
    with Watch("Trainings", 2) as watch:
        watch.begun(TWO[1], "train-tiny-seed0")
        watch.message(TWO[1], {"progress": ["Decoding valid", 1, 8, ""]})
        assert [label for label, *_ in watch._open.values()] == ["slot 2: Decoding valid"]
        watch.message(TWO[1], {"progress": ["Decoding valid", 0, 0, ""]})
        assert not watch._open
        watch.message(TWO[1], {"printed": "MemoryError"})
        watch.message(TWO[1], {"log": "warning", "text": "one label is too long"})
        watch.ended(TWO[1], "train-tiny-seed0", Ended(1, "no room"))
    lines = [line.split(" ", 1)[1] for line in capsys.readouterr().err.splitlines()]
    assert lines == [
        "train-tiny-seed0 begins in slot 2.",
        "[2] one label is too long",
        "[2] MemoryError",
        "train-tiny-seed0 failed: no room",
    ]
    assert watch.failed == {"train-tiny-seed0": "no room"}

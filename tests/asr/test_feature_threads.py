import contextlib
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from kmed_bench.asr.features import store as features
from kmed_bench.asr.features.store import build_features
from kmed_bench.asr.features.threads import count_cores, map_in_order
from kmed_bench.core.errors import KmedError

# Ctrl-C comes while the third clip is reported; the threads are to be gone when the builder returns.
INTERRUPTED = """
import os, signal, sys, threading
from pathlib import Path
import numpy as np
import pandas as pd
from kmed_bench.asr.features.store import build_features

def progress(done, total):
    if done == 3:
        os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets its background jobs ignore Ctrl-C
try:
    build_features(pd.read_parquet(sys.argv[1]), Path(sys.argv[2]), n_threads=3, progress=progress)
except KeyboardInterrupt:
    print(threading.active_count(), sorted(path.name for path in Path(sys.argv[2]).iterdir()))
"""


@pytest.fixture
def torch_threads():
    """Two of torch's threads, whatever the tests are given."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def in_new_thread(function):
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


def files(cache, store):
    return {path.name: path.read_bytes() for path in (cache / store.key).iterdir()}


@pytest.mark.parametrize("n_threads", [1, 2, 5])
@pytest.mark.parametrize("n_items", [0, 1, 3, 40])
def test_results_come_in_the_order_of_the_items(n_threads, n_items):
    def late_if_even(i):
        time.sleep(0.002 * (i % 2 == 0))
        return i * i

    assert list(map_in_order(late_if_even, range(n_items), n_threads)) == [i * i for i in range(n_items)]


def test_threads_run_at_once_and_no_more_than_twice_their_number_is_ahead():
    meeting, begun = threading.Barrier(3), []

    def meet(i):
        begun.append(i)
        if i < 3:
            meeting.wait(timeout=30)  # broken unless three items are computed at a time
        return i

    with contextlib.closing(map_in_order(meet, iter(range(300)), 3)) as results:
        for i in range(6):
            assert next(results) == i
            assert len(begun) <= i + 6


def test_the_first_failure_in_order_is_raised_after_the_results_before_it():
    second_failed = threading.Event()

    def fail(i):
        if i == 4:
            assert second_failed.wait(timeout=30)
        if i == 5:
            second_failed.set()
        if i in (4, 5):
            raise KmedError(f"item {i}")
        return i

    seen = []
    with pytest.raises(KmedError, match="item 4"):  # noqa: PT012
        for result in map_in_order(fail, range(50), 3):
            seen.append(result)
    assert seen == [0, 1, 2, 3]


@pytest.mark.parametrize("stop_after", [None, 2])
def test_torchs_numbers_of_threads_are_as_before(torch_threads, stop_after):
    with contextlib.closing(map_in_order(lambda _: torch.get_num_threads(), range(20), 3)) as results:
        inside = [next(results) for _ in range(stop_after or 20)]
    assert set(inside) == {1}
    assert torch.get_num_threads() == 2
    assert in_new_thread(torch.get_num_threads) == 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("clips")]


@pytest.mark.parametrize(("dtype", "speed"), [("fp32", 1.0), ("fp16", 0.9)])
def test_the_store_is_the_same_byte_for_byte(tone_part, tmp_path, dtype, speed):
    stores, seen = {}, {}
    before = torch.get_num_threads()
    for n in (1, 2, 4):
        torch.set_num_threads(n)  # at 0.9, resampling by two of torch's threads rounds differently
        seen[n] = []
        cache = tmp_path / str(n)
        store = build_features(
            tone_part,
            cache,
            dtype=dtype,
            speed=speed,
            n_threads=n,
            progress=lambda done, total, kept=seen[n]: kept.append((done, total)),
        )
        stores[n] = files(cache, store)
    torch.set_num_threads(before)
    assert len(stores[1]) == 3
    assert stores[1] == stores[2] == stores[4]
    assert seen[1] == seen[2] == seen[4] == [(i, 12) for i in range(1, 13)]


@pytest.mark.parametrize("n_threads", [1, 3])
def test_the_first_broken_clip_is_named_and_nothing_is_left(tone_part, tmp_path, n_threads):
    part = tone_part.copy()
    for i in (5, 6):
        path = tmp_path / f"empty-{i}.wav"
        soundfile.write(path, [], 16_000)
        part.loc[i, "audio"] = str(path)
    with pytest.raises(KmedError, match=part["utterance_id"][5]):
        build_features(part, tmp_path / "cache", n_threads=n_threads)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".locks"]


@pytest.mark.parametrize("cores", [1, 3])
def test_a_store_takes_a_thread_for_each_core(tone_part, tmp_path, monkeypatch, cores):
    names = set()

    def log_mel(samples):
        names.add(threading.current_thread().name)
        meeting.wait(timeout=30)  # broken unless as many clips as there are cores are computed at a time
        return np.zeros((2, 80), np.float32)

    meeting = threading.Barrier(cores)
    monkeypatch.setattr(features, "log_mel", log_mel)
    monkeypatch.setattr(features, "count_cores", lambda: cores)
    build_features(tone_part, tmp_path)
    assert len(names) == cores


@pytest.mark.skipif(sys.platform != "linux", reason="other systems don't say")
def test_cores_are_those_that_the_process_may_use():
    allowed = os.sched_getaffinity(0)
    assert count_cores() == len(allowed)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert count_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.slow
def test_an_interrupt_ends_the_threads_and_leaves_nothing(tone_part, tmp_path):
    pd.DataFrame(tone_part).to_parquet(tmp_path / "part.parquet")
    command = [sys.executable, "-c", INTERRUPTED, str(tmp_path / "part.parquet"), str(tmp_path / "cache")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.stdout.strip() == "1 ['.locks']", ended.stderr

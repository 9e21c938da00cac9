"""When `GraphRunner` records, repeats and gives up, with a recorder of the CPU's operations."""

import pytest
import torch
from cpu_recorder import CpuRecorder

from kmed_bench.asr.model import graphs
from kmed_bench.asr.model.graphs import GraphRunner

CPU = torch.device("cpu")


class Counter:
    """Adds its input to a state and returns twice the state; counts its calls."""

    def __init__(self):
        self.state, self.calls = torch.zeros(2), []

    def __call__(self, x, *, update=True):
        self.calls.append(update)
        self.state += x * update
        return (self.state * 2,)


@pytest.fixture
def runner(monkeypatch):
    monkeypatch.setattr(graphs, "recorder_for", lambda _device: CpuRecorder())
    return GraphRunner(CPU)


def values(runner, function, *numbers, **options):
    return [runner.run("key", function, torch.tensor([n, n + 1.0]), **options)[0].clone().tolist() for n in numbers]


def test_a_recording_repeats_what_the_function_did(runner):
    count = Counter()
    assert values(runner, count, 1, 2, 3, 4) == [[2, 4], [6, 10], [12, 18], [20, 28]]
    assert count.calls == [True, True]  # as written, and while it was recorded
    assert runner.n_graphs == 1


def test_a_rehearsal_makes_the_first_call_a_graph(runner):
    count = Counter()
    rehearse = lambda x: count(x, update=False)  # noqa: E731
    assert values(runner, count, 1, 2, rehearse=rehearse) == [[2, 4], [6, 10]]
    assert count.calls == [False, True]


def test_each_key_has_its_recording(runner):
    count = Counter()
    for key in ("a", "b", "a", "b"):
        runner.run(key, count, torch.ones(2))
    assert (runner.n_graphs, count.calls) == (2, [True] * 4)
    runner.forget()
    assert runner.n_graphs == 0
    assert runner.run("a", count, torch.ones(2))[0].tolist() == [10, 10]


def test_without_a_recorder_every_call_runs_as_written():
    count = Counter()
    assert not GraphRunner(CPU).enabled
    assert values(GraphRunner(CPU), count, 1, 2, 3) == [[2, 4], [6, 10], [12, 18]]
    assert count.calls == [True] * 3


def test_what_can_t_be_recorded_runs_as_written_from_then_on(runner, caplog):
    """And nothing of the recording that failed is left in the state."""
    count = Counter()

    def reads(x):
        (found,) = count(x)
        return (found + float(found[0]) * 0,)

    assert values(runner, reads, 1, 2, 3) == [[2, 4], [6, 10], [12, 18]]
    assert not runner.enabled
    assert len(caplog.messages) == 1


def test_lack_of_memory_is_the_callers(runner):
    def fails(x):
        if len(count.calls) > 1:
            raise torch.OutOfMemoryError("no memory")
        return count(x)

    count = Counter()
    values(runner, fails, 1)
    count.calls += [True]
    with pytest.raises(torch.OutOfMemoryError):
        values(runner, fails, 2)
    assert runner.enabled
    count.calls.clear()
    assert values(runner, fails, 2) == [[6, 10]]  # once the caller has made room, recording starts afresh

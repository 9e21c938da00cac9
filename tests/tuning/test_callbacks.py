import logging

import optuna
import pytest
from tuning_worker import settings

from kmed_bench.cli import parse
from kmed_bench.commands.options import resolve
from kmed_bench.core.errors import KmedError
from kmed_bench.tracking.processes import this_process
from kmed_bench.tuning.callbacks import guard, load_callbacks
from kmed_bench.tuning.study_queue import ERROR, PROCESS, StudyQueue


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    """A folder for one storage of all studies here: it takes a second to make."""
    return tmp_path_factory.mktemp("callbacks")


def make_queue(folder, name: str, trials: int) -> StudyQueue:
    return StudyQueue(settings(folder, tune__trials=str(trials)), name, setup={"a": 1}, on_lost=lambda trial: None)


def objective(trial: optuna.Trial, lock) -> float:
    trial.set_user_attr(PROCESS, this_process())
    lock.release()
    if trial.number == 1:
        trial.set_user_attr(ERROR, "diverged")
        raise KmedError("diverged")
    return float(trial.number)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hooks", "has 'hooks'; name each function as module:function"),
        ("hooks:", "name each function as module:function"),
        ("no_such_module:f", "importing no_such_module failed .ModuleNotFoundError"),
        ("json:no_such_function", "json has no function no_such_function"),
        ("json:__name__", "json has no function __name__"),
    ],
)
def test_what_is_no_function_is_refused(name, message):
    with pytest.raises(KmedError, match=message):
        load_callbacks([name])


def test_a_module_of_the_working_folder_is_found(tmp_path, monkeypatch):
    (tmp_path / "own_hooks.py").write_text("def note(study, trial):\n    raise OSError('here')\n", encoding="utf-8")
    (tmp_path / "broken_hooks.py").write_text("1 / 0\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    (loaded,) = load_callbacks(["own_hooks:note"])
    with pytest.raises(OSError, match="here"):
        loaded(None, None)
    with pytest.raises(KmedError, match=r"importing broken_hooks failed .ZeroDivisionError"):
        load_callbacks(["broken_hooks:note"])


def test_the_command_line_names_callbacks():
    args = parse(["tune", "split", "--size", "tiny", "--callback", "hooks:note,hooks:stop"])
    assert resolve(args).tune.callbacks == ("hooks:note", "hooks:stop")


def test_each_ended_trial_is_told_and_a_faulty_callback_ends_nothing(folder, caplog):
    told, failures = [], []

    def faulty(study, trial):
        raise ValueError("of the user's own")

    def note(study, trial):
        assert study.study_name == "told"
        told.append((trial.number, trial.state.name, trial.value))

    guarded = [guard(callback, failures.append) for callback in (faulty, note)]
    queue = make_queue(folder, "told", 3)
    with caplog.at_level(logging.ERROR):
        queue.work(objective, (KmedError,), guarded)
    assert told == [(0, "COMPLETE", 0.0), (1, "FAIL", None), (2, "COMPLETE", 2.0)]
    assert not queue.is_stopped()
    assert len(failures) == 3
    assert queue.is_complete()
    assert failures[0].endswith("faulty after trial 0: ValueError")
    assert 'faulty failed after trial 2: ValueError("of the user\'s own")' in caplog.text


def test_a_stop_holds_for_every_worker_at_work_and_for_no_later_one(folder):
    def stop(study, trial):
        if trial.number == 1:
            study.stop()

    first, second = (make_queue(folder, "stopped", 5) for _ in range(2))
    first.work(objective, (KmedError,), [stop])
    second.work(objective, (KmedError,))
    assert [trial.state.name for trial in second.trials()] == ["COMPLETE", "FAIL", *["WAITING"] * 3]
    assert first.is_stopped()
    assert second.is_stopped()
    assert not second.is_complete()
    later = make_queue(folder, "stopped", 5)
    later.work(objective, (KmedError,), [stop])
    assert later.is_complete()
    assert not later.is_stopped()


def test_a_callback_may_open_the_study_itself(folder):
    """The lock is free while a callback runs, also after a trial that ended before its objective released it."""

    def early(trial: optuna.Trial, lock) -> float:
        raise KmedError("before the lock was released")

    seen = []

    def look(study, trial):
        with queue.lock():
            seen.append(trial.number)

    queue = make_queue(folder, "open", 2)
    queue.work(early, (KmedError,), [look])
    assert len(seen) >= 2

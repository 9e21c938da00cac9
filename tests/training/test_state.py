"""Training states that are damaged, are something else, or are interrupted while they are written."""

import os
import signal

import pytest
import torch

from kmed_bench.core.errors import KmedError
from kmed_bench.core.surroundings import sigterm_interrupts
from kmed_bench.training.state import PREVIOUS_NAME, STATE_NAME, StateKeeper


def keeper_with_two_states(folder):
    states = StateKeeper(folder, "same", resume=False)
    for step in (1, 2):
        states.save({"step": step, "weights": torch.arange(1000)})
    return folder / STATE_NAME, folder / PREVIOUS_NAME


def damage(path, how):
    content = path.read_bytes()
    if how == "list":
        torch.save([1], path)
    elif how == "other keys":
        torch.save({"model": {}}, path)
    elif how == "account":
        torch.save({"version": 1, "fingerprint": "same", "account": 3}, path)
    elif how == "link to a disk that is gone":
        path.unlink()
        path.symlink_to("/gone/state.pt")
    elif how == "fifo":
        path.unlink()
        os.mkfifo(path)
    elif how == "one bit of a weight":
        at = content.index(torch.arange(400, 500).numpy().tobytes())
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    else:
        path.write_bytes({"empty": b"", "half": content[: len(content) // 2], "zeros": bytes(len(content))}[how])


HOW = (
    "empty",
    "half",
    "zeros",
    "list",
    "other keys",
    "account",
    "link to a disk that is gone",
    "fifo",
    "one bit of a weight",
)


@pytest.mark.parametrize("how", HOW)
def test_the_state_before_is_taken_up_and_said(tmp_path, how, caplog):
    state, _ = keeper_with_two_states(tmp_path)
    damage(state, how)
    states = StateKeeper(tmp_path, "same", resume=True)
    assert states.load()["step"] == 1
    assert "state.pt is damaged; training continues from state.previous.pt" in caplog.text


@pytest.mark.parametrize("how", HOW)
def test_two_damaged_states_are_an_error_with_the_remedy(tmp_path, how):
    for path in keeper_with_two_states(tmp_path):
        damage(path, how)
    with pytest.raises(KmedError, match=r"state\.pt and state\.previous\.pt in .*restore one from a copy, or delete"):
        StateKeeper(tmp_path, "same", resume=True)
    assert not StateKeeper(tmp_path, "same", resume=False).resumed


def test_no_state_is_no_error_and_another_training_s_is(tmp_path):
    assert not StateKeeper(tmp_path, "same", resume=True).resumed
    keeper_with_two_states(tmp_path)
    with pytest.raises(KmedError, match="other settings, data or weights"):
        StateKeeper(tmp_path, "other", resume=True)


class Interrupting:
    """Sends SIGTERM to this process when it is pickled."""

    def __reduce__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        return (int, ())


def test_an_interrupt_while_the_state_is_written_is_an_interrupt(tmp_path):
    states = StateKeeper(tmp_path, "same", resume=False)
    states.save({"step": 1})
    with sigterm_interrupts(), pytest.raises(KeyboardInterrupt):
        states.save({"step": 2, "signal": Interrupting()})
    assert StateKeeper(tmp_path, "same", resume=True).load()["step"] == 1
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {STATE_NAME: 0o600}


def test_an_interrupt_behind_another_error_is_an_interrupt(tmp_path, monkeypatch):
    def fail(*_):
        try:
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("the zip writer can't be closed")  # as torch's does

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(KeyboardInterrupt):
        StateKeeper(tmp_path, "same", resume=False).save({})

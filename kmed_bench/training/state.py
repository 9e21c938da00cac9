"""The training state on disk: written whole or not at all, the last good one kept until the next is written."""

import contextlib
import dataclasses
import logging
import os
import random
import secrets
import signal
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import remove_leftovers, replacing, sync

STATE_NAME = "state.pt"
PREVIOUS_NAME = "state.previous.pt"
_VERSION = 1
_ECHO_S = 2.0
"""A terminal and Slurm signal a launcher and its processes; within this time the launcher then passes the signal on."""

log = logging.getLogger(__name__)


class Interrupted(KeyboardInterrupt):
    """Training was interrupted and has saved its state; the message says where it is and how to resume."""


@dataclasses.dataclass(frozen=True)
class Position:
    """A point in training: ``step`` steps of ``epoch`` are done."""

    epoch: int = 1
    step: int = 0


class StateKeeper:
    """The saved state of one training, in its folder.

    Parameters
    ----------
    folder : Path
        Folder of ``state.pt``; the state before it is kept as ``state.previous.pt``.
    fingerprint : str
        Digest of all that determines the result (`config.training_digest`); the state of another one is refused.
    resume : bool
        Whether training resumes from an existing state; otherwise it starts over.

    Attributes
    ----------
    account : dict
        The caller's plain values that are saved with the state, such as the epochs so far.
    """

    def __init__(self, folder: Path, fingerprint: str, *, resume: bool) -> None:
        self.folder = folder
        self.account: dict[str, Any] = {}
        self._fingerprint = fingerprint
        self._saved = self._read() if resume else None
        if self._saved is not None:
            self.account = self._saved.pop("account")

    @property
    def resumed(self) -> bool:
        """Whether there is a state to resume from."""
        return self._saved is not None

    @property
    def mark(self) -> str:
        """What tells the state to resume from apart from all others; empty without one."""
        return "" if self._saved is None else str(self._saved.get("mark", self._saved["position"]))

    def load(self) -> dict[str, Any] | None:
        """Return the loop's part of the state to resume from, or None."""
        return self._saved

    def save(self, loop: Mapping[str, Any]) -> None:
        """Write the loop's state and the account.

        Raises
        ------
        KmedError
            When the disk is full; the last good state is kept.
        """
        remove_leftovers(self.folder)
        target, previous = self.folder / STATE_NAME, self.folder / PREVIOUS_NAME
        whole = {"version": _VERSION, "fingerprint": self._fingerprint, "account": self.account, **loop}
        whole["mark"] = secrets.token_hex(8)
        try:
            with replacing(target, private=True) as temporary:
                with temporary.open("wb") as stream:
                    torch.save(whole, stream)
                if target.exists():
                    sync(temporary)
                    target.replace(previous)
        except (OSError, RuntimeError) as error:
            raise KmedError(
                f"The training state can't be written to {self.folder} ({error}); make room there and continue with "
                "--resume: the last good state is kept."
            ) from None

    def remove(self) -> None:
        """Delete the state of a finished training."""
        remove_leftovers(self.folder)
        for name in (STATE_NAME, PREVIOUS_NAME):
            (self.folder / name).unlink(missing_ok=True)

    def _read(self) -> dict[str, Any] | None:
        damaged = []
        for name in (STATE_NAME, PREVIOUS_NAME):
            path = self.folder / name
            if not os.path.lexists(path):  # a link to a disk that is not there is a state that can't be read
                continue
            state = _read_state(path)
            if state is None:
                damaged.append(name)
                continue
            if damaged:
                log.warning(f"{self.folder / STATE_NAME} is damaged; training continues from {name}, the one before.")
            if state.get("version") != _VERSION or state.get("fingerprint") != self._fingerprint:
                raise KmedError(
                    f"{path} is the state of a training with other settings, data or weights (fingerprint "
                    f"{state.get('fingerprint')}, asked for {self._fingerprint}); resume with the settings it was "
                    "started with, or choose another folder to start over."
                )
            return state
        if damaged:
            raise KmedError(
                f"{' and '.join(damaged)} in {self.folder} can't be read as a training state, so there is none to "
                "continue from; restore one from a copy, or delete the folder to start over without --resume."
            )
        return None


def _read_state(path: Path) -> dict[str, Any] | None:
    """Return a state file's content; None if it is damaged or holds something else."""
    if not path.is_file():  # a FIFO would be waited for
        return None
    try:
        with zipfile.ZipFile(path) as parts:  # torch takes numbers whose bytes have changed without a word
            if parts.testzip() is not None:
                return None
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types for a file that it did not write
        log.debug("%s: %s", path, error)
        return None
    whole = isinstance(state, dict) and {"version", "fingerprint"} <= state.keys()
    return state if whole and isinstance(state.get("account"), dict) else None


def random_states() -> dict[str, Any]:
    """Return the states of Python's, NumPy's and torch's generators as plain values and tensors."""
    name, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_states(states: Mapping[str, Any]) -> None:
    """Restore the generators' states from ``random_states``."""
    random.setstate(states["python"])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if states["cuda"] and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])


@contextlib.contextmanager
def deferred_interrupts() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether Ctrl-C or SIGTERM was received; a second one interrupts at once.

    An interrupt in the middle of an optimizer step would leave only some of the weights updated. Under `torchrun` each
    request comes twice at the same time, and counts once.
    """
    received_s: float | None = None
    echo_s = _ECHO_S if "TORCHELASTIC_RUN_ID" in os.environ else 0.0
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return

    def note(_signal: int, _frame: FrameType | None) -> None:
        nonlocal received_s
        if received_s is not None and time.monotonic() - received_s >= echo_s:
            raise KeyboardInterrupt
        received_s = time.monotonic() if received_s is None else received_s

    watched = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, note) for number in watched}
    try:
        yield lambda: received_s is not None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

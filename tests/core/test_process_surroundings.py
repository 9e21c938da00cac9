"""Interrupts while C code calls back into Python."""

import io
import signal
from collections.abc import Iterator
from types import FrameType

import numpy as np
import pytest
import soundfile

from kmed_bench.core.surroundings import interrupts_wait, let_interrupts_through, sigterm_interrupts

SAMPLES = np.arange(1_000, dtype=np.int16)


@pytest.fixture(autouse=True)
def _ctrl_c() -> Iterator[None]:
    """Python's own handler of Ctrl-C, which a shell's background job lacks."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


class Interrupted(io.BytesIO):
    """A file in memory at which the process gets a signal, in a callback of libsndfile."""

    number = signal.SIGINT

    def write(self, content: bytes) -> int:  # type: ignore[override]
        if self.tell() > 0:
            signal.raise_signal(self.number)
        return super().write(content)

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        signal.raise_signal(self.number)
        return super().readinto(buffer)


def _wav() -> bytes:
    file = io.BytesIO()
    soundfile.write(file, SAMPLES, 16_000, format="WAV", subtype="PCM_16")
    return file.getvalue()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_waits_for_the_end_of_a_call(number: signal.Signals) -> None:
    file = Interrupted()
    file.number = number
    with sigterm_interrupts(), pytest.raises(KeyboardInterrupt), interrupts_wait():
        soundfile.write(file, SAMPLES, 16_000, format="WAV", subtype="PCM_16")
    assert file.getvalue() == _wav()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_file_that_is_no_audio_does_not_hide_the_interrupt() -> None:
    with pytest.raises(KeyboardInterrupt) as caught, interrupts_wait():
        soundfile.read(Interrupted(b"no audio at all" * 100))
    assert isinstance(caught.value.__context__, soundfile.LibsndfileError)


def test_a_handler_that_notes_is_called_with_its_signal() -> None:
    """As in training, where the first signal waits for the end of the optimizer step."""
    noted: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        noted.append(number)

    previous = signal.signal(signal.SIGTERM, note)
    try:
        with interrupts_wait():
            signal.raise_signal(signal.SIGTERM)
            assert noted == []
        assert noted == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is note
    finally:
        signal.signal(signal.SIGTERM, previous)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_block_may_let_a_waiting_interrupt_through(number: signal.Signals) -> None:
    reached: list[str] = []

    def block() -> None:
        let_interrupts_through()  # none waits
        signal.raise_signal(number)
        reached.append("waits")
        let_interrupts_through()
        reached.append("never")

    with sigterm_interrupts(), pytest.raises(KeyboardInterrupt), interrupts_wait(), interrupts_wait():
        block()
    assert reached == ["waits"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_interrupt_acts_at_once_where_the_block_may_take_long() -> None:
    reached: list[str] = []

    def block() -> None:
        for _ in range(3):
            signal.raise_signal(signal.SIGINT)
            reached.append("waits")

    with pytest.raises(KeyboardInterrupt), interrupts_wait(all_of_them=False):
        block()
    assert reached == ["waits"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

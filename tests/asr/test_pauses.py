"""Long recordings cut at pauses: nothing is lost, no piece exceeds the window, and cuts are where nobody speaks."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmed_bench.asr.features.pauses import cut_at_pauses

RATE = 16_000
WINDOW = 30 * RATE


def noise(seconds: float, level: float) -> np.ndarray:
    n = int(seconds * RATE)
    return (level * np.random.default_rng(n).standard_normal(n)).astype(np.float32)


def speech(seconds: float) -> np.ndarray:
    return noise(seconds, 0.1)


def pause(seconds: float) -> np.ndarray:
    return noise(seconds, 0.001)


def blocks(samples: np.ndarray, size: int = 7 * RATE) -> Iterator[np.ndarray]:
    return (samples[start : start + size] for start in range(0, len(samples), size))


def lengths_s(samples: np.ndarray) -> list[float]:
    return [len(piece.samples) / RATE for piece in cut_at_pauses(blocks(samples))]


@pytest.mark.parametrize("seconds", [0.01, 3.0, 30.0])
def test_up_to_30_s_are_one_piece_whatever_is_in_them(seconds: float) -> None:
    samples = np.concatenate([speech(seconds / 3), pause(seconds / 3), speech(seconds / 3)])
    (piece,) = cut_at_pauses(blocks(samples))
    assert piece.start == 0
    assert np.array_equal(piece.samples, samples)


def test_cuts_are_in_the_middle_of_pauses() -> None:
    samples = np.concatenate([speech(10), pause(0.6), speech(8), pause(2.0), speech(14), pause(0.2), speech(5)])
    assert lengths_s(samples) == pytest.approx([10.3, 9.3, 20.2], abs=0.03)


def test_pieces_say_from_when_to_when_somebody_speaks() -> None:
    samples = np.concatenate([pause(1), speech(20), pause(3), speech(10), pause(1)])
    first, second = cut_at_pauses(blocks(samples))
    assert first.speech_s == pytest.approx((0.9, 21.1), abs=0.03)
    assert second.speech_s == pytest.approx((23.9, 34.1), abs=0.03)


def test_without_a_pause_of_half_a_second_the_longest_one_is_taken() -> None:
    samples = np.concatenate([speech(12), pause(0.3), speech(9), pause(0.2), speech(20)])
    assert lengths_s(samples) == pytest.approx([12.15, 29.35], abs=0.03)


def test_without_any_pause_the_quietest_moment_of_the_last_10_s_is_taken() -> None:
    samples = np.concatenate([speech(14), noise(0.05, 0.001), speech(12), noise(0.05, 0.02), speech(13)])
    first, _ = lengths_s(samples)
    assert first == pytest.approx(26.075, abs=0.06)


def test_a_pause_that_reaches_the_window_s_end_is_one_pause() -> None:
    samples = np.concatenate([speech(28), pause(6), speech(10)])
    assert lengths_s(samples)[0] <= 30
    assert sum(piece.speech_s is not None for piece in cut_at_pauses(blocks(samples))) <= 3


def test_silence_is_found_to_be_silent() -> None:
    samples = np.concatenate([speech(20), np.zeros(65 * RATE, np.float32), speech(20)])
    found = list(cut_at_pauses(blocks(samples)))
    silent_s = sum(len(piece.samples) for piece in found if piece.speech_s is None) / RATE
    assert 25 <= silent_s <= 65
    spoken = [piece.speech_s for piece in found if piece.speech_s is not None]
    assert spoken[0][0] == pytest.approx(0, abs=0.03)
    assert spoken[-1][1] == pytest.approx(105, abs=0.03)


PARTS = st.lists(
    st.tuples(st.floats(0.05, 35), st.sampled_from([0.0, 1e-5, 0.001, 0.02, 0.1, 0.5])), min_size=1, max_size=4
)


@settings(deadline=None, max_examples=15)
@given(PARTS, st.sampled_from([1_601, 16_000, 960_000]))
def test_pieces_are_the_recording(parts: list[tuple[float, float]], size: int) -> None:
    samples = np.concatenate([noise(seconds, level) for seconds, level in parts])
    found = list(cut_at_pauses(blocks(samples, size)))
    assert np.array_equal(np.concatenate([piece.samples for piece in found]), samples)
    assert all(0 < len(piece.samples) <= WINDOW for piece in found)
    assert [piece.start for piece in found] == [0, *np.cumsum([len(piece.samples) for piece in found])[:-1]]
    for piece in found:
        begin, end = piece.start / RATE, (piece.start + len(piece.samples)) / RATE
        assert piece.speech_s is None or begin <= piece.speech_s[0] < piece.speech_s[1] <= end

"""Long recordings cut at pauses into pieces that fit Whisper's window."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from whisper.audio import N_SAMPLES, SAMPLE_RATE

PAUSES_VERSION = "1"
"""Of the rules by which recordings are cut."""

_HOP = SAMPLE_RATE // 100  # levels are those of 10 ms
_PAUSE = 50  # hops of a pause at which a recording is cut
_SHORT_PAUSE = 10  # hops of a pause at which it is cut where there is no longer one
_SHORTEST = 150  # hops that a piece has at least
_LATEST = 1_000  # hops before the window's end among which the quietest is searched where there is no pause
_QUIET_SHARE = 0.3  # of the way in dB from the quiet to the loud parts of the window
_QUIET, _LOUD = 10, 95  # percentiles of the levels that stand for these
_SILENT_DB = -70.0  # below full scale; speech that was recorded far too low still reaches -60
_MARGIN_S = 0.1


class Piece(NamedTuple):
    """A stretch of a recording.

    Attributes
    ----------
    start : int
        Its place in the recording, in samples.
    samples : numpy.ndarray
        Mono, 16 kHz, float32, at most 30 s.
    speech_s : tuple of float, or None
        From when to when in the recording, in seconds, it is louder than a pause; None where nothing is.
    """

    start: int
    samples: np.ndarray
    speech_s: tuple[float, float] | None


def cut_at_pauses(blocks: Iterable[np.ndarray]) -> Iterator[Piece]:
    """Yield a recording's consecutive pieces, which together are the whole of it.

    A recording of up to 30 s is one piece, so it is decoded as a clip of the corpus is. A longer one is cut in the
    middle of each pause of at least half a second, but for pieces of less than 1.5 s. Where 30 s have no such pause,
    the longest shorter one is taken, and without any the quietest tenth of a second in the window's last 10 s.

    Parameters
    ----------
    blocks : iterable of numpy.ndarray
        The recording's samples, mono, 16 kHz, float32; no more than a block and a window are held.
    """
    remaining, start = iter(blocks), 0
    held, ended = np.empty(0, np.float32), False
    while not ended or len(held):
        while not ended and len(held) <= N_SAMPLES:
            block = next(remaining, None)
            ended = block is None
            held = held if block is None else np.concatenate([held, block])
        window = held[:N_SAMPLES]
        if not len(window):
            return
        levels = _levels(window)
        threshold = _threshold(levels)
        whole = ended and len(held) <= N_SAMPLES
        n = len(window) if whole and start == 0 else _first_cut(levels, threshold, whole) or len(window)
        yield Piece(start, window[:n], _speech(levels[: -(-n // _HOP)], threshold, start, n))
        start, held = start + n, held[n:]


def _levels(samples: np.ndarray) -> np.ndarray:
    """Return the level of each 10 ms in dB below full scale; the last stretch may be shorter."""
    power = np.square(samples, dtype=np.float64)
    starts = np.arange(0, len(samples), _HOP)
    lengths = np.diff(np.append(starts, len(samples)))
    return 10 * np.log10(np.add.reduceat(power, starts) / lengths + 1e-10)


def _threshold(levels: np.ndarray) -> float:
    """Return the level in dB below which a window has a pause."""
    quiet, loud = np.percentile(levels, (_QUIET, _LOUD))
    return max(float(quiet + _QUIET_SHARE * (loud - quiet)), _SILENT_DB)


def _first_cut(levels: np.ndarray, threshold: float, is_last: bool) -> int | None:
    """Return after how many samples of a window to cut; None where the last window needs no cut."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], levels < threshold, [False]])))
    starts, ends = edges[::2], edges[1::2]
    middles, lengths = (starts + ends) // 2, ends - starts
    # What reaches the window's end may go on after it, and its middle is then not known.
    fits = (middles >= _SHORTEST) & (ends < len(levels))
    long = np.flatnonzero(fits & (lengths >= _PAUSE))
    if len(long):
        return int(middles[long[0]]) * _HOP
    if is_last:
        return None
    fits &= lengths >= _SHORT_PAUSE
    if fits.any():
        return int(middles[np.where(fits, lengths, 0).argmax()]) * _HOP
    if levels.max() < _SILENT_DB:
        return len(levels) * _HOP
    first = len(levels) - _LATEST
    smooth = np.convolve(levels[first:], np.ones(_SHORT_PAUSE), "valid")
    return (first + int(smooth.argmin()) + _SHORT_PAUSE // 2) * _HOP


def _speech(levels: np.ndarray, threshold: float, start: int, n: int) -> tuple[float, float] | None:
    heard = np.flatnonzero(levels >= threshold)
    if not len(heard) or levels.max() < _SILENT_DB:
        return None
    begin, end = start / SAMPLE_RATE, (start + n) / SAMPLE_RATE
    first, last = begin + heard[0] / 100 - _MARGIN_S, begin + (heard[-1] + 1) / 100 + _MARGIN_S
    return max(first, begin), min(last, end)

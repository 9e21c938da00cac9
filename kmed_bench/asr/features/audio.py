"""Samples of audio files, resampled and at another speed."""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from whisper.audio import SAMPLE_RATE

from kmed_bench.asr.features.resampling import resample
from kmed_bench.core.errors import KmedError
from kmed_bench.corpus.archives.media import Media, MediaError, open_media
from kmed_bench.corpus.archives.wav import (
    CANCELLED,
    MAX_LEVEL,
    MAX_RATE_HZ,
    MIN_RATE_HZ,
    WavError,
    is_wav,
    read_samples,
)

log = logging.getLogger(__name__)

_STREAMED_S = 60
_STREAMED_VALUES = 1 << 25


def decode_audio(content: bytes, name: str) -> np.ndarray:
    """Return the samples of an audio file, mono, 16 kHz, float32, shape (n_samples,).

    Parameters
    ----------
    content : bytes
        A WAV file that ``ingest`` takes, or a file of another format that ``open_media`` reads. Channels are averaged;
        of channels that cancel each other, the loudest is taken.
    name : str
        Name of the file in errors; an utterance id rather than a path.

    Raises
    ------
    KmedError
        When the bytes are not audio, hold no samples, hold samples that are not finite or are far over full scale, or
        have a rate outside 4,000 to 384,000 Hz.
    """
    try:
        if is_wav(content):
            samples, rate_hz = read_samples(content)
        else:
            with open_media(content) as media:
                rate_hz, blocks = media.rate_hz, list(media.blocks)
            samples = np.concatenate(blocks) if blocks else np.empty((0, 1), np.float32)
    except (MediaError, WavError) as error:
        raise KmedError(f"The audio of {name} can't be decoded ({error}); run `kmed-bench ingest` again.") from None
    if len(samples) == 0:
        raise KmedError(f"The audio of {name} is empty (0 samples); run `kmed-bench ingest` again.")
    _check_rate(rate_hz, name)
    return resample(_mix(samples, name), rate_hz, SAMPLE_RATE)


def stream_audio(path: Path) -> Iterator[np.ndarray]:
    """Yield the samples of a recording of any length, mono, 16 kHz, float32, in blocks of at most a minute.

    One of up to a minute is a single block, equal to what ``decode_audio`` returns; a longer one, to which the rules on
    channels are applied minute by minute, equals it up to rounding. At most some 300 MB are held at a time.

    Raises
    ------
    KmedError
        For the same reasons as in ``decode_audio``, and where a recording ends before its stated end.
    """
    name, n_samples = str(path), 0
    try:
        with open_media(path) as media:
            _check_rate(media.rate_hz, name)
            mono = (_mix(samples, name) for samples in _whole_seconds(media))
            for block in _resampled(mono, media.rate_hz):
                n_samples += len(block)
                yield block
    except MediaError as error:
        raise KmedError(f"{name} can't be read: {error}.") from None
    if n_samples == 0:
        raise KmedError(f"{name} can't be read: it holds no sound (0 samples).")


def _check_rate(rate_hz: int, name: str) -> None:
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise KmedError(
            f"The audio of {name} is at {rate_hz:,} Hz; {MIN_RATE_HZ:,} to {MAX_RATE_HZ:,} Hz are read: convert it."
        )


def _whole_seconds(media: Media) -> Iterator[np.ndarray]:
    """Yield a recording's samples in blocks of a minute, or fewer whole seconds where many channels fill memory."""
    seconds = min(max(_STREAMED_VALUES // (media.rate_hz * media.channels), 1), _STREAMED_S)
    size = seconds * media.rate_hz
    held: list[np.ndarray] = []
    n_held = 0
    for block in media.blocks:
        while n_held + len(block) >= size:
            yield np.concatenate([*held, block[: size - n_held]])
            block, held, n_held = block[size - n_held :], [], 0
        held.append(block)
        n_held += len(block)
    if n_held:
        yield np.concatenate(held)


def _resampled(blocks: Iterable[np.ndarray], rate_hz: int) -> Iterator[np.ndarray]:
    """Yield blocks of whole seconds (the last one of any length) at 16 kHz.

    Each is computed with a second of what is before and after it: the filters reach some milliseconds.
    """
    before, block = np.empty(0, np.float32), None
    for after in blocks:
        if block is not None:
            made = resample(np.concatenate([before, block, after[:rate_hz]]), rate_hz, SAMPLE_RATE)
            start = len(before) // rate_hz * SAMPLE_RATE
            yield made[start : start + len(block) // rate_hz * SAMPLE_RATE]
            before = block[-rate_hz:]
        block = after
    if block is not None:
        made = resample(np.concatenate([before, block]), rate_hz, SAMPLE_RATE)
        yield made[len(before) // rate_hz * SAMPLE_RATE :]


def _mix(samples: np.ndarray, name: str) -> np.ndarray:
    """Return the mean of the channels, or with a warning the loudest channel where they cancel each other."""
    mono: np.ndarray = samples.mean(axis=1)
    if not np.isfinite(mono).all():
        raise KmedError(
            f"The audio of {name} has samples that are not finite numbers (NaN or infinite); leave it out with "
            "`kmed-bench ingest --data.decode true`, or record it again."
        )
    loudest = float(np.abs(samples).max())
    if loudest > MAX_LEVEL:
        raise KmedError(
            f"The audio of {name} has samples of up to {loudest:g}, and full scale is 1. They look like 16-bit "
            "numbers written as floats: divide them by 32768, or leave the clip out with `kmed-bench ingest "
            "--data.decode true`."
        )
    if samples.shape[1] > 1 and float(np.abs(mono).max()) < CANCELLED * loudest:
        log.warning(f"The channels of {name} are in opposite phase and average to silence; the loudest one is used.")
        return np.ascontiguousarray(samples[:, np.abs(samples).max(axis=0).argmax()])
    return mono


def change_speed(samples: np.ndarray, speed: float) -> np.ndarray:
    """Return samples that play faster (speed over 1) or slower, pitch included; shape (n_samples / speed,).

    The same as ``torchaudio.functional.speed`` at 16 kHz, except that the rate is rounded and not truncated: there 1.15
    becomes 18,399 Hz, which has no common divisor with 16,000.
    """
    return resample(samples, round(speed * SAMPLE_RATE), SAMPLE_RATE)

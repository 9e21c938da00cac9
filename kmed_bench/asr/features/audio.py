"""Samples of audio files, resampled and at another speed."""

import io
import logging

import numpy as np
import soundfile
from whisper.audio import SAMPLE_RATE

from kmed_bench.asr.features.resampling import resample
from kmed_bench.core.errors import KmedError
from kmed_bench.core.surroundings import interrupts_wait
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


def decode_audio(content: bytes, name: str) -> np.ndarray:
    """Return the samples of an audio file, mono, 16 kHz, float32, shape (n_samples,).

    Parameters
    ----------
    content : bytes
        A WAV file that ``ingest`` takes, or a file of another format that libsndfile reads. Channels
        are averaged; of channels that cancel each other, the loudest is taken.
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
            with interrupts_wait():
                samples, rate_hz = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError, WavError) as error:
        raise KmedError(f"The audio of {name} can't be decoded ({error}); run `kmed-bench ingest` again.") from None
    if len(samples) == 0:
        raise KmedError(f"The audio of {name} is empty (0 samples); run `kmed-bench ingest` again.")
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise KmedError(
            f"The audio of {name} is at {rate_hz:,} Hz; {MIN_RATE_HZ:,} to {MAX_RATE_HZ:,} Hz are read: convert it."
        )
    return resample(_mix(samples, name), rate_hz, SAMPLE_RATE)


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

"""Samples of audio files, resampled and at another speed."""

import io

import numpy as np
import soundfile
import torch
import torchaudio
from whisper.audio import SAMPLE_RATE

from kmed_bench.core.errors import KmedError


def decode_audio(content: bytes, name: str) -> np.ndarray:
    """Return the samples of an audio file, mono, 16 kHz, float32, shape (n_samples,).

    Parameters
    ----------
    content : bytes
        A file of any format that libsndfile reads. Channels are averaged.
    name : str
        Name of the file in errors; an utterance id rather than a path.

    Raises
    ------
    KmedError
        When the bytes are not audio, or hold no samples.
    """
    try:
        samples, rate_hz = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise KmedError(f"The audio of {name} can't be decoded ({error}); run `kmed-bench ingest` again.") from None
    if len(samples) == 0:
        raise KmedError(f"The audio of {name} is empty (0 samples); run `kmed-bench ingest` again.")
    mono = torch.from_numpy(samples.mean(axis=1))
    if rate_hz != SAMPLE_RATE:
        mono = torchaudio.functional.resample(mono, rate_hz, SAMPLE_RATE)
    return mono.numpy()


def change_speed(samples: np.ndarray, speed: float) -> np.ndarray:
    """Return samples that play faster (speed over 1) or slower, pitch included; shape (n_samples / speed,).

    The same as ``torchaudio.functional.speed`` at 16 kHz, except that the rate is rounded and not truncated: there 1.15
    becomes 18,399 Hz, which has no common divisor with 16,000.
    """
    rate_hz = round(speed * SAMPLE_RATE)
    changed: np.ndarray = torchaudio.functional.resample(torch.from_numpy(samples), rate_hz, SAMPLE_RATE).numpy()
    return changed

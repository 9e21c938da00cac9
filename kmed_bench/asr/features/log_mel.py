"""Log-mel frames, equal to openai-whisper's."""

import numpy as np
import torch
import whisper
from whisper.audio import HOP_LENGTH, N_FFT, N_FRAMES, N_SAMPLES

N_MELS = 80  # of tiny, base and small alike, so that the sizes share one store


# Log-mel of silence in openai-whisper's scale: log10(1e-10) is -10, then (x + 4) / 4; and the
# floor of 8 below a clip's maximum becomes 2 in that scale.
_SILENCE = (-10.0 + 4.0) / 4.0


_DYNAMIC_RANGE = 8.0 / 4.0


def log_mel(samples: np.ndarray) -> np.ndarray:
    """Return the log-mel frames of a clip's own length, shape (n_frames, 80), float32.

    Equal to the first frames of ``whisper.log_mel_spectrogram(whisper.pad_or_trim(samples))``;
    every later frame of that window is ``pad_value`` of these. The number of frames is even, as
    the encoder's second convolution has stride 2.
    """
    samples = samples[:N_SAMPLES]
    # Frames are centred, so a clip's last sample reaches half a window further.
    n_frames = -(-(len(samples) + N_FFT // 2) // HOP_LENGTH)
    n_frames = min(n_frames + n_frames % 2, N_FRAMES)
    # Zeros up to the last frame's end and beyond, so that the transform's mirrored edge holds silence;
    # a full window ends as openai-whisper's does.
    n_padded = min((n_frames + 3) * HOP_LENGTH + N_FFT, N_SAMPLES)
    padded = np.pad(samples, (0, max(n_padded - len(samples), 0)))
    mel = whisper.log_mel_spectrogram(torch.from_numpy(padded), n_mels=N_MELS)
    return np.ascontiguousarray(mel[:, :n_frames].T.numpy())


def pad_value(frames: np.ndarray) -> float:
    """Return what openai-whisper's log-mel has where the window holds only silence."""
    return max(float(frames.max()) - _DYNAMIC_RANGE, _SILENCE)

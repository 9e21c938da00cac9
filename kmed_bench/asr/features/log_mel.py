"""Log-mel frames, equal to openai-whisper's."""

import numpy as np
import torch
import whisper
from whisper.audio import HOP_LENGTH, N_FFT, N_FRAMES, N_SAMPLES

N_MELS = 80  # in tiny, base and small, so the sizes share one store

# Log-mel of silence on openai-whisper's scale: log10(1e-10) is -10, then (x + 4) / 4. The floor of 8 below a clip's
# maximum is 2 on that scale.
_SILENCE = (-10.0 + 4.0) / 4.0
_DYNAMIC_RANGE = 8.0 / 4.0


def log_mel(samples: np.ndarray) -> np.ndarray:
    """Return a clip's log-mel frames without the window's silence, shape (n_frames, 80), float32.

    Equal to the first frames of ``whisper.log_mel_spectrogram(whisper.pad_or_trim(samples))``, where every later frame
    is ``pad_value`` of these. The number of frames is even, as the encoder's second convolution has stride 2.
    """
    samples = samples[:N_SAMPLES]
    # Frames are centered, so a clip's last sample reaches half a transform window further.
    n_frames = -(-(len(samples) + N_FFT // 2) // HOP_LENGTH)
    n_frames = min(n_frames + n_frames % 2, N_FRAMES)
    # Zeros beyond the last frame's end, so the transform mirrors silence there; 30 s end as openai-whisper's do.
    n_padded = min((n_frames + 3) * HOP_LENGTH + N_FFT, N_SAMPLES)
    padded = np.pad(samples, (0, max(n_padded - len(samples), 0)))
    mel = whisper.log_mel_spectrogram(torch.from_numpy(padded), n_mels=N_MELS)
    return np.ascontiguousarray(mel[:, :n_frames].T.numpy())


def pad_value(frames: np.ndarray) -> float:
    """Return openai-whisper's log-mel value of the silence after a clip."""
    return max(float(frames.max()) - _DYNAMIC_RANGE, _SILENCE)

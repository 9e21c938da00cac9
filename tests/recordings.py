"""Recordings as telephones, browsers and cameras write them: tones, encoded by FFmpeg."""

from pathlib import Path

import av
import numpy as np

KINDS = {
    "call.m4a": ("ipod", "aac", 44_100),
    "clip.mp4": ("mp4", "aac", 48_000),
    "browser.webm": ("webm", "libopus", 48_000),
    "note.3gp": ("3gp", "libopencore_amrnb", 8_000),
    "note.amr": ("amr", "libopencore_amrnb", 8_000),
    "radio.aac": ("adts", "aac", 22_050),
    "voice.opus": ("opus", "libopus", 48_000),
    "song.mp3": ("mp3", "libmp3lame", 44_100),
    "lossless.mka": ("matroska", "pcm_s16le", 16_000),
}
"""File name to FFmpeg's container, its codec and the rate in Hz."""


def tone(seconds: float, rate_hz: int, pitch_hz: float = 440.0) -> np.ndarray:
    """Return a tone of level 0.3, float32."""
    return (0.3 * np.sin(2 * np.pi * pitch_hz * np.arange(int(seconds * rate_hz)) / rate_hz)).astype(np.float32)


def encode(path: Path, samples: np.ndarray, kind: tuple[str, str, int], *, video: bool = False, **options: str) -> Path:
    """Write mono samples, or none where `samples` is empty, and a second of black pictures if asked for."""
    container, codec, rate_hz = kind
    with av.open(str(path), "w", format=container, options=options) as file:
        sound = file.add_stream(codec, rate=rate_hz, layout="mono") if len(samples) else None
        pictures = file.add_stream("mpeg4", rate=10, width=64, height=64, pix_fmt="yuv420p") if video else None
        if pictures:
            black = np.zeros((64, 64, 3), np.uint8)
            for picture in [*(av.VideoFrame.from_ndarray(black, format="rgb24") for _ in range(10)), None]:
                file.mux(pictures.encode(picture))
        if sound:
            context = sound.codec_context
            frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
            frame.sample_rate = rate_hz
            cut = av.AudioResampler(context.format, "mono", rate_hz, frame_size=context.frame_size or 0)
            for part in [*cut.resample(frame), *cut.resample(None), None]:
                file.mux(sound.encode(part))
    return path

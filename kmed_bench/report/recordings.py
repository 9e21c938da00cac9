"""Recordings inside a page: encoded without a program of the system's, within a limit of bytes."""

import base64
import dataclasses
import html
import io
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import soundfile

from kmed_bench.core.errors import KmedError
from kmed_bench.core.progress import track
from kmed_bench.core.surroundings import interrupts_wait

RATE_HZ = 16_000
"""What Whisper hears, and a rate that Opus knows (RFC 6716, section 2)."""
_MARKUP_BYTES = 256
"""What a recording takes on the page beside its own bytes, at most."""
_FAULT_CHARS = 240

Samples = npt.NDArray[np.float32]
ReadClip = Callable[[str], Samples]
"""Returns the mono samples of an utterance at ``RATE_HZ``; raises KmedError where they can't be read."""


class AudioForm(NamedTuple):
    """How recordings are written: its name for people, libsndfile's names, the media type, usual bytes a second."""

    name: str
    container: str
    subtype: str
    media_type: str
    bytes_per_s: float


# Opus: measured on read speech, base64 included; WAV: 16 bits at 16 kHz, as base64.
OPUS = AudioForm("Opus", "OGG", "OPUS", "audio/ogg", 5_000)
WAV = AudioForm("WAV", "WAV", "PCM_16", "audio/wav", 2 * RATE_HZ * 4 / 3)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CutIn:
    """Recordings of a page by utterance id.

    Attributes
    ----------
    sources : dict
        ``data:`` addresses of those that are in the page.
    faults : dict
        Why others can't be read.
    left_out : dict
        Seconds of those that the limit left out; they were not read.
    audio_s : float
        Length of those in the page.
    """

    form: AudioForm
    sources: dict[str, str] = dataclasses.field(default_factory=dict)
    faults: dict[str, str] = dataclasses.field(default_factory=dict)
    left_out: dict[str, float] = dataclasses.field(default_factory=dict)
    audio_s: float = 0.0

    @property
    def n_bytes(self) -> int:
        """Bytes of the page for all recordings in it."""
        return sum(map(len, self.sources.values()))

    @property
    def bytes_per_s(self) -> float:
        """Bytes of the page for a second of sound: of these recordings, or what is usual where there are none."""
        return self.n_bytes / self.audio_s if self.audio_s else self.form.bytes_per_s


def choose_form() -> AudioForm:
    """Return Opus where libsndfile writes it (1.0.29 and later, as in soundfile's wheels), else WAV with 16 bits."""
    return OPUS if OPUS.subtype in soundfile.available_subtypes(OPUS.container) else WAV


@interrupts_wait()
def encode(samples: Samples, form: AudioForm) -> bytes:
    """Return an audio file of mono samples at ``RATE_HZ``, full scale 1; it decodes to as many samples."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, RATE_HZ, format=form.container, subtype=form.subtype)
    return buffer.getvalue()


def cut_in(clips: Sequence[tuple[str, float]], read: ReadClip, max_bytes: int) -> CutIn:
    """Return the recordings of the first clips that fit into so many bytes of a page.

    The first one that does not fit ends it, so that what is in the page are the most wanted ones, without gaps.

    Parameters
    ----------
    clips : sequence of tuple
        Utterance ids, the most wanted first, and their seconds.
    read : callable
        Returns a clip's samples.
    """
    form, left, n_samples = choose_form(), max_bytes, 0
    sources: dict[str, str] = {}
    faults: dict[str, str] = {}
    with track("Encoding recordings") as tick:
        for place, (name, _) in enumerate(clips):
            try:
                samples = read(name)
            except KmedError as error:
                kept, text, length = faults, str(error)[:_FAULT_CHARS], 0
            else:
                encoded = base64.b64encode(encode(samples, form)).decode("ascii")
                kept, text, length = sources, f"data:{form.media_type};base64,{encoded}", len(samples)
            left -= len(html.escape(text).encode()) + _MARKUP_BYTES
            if left < 0:
                break
            kept[name] = text
            n_samples += length
            tick(place + 1, len(clips))
    left_out = dict(clips[len(sources) + len(faults) :])
    return CutIn(form=form, sources=sources, faults=faults, left_out=left_out, audio_s=n_samples / RATE_HZ)

"""Transcripts of recordings, and the formats that they are written in."""

import dataclasses
import html
import json
from collections.abc import Iterable
from typing import Any, Literal, get_args

from kmed_bench.core.formats import FileFormat

TranscriptFormat = Literal["text", "srt", "vtt", "json"]
TRANSCRIPT_FORMATS: tuple[TranscriptFormat, ...] = get_args(TranscriptFormat)
ENDINGS: dict[TranscriptFormat, str] = {"text": ".txt", "srt": ".srt", "vtt": ".vtt", "json": ".json"}


@dataclasses.dataclass(frozen=True)
class Segment:
    """What was said from `start_s` to `end_s`, in seconds from the recording's beginning."""

    start_s: float
    end_s: float
    text: str


@dataclasses.dataclass(frozen=True)
class Transcript:
    """What was said in a recording.

    Attributes
    ----------
    audio : str
        The recording's name, with the folders below one that was given.
    silent_s : float
        Length of its stretches without any sound, which are not decoded.
    """

    audio: str
    model: str
    duration_s: float
    silent_s: float
    segments: tuple[Segment, ...]

    @property
    def text(self) -> str:
        """The segments' texts, joined by spaces; those without words are left out."""
        return " ".join(segment.text for segment in self.segments if segment.text)


TRANSCRIPT = FileFormat[dict[str, Any]](
    "kmed-transcript", version=1, oldest=1, remedy="write it again with `kmed-bench transcribe`"
)
TRANSCRIPTS = FileFormat[dict[str, Any]](
    "kmed-transcripts", version=1, oldest=1, remedy="transcribe into another folder"
)


def render(transcript: Transcript, form: TranscriptFormat, *, indent: int | None = None) -> str:
    """Return a transcript in a format, ending in a newline unless it is empty.

    Parameters
    ----------
    indent : int, optional
        Of JSON; None: one line.
    """
    if form == "json":
        content = {
            **TRANSCRIPT.head,
            "audio": transcript.audio,
            "model": transcript.model,
            "duration_s": round(transcript.duration_s, 3),
            "silent_s": round(transcript.silent_s, 3),
            "text": transcript.text,
            "segments": [
                {"start_s": round(s.start_s, 3), "end_s": round(s.end_s, 3), "text": s.text}
                for s in transcript.segments
            ],
        }
        return json.dumps(content, ensure_ascii=False, indent=indent) + "\n"
    said = [segment for segment in transcript.segments if segment.text]
    if form == "text":
        return "".join(f"{segment.text}\n" for segment in said)
    return _subrip(said) if form == "srt" else "WEBVTT\n\n" + _cues(said, ".")


def _subrip(segments: Iterable[Segment]) -> str:
    cues = _cues(segments, ",").split("\n\n")[:-1]
    return "".join(f"{number}\n{cue}\n\n" for number, cue in enumerate(cues, start=1))


def _cues(segments: Iterable[Segment], mark: str) -> str:
    """Return cues of WebVTT, and with a comma as the decimal mark of SubRip, whose texts have no markup."""
    lines = []
    for segment in segments:
        text = segment.text.replace("-->", "→")  # ends a cue in both formats
        text = html.escape(text, quote=False) if mark == "." else text
        lines.append(f"{_clock(segment.start_s, mark)} --> {_clock(segment.end_s, mark)}\n{text}\n\n")
    return "".join(lines)


def _clock(seconds: float, mark: str) -> str:
    thousandths = round(seconds * 1000)
    minutes, rest = divmod(thousandths, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}{mark}{rest % 1000:03}"

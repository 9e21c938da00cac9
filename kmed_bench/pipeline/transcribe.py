"""`transcribe`: single recordings of any format and length to text, with times."""

import dataclasses
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from whisper.audio import SAMPLE_RATE

from kmed_bench import __version__
from kmed_bench.asr.features.audio import stream_audio
from kmed_bench.asr.features.pauses import PAUSES_VERSION, Piece, cut_at_pauses
from kmed_bench.asr.runtimes.backend import Backend
from kmed_bench.config import Config, Decides, digest
from kmed_bench.config.identity import decisive
from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import PRIVATE_FOLDER, write_json, write_text_atomically
from kmed_bench.core.finished import content_sha256, is_finished
from kmed_bench.core.progress import track
from kmed_bench.core.sharding import shard_of
from kmed_bench.core.transcripts import ENDINGS, TRANSCRIPTS, Segment, Transcript, TranscriptFormat, render
from kmed_bench.corpus.archives.media import MEDIA_SUFFIXES, MediaError, open_media
from kmed_bench.pipeline.models import located, open_located, shown_model

log = logging.getLogger(__name__)

HEAD_NAME = "kmed-transcripts.json"


@dataclasses.dataclass
class Recording:
    """A recording to transcribe, and what is known of it so far.

    Attributes
    ----------
    name : str
        Its name in the output folder: the file's, and the folders' below a folder that was given.
    fault : str
        Why it could not be transcribed; empty if it could.
    """

    path: Path
    name: str
    segments: list[Segment] = dataclasses.field(default_factory=list)
    n_samples: int = 0
    n_silent: int = 0
    fault: str = ""


@dataclasses.dataclass
class Outcome:
    """What became of the recordings; `kept` were there from an earlier call."""

    done: list[Recording] = dataclasses.field(default_factory=list)
    kept: list[Recording] = dataclasses.field(default_factory=list)
    failed: list[Recording] = dataclasses.field(default_factory=list)


def find_recordings(paths: Sequence[Path]) -> list[Recording]:
    """Return the files, and in folders those at any depth with the ending of a recording; each once, in order.

    Hidden files of a folder are left out: macOS writes one beside each recording on other systems' disks.

    Raises
    ------
    KmedError
        When a folder has no recordings, or two files would have transcripts of one name.
    """
    found: dict[str, Recording] = {}
    for path in paths:
        inside = sorted(filter(_is_recording, path.rglob("*"))) if path.is_dir() else [path]
        if not inside:
            raise KmedError(
                f"{path} has no recordings (files that end in {', '.join(sorted(MEDIA_SUFFIXES))}); check the folder, "
                "or name its files."
            )
        for file in inside:
            name = file.relative_to(path).as_posix() if path.is_dir() else file.name
            before = found.setdefault(name, Recording(file, name)).path
            if before.resolve() != file.resolve():
                raise KmedError(
                    f"{before} and {file} would both have transcripts named {name}; transcribe them in two calls, into "
                    "two folders."
                )
    return list(found.values())


def _is_recording(path: Path) -> bool:
    return path.suffix.lower() in MEDIA_SUFFIXES and not path.name.startswith(".") and path.is_file()


def recordings_of_shards(recordings: Sequence[Recording], shards: Sequence[int], n_shards: int) -> list[Recording]:
    """Return the recordings of some shards: those of a name, so of a file below a folder that was given."""
    return [recording for recording in recordings if shard_of(recording.name, n_shards) in shards]


def shards_to_do(recordings: Sequence[Recording], form: TranscriptFormat, out: Path, n_shards: int) -> list[int]:
    """Return the shards of which a transcript is missing in a folder, or older than its recording."""
    missing = {shard_of(one.name, n_shards) for one in recordings if not _is_written(one, _target(out, one, form))}
    return sorted(missing)


def transcribe(
    config: Config,
    model: str,
    recordings: Sequence[Recording],
    form: TranscriptFormat,
    *,
    out: Path | None = None,
    show: Callable[[Transcript], None] | None = None,
) -> Outcome:
    """Transcribe recordings in their order; write each as soon as it is complete, and pass each to `show`.

    Recordings that can't be read are left out, with a warning and the reason in the outcome.

    Parameters
    ----------
    out : Path, optional
        Folder of one file a recording, which only its owner can open. Files that are there already, and not older than
        their recording, are kept.

    Raises
    ------
    KmedError
        When the model can't be read, or `out` holds transcripts of another model, format or settings.
    """
    outcome, started = Outcome(), time.monotonic()
    with located(config, model) as path:
        if out is not None:
            out.mkdir(PRIVATE_FOLDER, parents=True, exist_ok=True)
            _claim(config, shown_model(model), path, form, out)
            outcome.failed = [one for one in recordings if _has_long_name(one, form, out)]
        for recording in (one for one in recordings if not one.fault):
            kept = out is not None and _is_written(recording, _target(out, recording, form))
            (outcome.kept if kept else outcome.done).append(recording)
        todo, outcome.done = outcome.done, []
        if not todo:
            return outcome
        backend = open_located(config, model, path)
        for recording in _decoded(backend, todo):
            if recording.fault:
                log.warning("%s", recording.fault)
                outcome.failed.append(recording)
                continue
            transcript = _transcript(recording, shown_model(model))
            if out is not None:
                indent = 2 if form == "json" else None
                text = render(transcript, form, indent=indent)
                write_text_atomically(_target(out, recording, form), text, private=True)
            if show:
                show(transcript)
            outcome.done.append(recording)
    audio_s = sum(recording.n_samples for recording in outcome.done) / SAMPLE_RATE
    elapsed_s = time.monotonic() - started
    if audio_s:
        log.info(f"{audio_s:.0f} s of audio in {elapsed_s:.0f} s, {audio_s / elapsed_s:.1f} times as fast as it plays.")
    return outcome


def _claim(config: Config, model: str, path: Path, form: TranscriptFormat, out: Path) -> None:
    """Note in the folder what its transcripts are made of; raise KmedError if it has others."""
    settings = decisive(config, Decides.DECODING)
    made_of = digest(
        {
            "model": content_sha256(path),
            "settings": settings,
            "format": form,
            "rules": [__version__, PAUSES_VERSION],
        }
    )
    if not is_finished(out / HEAD_NAME, made_of):
        write_json(out / HEAD_NAME, {**TRANSCRIPTS.head, "made_of": made_of, "model": model, "output": form})


def _target(out: Path, recording: Recording, form: TranscriptFormat) -> Path:
    return out / f"{recording.name}{ENDINGS[form]}"


def _has_long_name(recording: Recording, form: TranscriptFormat, out: Path) -> bool:
    """Return whether the folder can't hold a transcript under the recording's name, which is then its fault."""
    longest, size = os.pathconf(out, "PC_NAME_MAX"), len(os.fsencode(_target(out, recording, form).name))
    if size > longest:
        recording.fault = (
            f"{recording.path} has too long a name: with {ENDINGS[form]} it is {size} bytes, and {out} takes "
            f"{longest}; rename it."
        )
        log.warning("%s", recording.fault)
    return size > longest


def _is_written(recording: Recording, target: Path) -> bool:
    try:
        return target.stat().st_mtime_ns >= recording.path.stat().st_mtime_ns
    except OSError:
        return False


def _decoded(backend: Backend, recordings: Sequence[Recording]) -> Iterator[Recording]:
    """Yield the recordings, each once all of it is decoded or a fault is found; batches cross their borders."""
    total_s = sum(map(_stated_s, recordings))
    waiting: list[tuple[Recording, Piece | None]] = []
    done_s = 0.0
    with track("Transcribing", unit="s of audio") as tick:
        tick(0, max(int(total_s), 1))
        for recording, piece in _pieces(recordings):
            waiting.append((recording, piece))
            if sum(p is not None for _, p in waiting) == backend.batch_size:  # silent ones take memory, too
                yield from _decode_waiting(backend, waiting)
                done_s += sum(len(p.samples) for _, p in waiting if p) / SAMPLE_RATE
                tick(int(done_s), max(int(total_s), int(done_s)))
                waiting = []
        yield from _decode_waiting(backend, waiting)


def _pieces(recordings: Sequence[Recording]) -> Iterator[tuple[Recording, Piece | None]]:
    """Yield each recording's pieces, and None at its end or where it can't be read any further."""
    for recording in recordings:
        try:
            for piece in cut_at_pauses(stream_audio(recording.path)):
                yield recording, piece
        except KmedError as error:
            recording.fault = str(error)
        yield recording, None


def _decode_waiting(backend: Backend, waiting: Sequence[tuple[Recording, Piece | None]]) -> Iterator[Recording]:
    heard = [piece.samples for _, piece in waiting if piece is not None and piece.speech_s is not None]
    texts = iter(backend.transcribe(heard) if heard else [])
    for recording, piece in waiting:
        if piece is None:
            yield recording
            continue
        recording.n_samples += len(piece.samples)
        if piece.speech_s is None:
            recording.n_silent += len(piece.samples)
        else:
            recording.segments.append(Segment(*piece.speech_s, next(texts)))


def _stated_s(recording: Recording) -> float:
    try:
        with open_media(recording.path) as media:
            return media.stated_s or 0.0
    except MediaError:
        return 0.0


def _transcript(recording: Recording, model: str) -> Transcript:
    return Transcript(
        audio=recording.name,
        model=model,
        duration_s=recording.n_samples / SAMPLE_RATE,
        silent_s=recording.n_silent / SAMPLE_RATE,
        segments=tuple(recording.segments),
    )

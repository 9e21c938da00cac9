"""The registered model's code: audio in, Korean text out, with openai-whisper only.

MLflow copies this file into each model and runs it wherever the model is loaded or served, so it must not import
kmed_bench. Decoding is the same as in the evaluation: mono float32, 16 kHz, one window of 30 s, greedy, no
timestamps, fp32. Channels that cancel each other are refused, where the evaluation takes the loudest one. Longer audio
is decoded in openai-whisper's own windows. Whatever a request holds, it takes less than 1 GiB of memory beside the
model: `Limits` bounds what is read, and no file is unpacked in whole before it is measured. Requests that run at the
same time take turns, a window at a time, and a request that nobody is waiting for any more stops within a step.
"""

import base64
import dataclasses
import io
import json
import math
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import soundfile
import torch
import whisper
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import CANCELLED, DEADLINE_EXCEEDED, INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel
from scipy.signal import resample_poly
from whisper.audio import N_SAMPLES, SAMPLE_RATE

BATCH_ROWS = 8
MIN_RATE_HZ, MAX_RATE_HZ = 4_000, 384_000
MAX_CHANNELS = 8
BLOCK_VALUES = 2**20
# The longest audio may have as many samples as at this rate; at higher rates it must be shorter.
FULL_LENGTH_HZ = 48_000
# Largest (rate x 16,000) / gcd², which torchaudio's resampling filter grows with; for odd rates (44,101 Hz) it would
# take gigabytes, and scipy's polyphase filter is used.
MAX_FILTER_ELEMENTS = 2**22
# Of full scale. Peaks of a lossy decoder may exceed 1; samples that the caller computed should not.
MAX_FILE_LEVEL, MAX_SAMPLE_LEVEL = 2.0, 1.0001
# How much of a request's audio stays in memory between its check and its decoding; the rest is read again.
KEPT_SAMPLES = 10 * 60 * SAMPLE_RATE
# How often a waiting request checks whether it is still wanted, and the share of the server's time limit that it may
# take, so that its own error reaches the client before the server's.
LOOK_EVERY_S, SHARE_OF_TIMEOUT = 0.2, 0.9
# Longest value of a request that an error repeats; what is longer may be audio.
MAX_ECHO = 16
# Channels cancel each other where the peak of their mean is below this share of the channels' own peak.
CANCELLING = 0.1

SOURCES = ("audio", "audio_base64", "path", "samples")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What one request may hold; settings of the model, which an operator can change.

    Attributes
    ----------
    max_rows : int
        Each row costs at least one window of 30 s, however short its audio is.
    max_audio_mib, max_audio_minutes : float
        Of one row.
    max_request_minutes : float
        Of all rows together.
    """

    max_rows: int = 512
    max_audio_mib: float = 128.0
    max_audio_minutes: float = 10.0
    max_request_minutes: float = 60.0

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Limits":
        """Return the limits in a model's settings; models of earlier releases lack some."""
        known = [field.name for field in dataclasses.fields(cls) if field.name in config]
        return cls(**{name: type(getattr(cls, name))(config[name]) for name in known})


class WhisperModel(PythonModel):
    """One Whisper checkpoint behind MLflow's pyfunc interface.

    Attributes
    ----------
    is_abandoned : callable
        Whether the client of the request that runs in the calling thread is gone; a server that knows sets it.
    """

    is_abandoned: Callable[[], bool] = staticmethod(lambda: False)

    def load_context(self, context: Any) -> None:
        """Load the checkpoint; openai-whisper unpickles only tensors (``weights_only=True``).

        Raises
        ------
        mlflow.exceptions.MlflowException
            When weights are not finite numbers.
        """
        config = context.model_config
        self.language = str(config["language"])
        self.limits = Limits.from_config(config)
        max_bytes = int(self.limits.max_audio_mib * 2**20)
        self.reader = AudioReader(
            max_bytes=max_bytes,
            max_s=self.limits.max_audio_minutes * 60,
            path_root=str(config.get("path_root", "")),
        )
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = whisper.load_model(context.artifacts["checkpoint"], device=device)
        self.model.eval()
        wrong = [name for name, value in self.model.state_dict().items() if not bool(torch.isfinite(value).all())]
        if wrong:
            raise _refuse(f"The checkpoint has weights that are not finite numbers ({wrong[0]}); use another version.")
        # openai-whisper keeps its key-value cache in hooks on the model, so concurrent decodes would corrupt each
        # other, and the scoring server calls predict from several threads. When the encoder starts, a window is
        # complete, and another request may have the model.
        self._turns = _Turns()
        self._of_thread = threading.local()
        self.model.encoder.register_forward_pre_hook(lambda *_: self._let_others_go_first())
        for step in (*self.model.encoder.blocks, self.model.decoder):
            step.register_forward_pre_hook(lambda *_: self._of_thread.job.check())

    def predict(  # type: ignore[override]  # MLflow lets the context, which is not used here, be left out
        self, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Return one row per input row, with its index, and the column ``text``.

        Parameters
        ----------
        model_input : pandas.DataFrame
            Exactly one of these in each row: ``audio`` (bytes of any file that soundfile reads), ``audio_base64``
            (the same as text), ``path``, or ``samples`` (floats, mono; in a CSV body as the text of a JSON list) with
            ``rate_hz``.
        params : dict, optional
            ``language`` (a code, or ``auto``); ``detail``: true adds the columns ``language``, ``duration_s``
            and ``segments``, a list of ``{"start_s", "end_s", "text"}``.

        Raises
        ------
        mlflow.exceptions.MlflowException
            ``INVALID_PARAMETER_VALUE`` (HTTP 400 when served), naming the row and its fault; on a server also
            ``DEADLINE_EXCEEDED`` (504) and ``CANCELLED`` (499).
        """
        params = params or {}
        language = str(params.get("language") or self.language)
        if language != "auto" and language not in whisper.tokenizer.LANGUAGES:
            raise _refuse(f"language is {_brief(language)}; give a code of Whisper's, such as 'ko', or 'auto'.")
        table = model_input if isinstance(model_input, pd.DataFrame) else pd.DataFrame({"audio": list(model_input)})
        if not set(table.columns) & set(SOURCES):  # MLflow drops columns that the signature does not name
            raise _refuse(f"No column holds audio; give exactly one of {', '.join(SOURCES)} in each row.")
        job = self._of_thread.job = _Job(self.is_abandoned)
        try:
            self._turns.take(job)
            with torch.inference_mode():
                results = self._transcribe(self._read(table), None if language == "auto" else language)
        finally:
            self._turns.leave(job)
        columns = ["text", "language", "duration_s", "segments"] if params.get("detail") else ["text"]
        return pd.DataFrame(results, columns=columns, index=table.index)

    def _let_others_go_first(self) -> None:
        self._turns.leave(self._of_thread.job)
        self._turns.take(self._of_thread.job)

    def _read(self, table: pd.DataFrame) -> "_Clips":
        if len(table) > self.limits.max_rows:
            raise _refuse(f"{len(table)} rows are over the limit of {self.limits.max_rows}; send them in parts.")
        clips = _Clips(self.reader, table.to_dict("records"))
        for number in range(len(table)):
            self._let_others_go_first()
            clips.measure(number)
            if sum(clips.lengths) > self.limits.max_request_minutes * 60 * SAMPLE_RATE:
                raise _refuse(
                    f"The first {number + 1} of {len(table)} rows last longer than the limit of "
                    f"{self.limits.max_request_minutes:g} minutes together; send them in parts."
                )
        return clips

    def _transcribe(self, clips: "_Clips", language: str | None) -> list[dict[str, Any]]:
        results: list[dict[str, Any]] = [{} for _ in clips.lengths]
        short = [number for number, length in enumerate(clips.lengths) if length <= N_SAMPLES]
        for first in range(0, len(short), BATCH_ROWS):
            rows = short[first : first + BATCH_ROWS]
            for row, result in zip(rows, self._decode([clips.read(row) for row in rows], language), strict=True):
                results[row] = result
        for row, length in enumerate(clips.lengths):
            if length > N_SAMPLES:
                results[row] = self._window(clips.read(row), language)
        return results

    def _decode(self, clips: list[np.ndarray], language: str | None) -> list[dict[str, Any]]:
        """Decode clips of at most 30 s exactly as the evaluation does."""
        n_mels = self.model.dims.n_mels
        mels = [whisper.log_mel_spectrogram(whisper.pad_or_trim(torch.from_numpy(clip)), n_mels) for clip in clips]
        options = whisper.DecodingOptions(
            task="transcribe", language=language, temperature=0.0, without_timestamps=True, fp16=False
        )
        decoded = whisper.decode(self.model, torch.stack(mels).to(self.model.device), options)
        results = []
        for clip, result in zip(clips, decoded, strict=True):
            duration_s = len(clip) / SAMPLE_RATE
            segments = [{"start_s": 0.0, "end_s": duration_s, "text": result.text}]
            results.append(
                {"text": result.text, "language": result.language, "duration_s": duration_s, "segments": segments}
            )
        return results

    def _window(self, clip: np.ndarray, language: str | None) -> dict[str, Any]:
        """Transcribe audio of more than 30 s in openai-whisper's windows, which follow its timestamps.

        On 55 s of joined real clips (untouched base), the text differed by 6 % from that of the single clips; with the
        previous window's text as a prompt by 26 %, without timestamps by 39 %: both lost whole sentences.
        """
        result = whisper.transcribe(
            self.model, clip, language=language, temperature=0.0, condition_on_previous_text=False, fp16=False
        )
        duration_s = len(clip) / SAMPLE_RATE
        segments = [  # the last window is padded, and a timestamp may be in the padding
            {
                "start_s": float(part["start"]),
                "end_s": min(float(part["end"]), duration_s),
                "text": part["text"].strip(),
            }
            for part in result["segments"]
            if part["start"] < duration_s
        ]
        return {
            "text": result["text"].strip(),
            "language": result["language"],
            "duration_s": duration_s,
            "segments": segments,
        }


class _Job:
    """One request: who waits for it, and until when."""

    def __init__(self, is_abandoned: Callable[[], bool]) -> None:
        self._is_abandoned = is_abandoned
        # `mlflow models serve` answers 504 after this time and lets the job run on
        limit_s = os.environ.get("MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT")
        serving = os.environ.get("_MLFLOW_IS_IN_SERVING_ENVIRONMENT") == "true"
        self._limit_s = float(limit_s) if limit_s and serving else math.inf
        self._end = time.monotonic() + SHARE_OF_TIMEOUT * self._limit_s

    def check(self) -> None:
        """Raise MlflowException when nobody waits for the request any more."""
        if self._is_abandoned():
            raise _RequestError("The client is gone, so its request was stopped.", error_code=CANCELLED)
        if time.monotonic() > self._end:
            raise _RequestError(
                f"The request takes longer than this server's limit of {self._limit_s:g} s, waiting for others "
                "included; send less audio at a time, or start the server with a longer timeout.",
                error_code=DEADLINE_EXCEEDED,
            )


class _Turns:
    """A lock that jobs get in the order in which they ask; `threading.Lock` could keep one waiting forever."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._queue: list[_Job] = []

    def take(self, job: _Job) -> None:
        """Wait for the job's turn; raises what its check raises."""
        with self._changed:
            self._queue.append(job)
            while self._queue[0] is not job:
                self._changed.wait(LOOK_EVERY_S)
                job.check()
        job.check()

    def leave(self, job: _Job) -> None:
        """End the job's turn, or its wait for one."""
        with self._changed:
            if job in self._queue:
                self._queue.remove(job)
                self._changed.notify_all()


class _Clips:
    """The audio of a request's rows; of long requests only the first part stays in memory."""

    def __init__(self, reader: "AudioReader", rows: list[dict[Any, Any]]) -> None:
        self.lengths: list[int] = []
        self._reader, self._rows = reader, rows
        self._kept: dict[int, np.ndarray] = {}

    def measure(self, number: int) -> None:
        """Read the next row and note its samples at 16 kHz; raises what the reader raises."""
        clip = self._reader.read(number, self._rows[number])
        self.lengths.append(len(clip))
        if sum(self.lengths) <= KEPT_SAMPLES:
            self._kept[number] = clip

    def read(self, number: int) -> np.ndarray:
        """Return a row's audio, which is forgotten if it was kept."""
        if number in self._kept:
            return self._kept.pop(number)
        clip = self._reader.read(number, self._rows[number])
        if len(clip) != self.lengths[number]:
            raise _refuse(f"Row {number} changed while the request ran; send it again.")
        return clip


class AudioReader:
    """Reads one input row as audio for Whisper, or raises an error that names its fault.

    Parameters
    ----------
    max_bytes : int
        Largest audio file.
    max_s : float
        Longest audio in seconds.
    path_root : str
        The folder whose files ``path`` may name; empty: any file, but none on a server.
    """

    def __init__(self, *, max_bytes: int, max_s: float, path_root: str = "") -> None:
        self.max_bytes, self.max_s, self.path_root = max_bytes, max_s, path_root
        self._sources = {
            "audio": self._from_bytes,
            "audio_base64": self._from_base64,
            "path": self._from_path,
            "samples": self._from_samples,
        }

    def read(self, number: int, row: dict[Any, Any]) -> np.ndarray:
        """Return a row's audio as mono float32 at 16 kHz, shape (n_samples,).

        Raises
        ------
        mlflow.exceptions.MlflowException
            ``INVALID_PARAMETER_VALUE`` with the row's number.
        """
        present = [name for name in SOURCES if not _is_missing(row.get(name))]
        if len(present) != 1:
            listed = " and ".join(present) or "none of them"
            raise _refuse(f"Row {number} has {listed}; give exactly one of {', '.join(SOURCES)}.")
        level = MAX_SAMPLE_LEVEL if present[0] == "samples" else MAX_FILE_LEVEL
        try:
            return self._to_whisper(*self._sources[present[0]](row), level)
        except _BadAudioError as error:
            raise _refuse(f"Row {number}, {present[0]}: {error}") from None

    def _from_bytes(self, row: dict[Any, Any]) -> tuple[np.ndarray, int]:
        content = row["audio"]
        if isinstance(content, str):  # MLflow decodes base64 in the two dataframe bodies, and leaves that of a CSV
            return self._from_base64({"audio_base64": content})
        if not isinstance(content, (bytes, bytearray)):
            raise _BadAudioError(f"it is a {type(content).__name__}; give a file's bytes.")
        return self._decode(bytes(content))

    def _from_base64(self, row: dict[Any, Any]) -> tuple[np.ndarray, int]:
        text = str(row["audio_base64"])
        self._check_bytes(len(text) * 3 // 4)
        try:
            content = base64.b64decode("".join(text.split()), validate=True)
        except ValueError as error:
            raise _BadAudioError(f"the text is not base64 ({error}).") from None
        return self._decode(content)

    def _from_path(self, row: dict[Any, Any]) -> tuple[np.ndarray, int]:
        path = Path(str(row["path"]))
        try:
            if self.path_root:
                root = Path(self.path_root).resolve()
                path = (root / path).resolve()
                if not path.is_relative_to(root):
                    raise _BadAudioError("it is outside of the folder that the setting path_root allows.")
            elif os.environ.get("_MLFLOW_IS_IN_SERVING_ENVIRONMENT") == "true":
                # otherwise anyone who can reach the port could read and probe the server's files
                raise _BadAudioError(
                    "a server reads no files of its own machine; send the bytes in audio_base64. For `mlflow models "
                    "predict`, the setting path_root names the folder that it may read."
                )
            self._check_bytes(path.stat().st_size)
            return self._decode(path.read_bytes())
        except (OSError, ValueError) as error:
            if isinstance(error, _BadAudioError):
                raise
            reason = error.strerror if isinstance(error, OSError) else "no path"
            raise _BadAudioError(f"it can't be read ({reason}); check the path.") from None  # it may be audio instead

    def _from_samples(self, row: dict[Any, Any]) -> tuple[np.ndarray, int]:
        if _is_missing(row.get("rate_hz")):
            raise _BadAudioError("their rate is missing; give rate_hz, in samples per second, as well.")
        given = row["samples"]
        try:
            samples = np.asarray(json.loads(given) if isinstance(given, str) else given, dtype=np.float32)
        except (TypeError, ValueError, OverflowError, RecursionError):
            raise _BadAudioError("they are not numbers; give one list of floats, mono.") from None
        if samples.ndim != 1:
            raise _BadAudioError(f"their shape is {samples.shape}; give one list of floats, mono.")
        try:
            return samples, int(row["rate_hz"])
        except (TypeError, ValueError, OverflowError):
            raise _BadAudioError(f"rate_hz is {_brief(row['rate_hz'])}; give a number of samples per second.") from None

    def _decode(self, content: bytes) -> tuple[np.ndarray, int]:
        """Return (samples, rate in Hz) of an audio file's bytes; channels are averaged."""
        if not content:
            raise _BadAudioError("it is empty (0 bytes); send a whole file.")
        self._check_bytes(len(content))
        try:
            with soundfile.SoundFile(io.BytesIO(content)) as file:
                self._check_length(file.frames, file.samplerate)
                return self._read_mono(file), file.samplerate
        except (soundfile.SoundFileError, RuntimeError) as error:
            raise _BadAudioError(
                f"it is not audio that soundfile can read ({getattr(error, 'error_string', error)}); send WAV, FLAC, "
                "OGG or MP3."
            ) from None

    def _read_mono(self, file: soundfile.SoundFile) -> np.ndarray:
        """Return the channels' mean, read block by block: a short FLAC file may hold many channels for a long time."""
        if file.channels > MAX_CHANNELS:
            raise _BadAudioError(f"it has {file.channels} channels, over the limit of {MAX_CHANNELS}; mix them down.")
        blocks, loudest, n_samples = [], 0.0, 0
        for block in file.blocks(BLOCK_VALUES // file.channels, dtype="float32", always_2d=True):
            loudest = max(loudest, float(np.abs(block).max(initial=0.0)))
            blocks.append(block.mean(axis=1))
            n_samples += len(block)
            self._check_length(n_samples, file.samplerate)  # the header may say less
        mono = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
        if file.channels > 1 and float(np.abs(mono).max(initial=0.0)) < CANCELLING * loudest:
            raise _BadAudioError("its channels cancel each other (opposite phase); send one of them.")
        return mono

    def _to_whisper(self, audio: np.ndarray, rate_hz: int, max_level: float) -> np.ndarray:
        self._check_length(len(audio), rate_hz)
        if not np.isfinite(audio).all():
            raise _BadAudioError("it has samples that are not finite numbers; send finite ones.")
        if (loudest := max(float(audio.max()), -float(audio.min()))) > max_level:
            raise _BadAudioError(
                f"its samples reach {loudest:g}, and full scale is 1; divide 16-bit numbers by 32768, or send a file."
            )
        if rate_hz != SAMPLE_RATE:
            audio = _resample_by_minute(audio, rate_hz)
        return np.ascontiguousarray(audio)

    def _check_bytes(self, n_bytes: int) -> None:
        if n_bytes > self.max_bytes:
            raise _BadAudioError(
                f"it has {n_bytes / 2**20:.1f} MiB, over the limit of {self.max_bytes / 2**20:g}; cut it into parts."
            )

    def _check_length(self, n_samples: int, rate_hz: int) -> None:
        if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
            raise _BadAudioError(f"its rate is {rate_hz} Hz; that must be from {MIN_RATE_HZ} to {MAX_RATE_HZ}.")
        if n_samples == 0:
            raise _BadAudioError("it has no samples; send a longer clip.")
        if n_samples > self.max_s * rate_hz:
            raise _BadAudioError(
                f"it lasts {n_samples / rate_hz:.0f} s, over the limit of {self.max_s:g} s; cut it into parts."
            )
        if n_samples > self.max_s * FULL_LENGTH_HZ:
            raise _BadAudioError(
                f"it has {n_samples:,} samples of {rate_hz} Hz, over the limit of {self.max_s * FULL_LENGTH_HZ:,.0f}; "
                f"resample it to {FULL_LENGTH_HZ} Hz or less, or cut it into parts."
            )


def _resample_by_minute(audio: np.ndarray, rate_hz: int) -> np.ndarray:
    """Return audio at 16 kHz, computed minute by minute with a second of what is before and after it.

    The filters reach some milliseconds, so the values are those of one piece, at a fraction of its memory.
    """
    pieces = []
    for start in range(0, len(audio), 60 * rate_hz):
        first = max(start - rate_hz, 0)
        made = _resample(np.ascontiguousarray(audio[first : start + 61 * rate_hz]), rate_hz)
        before = (start - first) // rate_hz * SAMPLE_RATE
        pieces.append(made[before:] if start + 60 * rate_hz >= len(audio) else made[before : before + 60 * SAMPLE_RATE])
    return np.concatenate(pieces)


def _resample(audio: np.ndarray, rate_hz: int) -> np.ndarray:
    """Return audio at 16 kHz; the same as kmed_bench's ``resample``, which can't be imported here (a test compares)."""
    divisor = math.gcd(rate_hz, SAMPLE_RATE)
    up, down = SAMPLE_RATE // divisor, rate_hz // divisor
    if up * down > MAX_FILTER_ELEMENTS:
        polyphase: np.ndarray = resample_poly(audio, up, down)
        return polyphase.astype(np.float32, copy=False)
    import torchaudio  # only here: its wheels refuse to load beside some versions of torch

    changed: np.ndarray = torchaudio.functional.resample(torch.from_numpy(audio), rate_hz, SAMPLE_RATE).numpy()
    return changed


class _BadAudioError(ValueError):
    """A fault of one row's audio; the caller adds the row's number."""


def _is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def _brief(value: Any) -> str:
    """Return what a value is, for an error; of a long one, which may be audio in the wrong place, only its type."""
    text = repr(value)
    return text if len(text) <= MAX_ECHO else f"a long {type(value).__name__}"


class _RequestError(MlflowException):
    """An error whose message stays as it was written: MLflow's server would put the request's data into it."""

    @property
    def message(self) -> str:
        """What the client is told."""
        return self._message

    @message.setter
    def message(self, text: str) -> None:
        self._message = getattr(self, "_message", text)


def _refuse(message: str) -> MlflowException:
    return _RequestError(message, error_code=INVALID_PARAMETER_VALUE)


mlflow.models.set_model(WhisperModel())

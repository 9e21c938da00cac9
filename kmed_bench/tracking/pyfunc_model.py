"""The registered model's code: audio in, Korean text out, with openai-whisper alone.

MLflow copies this file into each model and runs it wherever the model is loaded or served, so it imports
nothing of kmed_bench. Decoding is the evaluation's: mono float32, 16 kHz, one window of 30 s, greedy, no
timestamps, fp32. Longer audio goes through openai-whisper's own windows.
"""

import base64
import binascii
import io
import os
import threading
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import soundfile
import torch
import torchaudio
import whisper
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel
from whisper.audio import CHUNK_LENGTH, N_SAMPLES, SAMPLE_RATE

BATCH_ROWS = 8
MAX_BYTES = 256 * 2**20
MAX_SECONDS = 4 * 3600.0
MAX_RATE_HZ = 768_000

SOURCES = ("audio", "audio_base64", "path", "samples")


class WhisperModel(PythonModel):
    """One Whisper checkpoint behind MLflow's pyfunc interface."""

    def load_context(self, context: Any) -> None:
        """Read the checkpoint; openai-whisper unpickles nothing but tensors (``weights_only=True``)."""
        config = context.model_config or {}
        device = config.get("device") or ("cuda" if torch.cuda.is_available() else "cpu")
        self.language = str(config.get("language", "ko"))
        self.model = whisper.load_model(context.artifacts["checkpoint"], device=device)
        self.model.eval()
        # openai-whisper keeps its key-value cache in hooks on the model, so two decodes at once would mix;
        # the scoring server calls predict from several threads.
        self._lock = threading.Lock()

    def predict(  # type: ignore[override]  # MLflow lets the context, which is not used here, be left out
        self, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Return one row per input row with the column ``text``.

        Parameters
        ----------
        model_input : pandas.DataFrame
            One of these in each row: ``audio`` (bytes of any file that soundfile reads), ``audio_base64`` (the
            same as text), ``path``, or ``samples`` (floats, mono) with ``rate_hz``.
        params : dict, optional
            ``language`` (a code, or ``auto``); ``detail``: true adds the columns ``language``, ``duration_s``
            and ``segments``, a list of ``{"start_s", "end_s", "text"}``.

        Raises
        ------
        mlflow.exceptions.MlflowException
            ``INVALID_PARAMETER_VALUE`` (HTTP 400 when served) that names the row and what is wrong with it.
        """
        params = params or {}
        language = str(params.get("language") or self.language)
        if language != "auto" and language not in whisper.tokenizer.LANGUAGES:
            raise _refuse(f"language is {language!r}; give a code of Whisper's, such as 'ko', or 'auto'.")
        table = model_input if isinstance(model_input, pd.DataFrame) else pd.DataFrame({"audio": list(model_input)})
        clips = [_read_row(number, row) for number, row in enumerate(table.to_dict("records"))]
        with self._lock, torch.inference_mode():
            results = self._transcribe(clips, None if language == "auto" else language)
        columns = ["text", "language", "duration_s", "segments"] if params.get("detail") else ["text"]
        return pd.DataFrame(results, columns=columns)

    def _transcribe(self, clips: list[np.ndarray], language: str | None) -> list[dict[str, Any]]:
        results: list[dict[str, Any]] = [{} for _ in clips]
        short = [number for number, clip in enumerate(clips) if len(clip) <= N_SAMPLES]
        for first in range(0, len(short), BATCH_ROWS):
            rows = short[first : first + BATCH_ROWS]
            for row, result in zip(rows, self._decode([clips[row] for row in rows], language), strict=True):
                results[row] = result
        for row, clip in enumerate(clips):
            if len(clip) > N_SAMPLES:
                results[row] = self._window(clip, language)
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
        """Transcribe more than 30 s; greedy and without the previous window's text, so that no loop carries on."""
        result = whisper.transcribe(
            self.model, clip, language=language, temperature=0.0, condition_on_previous_text=False, fp16=False
        )
        segments = [
            {"start_s": float(part["start"]), "end_s": float(part["end"]), "text": part["text"].strip()}
            for part in result["segments"]
        ]
        return {
            "text": result["text"].strip(),
            "language": result["language"],
            "duration_s": len(clip) / SAMPLE_RATE,
            "segments": segments,
        }


def _read_row(number: int, row: dict[Any, Any]) -> np.ndarray:
    """Return a row's audio as mono float32 at 16 kHz, shape (n_samples,)."""
    given = [name for name in SOURCES if not _is_empty(row.get(name))]
    if len(given) != 1:
        named = " and ".join(given) or "none of them"
        raise _refuse(f"Row {number} has {named}; give exactly one of {', '.join(SOURCES)}.")
    try:
        audio, rate_hz = _SOURCE_READERS[given[0]](row)
        return _to_whisper(audio, rate_hz)
    except _BadAudioError as error:
        raise _refuse(f"Row {number}, {given[0]}: {error}") from None


class _BadAudioError(ValueError):
    """What is wrong with one row's audio; the row's number is added where it is known."""


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, float) and np.isnan(value)) or value is pd.NA


def _from_bytes(row: dict[str, Any]) -> tuple[np.ndarray, int]:
    content = row["audio"]
    if isinstance(content, str):  # MLflow's CLI and CSV bodies hand a binary column over as base64 text
        content = _decode_base64(content)
    return _decode_file(bytes(content))


def _from_base64(row: dict[str, Any]) -> tuple[np.ndarray, int]:
    return _decode_file(_decode_base64(str(row["audio_base64"])))


def _from_path(row: dict[str, Any]) -> tuple[np.ndarray, int]:
    if os.environ.get("_MLFLOW_IS_IN_SERVING_ENVIRONMENT") == "true":
        # whoever reaches the port could otherwise probe the server's files
        raise _BadAudioError("a server reads no paths of its own machine; send the file's bytes in `audio`.")
    path = str(row["path"])
    try:
        if os.path.getsize(path) > MAX_BYTES:  # noqa: PTH202
            raise _BadAudioError(f"{path} is over the limit of {MAX_BYTES // 2**20} MiB; cut it into parts.")
        with open(path, "rb") as stream:  # noqa: PTH123
            return _decode_file(stream.read())
    except OSError as error:
        raise _BadAudioError(f"{path} can't be read ({error.strerror}); check the path.") from None


def _from_samples(row: dict[str, Any]) -> tuple[np.ndarray, int]:
    rate_hz = row.get("rate_hz")
    if _is_empty(rate_hz):
        raise _BadAudioError("the rate is missing; give rate_hz, samples per second, beside them.")
    samples = np.asarray(row["samples"], dtype=np.float32)
    if samples.ndim != 1:
        raise _BadAudioError(f"they have the shape {samples.shape}; give one list of floats, mono.")
    return samples, int(rate_hz)  # type: ignore[arg-type]


_SOURCE_READERS = {"audio": _from_bytes, "audio_base64": _from_base64, "path": _from_path, "samples": _from_samples}


def _decode_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _BadAudioError(f"the text is not base64 ({error}).") from None


def _decode_file(content: bytes) -> tuple[np.ndarray, int]:
    """Return (samples, rate in Hz) of an audio file's bytes; channels are averaged."""
    if not content:
        raise _BadAudioError("it is empty (0 bytes).")
    if len(content) > MAX_BYTES:
        raise _BadAudioError(
            f"it has {len(content) / 2**20:.0f} MiB, over the limit of {MAX_BYTES // 2**20} MiB; cut it into parts."
        )
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            _check_length(file.frames, file.samplerate)
            audio = file.read(dtype="float32", always_2d=True)
            return audio.mean(axis=1), file.samplerate
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise _BadAudioError(f"it is no audio that soundfile reads ({error}); send WAV, FLAC, OGG or MP3.") from None


def _check_length(n_samples: int, rate_hz: int) -> None:
    if not 0 < rate_hz <= MAX_RATE_HZ:
        raise _BadAudioError(f"the rate is {rate_hz} Hz; it must be from 1 to {MAX_RATE_HZ}.")
    if n_samples == 0:
        raise _BadAudioError("it holds no samples.")
    if n_samples > MAX_SECONDS * rate_hz:
        raise _BadAudioError(
            f"it lasts {n_samples / rate_hz:.0f} s, over the limit of {MAX_SECONDS:.0f} s; cut it into parts."
        )


def _to_whisper(audio: np.ndarray, rate_hz: int) -> np.ndarray:
    """Return the samples at 16 kHz as contiguous float32."""
    _check_length(len(audio), rate_hz)
    if not np.isfinite(audio).all():
        raise _BadAudioError("it holds samples that are not finite numbers.")
    if rate_hz != SAMPLE_RATE:
        tensor = torch.from_numpy(np.ascontiguousarray(audio, dtype=np.float32))
        audio = torchaudio.functional.resample(tensor, rate_hz, SAMPLE_RATE).numpy()
    return np.ascontiguousarray(audio, dtype=np.float32)


def _refuse(message: str) -> MlflowException:
    return MlflowException(message, error_code=INVALID_PARAMETER_VALUE)


assert N_SAMPLES == CHUNK_LENGTH * SAMPLE_RATE
mlflow.models.set_model(WhisperModel())

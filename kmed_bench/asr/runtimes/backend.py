"""What every model that can be evaluated offers, whatever library decodes it."""

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from whisper.audio import N_SAMPLES

from kmed_bench.asr.features.audio import decode_audio
from kmed_bench.config import Context
from kmed_bench.core.batching import chunks
from kmed_bench.core.errors import KmedError
from kmed_bench.core.predictions import Prediction
from kmed_bench.core.progress import track
from kmed_bench.corpus.archives.reader import AudioReader


class Backend(ABC):
    """A model that is ready to decode.

    Attributes
    ----------
    name, version : str
        The library that decodes.
    settings : dict
        Its settings, for ``scores.json``.
    audio_context : {"full", "dynamic"}
        The window it computes: 30 s, or the length of the clips.
    uses_torch : bool
        Whether its GPU memory is torch's, which can be measured.
    parameters : int or None
        Number of learned parameters; None if the file does not tell.
    model_bytes : int
        Size of the weights on disk.
    batch_size : int
        Most clips for a call of ``transcribe``.
    features_folder : Path or None
        Where ``decode`` keeps features, if it writes any; None: in the cache.
    """

    name: str
    version: str
    settings: dict[str, Any]
    audio_context: Context = "full"
    uses_torch = True
    parameters: int | None
    model_bytes: int
    batch_size: int
    features_folder: Path | None = None

    @abstractmethod
    def transcribe(self, clips: Sequence[np.ndarray]) -> list[str]:
        """Return the transcripts of clips: mono float32 samples at 16 kHz, at most 30 s of each."""

    @abstractmethod
    def decode(self, rows: pd.DataFrame) -> list[Prediction]:
        """Return the predictions of a manifest's rows, in their order; a first batch is decoded untimed (warm-up).

        Raises
        ------
        KmedError
            When a clip can't be read.
        """

    def describe(self) -> dict[str, Any]:
        """Return what decodes and how, as ``scores.json`` records it."""
        return {
            "name": self.name,
            "version": self.version,
            "settings": self.settings,
            "audio_context": self.audio_context,
        }


class SampleBackend(Backend):
    """A library that gets samples and computes its own features.

    It gets the same samples as our own decoding, in the same 30 s window, decodes greedily, in Korean if the model
    knows languages, and keeps its own features, padding and suppressed tokens.
    """

    def decode(self, rows: pd.DataFrame) -> list[Prediction]:
        """Return the predictions, the longest clips decoded first.

        Reading and resampling are not timed; the library's own features are.
        """
        ordered = rows.sort_values(["duration_s", "utterance_id"], ascending=[False, True]).to_dict("records")
        decoded: dict[str, Prediction] = {}
        with AudioReader() as reader, track(f"Decoding by {self.name}") as tick:
            for batch in chunks(ordered, self.batch_size):
                clips = [decode_audio(reader.read(row["audio"]), row["utterance_id"])[:N_SAMPLES] for row in batch]
                if not decoded:
                    self.transcribe(clips)
                started = time.perf_counter()
                texts = self.transcribe(clips)
                decode_s = (time.perf_counter() - started) / len(batch)
                self._check_texts(texts, len(batch))
                for row, text in zip(batch, texts, strict=True):
                    decoded[row["utterance_id"]] = Prediction.from_row(row, text, decode_s)
                tick(len(decoded), len(rows))
        return [decoded[name] for name in rows["utterance_id"]]

    def _check_texts(self, texts: Sequence[object], n_clips: int) -> None:
        """Raise KmedError unless there is one text a clip; backends may be of other packages."""
        kinds = {type(text).__name__ for text in texts}
        if len(texts) != n_clips or kinds != {"str"}:
            raise KmedError(
                f"{self.name} returned {len(texts)} values of type {', '.join(sorted(kinds)) or 'none'} for {n_clips} "
                "clips; its `transcribe` must return one str for each."
            )

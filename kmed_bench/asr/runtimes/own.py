"""Our own decoding as a backend: openai-whisper's model, features from the cache."""

import importlib.metadata
import logging
from collections.abc import Sequence

import numpy as np
import pandas as pd

from kmed_bench import __version__
from kmed_bench.asr.decoding.continuous import ENCODER_BATCH
from kmed_bench.asr.decoding.decode import decode_clips, predict_part
from kmed_bench.asr.decoding.options import DecodingOptions
from kmed_bench.asr.features.clips import ClipFeatures
from kmed_bench.asr.features.log_mel import N_MELS
from kmed_bench.asr.features.store import build_features
from kmed_bench.asr.model.tokenizer import N_VOCAB
from kmed_bench.asr.model.whisper import Whisper
from kmed_bench.asr.runtimes.backend import Backend
from kmed_bench.config import EvalConfig, FeaturesConfig
from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import cache_folder
from kmed_bench.core.predictions import Prediction
from kmed_bench.core.progress import track

log = logging.getLogger(__name__)


class OwnBackend(Backend):
    """A model decoded by this package.

    Parameters
    ----------
    label : str
        What errors call the model.
    model_bytes : int
        Size of its file.
    features : FeaturesConfig, optional
        Format of the clips' features, and what their cache may take; None: the defaults.

    Raises
    ------
    KmedError
        For a model that our decoding would read wrongly: another vocabulary or number of mel bands.
    """

    name = "kmed-bench"

    def __init__(
        self,
        network: Whisper,
        config: EvalConfig,
        label: str,
        *,
        model_bytes: int = 0,
        features: FeaturesConfig | None = None,
    ) -> None:
        dims = network.dims
        if (dims.n_vocab, dims.n_mels) != (N_VOCAB, N_MELS):
            raise KmedError(
                f"{label} has {dims.n_vocab} tokens and {dims.n_mels} mel bands; our own decoding reads Whisper's "
                f"multilingual models of {N_VOCAB} and {N_MELS} (tiny to large-v2). Evaluate English-only models and "
                "large-v3 as a Hugging Face or CTranslate2 folder."
            )
        self._network, self._config = network, config
        self._features = features or FeaturesConfig()
        self.batch_size = ENCODER_BATCH if network.device.type == "cuda" else config.batch_size
        self.version = f"{__version__}, torch {importlib.metadata.version('torch')}"
        self.audio_context = config.audio_context
        self.parameters = sum(p.numel() for p in network.parameters())
        self.model_bytes = model_bytes
        names = ("batch_size", "precision", "max_new_tokens", "beam_size", "no_repeat_ngram_size")
        self.settings = {
            **{name: getattr(config, name) for name in names},
            "features": self._features.dtype,
            "language": "ko",
            "device": network.device.type,
            "timed": "encoder and decoding of ready features",
        }

    def transcribe(self, clips: Sequence[np.ndarray]) -> list[str]:
        """Return the transcripts; features are computed in memory and rounded as on disk."""
        self._network.eval()
        features = ClipFeatures(clips, self._features.dtype)
        options = DecodingOptions.from_config(self._config)
        decoded = decode_clips(self._network, features, features.names, options)
        texts = {result.utterance_id: result.text for result in decoded}
        return [texts[name] for name in features.names]

    def decode(self, rows: pd.DataFrame) -> list[Prediction]:
        """Return the predictions; the untimed first batch is of the longest clips."""
        with track("Features") as tick:
            features = build_features(
                rows,
                self.features_folder or cache_folder() / "features",
                dtype=self._features.dtype,
                budget_bytes=int(self._features.cache_gib * 2**30),
                progress=tick,
            )
        options = DecodingOptions.from_config(self._config)
        with track("Decoding") as tick:
            predict_part(self._network, rows.nlargest(options.batch_size, "duration_s"), features, options)
            predictions = predict_part(self._network, rows, features, options, progress=tick)
        if self._config.no_repeat_ngram_size is not None:
            n_blocked = sum(prediction.ngram_blocked for prediction in predictions)
            log.info(f"The n-gram block changed the search in {n_blocked} of {len(rows)} clips.")
        return predictions

"""Any model on the same standard: decode a part of a split, score it, compare it with a baseline."""

import tempfile
from pathlib import Path
from typing import Any

from kmed_bench.asr.device import pick_device
from kmed_bench.asr.weights import cache_folder, find_weights, load_weights
from kmed_bench.config import Config
from kmed_bench.corpus.split import read_split
from kmed_bench.progress import Narrator
from kmed_bench.records import SIZES, write_json, write_predictions
from kmed_bench.scoring import score_predictions
from kmed_bench.stages import decode_part, prepare_speech
from kmed_bench.tracking.fetch import fetch_checkpoint
from kmed_bench.tracking.store import open_store


def evaluate_model(
    config: Config, model: str, split_folder: Path, part: str, out: Path, *, narrator: Narrator
) -> dict[str, Any]:
    """Decode and score one part with any model; write predictions and scores; return the scores.

    Parameters
    ----------
    model : str
        A size, a ``.pt`` file, or an MLflow URI (``models:/…``, ``runs:/…``).

    Raises
    ------
    KmedError
        When the model or the split can't be read.
    """
    split = read_split(split_folder)
    with tempfile.TemporaryDirectory() as folder:
        network = load_weights(_find_model(config, model, Path(folder)), str(pick_device()))
    speech = prepare_speech(split, cache_folder() / "features", narrator, parts=(part,))
    with narrator.track(f"Decoding {part}") as tick:
        predictions = decode_part(network, speech, part, config.eval, progress=tick)
    scores = score_predictions(predictions, config.eval, split_sha256=split.sha256)
    write_predictions(out / "predictions.jsonl", predictions)
    write_json(out / "scores.json", {**scores, "audio_context": config.eval.audio_context})
    return scores


def _find_model(config: Config, model: str, folder: Path) -> Path:
    if model in SIZES:
        return find_weights(model).path
    if model.startswith(("models:/", "runs:/")):
        open_store(config.tracking)
        return fetch_checkpoint(model, folder)
    return Path(model)

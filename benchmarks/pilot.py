"""Standard deviations of the benefit of fine-tuning between speakers, sentences and clips, from real recordings.

    python benchmarks/pilot.py DOWNLOAD --json FILE [--quick]

Whisper base is fine-tuned twice, each time on half of the speakers, and decodes the other half, so every clip has a
transcript by the untouched model and by one that heard neither its speaker nor its sentence. The paired differences
give the deviations that ``scoring.power.Deviations`` has as defaults. The JSON file holds counts and figures, no text.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
from pathlib import Path

import pandas as pd

from kmed_bench.asr.model.weights import find_weights, load_weights
from kmed_bench.config import Config, load_config
from kmed_bench.core.files import write_json
from kmed_bench.core.predictions import Prediction
from kmed_bench.core.schema import read_manifest
from kmed_bench.corpus.ingest.manifest import ingest
from kmed_bench.corpus.splitting.split import build_split
from kmed_bench.scoring import ScoringOptions
from kmed_bench.scoring.compare import compare_predictions, scored_pair
from kmed_bench.scoring.power import pilot_deviations
from kmed_bench.training.epochs import decode_part, featurize_split, train_epochs

_VALID = 8
"""Clips decoded after each epoch; no epoch is chosen by them."""


def decode_half(table: pd.DataFrame, tested: pd.Series, config: Config, cache: Path) -> list[list[Prediction]]:
    """Return the tested clips by the untouched model and by one fine-tuned on the other speakers and sentences."""
    test = table[tested].reset_index(drop=True)
    others = table[~tested & ~table["sentence_id"].isin(test["sentence_id"])].reset_index(drop=True)
    parts = {"train": others.iloc[_VALID:], "valid": others.iloc[:_VALID], "test": test}
    parts = {name: part.reset_index(drop=True) for name, part in parts.items()}
    speech = featurize_split(build_split(table, parts, dataclasses.asdict(config.split), {}), cache, config)
    model = load_weights(find_weights("base").path)
    untouched = decode_part(model, speech, "test", config.eval)
    for epoch in train_epochs(model, speech, config, seed=0):
        print(f"epoch {epoch.epoch}: loss {epoch.train_loss:.3f}, valid CER {epoch.valid_cer:.3f}", file=sys.stderr)
    return [untouched, decode_part(model, speech, "test", config.eval)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a download, as `kmed-bench ingest` takes it")
    parser.add_argument("--json", type=Path, required=True, help="file for the figures")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of each fine-tuning (3)")
    parser.add_argument("--quick", action="store_true", help="one epoch")
    args = parser.parse_args()
    contexts = {"train.audio_context": "dynamic", "eval.audio_context": "dynamic"}
    config = load_config("sound", {**contexts, "train.epochs": 1 if args.quick else args.epochs})
    with tempfile.TemporaryDirectory() as folder:
        ingest([args.source], Path(folder) / "manifest", config.data)
        table = read_manifest(Path(folder) / "manifest" / "manifest.parquet")
        # Speakers by their number of clips, dealt in turns, so the halves are alike.
        order = table["speaker_id"].value_counts().sort_index().sort_values(kind="stable")
        half = table["speaker_id"].map({name: rank % 2 for rank, name in enumerate(order.index)})
        halves = [decode_half(table, half == number, config, Path(folder) / "features") for number in (0, 1)]
    untouched, tuned = (a + b for a, b in zip(*halves, strict=True))
    side = config.data.transcript_side
    found = compare_predictions(untouched, tuned, ScoringOptions())
    keys = ("a", "b", "delta", "delta_low", "delta_high", "p_value", "n_clips", "n_speakers")
    figures = {key: value for key, value in found.items() if key in keys}
    figures |= {"deviations": dataclasses.asdict(pilot_deviations(scored_pair(untouched, tuned, side)))}
    write_json(args.json, {"epochs": config.train.epochs, **figures})
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()

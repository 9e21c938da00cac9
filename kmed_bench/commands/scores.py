"""Commands on predictions, without a model: `score`, `compare`."""

import argparse
import json
from pathlib import Path
from typing import Any

from kmed_bench.commands.options import Add, resolve


def register(add: Add) -> None:
    """Add the commands of this module."""
    score = add("score", _score, "Score a predictions.jsonl again, without a model.")
    score.add_argument("predictions", type=Path)
    score.add_argument("out", type=Path)
    score.add_argument("--policy", help="pronunciation or spelling")

    compare = add("compare", _compare, "Paired difference in CER of two predictions files.")
    compare.add_argument("a", type=Path)
    compare.add_argument("b", type=Path)


def _score(args: argparse.Namespace) -> int:
    from kmed_bench.records import read_predictions, write_json
    from kmed_bench.scoring import score_predictions

    config = resolve(args, eval__policy=args.policy)
    scores = score_predictions(read_predictions(args.predictions), config.eval)
    write_json(args.out / "scores.json", scores)
    print_scores(scores)
    print(f"Scores: {args.out / 'scores.json'}")
    return 0


def print_scores(scores: dict[str, Any]) -> None:
    """Print the headline: CER with its interval and what it was measured on."""
    overall = scores["overall"]
    low, high = overall["cer_low"], overall["cer_high"]
    interval = "no interval" if low is None else f"95 % interval {low:.4f} to {high:.4f}"
    cer = "undefined" if overall["cer"] is None else f"{overall['cer']:.4f}"
    print(f"CER {cer} ({interval}; {overall['n_clips']} clips, {overall['n_speakers']} speakers)")


def _compare(args: argparse.Namespace) -> int:
    from kmed_bench.records import read_predictions
    from kmed_bench.scoring import compare_predictions

    result = compare_predictions(read_predictions(args.a), read_predictions(args.b), resolve(args).eval)
    print(json.dumps(result, ensure_ascii=False, indent=2))
    return 0

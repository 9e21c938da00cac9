"""`curve`: how the error falls with the amount of training speech."""

import argparse
import shlex
import sys
from pathlib import Path

from kmed_bench.commands.options import TRAINING, Commands, one_size, resolve

_TRACKING = tuple(
    f"tracking.{name}" for name in ("uri", "experiment", "step_interval", "system_metrics", "log_checkpoints")
)
"""Nothing is registered, so that no passport is signed either."""


def register(commands: Commands) -> None:
    """Add the commands of this module."""
    curve = commands.add(
        "curve",
        _curve,
        "Train one size (--size) on nested amounts of speech, and fit how its CER falls; run it again to continue.",
        reads=[*TRAINING, *_TRACKING, "curve", "report"],
        short={"size": "model.sizes", "fractions": "curve.fractions", "draws": "curve.draws"},
    )
    curve.add_argument("split", type=Path, help="a folder that `split` wrote")
    curve.add_argument("out", type=Path, help="folder for results; the same command continues there")
    curve.add_argument(
        "--part",
        choices=("valid", "test"),
        default="valid",
        help="the part that is decoded (valid); test opens the test part for each training, and is recorded",
    )


def _curve(args: argparse.Namespace) -> int:
    from kmed_bench.asr.model.weights import find_weights
    from kmed_bench.core.corpus_contracts import SPLIT
    from kmed_bench.pipeline.curve.trace import learn_curve
    from kmed_bench.report.learning_curve import curve_view, describe_curve
    from kmed_bench.report.terminal import print_views
    from kmed_bench.tracking.store import ui_command

    config = resolve(args)
    size = one_size(args, config, "`curve`")
    SPLIT.read(args.split / "split.json")  # a wrong folder is named before weights are fetched
    weights = find_weights(size, config.model.weights)
    try:
        outcome = learn_curve(config, weights, args.split, args.out, part=args.part)
    except KeyboardInterrupt:
        print("kmed-bench: interrupted; what was trained so far is kept.", file=sys.stderr)
        print(f"Continue with the same command: {shlex.join(['kmed-bench', *sys.argv[1:]])}", file=sys.stderr)
        return 130
    print_views([curve_view(outcome.curve)])
    for text in describe_curve(outcome.curve):
        print(f"\n{text}")
    print(f"\nCurve: {outcome.report.resolve()}")
    print(f"MLflow UI: {ui_command(outcome.tracking_uri)}")
    return 0

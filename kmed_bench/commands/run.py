"""`run`, the whole benchmark, and `doctor`."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from kmed_bench.commands.options import Commands, add_switch, resolve
from kmed_bench.config.gate import GATE_LIMITS


def register(commands: Commands) -> None:
    """Add the commands of this module."""
    run = commands.add(
        "run",
        _run,
        "All of it: weights, corpus, split, training, report.",
        reads=["data", "split", "model", "features", "train", "eval", "tracking", *GATE_LIMITS],
        default="auto",
    )
    run.add_argument("--out", type=Path, default=Path("kmed-output"), help="folder for results (kmed-output)")
    run.add_argument(
        "--only",
        default="none",
        metavar="SIZE:SEED",
        help="run only these trainings of the benchmark, such as base:0,base:1; other processes run the rest",
    )
    add_switch(run, "--resume", "continue the latest unfinished benchmark of the same settings")
    commands.add("doctor", _doctor, "What is there, what is missing, and the remedy.", reads=["tracking.uri"])


def _run(args: argparse.Namespace) -> int:
    from kmed_bench.pipeline.benchmark import run_benchmark
    from kmed_bench.pipeline.continuation import parse_only
    from kmed_bench.tracking.store import ui_command

    source = args.overrides.get("data.source", "none").strip().lower()
    if args.profile == "auto":
        args.profile = "demo" if source in ("", "none", "null") else "sound"
    if "model.sizes" in args.overrides:
        # A size named by the user is not skipped silently.
        args.overrides.setdefault("model.skip_unavailable", "false")
    config = resolve(args)
    only = parse_only("" if args.only == "none" else args.only, config)
    try:
        outcome = run_benchmark(config, Path(args.out), resume=args.resume == "true", only=only)
    except KeyboardInterrupt as interrupt:
        print(f"kmed-bench: interrupted{f' ({interrupt})' if str(interrupt) else ''}.", file=sys.stderr)
        print(f"Continue with: {_continuing(sys.argv)}", file=sys.stderr)
        return 130
    for size, reason in outcome.skipped.items():
        print(f"Skipped {size}: {reason}")
    for name, reason in outcome.failed.items():
        print(f"Failed {name}: {reason}")
    for line in outcome.verdict.lines():
        print(line)
    print(f"Report: {outcome.report.resolve()}")
    print(f"MLflow UI: {ui_command(outcome.tracking_uri)}")
    if outcome.failed:
        print(f"Try the failed ones again with: {_continuing(sys.argv)}")
    return 1 if outcome.failed else 0


def _continuing(words: Sequence[str]) -> str:
    """Return the command that continues this one, ready to paste."""
    kept = [
        word
        for before, word in pairwise(words)
        if word != "--resume" and not (before == "--resume" and word in ("true", "false"))
    ]
    return f"{shlex.join(['kmed-bench', *kept, '--resume'])} (with mlflow run: the same, and -P resume=true)"


def _doctor(args: argparse.Namespace) -> int:
    from kmed_bench.pipeline.doctor import examine

    findings = examine(resolve(args))
    for finding in findings:
        print(finding)
    return 0 if all(finding.ok for finding in findings) else 1

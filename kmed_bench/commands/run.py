"""`run`, the whole benchmark, and `doctor`."""

import argparse
from pathlib import Path

from kmed_bench.commands.options import AS_PROFILE, Add, resolve


def register(add: Add) -> None:
    """Add the commands of this module."""
    run = add("run", _run, "All of it: weights, corpus, split, training, report.", profile="auto")
    run.add_argument("--out", type=Path, default=Path("kmed-output"), help="folder for results (kmed-output)")
    add("doctor", _doctor, "What is there, what is missing, and the remedy.")


def _run(args: argparse.Namespace) -> int:
    from kmed_bench.pipeline import run_benchmark, ui_command
    from kmed_bench.progress import Narrator

    chosen = {key: value for key, value in args.overrides.items() if value != AS_PROFILE}
    source = chosen.get("data.source", "none").strip().lower()
    if args.profile == "auto":
        args.profile = "demo" if source in ("", "none", "null") else "sound"
    if "model.sizes" in chosen:
        # A size named by the user is not skipped in silence.
        args.overrides.setdefault("model.skip_unavailable", "false")
    outcome = run_benchmark(resolve(args), Path(args.out), narrator=Narrator())
    for size, reason in outcome.skipped.items():
        print(f"Skipped {size}: {reason}")
    for name, reason in outcome.failed.items():
        print(f"Failed {name}: {reason}")
    print(f"Report: {outcome.report.resolve()}")
    print(f"MLflow UI: {ui_command(outcome.tracking_uri)}")
    return 1 if outcome.failed else 0


def _doctor(args: argparse.Namespace) -> int:
    from kmed_bench.doctor import examine

    findings = examine(resolve(args))
    for finding in findings:
        print(finding)
    return 0 if all(finding.ok for finding in findings) else 1

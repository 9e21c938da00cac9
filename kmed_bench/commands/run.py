"""`run`, the whole benchmark, and `doctor`."""

import argparse
import shlex
import sys
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from kmed_bench.commands.options import (
    AS_PROFILE,
    Commands,
    add_launcher,
    add_slots,
    add_switch,
    on_slurm,
    resolve,
    thread_count,
)
from kmed_bench.config import Config, load_config
from kmed_bench.config.gate import GATE_LIMITS
from kmed_bench.core.errors import KmedError

if TYPE_CHECKING:
    from kmed_bench.pipeline.continuation import Only
    from kmed_bench.tracking.studies import BestOfStudy

_NO_SOURCE = ("", "none", "null")


def register(commands: Commands) -> None:
    """Add the commands of this module."""
    run = commands.add(
        "run",
        _run,
        "All of it: weights, corpus, split, training, report.",
        reads=["data", "split", "model", "features", "train", "eval", "tracking", "report", "slurm", *GATE_LIMITS],
        default="auto",
    )
    run.add_argument("--out", type=Path, default=Path("kmed-output"), help="folder for results (kmed-output)")
    run.add_argument(
        "--only",
        default="none",
        metavar="SIZE:SEED",
        help="run only these trainings of the benchmark, such as base:0,base:1; other processes run the rest",
    )
    run.add_argument(
        "--from-study",
        default="none",
        metavar="STUDY",
        help="take the settings of a study's best trial (name or run id)",
    )
    add_slots(run)
    add_launcher(run)
    add_switch(run, "--plan", "say what would be done, how long it takes here and what disk it needs, and stop")
    add_switch(run, "--resume", "continue the latest unfinished benchmark of the same settings")
    commands.add("doctor", _doctor, "What is there, what is missing, and the remedy.", reads=["tracking.uri"])


def _run(args: argparse.Namespace) -> int:
    from kmed_bench.pipeline.benchmark import run_benchmark
    from kmed_bench.pipeline.continuation import parse_only
    from kmed_bench.pipeline.launch.trainings import find_slots

    source = args.overrides.get("data.source", "none").strip().lower()
    if "model.sizes" in args.overrides:
        # A size named by the user is not skipped silently.
        args.overrides.setdefault("model.skip_unavailable", "false")
    study = None
    if _names_study(args):
        config, study = _resolve_study(args, source)
    else:
        if args.profile == "auto":
            args.profile = "demo" if source in _NO_SOURCE else "sound"
        config = resolve(args)
    only = parse_only("" if args.only == "none" else args.only, config)
    if on_slurm(args, plans_here=True):
        return _submit(args, config, only)
    slots = find_slots(args.slots, thread_count(args.threads))
    if args.plan == "true":
        return _plan(args, config, only, n_slots=len(slots) or 1)
    try:
        outcome = run_benchmark(
            config, Path(args.out), resume=args.resume == "true", only=only, study=study, slots=slots
        )
    except KeyboardInterrupt as interrupt:
        print(f"kmed-bench: interrupted{f' ({interrupt})' if str(interrupt) else ''}.", file=sys.stderr)
        print(f"Continue with: {_continuing(sys.argv)}", file=sys.stderr)
        return 130
    print("\n".join(outcome.lines()))
    if outcome.failed:
        print(f"Try the failed ones again with: {_continuing(sys.argv)}")
    return 1 if outcome.failed else 0


def _names_study(args: argparse.Namespace) -> bool:
    return args.from_study.strip().lower() not in ("", "none", AS_PROFILE)


def _submit(args: argparse.Namespace, config: Config, only: "Only") -> int:
    from kmed_bench.pipeline.launch.slurm_bench import describe_bench_scripts, submit_bench

    out, study = Path(args.out), args.from_study if _names_study(args) else ""
    if args.plan == "true":
        print("\n".join(describe_bench_scripts(config, out, only)))
        return 0
    submitted = submit_bench(config, out, only=only, study=study, resume=args.resume == "true")
    print("\n".join(submitted.lines()))
    return 0


def _plan(args: argparse.Namespace, config: Config, only: "Only", *, n_slots: int) -> int:
    from kmed_bench.pipeline.dry_run import describe_run

    if args.resume == "true":
        raise KmedError("--plan describes a benchmark from its start and --resume continues one; leave one out.")
    print("\n".join(describe_run(config, Path(args.out), only=only, n_slots=n_slots)))
    return 0


def _resolve_study(args: argparse.Namespace, source: str) -> "tuple[Config, BestOfStudy]":
    """Return the settings of the best trial of the study that was named, with those of the command line, and the trial.

    Raises
    ------
    KmedError
        When the store has no such study, or the command line contradicts it.
    """
    from kmed_bench.tracking.store import open_store
    from kmed_bench.tracking.studies import find_best

    if args.profile != "auto":
        raise KmedError(f"--profile {args.profile} and --from-study both name the settings; leave one of them out.")
    store = {key: value for key, value in args.overrides.items() if key.startswith("tracking.")}
    best = find_best(open_store(load_config("demo", store).tracking), args.from_study)
    if twice := sorted(set(best.trial.params) & set(args.overrides)):
        raise KmedError(
            f"Study {best.record.name} chose {', '.join(twice)}, and the command line sets it as well; leave it out, "
            "or give the study's best.yaml as --profile, which records no study."
        )
    if source in _NO_SOURCE and not best.record.synthetic:
        raise KmedError(
            f"Study {best.record.name} searched on recordings, and without --source the benchmark would take the "
            "generated demo corpus; give --source."
        )
    with tempfile.TemporaryDirectory() as folder:
        profile = Path(folder) / "best.yaml"
        profile.write_text(best.profile, encoding="utf-8")
        return load_config(str(profile), args.overrides), best


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

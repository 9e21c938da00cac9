"""The command line: one function per command; exit 0 only if all was done."""

import os

# Before anything imports mlflow: nothing about a hospital's work leaves the machine.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kmed_bench import __version__
from kmed_bench.config import PROFILES, Config, load_config
from kmed_bench.records import PARTS, SIZES, KmedError

# The headline settings have short names, in MLproject and here; every other is `--group.field VALUE`.
ALIASES = {
    "source": "data.source",
    "sizes": "model.sizes",
    "weights": "model.weights",
    "seeds": "train.seeds",
    "epochs": "train.epochs",
    "batch_size": "train.batch_size",
    "lr": "train.lr",
    "max_len": "train.max_len",
    "audio_context": "train.audio_context",
}
# MLproject passes every declared parameter; this word means "what the profile says".
AS_PROFILE = "profile"

Command = Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0 done, 1 done in part, 2 not done, 130 interrupted."""
    # The commands print what matters; a library's advice to developers is no message for users.
    warnings.filterwarnings("ignore", category=FutureWarning)
    parser = _parser()
    known, rest = parser.parse_known_args(arguments)
    try:
        known.overrides = _read_overrides(rest)
        command: Command = known.command
        return command(known)
    except KmedError as error:
        print(f"kmed-bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("kmed-bench: interrupted; the run is marked KILLED in MLflow.", file=sys.stderr)
        return 130


def _read_overrides(rest: Sequence[str]) -> dict[str, str]:
    """Turn ``--train.lr 1e-5`` or ``--train.lr=1e-5`` into a mapping of dotted keys."""
    overrides: dict[str, str] = {}
    words = list(rest)
    while words:
        word = words.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not ("." in name or name in ALIASES):
            raise KmedError(f"Argument {word!r} is not understood; see `kmed-bench --help`.")
        if not equals:
            if not words:
                raise KmedError(f"Setting {name!r} has no value; write --{name} VALUE.")
            value = words.pop(0)
        overrides[ALIASES.get(name, name)] = value
    return overrides


def _config(args: argparse.Namespace, **more: Any) -> Config:
    """Return the settings of a command: profile, then dotted settings, then the command's own options."""
    overrides = {key: value for key, value in args.overrides.items() if value != AS_PROFILE}
    overrides |= {key.replace("__", "."): value for key, value in more.items() if value not in (None, AS_PROFILE)}
    return load_config(args.profile, overrides)


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
    outcome = run_benchmark(_config(args), Path(args.out), narrator=Narrator())
    for size, reason in outcome.skipped.items():
        print(f"Skipped {size}: {reason}")
    for name, reason in outcome.failed.items():
        print(f"Failed {name}: {reason}")
    print(f"Report: {outcome.report.resolve()}")
    print(f"MLflow UI: {ui_command(outcome.tracking_uri)}")
    return 1 if outcome.failed else 0


def _demo_corpus(args: argparse.Namespace) -> int:
    from kmed_bench.corpus.demo import make_demo_corpus

    made = make_demo_corpus(
        args.out, speakers=args.speakers, sentences=args.sentences, seed=args.seed, layout=args.layout
    )
    print(json.dumps(made, ensure_ascii=False, indent=2))
    return 0


def _ingest(args: argparse.Namespace) -> int:
    from kmed_bench.corpus.manifest import ingest
    from kmed_bench.progress import Narrator

    quality = ingest(args.source, args.out, _config(args).data, progress=Narrator().say)
    print(json.dumps({key: quality[key] for key in ("labels", "usable", "rejected", "warnings")}, indent=2))
    print(f"Manifest: {args.out / 'manifest.parquet'}")
    return 0


def _split(args: argparse.Namespace) -> int:
    from kmed_bench.corpus.frozen import apply_frozen, freeze_split
    from kmed_bench.corpus.split import split_manifest, write_split
    from kmed_bench.records import read_manifest

    config = _config(
        args,
        split__train=args.train,
        split__valid=args.valid,
        split__test=args.test,
        split__by=args.by,
        split__disjoint=args.disjoint,
        split__seed=args.seed,
    )
    manifest = read_manifest(args.manifest)
    split = apply_frozen(args.frozen, manifest) if args.frozen else split_manifest(manifest, config.split)
    report = write_split(split, args.out)
    shown = ("label", "sha256", "counts", "max_share_deviation", "leakage", "discarded", "missing", "changed")
    print(json.dumps({key: report[key] for key in shown if key in report}, ensure_ascii=False, indent=2))
    if args.freeze:
        freeze_split(split, args.freeze)
        print(f"Frozen split (ids and hashes, no text): {args.freeze}")
    return 0


def _train(args: argparse.Namespace) -> int:
    from kmed_bench.pipeline import train_alone, ui_command
    from kmed_bench.progress import Narrator

    config = _config(args, model__sizes=args.size, train__seeds=args.seed, model__skip_unavailable=False)
    outcome, uri = train_alone(config, args.split, args.out, narrator=Narrator())
    print(f"Checkpoint: {outcome.checkpoint.resolve()}")
    print(f"Test CER: {outcome.untouched_test_cer:.4f} untouched, {outcome.test_cer:.4f} fine-tuned")
    print(f"MLflow UI: {ui_command(uri)}")
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    from kmed_bench.pipeline import evaluate_model
    from kmed_bench.progress import Narrator

    scores = evaluate_model(_config(args), args.model, args.split, args.part, args.out, narrator=Narrator())
    _print_scores(scores)
    print(f"Scores: {args.out / 'scores.json'}")
    return 0


def _score(args: argparse.Namespace) -> int:
    from kmed_bench.records import read_predictions, write_json
    from kmed_bench.scoring import score_predictions

    config = _config(args, eval__policy=args.policy)
    scores = score_predictions(read_predictions(args.predictions), config.eval)
    write_json(args.out / "scores.json", scores)
    _print_scores(scores)
    print(f"Scores: {args.out / 'scores.json'}")
    return 0


def _print_scores(scores: dict[str, Any]) -> None:
    overall = scores["overall"]
    low, high = overall["cer_low"], overall["cer_high"]
    interval = "no interval" if low is None else f"95 % interval {low:.4f} to {high:.4f}"
    cer = "undefined" if overall["cer"] is None else f"{overall['cer']:.4f}"
    print(f"CER {cer} ({interval}; {overall['n_clips']} clips, {overall['n_speakers']} speakers)")


def _compare(args: argparse.Namespace) -> int:
    from kmed_bench.records import read_predictions
    from kmed_bench.scoring import compare_predictions

    result = compare_predictions(read_predictions(args.a), read_predictions(args.b), _config(args).eval)
    print(json.dumps(result, ensure_ascii=False, indent=2))
    return 0


def _report(args: argparse.Namespace) -> int:
    from kmed_bench.report.page import write_report
    from kmed_bench.tracking.readback import read_bench
    from kmed_bench.tracking.store import open_store

    uri = open_store(_config(args).tracking)
    record = read_bench(uri, args.bench)
    print(f"Report: {write_report(record, args.out, comparisons=record.comparisons).resolve()}")
    return 0


def _promote(args: argparse.Namespace) -> int:
    from kmed_bench.tracking.promotion import promote, rollback
    from kmed_bench.tracking.store import open_store

    open_store(_config(args).tracking)
    if args.rollback:
        print(json.dumps(rollback(args.name, reason=args.reason, dry_run=args.dry_run), ensure_ascii=False, indent=2))
        return 0
    if args.version is None:
        raise KmedError(f"Promoting {args.name} needs a version; the MLflow UI's Models page lists them.")
    decision = promote(args.name, args.version, dry_run=args.dry_run, force=args.force, reason=args.reason)
    print(json.dumps(decision, ensure_ascii=False, indent=2))
    return 0 if decision["passed"] or decision["promoted"] else 1


def _weights(args: argparse.Namespace) -> int:
    from kmed_bench.asr.weights import WeightsError, find_weights

    missing = 0
    for size in (args.size,) if args.size else SIZES:
        try:
            found = find_weights(size, download=args.size is not None)
            print(f"{size}: {found.path} ({found.origin}, SHA-256 {found.sha256})")
        except WeightsError as error:
            missing += 1
            print(f"{size}: {error}")
    return 1 if args.size and missing else 0


def _doctor(args: argparse.Namespace) -> int:
    from kmed_bench.doctor import examine

    findings = examine(_config(args))
    for finding in findings:
        print(finding)
    return 0 if all(finding.ok for finding in findings) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kmed-bench",
        description="Benchmark Whisper tiny, base and small on Korean medical speech, tracked in MLflow.",
        epilog="Every setting can be given as --group.field VALUE, for instance --train.lr 1e-5.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Command, text: str, *, profile: str = "sound") -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.add_argument("--profile", default=profile, help=f"{', '.join(PROFILES)}, or a YAML file ({profile})")
        sub.set_defaults(command=command)
        return sub

    run = add("run", _run, "All of it: weights, corpus, split, training, report.", profile="auto")
    run.add_argument("--out", type=Path, default=Path("kmed-output"), help="folder for results (kmed-output)")

    demo = add("demo-corpus", _demo_corpus, "Write a synthetic corpus in the download's layout.")
    demo.add_argument("out", type=Path)
    demo.add_argument("--speakers", type=int, default=16)
    demo.add_argument("--sentences", type=int, default=72)
    demo.add_argument("--seed", type=int, default=208)
    demo.add_argument("--layout", choices=("zips", "tree"), default="zips")

    ingest = add("ingest", _ingest, "Turn a download into a manifest, with every reject counted.")
    ingest.add_argument("source", type=Path, nargs="+")
    ingest.add_argument("out", type=Path)

    split = add("split", _split, "Draw train, valid and test from a manifest.")
    split.add_argument("manifest", type=Path)
    split.add_argument("out", type=Path)
    for part in PARTS:
        split.add_argument(f"--{part}", help=f"utterances of {part}")
    split.add_argument("--by", help="fields whose shares are kept, such as dialect,gender,age")
    split.add_argument("--disjoint", help="speaker,sentence or speaker or none")
    split.add_argument("--seed")
    split.add_argument("--freeze", type=Path, metavar="FILE", help="also write the split as ids and hashes alone")
    split.add_argument("--frozen", type=Path, metavar="FILE", help="apply such a file instead of drawing")

    train = add("train", _train, "Fine-tune one size on a split.")
    train.add_argument("split", type=Path)
    train.add_argument("out", type=Path)
    train.add_argument("--size", required=True)
    train.add_argument("--seed")

    evaluate = add("evaluate", _evaluate, "Decode and score a part of a split with any model.")
    evaluate.add_argument("model", help="a size, a .pt file, models:/NAME@ALIAS or runs:/…")
    evaluate.add_argument("split", type=Path)
    evaluate.add_argument("out", type=Path)
    evaluate.add_argument("--part", choices=PARTS, default="test")

    score = add("score", _score, "Score a predictions.jsonl again, without a model.")
    score.add_argument("predictions", type=Path)
    score.add_argument("out", type=Path)
    score.add_argument("--policy", help="pronunciation or spelling")

    compare = add("compare", _compare, "Paired difference in CER of two predictions files.")
    compare.add_argument("a", type=Path)
    compare.add_argument("b", type=Path)

    report = add("report", _report, "Write the HTML report of a tracked benchmark.")
    report.add_argument("out", type=Path)
    report.add_argument("--bench", help="run id of the benchmark (default: the latest)")

    promote = add("promote", _promote, "Make a registered version the champion if the gate holds.")
    promote.add_argument("name")
    promote.add_argument("version", nargs="?")
    promote.add_argument("--rollback", action="store_true", help="give the alias back to the champion before")
    promote.add_argument("--dry-run", action="store_true")
    promote.add_argument("--force", action="store_true", help="needs --reason")
    promote.add_argument("--reason", default="")

    weights = add("weights", _weights, "Say where each size's weights come from, or fetch one.")
    weights.add_argument("size", nargs="?")

    add("doctor", _doctor, "What is there, what is missing, and the remedy.")
    return parser

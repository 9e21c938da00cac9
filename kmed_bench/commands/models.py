"""Commands that need a model: `train`, `evaluate`, `weights`."""

import argparse
import shlex
import sys
from pathlib import Path

from kmed_bench.commands.options import (
    ALONE,
    TRAINING,
    Commands,
    add_launcher_with_plan,
    add_switch,
    on_slurm,
    resolve,
    submit_command,
)
from kmed_bench.commands.score_text import print_scores
from kmed_bench.commands.shards import add_shards, fill_slots, shard_of_call, shards_of
from kmed_bench.commands.stages import TRACKED, tracked_stage
from kmed_bench.config import Config, adjust
from kmed_bench.config.gate import GATE_LIMITS
from kmed_bench.core.errors import KmedError
from kmed_bench.core.schema import PARTS, SIZES


def register(commands: Commands) -> None:
    """Add the commands of this module."""
    train = commands.add(
        "train",
        _train,
        "Fine-tune one size (--size) on a split.",
        reads=[*TRAINING, "tracking", *GATE_LIMITS],
        short={"size": "model.sizes", "seed": "train.seeds"},
    )
    train.add_argument("split", type=Path, help="a folder that `split` wrote")
    train.add_argument("out", type=Path, help="folder for checkpoints, state and history; each seed has its own in it")
    add_switch(train, "--resume", "continue from the state in OUT, in the same MLflow run")

    evaluate = commands.add(
        "evaluate",
        _evaluate,
        "Decode and score a part of a split with any model.",
        reads=["data.transcript_side", "features", "eval", *TRACKED, "slurm"],
    )
    evaluate.add_argument(
        "model",
        help="a size, a .pt file, a folder of another runtime, models:/NAME@ALIAS, runs:/… or NAME:… of a plugin",
    )
    evaluate.add_argument("split", type=Path, help="a folder that `split` wrote, or a manifest: all its utterances")
    evaluate.add_argument("out", type=Path, help="folder for predictions.jsonl and scores.json")
    evaluate.add_argument("--part", choices=PARTS, default="test", help="part of the split (test)")
    evaluate.add_argument(
        "--against",
        type=Path,
        metavar="BASELINE",
        help="also compare clip by clip: a predictions.jsonl, the scores.json beside it, or a benchmark package",
    )

    add_shards(evaluate, "clips", "auto, which is 2,000 clips each, or a number (none: one process does all at once)")
    add_switch(
        evaluate, "--merge-only", "with --shards: decode nothing, only join and score; a missing shard is an error"
    )

    add_launcher_with_plan(evaluate)

    weights = commands.add("weights", _weights, "List where each size's weights come from, or fetch one.")
    weights.add_argument("size", nargs="?", choices=SIZES, help="the size to fetch (none: list all)")


def _train(args: argparse.Namespace) -> int:
    from kmed_bench.pipeline.train_one import train_one
    from kmed_bench.pipeline.training_record import describe_outcome
    from kmed_bench.tracking.store import ui_command

    config = resolve(args)
    sizes, seeds = args.overrides.get("model.sizes"), args.overrides.get("train.seeds")
    if sizes is None or len(config.model.sizes) != 1 or "," in (seeds or ""):
        raise KmedError(
            f"`train` trains one size with one seed, and was given sizes {sizes} and seed {seeds}; name one of each "
            "with --size and --seed, or use `run`."
        )
    config = adjust(config, {"train.seeds": config.train.seeds[:1]})  # a profile may name several
    trained = train_one(config, args.split, args.out, resume=args.resume == "true")
    if trained is None:  # a further process of a training that another one reports
        return 0
    outcome, uri = trained
    print(f"Checkpoint: {outcome.checkpoint.resolve()}")
    print(describe_outcome(outcome))
    print(f"MLflow UI: {ui_command(uri)}")
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    from kmed_bench.pipeline.evaluate import evaluate_model
    from kmed_bench.pipeline.shards.evaluate import decode_chosen, evaluate_in_shards

    config, shards, chosen = resolve(args), shards_of(args), shard_of_call(args)
    merge_only = args.merge_only == "true"
    if on_slurm(args):
        return _submit_shards(args, config, shards)
    if merge_only and (shards is None or chosen is not None):
        raise KmedError("--merge-only joins shards: give it with --shards N, and without --shard.")
    what = (config, args.model, args.split, args.part, args.out)
    if shards is not None and chosen is not None:
        print(decode_chosen(*what, shards=shards, chosen=chosen, against=args.against))
        return 0
    with tracked_stage(args, config, "part") as stage:
        if shards is None:
            scores = evaluate_model(*what, against=args.against, stage=stage)
        else:
            fill = None if merge_only else fill_slots(args, shards)
            more = {"against": args.against, "stage": stage}
            scores = evaluate_in_shards(*what, shards=shards, merge_only=merge_only, fill=fill, **more)
    print_scores(scores, args.out)
    words = [str(args.out / "predictions.jsonl"), str(args.out / "errors"), "--name", args.model]
    print(f"To read and hear the errors: kmed-bench errors {shlex.join([*words, '--audio', str(args.split)])}")
    return 0


def _submit_shards(args: argparse.Namespace, config: Config, shards: str | None) -> int:
    """Submit a job for each shard, and one that joins them, and decodes those that were lost."""
    from kmed_bench.core.sharding import read_shard_count

    if args.merge_only == "true" or shard_of_call(args) is not None:
        raise KmedError("--launcher slurm decodes all shards and joins them; leave --shard and --merge-only out.")
    n_shards = config.slurm.workers if shards in (None, "auto") else read_shard_count(shards, 0)
    words = [*sys.argv[1:], "--launcher", "here", "--plan", "false", "--shards", str(n_shards), *ALONE]
    tasks = [[*words, "--shard", str(shard)] for shard in range(n_shards)]
    return submit_command(args, config, tasks, words, {"tracking.uri": config.tracking.uri})


def _weights(args: argparse.Namespace) -> int:
    from kmed_bench.asr.model.weights import WeightsError, find_weights

    missing = 0
    for size in (args.size,) if args.size else SIZES:
        try:
            found = find_weights(size, download=args.size is not None)
            print(f"{size}: {found.path} ({found.origin}, SHA-256 {found.sha256})")
        except WeightsError as error:
            missing += 1
            print(f"{size}: {error}")
    return 1 if args.size and missing else 0

"""`tune`: search for better training settings than the default ones."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from kmed_bench.commands.options import (
    ALONE,
    AS_PROFILE,
    TRAINING,
    Commands,
    add_launcher_with_plan,
    add_slots,
    on_slurm,
    one_size,
    resolve,
    submit_command,
    thread_count,
)
from kmed_bench.config import Config
from kmed_bench.core.errors import KmedError


def register(commands: Commands) -> None:
    """Add the commands of this module."""
    tune = commands.add(
        "tune",
        _tune,
        "Search training settings of one size (--size) by decoded valid CER; run it again, anywhere, to join.",
        reads=[*TRAINING, "tracking.uri", "tune", "report", "slurm"],
        short={"size": "model.sizes", "trials": "tune.trials", "callback": "tune.callbacks"},
    )
    tune.add_argument("split", type=Path, help="a folder that `split` wrote")
    tune.add_argument(
        "--out", type=Path, default=Path("kmed-output/tune"), help="folder for results (kmed-output/tune)"
    )
    tune.add_argument("--study", metavar="NAME", help="the study's name (made of the size and the settings)")
    add_slots(tune)
    add_launcher_with_plan(tune)
    tune.add_argument("--confirm", default="", metavar="SEEDS", help="seeds on which best and default are compared")


def _tune(args: argparse.Namespace) -> int:
    try:
        from kmed_bench.tuning.confirm import check_seeds
        from kmed_bench.tuning.tune import tune
    except ModuleNotFoundError as error:
        if error.name != "optuna":
            raise
        raise KmedError("`tune` needs Optuna, which is not installed; run `pip install 'kmed-bench[tune]'`.") from None
    from kmed_bench.asr.model.weights import find_weights
    from kmed_bench.core.corpus_contracts import SPLIT
    from kmed_bench.core.version import code_version
    from kmed_bench.tracking.store import ui_command

    config, elsewhere, confirm = resolve(args), on_slurm(args), _seeds(args.confirm)
    check_seeds(config, confirm)  # here: jobs and slots would find a wrong seed when the trials are done
    size = one_size(args, config, "`tune`")
    SPLIT.read(args.split / "split.json")  # a wrong folder is named before weights are fetched
    weights = find_weights(size, config.model.weights)
    if elsewhere:
        return _submit(args, config)
    failed = _fill_slots(args)
    outcome = tune(
        config,
        weights,
        args.split,
        args.out,
        name=None if args.study in (None, "", AS_PROFILE) else args.study,
        confirm=confirm,
        code_version=code_version(),
    )
    best = outcome.record.best()
    if best is not None and best.cer is not None:
        print(f"Lowest valid CER: {best.cer:.4f} (trial {best.number})")
        print(f"Profile: {outcome.profile}")
    print(f"Report: {outcome.report.resolve()}")
    print(f"MLflow UI: {ui_command(outcome.tracking_uri)}")
    return 0 if best is not None and not failed else 1


def _submit(args: argparse.Namespace, config: Config) -> int:
    tasks, last = words_of_jobs(sys.argv[1:], config)
    addresses = {"tracking.uri": config.tracking.uri, "tune.storage": config.tune.storage}
    return submit_command(args, config, tasks, last, addresses)


def words_of_jobs(words: Sequence[str], config: Config) -> tuple[list[list[str]], list[str]]:
    """Return the commands of the jobs that share a study, and of the one that comes after them.

    Each is the command itself: like any process of a study, it does trials until none is left, and then writes the
    results, one process at a time. The last one finds what lost jobs have left, and is the one that confirms.
    """
    last = [*words, "--launcher", "here", "--plan", "false", *ALONE]
    return [[*last, "--confirm", ""]] * min(config.slurm.workers, config.tune.trials), last


def _fill_slots(args: argparse.Namespace) -> bool:
    """Let a process in each slot work on the study, and return whether one failed.

    Afterwards this process finds the study complete and writes its results.

    Raises
    ------
    KmedError
        When every process failed.
    """
    from kmed_bench.pipeline.launch.slots import Task, run_in_slots
    from kmed_bench.pipeline.launch.trainings import find_slots
    from kmed_bench.pipeline.launch.watch import Watch

    slots = find_slots(args.slots, thread_count(args.threads))
    words = [*sys.argv[1:], *ALONE, "--confirm", ""]
    task = Task("from kmed_bench.cli import main; sys.exit(main())", tuple(words))
    if not slots:
        return False
    with Watch("Processes of the study", len(slots)) as watch:
        run_in_slots({f"process {slot.number}": task for slot in slots}, slots, watch)
    if len(watch.failed) == len(slots):
        raise KmedError(f"No slot could work on the study: {next(iter(watch.failed.values()))}")
    return bool(watch.failed)


def _seeds(text: str) -> tuple[int, ...]:
    words = [] if text.strip().lower() in ("", "none") else [word.strip() for word in text.split(",")]
    if not all(word.isdigit() for word in words):
        raise KmedError(f"--confirm is {text!r}; give whole numbers separated by commas, such as 1,2,3.")
    return tuple(int(word) for word in words)

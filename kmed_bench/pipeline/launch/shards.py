"""Shards in slots: each slot's process does its share of them with the words of the command itself."""

import logging
from collections.abc import Sequence

from kmed_bench.core.errors import KmedError
from kmed_bench.core.sharding import name_shards
from kmed_bench.pipeline.launch.slots import Slot, Task, run_in_slots
from kmed_bench.pipeline.launch.watch import Watch

log = logging.getLogger(__name__)


def run_shards_in_slots(
    words: Sequence[str], shards: Sequence[int], slots: Sequence[Slot], *, done: tuple[int, ...] = (0,)
) -> None:
    """Have each slot's process run a command with ``--shard`` and its share of the shards.

    Parameters
    ----------
    words : sequence of str
        The command, as it was typed.
    done : tuple of int
        Exit statuses of a process that did what it could.

    Raises
    ------
    KmedError
        When a process failed; the others have done their shares.
    """
    n_tasks = min(len(slots), len(shards))
    log.info(f"{len(shards)} shards in {n_tasks} slots.")
    tasks: dict[str, Task] = {}
    for first in range(n_tasks):
        chosen = name_shards(shards[first::n_tasks])
        own = (*words, "--shard", chosen, "--slots", "1", "--threads", "auto")
        tasks[f"shards {_shorten(chosen)}"] = Task("from kmed_bench.cli import main; sys.exit(main())", own)
    with Watch("Processes", n_tasks, done=done) as watch:
        run_in_slots(tasks, slots, watch)
    if watch.failed:
        raise KmedError(
            f"{len(watch.failed)} of {n_tasks} processes failed, the first because: "
            f"{next(iter(watch.failed.values()))} The same command goes on with what is missing."
        )


def _shorten(chosen: str) -> str:
    return chosen if len(chosen) <= 24 else f"{chosen[:20]}… ({chosen.count(',') + 1})"

"""Options of the commands that work in shards."""

import argparse
import sys
from collections.abc import Callable, Sequence

from kmed_bench.commands.options import add_slots, thread_count
from kmed_bench.core.errors import KmedError

_NONE = "none"
"""What MLproject passes for an argument that was not given."""


def add_shards(parser: argparse.ArgumentParser, of: str, counts: str) -> None:
    """Add what decides how a command's work is divided, and what this process does of it.

    Parameters
    ----------
    of : str
        What is divided.
    counts : str
        What ``--shards`` takes.
    """
    parser.add_argument(
        "--shards",
        default=_NONE,
        metavar="N",
        help=f"do it in N shards of the {of}, those that are not there: {counts}",
    )
    parser.add_argument(
        "--shard", default=_NONE, metavar="K", help="do only these of the shards, from 0, such as 3 or 0,4,8-11"
    )
    add_slots(parser)


def shards_of(args: argparse.Namespace) -> str | None:
    """Return what ``--shards`` gives, ``auto`` where several slots are asked for without it; None for no shards.

    Raises
    ------
    KmedError
        When ``--shard`` is given without it, or with a number of slots.
    """
    if args.shard != _NONE and args.slots not in ("auto", "1"):
        raise KmedError(
            f"--shard {args.shard} is done by one process, and --slots is {args.slots}; leave one of the two out."
        )
    if args.shards != _NONE:
        return str(args.shards)
    if args.shard != _NONE:
        raise KmedError(f"--shard {args.shard} needs --shards N, the number of shards in all.")
    return None if args.slots in ("auto", "1") else "auto"


def shard_of_call(args: argparse.Namespace) -> str | None:
    """Return what ``--shard`` gives; None if it is not given."""
    return None if args.shard == _NONE else str(args.shard)


def fill_slots(
    args: argparse.Namespace, shards: str, *, done: tuple[int, ...] = (0,)
) -> Callable[[Sequence[int]], None] | None:
    """Return what has shards done by the processes of slots; None where one process does it all.

    Parameters
    ----------
    shards : str
        The value of ``--shards`` for those processes.
    done : tuple of int
        Exit statuses of a process that did what it could.
    """
    from kmed_bench.pipeline.launch.shards import run_shards_in_slots
    from kmed_bench.pipeline.launch.trainings import find_slots

    slots = find_slots(args.slots, thread_count(args.threads))
    words = [*sys.argv[1:], "--shards", shards]
    return (lambda missing: run_shards_in_slots(words, missing, slots, done=done)) if slots else None

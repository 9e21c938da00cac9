"""`clean`: what runs left here or in the store, by kind and age, and its removal."""

import argparse
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from kmed_bench.commands.options import Commands, resolve
from kmed_bench.core.errors import KmedError

if TYPE_CHECKING:
    from kmed_bench.pipeline.kept_files import KeptFile
    from kmed_bench.tracking.owners import Owners

_UNIT_S = {"h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
_NAMED = 20
Left = list[tuple[str, str]]
"""What was not removed, and why."""


def register(commands: Commands) -> None:
    """Add the command of this module."""
    clean = commands.add(
        "clean",
        _clean,
        "What runs left here, by kind and age, and its removal.",
        reads=["tracking.uri"],
    )
    clean.add_argument("folder", type=Path, nargs="*", help="folders of results (kmed-output, the cache, scratch)")
    clean.add_argument("--kind", metavar="KIND,…", help="only these kinds (all; weights are removed only if named)")
    clean.add_argument("--older-than", metavar="AGE", help="only what was last changed this long ago: 30d, 12h, 2w")
    clean.add_argument("--store", action="store_true", help="instead, what deleted runs left in the MLflow store")
    clean.add_argument("--remove", action="store_true", help="remove it, after a question")
    clean.add_argument("--yes", action="store_true", help="with --remove: without a question, for scripts")


def _clean(args: argparse.Namespace) -> int:
    before_s = time.time() - _parse_age(args.older_than)
    if args.store:
        if args.folder or args.kind:
            raise KmedError("--store looks at the MLflow store alone; leave out the folders and --kind, or --store.")
        return _clean_store(args, before_s)
    from kmed_bench.pipeline.kept_files import KINDS, ON_REQUEST, find_kept, find_scratch_left
    from kmed_bench.pipeline.removal import remove

    kinds = _parse_kinds(args.kind, KINDS)
    everything = find_kept(_folders(args)) + ([] if args.folder else find_scratch_left())
    found = [kept for kept in everything if kept.kind in kinds and kept.changed_s <= before_s]
    reasons, owners = _judge(args, found)
    _show(found, reasons, owners)
    if not args.remove:
        return 0
    asked = [kept for kept in found if args.kind or kept.kind not in ON_REQUEST]
    chosen = [kept for kept in asked if not reasons[kept.path]]
    final = [f"{kept.path}: {kept.cost}." for kept in chosen if kept.is_final]
    if _confirm(args, f"{len(chosen)} entries, {_size(kept.n_bytes for kept in chosen)}", final):
        reasons, _ = _judge(args, found)  # a run may have begun before the answer came
    left: Left = [(str(kept.path), reasons[kept.path]) for kept in asked if reasons[kept.path]]
    order = list(KINDS).index
    chosen = sorted((kept for kept in asked if not reasons[kept.path]), key=lambda kept: (order(kept.kind), kept.path))
    return _carry_out([(str(kept.path), kept.n_bytes, partial(remove, kept)) for kept in chosen], left)


def _folders(args: argparse.Namespace) -> list[Path]:
    from kmed_bench.core.files import cache_folder

    if args.folder:
        return list(args.folder)
    return [folder for folder in (Path("kmed-output"), cache_folder()) if folder.is_dir()]


def _parse_kinds(text: str | None, known: Iterable[str]) -> set[str]:
    kinds = set(known) if text is None else {word.strip() for word in text.split(",") if word.strip()}
    if unknown := sorted(kinds - set(known)):
        raise KmedError(f"--kind names {', '.join(unknown)}; the kinds are: {', '.join(known)}.")
    return kinds


def _parse_age(text: str | None) -> float:
    """Return an age in seconds; 0 for none."""
    if text is None:
        return 0.0
    match = re.fullmatch(r"(\d{1,6})([hdw])", text.strip())
    if match is None:
        raise KmedError(f"--older-than is {text!r}; give a number of hours, days or weeks, such as 12h, 30d or 2w.")
    return int(match[1]) * _UNIT_S[match[2]]


def _judge(args: argparse.Namespace, found: "Sequence[KeptFile]") -> "tuple[dict[Path, str], Owners]":
    """Return why each thing has to stay, an empty text for what may go, and the runs that were looked up."""
    from kmed_bench.core.open_files import files_in_use
    from kmed_bench.pipeline.removal import reason_to_stay
    from kmed_bench.tracking.owners import Owners

    owners = Owners(_known_store(args) if any(kept.run_id for kept in found) else None)
    in_use = files_in_use()
    return {kept.path: reason_to_stay(kept, owners, in_use) for kept in found}, owners


def _show(found: "Sequence[KeptFile]", reasons: Mapping[Path, str], owners: "Owners") -> None:
    """Print the table: one row for each kind, run and cost."""
    from kmed_bench.pipeline.removal import describe_owner

    groups: dict[tuple[str, str, str], list[KeptFile]] = {}
    for kept in found:
        owner = describe_owner(kept, owners.find(kept.run_id))
        reason = reasons[kept.path]
        groups.setdefault((kept.kind, owner, f"stays: {reason}" if reason else kept.cost), []).append(kept)
    rows = [
        (
            kind,
            str(sum(kept.n_files for kept in group)),
            _size(kept.n_bytes for kept in group),
            _day(min(kept.changed_s for kept in group)),
            _day(max(kept.changed_s for kept in group)),
            owner,
            cost,
        )
        for (kind, owner, cost), group in sorted(groups.items(), key=lambda item: item[0])
    ]
    _print_table(("kind", "files", "size", "oldest", "newest", "belongs to", "what removing it costs"), rows)


def _known_store(args: argparse.Namespace) -> str | None:
    """Return the URI of the store; None where it would be a SQLite file that does not exist, which is not made."""
    from kmed_bench.tracking.store import open_store, resolve_uri, sqlite_file

    config = resolve(args).tracking
    database = sqlite_file(resolve_uri(config.uri))
    return None if database is not None and not database.is_file() else open_store(config)


def _clean_store(args: argparse.Namespace, before_s: float) -> int:
    from kmed_bench.core.addresses import without_password
    from kmed_bench.tracking.deleted_runs import find_deleted, remove_files

    uri = _known_store(args)
    if uri is None:
        raise KmedError("There is no tracking store; name one with --tracking.uri or MLFLOW_TRACKING_URI.")
    found = [run for run in find_deleted(uri) if run.ended_s <= before_s]
    rows = [
        (run.name, run.run_id, run.kind, str(run.n_files), _size([run.n_bytes]), _day(run.ended_s), *run.versions[:1])
        for run in found
    ]
    _print_table(("deleted run", "id", "kind", "files", "size", "ended", "pointed to by"), rows)
    if not args.remove:
        return 0
    final = [f"{run.name} ({run.run_id}): a restored run has no files." for run in found if not run.versions]
    _confirm(args, f"the files of {len(found)} deleted runs, {_size(run.n_bytes for run in found)}", final)
    status = _carry_out([(run.name, run.n_bytes, partial(remove_files, uri, run)) for run in found], [])
    print(
        f"The runs themselves stay until `mlflow gc --backend-store-uri {without_password(uri)}` (docs/retention.md)."
    )
    return status


def _confirm(args: argparse.Namespace, what: str, final: Sequence[str]) -> bool:
    """Say what can't be undone, and ask; raise KmedError unless the answer is yes. Return whether it was asked."""
    if final:
        more = [f"and {len(final) - _NAMED} more."] if len(final) > _NAMED else []
        print("\n  ".join(["Without a way back:", *final[:_NAMED], *more]))
    if args.yes:
        return False
    if not sys.stdin.isatty():
        raise KmedError(f"Nothing was removed: to remove {what} without a terminal to ask at, add --yes.")
    if input(f"Remove {what}? [y/N] ").strip().lower() not in ("y", "yes"):
        raise KmedError("Nothing was removed.")
    return True


def _carry_out(tasks: Sequence[tuple[str, int, Callable[[], str]]], left: Left) -> int:
    """Remove one thing after the other, and print what was removed and what was left, also when interrupted."""
    n_done = n_bytes = 0
    try:
        for name, size, act in tasks:
            if reason := act():
                left.append((name, reason))
            else:
                n_done, n_bytes = n_done + 1, n_bytes + size
    finally:
        print(f"Removed {n_done} of {len(tasks) + len(left)}: {_size([n_bytes])}.")
        for name, reason in left[:_NAMED]:
            print(f"Left {name}: {reason}.")
        if len(left) > _NAMED:
            print(f"Left {len(left) - _NAMED} more.")
    return 1 if left else 0


def _print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if not rows:
        print("Nothing was left behind.")
        return
    filled = [[*row, *[""] * (len(head) - len(row))] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *filled, strict=True)]
    for row in (list(head), *filled):
        print("  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip())


def _size(sizes: Iterable[int]) -> str:
    n_bytes = sum(sizes)
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if n_bytes >= scale:
            return f"{n_bytes / scale:.1f} {unit}"
    return f"{n_bytes} B"


def _day(time_s: float) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(time_s))

"""Commands on the tracking store: `report`, `promote`."""

import argparse
import json
from pathlib import Path

from kmed_bench.commands.options import Add, resolve
from kmed_bench.core.errors import KmedError


def register(add: Add) -> None:
    """Add the commands of this module."""
    report = add("report", _report, "Write the HTML report of a tracked benchmark.")
    report.add_argument("out", type=Path)
    report.add_argument("--bench", help="run id of the benchmark (default: the latest)")
    report.add_argument("--imported", action="store_true", help="show imported logs of the original beside it")
    report.add_argument("--study", type=Path, metavar="FOLDER", help="show a study that `tune` wrote there")

    promote = add("promote", _promote, "Make a registered version the champion if the gate holds.")
    promote.add_argument("name")
    promote.add_argument("version", nargs="?")
    promote.add_argument("--rollback", action="store_true", help="give the alias back to the champion before")
    promote.add_argument("--dry-run", action="store_true")
    promote.add_argument("--force", action="store_true", help="needs --reason")
    promote.add_argument("--reason", default="")


def _report(args: argparse.Namespace) -> int:
    from kmed_bench.report.imported import imported_section
    from kmed_bench.report.page import write_report
    from kmed_bench.report.study import read_section
    from kmed_bench.tracking.original.importing import read_imported
    from kmed_bench.tracking.read import read_bench
    from kmed_bench.tracking.store import open_store

    uri = open_store(resolve(args).tracking)
    record = read_bench(uri, args.bench)
    imported = read_imported(uri) if args.imported else []
    if args.imported and not imported:
        raise KmedError("The tracking store holds no imported log; bring one in with `kmed-bench import-log FILE`.")
    extra = [imported_section(imported, record)] if imported else []
    if args.study:
        extra.append(read_section(args.study))
    page = write_report(record, args.out, comparisons=record.comparisons, extra=extra)
    print(f"Report: {page.resolve()}")
    return 0


def _promote(args: argparse.Namespace) -> int:
    from kmed_bench.tracking.registry.promotion import promote, rollback
    from kmed_bench.tracking.store import open_store

    if args.rollback and (args.version is not None or args.force):
        raise KmedError("--rollback goes back to the champion before; it takes no version and no --force.")
    uri = open_store(resolve(args).tracking)
    if args.rollback:
        undone = rollback(uri, args.name, reason=args.reason, dry_run=args.dry_run)
        print(json.dumps(undone, ensure_ascii=False, indent=2))
        return 0
    if args.version is None:
        raise KmedError(f"Promoting {args.name} needs a version; the MLflow UI's Models page lists them.")
    decision = promote(uri, args.name, args.version, dry_run=args.dry_run, force=args.force, reason=args.reason)
    print(json.dumps(decision, ensure_ascii=False, indent=2))
    return 0 if decision["passed"] or decision["promoted"] else 1

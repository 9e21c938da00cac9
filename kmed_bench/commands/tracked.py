"""Commands on the tracking store: `report`, `openings`, `promote`."""

import argparse
import json
from pathlib import Path

from kmed_bench.commands.options import Commands, add_switch, resolve
from kmed_bench.core.errors import KmedError
from kmed_bench.core.language import use_language

_NONE = "none"
"""What MLproject passes for an argument that was not given."""


def register(commands: Commands) -> None:
    """Add the commands of this module."""
    report = commands.add(
        "report", _report, "Write the HTML report of a tracked benchmark.", reads=["tracking.uri", "report"]
    )
    report.add_argument("out", type=Path, help="folder for the page, its images and tables")
    report.add_argument("--bench", help="run id of the benchmark (default: the latest)")
    report.add_argument("--imported", action="store_true", help="also show imported logs of the original benchmark")
    report.add_argument(
        "--paper", action="store_true", help="also write OUT/paper: tables, figures and text of a paper"
    )
    report.add_argument("--study", type=Path, metavar="FOLDER", help="also show the study that `tune` wrote there")

    openings = commands.add(
        "openings",
        _openings,
        "How often a split's test part was opened, and under which plans.",
        reads=["tracking.uri"],
    )
    openings.add_argument("split", type=Path, help="folder of a split")

    promote = commands.add(
        "promote", _promote, "Make a registered version the champion if the gate holds.", reads=["tracking.uri", "gate"]
    )
    promote.add_argument("name", help="a registered model, such as kmed-whisper-base")
    promote.add_argument("version", nargs="?", default=_NONE, help="its version, such as 1; not with --rollback")
    add_switch(promote, "--rollback", "give the alias back to the previous champion; needs --reason")
    add_switch(promote, "--dry-run", "decide, change nothing and tell nobody")
    add_switch(promote, "--force", "promote even if the gate does not hold; needs --reason")
    promote.add_argument("--reason", default=_NONE, metavar="TEXT", help="kept as a tag of the version, with your name")


def _report(args: argparse.Namespace) -> int:
    from kmed_bench.report.original import imported_section
    from kmed_bench.report.page import write_report
    from kmed_bench.report.study import read_section
    from kmed_bench.tracking.original.log_import import read_imported
    from kmed_bench.tracking.read import read_bench
    from kmed_bench.tracking.store import open_store

    config = resolve(args)
    uri = open_store(config.tracking)
    record = read_bench(uri, args.bench)
    _refuse_another(args.out / "index.html", record.run_id)
    imported = read_imported(uri) if args.imported else []
    if args.imported and not imported:
        raise KmedError("The tracking store holds no imported log; bring one in with `kmed-bench import-log FILE`.")
    with use_language(config.report.lang):
        extra = [imported_section(imported, record)] if imported else []
        if args.study:
            extra.append(read_section(args.study))
        page = write_report(record, args.out, comparisons=record.comparisons, extra=extra)
    print(f"Report: {page.resolve()}")
    if args.paper:
        from kmed_bench.report.paper.write import write_paper

        with use_language(config.report.lang):
            paper = write_paper(record, args.out / "paper", comparisons=record.comparisons)
        print(f"Paper: {paper.resolve()}")
    return 0


def _refuse_another(page: Path, run_id: str) -> None:
    """Raise KmedError if a page is of another benchmark; that of the same one is brought up to date with the store."""
    if page.exists() and f'name="kmed-bench-run" content="{run_id}"' not in page.read_text(encoding="utf-8"):
        raise KmedError(f"{page} is not of benchmark {run_id}, and is not overwritten; name another folder.")


def _openings(args: argparse.Namespace) -> int:
    from kmed_bench.core.corpus_contracts import SPLIT
    from kmed_bench.report.seal_tables import describe_openings, openings_table, plan_changes_table, seal_views
    from kmed_bench.tracking.openings import read_openings
    from kmed_bench.tracking.store import open_store

    sha256 = SPLIT.read(args.split / "split.json")["sha256"]
    openings = read_openings(open_store(resolve(args).tracking), sha256)
    print(describe_openings(openings))
    for view in seal_views(openings_table(openings), plan_changes_table(openings)):
        if len(view.rows):
            print(f"\n{view.caption}\n{view.table().to_string(index=False)}")
    return 0


def _promote(args: argparse.Namespace) -> int:
    from kmed_bench.tracking.registry.promotion import promote, rollback
    from kmed_bench.tracking.store import open_store

    version = None if args.version == _NONE else args.version
    reason = "" if args.reason.strip().lower() == _NONE else args.reason
    force, dry_run = args.force == "true", args.dry_run == "true"
    config = resolve(args)
    if args.rollback == "true":
        if version is not None or force:
            raise KmedError("--rollback goes back to the champion before; it takes no version and no --force.")
        uri = open_store(config.tracking)
        undone = rollback(uri, args.name, reason=reason, gate=config.gate, dry_run=dry_run)
        print(json.dumps(undone, ensure_ascii=False, indent=2))
        return 0
    if version is None:
        raise KmedError(f"Promoting {args.name} needs a version; the MLflow UI's Models page lists them.")
    uri = open_store(config.tracking)
    decision = promote(uri, args.name, version, gate=config.gate, dry_run=dry_run, force=force, reason=reason)
    print(json.dumps(decision, ensure_ascii=False, indent=2))
    if decision["passed"] or decision["promoted"]:
        return 0
    failed = [f"{name}: {check['text']}" for name, check in decision["checks"].items() if check["passed"] is False]
    args.unfinished = f"The gate refused {args.name} version {version}; {'; '.join(failed)}."
    return 1

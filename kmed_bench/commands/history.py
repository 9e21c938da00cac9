"""The original benchmark's log format, in and out: `import-log`, `history`."""

import argparse
import sys
from pathlib import Path

from kmed_bench.commands.options import Commands, resolve
from kmed_bench.core.errors import KmedError


def register(commands: Commands) -> None:
    """Add the commands of this module."""
    imported = commands.add(
        "import-log",
        _import_log,
        "Put logs of the original benchmark into MLflow, labelled as such.",
        reads=["tracking.uri", "tracking.experiment"],
    )
    imported.add_argument("file", type=Path, nargs="+", help="a logging_*.json; each is imported whole or not at all")

    history = commands.add(
        "history",
        _history,
        "Write a benchmark's curves as logging_<size>.json for the original's plots.",
        reads=["tracking.uri"],
    )
    history.add_argument("out", type=Path, help="folder for the files")
    history.add_argument("--bench", help="run id of the benchmark (default: the latest)")


def _import_log(args: argparse.Namespace) -> int:
    from kmed_bench.tracking.original.log_import import import_log
    from kmed_bench.tracking.store import experiment_name, open_store

    config = resolve(args).tracking
    uri, experiment = open_store(config), experiment_name(config)
    failed = 0
    for path in args.file:
        try:
            outcome = import_log(uri, path, experiment)
        except KmedError as error:
            failed += 1
            print(f"Not imported: {error}", file=sys.stderr)
            continue
        print(f"{path}: {len(outcome.created)} runs created, {len(outcome.present)} present before ({experiment})")
        for version, reason in outcome.left_out.items():
            print(f"Left out version {version}: {reason}")
    if failed:
        print(f"{failed} of {len(args.file)} logs were not imported.", file=sys.stderr)
    return 0 if not failed else 2 if failed == len(args.file) else 1


def _history(args: argparse.Namespace) -> int:
    from kmed_bench.tracking.original.log_export import export_logs
    from kmed_bench.tracking.read import read_bench
    from kmed_bench.tracking.store import open_store

    bench = read_bench(open_store(resolve(args).tracking), args.bench)
    files, left_out = export_logs(bench, args.out)
    for size, path in files.items():
        print(f"{size}: {path}")
    for name, reason in left_out.items():
        print(f"Left out of {name}: {reason}")
    if not files:
        raise KmedError(f"Benchmark {bench.name} ({bench.run_id}) has no finished epoch; nothing was written.")
    return 1 if left_out else 0

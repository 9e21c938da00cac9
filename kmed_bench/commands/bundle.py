"""`bundle`, `unbundle` and `resolve`: results out of a closed network, and the way back to a name inside it."""

import argparse
from pathlib import Path

from kmed_bench.commands.options import Commands, resolve
from kmed_bench.core.errors import KmedError


def register(commands: Commands) -> None:
    """Add the commands of this module."""
    bundle = commands.add(
        "bundle",
        _bundle,
        "Write the results of runs into one file without text, audio, paths, names and small groups.",
        reads=["tracking.uri", "report"],
    )
    bundle.add_argument("run", nargs="+", help="run ids of benchmarks, trainings or studies")
    bundle.add_argument("out", type=Path, help="the file, a zip")
    bundle.add_argument(
        "--corpus", type=Path, nargs="+", required=True, metavar="PATH",
        help="manifest.parquet or a split's folder: what must not leave, and how large the groups are",
    )  # fmt: skip
    bundle.add_argument("--min-group", type=int, default=5, metavar="N", help="fewest speakers of a group shown (5)")
    bundle.add_argument("--names", type=Path, metavar="FILE", help="further names that must not leave, one a line")
    bundle.add_argument("--checkpoints", action="store_true", help="take the trainings' checkpoints along")
    bundle.add_argument("--package", type=Path, nargs="+", default=[], metavar="FOLDER", help="benchmark packages too")
    bundle.add_argument(
        "--key", type=Path, metavar="FILE", help="of the pseudonyms (~/.config/kmed-bench/pseudonyms.key)"
    )

    unbundle = commands.add(
        "unbundle", _unbundle, "Write the runs of a bundle to the tracking store; twice is as good as once.",
        reads=["tracking.uri", "tracking.experiment"],
    )  # fmt: skip
    unbundle.add_argument("file", type=Path, help="what `bundle` wrote")
    unbundle.add_argument("--packages", type=Path, metavar="FOLDER", help="where its benchmark packages go")

    resolved = commands.add("resolve", _resolve, "Say which utterances or speakers stand behind pseudonyms.")
    resolved.add_argument("pseudonym", nargs="+", help="such as utterance-0123456789abcdef")
    resolved.add_argument("--corpus", type=Path, nargs="+", required=True, metavar="PATH", help="as in `bundle`")
    resolved.add_argument("--key", type=Path, metavar="FILE", help="as in `bundle`")


def _bundle(args: argparse.Namespace) -> int:
    from kmed_bench.core.pseudonyms import Pseudonyms, default_key_file
    from kmed_bench.pipeline.bundling import read_corpus, write_bundle
    from kmed_bench.tracking.store import open_store

    if args.min_group < 1:
        raise KmedError(f"--min-group is {args.min_group}; give at least 1, which hides nothing.")
    if args.out.exists():
        raise KmedError(f"{args.out} exists; name another file, or remove it.")
    config = resolve(args)
    summary = write_bundle(
        open_store(config.tracking),
        args.run,
        args.out,
        corpus=read_corpus(args.corpus),
        minimum=args.min_group,
        pseudonyms=Pseudonyms.from_file(args.key or default_key_file()),
        names=_read_names(args.names),
        weights=args.checkpoints,
        packages=args.package,
        language=config.report.lang,
    )
    print(f"Bundle: {args.out} ({summary.runs} runs, {summary.files} files, {args.out.stat().st_size:,} bytes)")
    print(f"Groups of fewer than {args.min_group} speakers, and those that would give them away: "
          f"{summary.groups_left_out} left out")  # fmt: skip
    for what, n in summary.not_searched.items():
        print(f"Too short to be searched for: {n} {what}")
    return 0


def _read_names(path: Path | None) -> list[str]:
    from kmed_bench.core.tables import read_text

    if path is None:
        return []
    if not path.is_file():
        raise KmedError(f"{path} is no file; --names takes a text file with one name a line.")
    return read_text(path).splitlines()


def _unbundle(args: argparse.Namespace) -> int:
    from kmed_bench.pipeline.bundling import bring_in
    from kmed_bench.tracking.store import experiment_name, open_store

    config = resolve(args).tracking
    uri, experiment = open_store(config), experiment_name(config)
    brought = bring_in(uri, args.file, experiment, args.packages)
    print(f"{args.file}: {brought.new} runs created, {brought.present} present before ({experiment})")
    for name, model in brought.models.items():
        print(f"Checkpoint of {name}: {model}")
    return 0


def _resolve(args: argparse.Namespace) -> int:
    from kmed_bench.core.pseudonyms import Pseudonyms, default_key_file
    from kmed_bench.pipeline.bundling import read_corpus

    pseudonyms = Pseudonyms.from_file(args.key or default_key_file(), create=False)
    columns = {"utterance": "utterance_id", "speaker": "speaker_id", "sentence": "sentence_id"}
    found: dict[str, str] = {}
    for table in read_corpus(args.corpus).values():
        for kind, column in columns.items():
            found |= pseudonyms.resolve(args.pseudonym, kind, map(str, table[column].unique()))
    for pseudonym in args.pseudonym:
        print(f"{pseudonym}\t{found.get(pseudonym, 'not in this corpus, or of another key')}")
    return 0 if set(args.pseudonym) <= found.keys() else 1

"""Commands from a download or a list to a split: `demo-corpus`, `ingest`, `import-corpus`, `split`."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from kmed_bench.commands.options import Commands, resolve
from kmed_bench.commands.stages import TRACKED, tracked_stage
from kmed_bench.config.describe import setting_keys
from kmed_bench.core.corpus_contracts import DATA_PAGE
from kmed_bench.core.errors import KmedError
from kmed_bench.core.language import Language, use_language
from kmed_bench.core.schema import PARTS
from kmed_bench.corpus.imports.lists import COLUMNS
from kmed_bench.corpus.imports.records import LAYOUT_NAMES

if TYPE_CHECKING:
    from kmed_bench.core.corpus_contracts import QualityReport
    from kmed_bench.corpus.imports.importing import Imported
    from kmed_bench.corpus.splitting.split import Split
    from kmed_bench.tracking.stages import StageRun

_IMPORT_READS = tuple(
    f"data.{name}"
    for name in (
        *("min_duration_s", "max_duration_s", "truncation_tolerance_s"),
        *("accepted_quality", "silence_level", "clipped_share"),
    )
)


def register(commands: Commands) -> None:
    """Add the commands of this module."""
    demo_keys = {name: f"data.demo_{name}" for name in ("speakers", "sentences", "seed")}
    demo = commands.add(
        "demo-corpus",
        _demo_corpus,
        "Write a synthetic corpus in the download's layout.",
        reads=demo_keys.values(),
        short=demo_keys,
    )
    demo.add_argument("out", type=Path, help="a new folder")
    demo.add_argument("--layout", choices=("zips", "tree"), default="zips", help="archives, or joined files (zips)")

    others = {"data.source", "data.transcript_side", *demo_keys.values()}
    ingest = commands.add(
        "ingest",
        _ingest,
        "Turn a download into a manifest, with every reject counted.",
        reads=[*(key for key in setting_keys() if key.startswith("data.") and key not in others), *TRACKED, "report"],
    )
    ingest.add_argument("source", type=Path, nargs="+", help="folder of a download; several make one manifest")
    ingest.add_argument("out", type=Path, help="folder for manifest.parquet, rejects.csv, quality.json, data.html")

    listed = commands.add(
        "import-corpus",
        _import_corpus,
        "Turn a list of recordings, or a public corpus's folder, into a manifest.",
        reads=[*_IMPORT_READS, *TRACKED, "report"],
    )
    listed.add_argument("source", type=Path, help="CSV, TSV, JSON lines or Excel (.xlsx); or a corpus's folder")
    listed.add_argument("out", type=Path, help="the same folder as of `ingest`, and audio/ in it")
    listed.add_argument("--audio-root", type=Path, metavar="FOLDER", help="where paths begin (the list's folder)")
    for meaning in COLUMNS:
        listed.add_argument(f"--{meaning}-column", metavar="NAME", help=f"the list's column of {meaning} (usual names)")
    listed.add_argument("--layout", metavar="NAME", help=f"of a folder: {', '.join(LAYOUT_NAMES)} (by its content)")
    listed.add_argument("--name", help="what the corpus is called (own recordings, or the layout's)")

    split = commands.add(
        "split",
        _split,
        "Draw train, valid and test from a manifest.",
        reads=["split", "data.transcript_side", *TRACKED],
        short={name: f"split.{name}" for name in (*PARTS, "by", "disjoint", "seed")},
    )
    split.add_argument("manifest", type=Path, help="a manifest.parquet")
    split.add_argument("out", type=Path, help="folder for the parts and split.json")
    split.add_argument(
        "--freeze", type=Path, metavar="FILE", help="also write the split as ids and hashes, without text"
    )
    split.add_argument("--frozen", type=Path, metavar="FILE", help="apply such a file instead of drawing")


def _demo_corpus(args: argparse.Namespace) -> int:
    from kmed_bench.corpus.demo.demo import make_demo_corpus

    data = resolve(args).data
    made = make_demo_corpus(
        args.out,
        speakers=data.demo_speakers,
        sentences=data.demo_sentences,
        seed=data.demo_seed,
        layout=args.layout,
    )
    print(json.dumps(made, ensure_ascii=False, indent=2))
    return 0


def _ingest(args: argparse.Namespace) -> int:
    from kmed_bench.corpus.ingest.manifest import ingest

    config = resolve(args)
    with tracked_stage(args, config) as stage:
        quality = ingest(args.source, args.out, config.data)
        _write_page(args.out, quality, stage, config.report.lang)
    _print_summary(quality)
    print(f"Manifest: {args.out / 'manifest.parquet'}")
    print(f"Page: {args.out / DATA_PAGE}")
    return 0


def _write_page(out: Path, quality: "QualityReport", stage: "StageRun | None", language: Language) -> None:
    """Write the page on a corpus in a language, and log its counts."""
    from kmed_bench.core.schema import read_manifest
    from kmed_bench.corpus.demo.sentences import corpus_name
    from kmed_bench.report.data_page import write_data_page

    manifest = out / "manifest.parquet"
    name = corpus_name(read_manifest(manifest))
    with use_language(language):
        write_data_page(quality, out, name=name)
    if stage is not None:
        stage.log_ingest(quality, manifest, name)


def _print_summary(quality: "QualityReport") -> None:
    from kmed_bench.report.data_page import summary_views
    from kmed_bench.report.terminal import print_views

    print_views(summary_views(quality))


def _import_corpus(args: argparse.Namespace) -> int:
    from kmed_bench.corpus.imports.importing import import_corpus
    from kmed_bench.corpus.imports.lists import ListOptions

    config = resolve(args)
    named = {meaning: value for meaning in COLUMNS if (value := getattr(args, f"{meaning}_column"))}
    options = ListOptions(audio_root=args.audio_root, columns=named)
    with tracked_stage(args, config) as stage:
        found = import_corpus(args.source, args.out, config.data, options, layout=args.layout, name=args.name)
        _write_page(args.out, found.quality, stage, config.report.lang)
    _print_summary(found.quality)
    for line in explain_absent(found):
        print(line)
    if found.n_copies:
        print(f"Copies: {found.n_copies} files, {found.copied_bytes:,} bytes, in {args.out / 'audio'} (private speech)")
    print(f"Manifest ({found.layout}): {args.out / 'manifest.parquet'}")
    print(f"Page: {args.out / DATA_PAGE}")
    return 0


def explain_absent(found: "Imported") -> Iterator[str]:
    """Yield what follows from long recordings and from what an imported corpus does not state of its speakers."""
    usable = found.quality["usable"]
    if n := found.quality["rejected"].get("audio_too_long"):
        yield f"{n} recordings are too long: list their clips, a row each, with columns of start and end."
    for field, n in found.absent.items():
        if field == "speaker_id":
            yield (
                f"{n} of {usable} utterances have no speaker: no split can keep speakers apart (give "
                "--split.disjoint sentence), and no figure has an interval or a p-value."
            )
        elif n == usable:
            yield f"No {field}: there are no scores by {field}."
        else:
            yield f"{n} of {usable} utterances have no {field}: they are in a group of their own, N/A."


def _refuse_another(path: Path, split: "Split") -> None:
    """Raise KmedError if a whole split.json is of another split; one that can't be read is written again."""
    from kmed_bench.core.corpus_contracts import SPLIT

    try:
        found = SPLIT.read(path)
    except KmedError:
        return
    if found["sha256"] != split.sha256 or found.get("content_sha256", "") not in ("", split.report["content_sha256"]):
        raise KmedError(f"{path.parent} holds another split, which is not overwritten; name another folder.")


def _split(args: argparse.Namespace) -> int:
    from kmed_bench.core.schema import read_manifest
    from kmed_bench.corpus.demo.sentences import corpus_name
    from kmed_bench.corpus.splitting.frozen import apply_frozen, freeze_split
    from kmed_bench.corpus.splitting.split import split_manifest, write_split
    from kmed_bench.pipeline.planning import describe_plan, plan_split

    config = resolve(args)
    with tracked_stage(args, config) as stage:
        manifest = read_manifest(args.manifest)
        if stage is not None:
            stage.log_manifest(args.manifest, len(manifest), corpus_name(manifest))
        split = apply_frozen(args.frozen, manifest) if args.frozen else split_manifest(manifest, config.split)
        split = plan_split(split, config.data.transcript_side)
        _refuse_another(args.out / "split.json", split)
        report = write_split(split, args.out)
        if stage is not None:
            stage.log_split(report, args.out / "split.json")
    shown = ("label", "sha256", "counts", "max_share_deviation", "leakage", "discarded", "missing", "changed")
    print(json.dumps({key: report.get(key) for key in shown if key in report}, ensure_ascii=False, indent=2))
    print(describe_plan(split))
    if args.freeze:
        freeze_split(split, args.freeze)
        print(f"Frozen split (ids and hashes, no text): {args.freeze}")
    return 0

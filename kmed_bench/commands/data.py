"""Commands from a download to a split: `demo-corpus`, `ingest`, `split`."""

import argparse
import json
from pathlib import Path

from kmed_bench.commands.options import Add, resolve
from kmed_bench.core.schema import PARTS


def register(add: Add) -> None:
    """Add the commands of this module."""
    demo = add("demo-corpus", _demo_corpus, "Write a synthetic corpus in the download's layout.")
    demo.add_argument("out", type=Path)
    demo.add_argument("--speakers", type=int, default=16)
    demo.add_argument("--sentences", type=int, default=72)
    demo.add_argument("--seed", type=int, default=208)
    demo.add_argument("--layout", choices=("zips", "tree"), default="zips")

    ingest = add("ingest", _ingest, "Turn a download into a manifest, with every reject counted.")
    ingest.add_argument("source", type=Path, nargs="+")
    ingest.add_argument("out", type=Path)

    split = add("split", _split, "Draw train, valid and test from a manifest.")
    split.add_argument("manifest", type=Path)
    split.add_argument("out", type=Path)
    for part in PARTS:
        split.add_argument(f"--{part}", help=f"utterances of {part}")
    split.add_argument("--by", help="fields whose shares are kept, such as dialect,gender,age")
    split.add_argument("--disjoint", help="speaker,sentence or speaker or none")
    split.add_argument("--seed")
    split.add_argument("--freeze", type=Path, metavar="FILE", help="also write the split as ids and hashes alone")
    split.add_argument("--frozen", type=Path, metavar="FILE", help="apply such a file instead of drawing")


def _demo_corpus(args: argparse.Namespace) -> int:
    from kmed_bench.corpus.demo.demo import make_demo_corpus

    made = make_demo_corpus(
        args.out, speakers=args.speakers, sentences=args.sentences, seed=args.seed, layout=args.layout
    )
    print(json.dumps(made, ensure_ascii=False, indent=2))
    return 0


def _ingest(args: argparse.Namespace) -> int:
    from kmed_bench.corpus.ingest.manifest import ingest

    quality = ingest(args.source, args.out, resolve(args).data)
    print(json.dumps({key: quality[key] for key in ("labels", "usable", "rejected", "warnings")}, indent=2))
    print(f"Manifest: {args.out / 'manifest.parquet'}")
    return 0


def _split(args: argparse.Namespace) -> int:
    from kmed_bench.core.schema import read_manifest
    from kmed_bench.corpus.splitting.frozen import apply_frozen, freeze_split
    from kmed_bench.corpus.splitting.split import split_manifest, write_split

    config = resolve(
        args,
        split__train=args.train,
        split__valid=args.valid,
        split__test=args.test,
        split__by=args.by,
        split__disjoint=args.disjoint,
        split__seed=args.seed,
    )
    manifest = read_manifest(args.manifest)
    split = apply_frozen(args.frozen, manifest) if args.frozen else split_manifest(manifest, config.split)
    report = write_split(split, args.out)
    shown = ("label", "sha256", "counts", "max_share_deviation", "leakage", "discarded", "missing", "changed")
    print(json.dumps({key: report[key] for key in shown if key in report}, ensure_ascii=False, indent=2))
    if args.freeze:
        freeze_split(split, args.freeze)
        print(f"Frozen split (ids and hashes, no text): {args.freeze}")
    return 0

"""`verify`: a model against its passport."""

import argparse
from pathlib import Path

from kmed_bench.commands.options import Commands, resolve


def register(commands: Commands) -> None:
    """Add the command of this module."""
    verify = commands.add(
        "verify", _verify, "Check a model's files, passport and signature; nothing is run.", reads=["tracking.uri"]
    )
    verify.add_argument("model", help="models:/NAME@ALIAS, runs:/…, or a folder or file with passport.json beside it")
    verify.add_argument("--public-key", type=Path, metavar="FILE", help="PEM of the Ed25519 key that must have signed")


def _verify(args: argparse.Namespace) -> int:
    from kmed_bench.pipeline.verify import verify_model
    from kmed_bench.tracking.store import open_store

    in_store = args.model.startswith(("models:/", "runs:/"))
    tracking_uri = open_store(resolve(args).tracking) if in_store else None
    verdict = verify_model(args.model, args.public_key, tracking_uri=tracking_uri)
    for line in verdict.said:
        print(line)
    for fault in verdict.faults:
        print(f"NOT VERIFIED: {fault}.")
    if not verdict.faults:
        print("Verified: the files, the passport and its signature hold." if args.public_key else
              "Verified: the files and the passport hold.")  # fmt: skip
    return 1 if verdict.faults else 0

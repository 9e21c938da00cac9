"""`offline-kit`: all that a machine without network needs, in one folder with checksums and an installer."""

import argparse
from pathlib import Path

from kmed_bench.commands.options import Commands
from kmed_bench.core.errors import KmedError
from kmed_bench.core.schema import SIZES


def register(commands: Commands) -> None:
    """Add the command of this module."""
    kit = commands.add(
        "offline-kit", _offline_kit, "Gather what a machine without network needs to install this, or check a kit."
    )
    kit.add_argument("out", type=Path, nargs="?", help="the kit's folder; an unfinished kit in it is continued")
    kit.add_argument("--python", default="3.11", help="version of the closed machine's Python (3.11)")
    kit.add_argument(
        "--platform", default="manylinux_2_28_x86_64", help="of the closed machine (manylinux_2_28_x86_64)"
    )
    kit.add_argument("--sizes", default="base", help="sizes whose weights are taken along, or none (base)")
    kit.add_argument(
        "--extras", default="demo,offline,tune", help="extras of pyproject.toml, or none (demo,offline,tune)"
    )
    kit.add_argument("--cpu", action="store_true", help="take torch without CUDA, from an index that has it")
    kit.add_argument("--sign-key", type=Path, metavar="FILE", help="Ed25519 private key in PEM that signs the kit")
    kit.add_argument("--check", type=Path, metavar="FOLDER", help="check this kit instead of making one")
    kit.add_argument("--public-key", type=Path, metavar="FILE", help="with --check: the key that must have signed it")


def _offline_kit(args: argparse.Namespace) -> int:
    from kmed_bench.core.signatures import fingerprint, read_private_key
    from kmed_bench.pipeline.kit.gather import gather_kit
    from kmed_bench.pipeline.kit.target import Target

    if (args.out is None) == (args.check is None):
        raise KmedError("`offline-kit` makes a kit in OUT or checks one with --check FOLDER; give one of the two.")
    if args.check is not None:
        return _check(args)
    if args.public_key is not None:
        raise KmedError("--public-key belongs to --check; the key that signs a kit is --sign-key.")
    sizes, extras = _words(args.sizes), _words(args.extras)
    if unknown := [size for size in sizes if size not in SIZES]:
        raise KmedError(f"--sizes names {', '.join(unknown)}; choose from {', '.join(SIZES)}, or none.")
    key = None if args.sign_key is None else read_private_key(args.sign_key)
    target = Target(args.python, args.platform)
    kit = gather_kit(args.out, target, sizes=sizes, extras=extras, cpu=args.cpu, key=key)
    size = f"{kit['n_bytes'] / 1e9:.2f} GB, {kit['installed_bytes'] / 1e9:.1f} GB installed"
    print(f"Kit: {args.out} ({len(kit['packages'])} packages, {len(kit['files'])} files, {size})")
    if kit["unlocked"]:
        print(f"Not in requirements.lock, so with the hashes of what pip fetched: {', '.join(kit['unlocked'])}")
    if key is not None:
        print(f"Signed by {fingerprint(key.public_key())}")
    print(f"On the closed machine: sh {args.out.name}/install.sh")
    return 0


def _check(args: argparse.Namespace) -> int:
    from kmed_bench.core.signatures import read_public_key
    from kmed_bench.pipeline.kit.manifest import SIGNATURE, check_kit

    key = None if args.public_key is None else read_public_key(args.public_key)
    kit = check_kit(args.check, key)
    signed = (
        "signed by this key"
        if key
        else "its signature was not checked"
        if (args.check / SIGNATURE).exists()
        else "not signed"
    )
    weights = ", ".join(kit["sizes"]) or "none"
    print(f"{args.check}: whole, {signed}; {len(kit['files'])} files, kmed-bench {kit['kmed_bench']} for Python "
          f"{kit['python']}, {kit['platform']}, weights: {weights}")  # fmt: skip
    return 0


def _words(text: str) -> list[str]:
    """Return the words of a list separated by commas, each once; none for "none"."""
    return [] if text == "none" else list(dict.fromkeys(filter(None, map(str.strip, text.split(",")))))

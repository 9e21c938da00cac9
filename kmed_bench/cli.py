"""The command line: one function per command; exit 0 only if all was done."""

import os

# Before anything imports mlflow: nothing about a hospital's work leaves the machine.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

import argparse
import sys
import warnings
from collections.abc import Sequence

from kmed_bench import __version__
from kmed_bench.commands import data, export, history, models, run, scores, tracked, tune
from kmed_bench.commands.options import ALIASES, Command
from kmed_bench.config import PROFILES
from kmed_bench.core.console import LEVELS, configure_logging
from kmed_bench.core.errors import KmedError

# The order in which `kmed-bench --help` lists them.
_MODULES = (run, data, models, export, tune, scores, tracked, history)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0 done, 1 done in part, 2 not done, 130 interrupted."""
    # The commands print what matters; a library's advice to developers is no message for users.
    warnings.filterwarnings("ignore", category=FutureWarning)
    parser = _parser()
    known, rest = parser.parse_known_args(arguments)
    try:
        configure_logging(known.log_level)
        known.overrides = _read_overrides(rest)
        command: Command = known.command
        return command(known)
    except KmedError as error:
        print(f"kmed-bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"kmed-bench: {str(stop) or 'interrupted.'}", file=sys.stderr)
        return 130


def _read_overrides(rest: Sequence[str]) -> dict[str, str]:
    """Turn ``--train.lr 1e-5`` or ``--train.lr=1e-5`` into a mapping of dotted keys."""
    overrides: dict[str, str] = {}
    words = list(rest)
    while words:
        word = words.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not ("." in name or name in ALIASES):
            raise KmedError(f"Argument {word!r} is not understood; see `kmed-bench --help`.")
        if not equals:
            if not words:
                raise KmedError(f"Setting {name!r} has no value; write --{name} VALUE.")
            value = words.pop(0)
        overrides[ALIASES.get(name, name)] = value
    return overrides


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kmed-bench",
        description="Benchmark Whisper tiny, base and small on Korean medical speech, tracked in MLflow.",
        epilog="Every setting can be given as --group.field VALUE, for instance --train.lr 1e-5.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Command, text: str, *, profile: str = "sound") -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.add_argument("--profile", default=profile, help=f"{', '.join(PROFILES)}, or a YAML file ({profile})")
        sub.add_argument("--log-level", choices=LEVELS, default="info", help="messages on standard error (info)")
        sub.set_defaults(command=command)
        return sub

    for module in _MODULES:
        module.register(add)
    return parser

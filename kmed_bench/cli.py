"""The command line: one function per command; exit 0 only if all was done."""

import os

# Before anything imports mlflow: nothing about a hospital's work leaves the machine.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

import argparse
import sys
import warnings
from collections.abc import Sequence

from kmed_bench import __version__
from kmed_bench.commands import data, export, history, models, run, scores, settings, tracked, tune
from kmed_bench.commands.options import Command, CommandParser, Commands, take_overrides
from kmed_bench.core.console import configure_logging
from kmed_bench.core.errors import KmedError

# The order in which `kmed-bench --help` lists them.
_MODULES = (run, data, models, export, tune, scores, tracked, history, settings)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0 done, 1 done in part, 2 not done, 130 interrupted."""
    # The commands print what matters; a library's advice to developers is no message for users.
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        args = parse(sys.argv[1:] if arguments is None else arguments)
        configure_logging(args.log_level)
        command: Command = args.command
        status = command(args)
        sys.stdout.flush()
        return status
    except KmedError as error:
        print(f"kmed-bench: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of the output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt as stop:
        print(f"kmed-bench: {str(stop) or 'interrupted.'}", file=sys.stderr)
        return 130


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return a command's arguments, its settings under ``overrides``.

    Raises
    ------
    KmedError
        For arguments and settings that the command does not take.
    """
    profile = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    profile.add_argument("--profile", nargs="?")  # `--help` shows its values wherever it is given
    args, rest = _parser(profile.parse_known_args(words)[0].profile).parse_known_args(words)
    args.overrides = take_overrides(args, rest)
    return args


def _parser(profile: str | None = None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kmed-bench",
        description="Benchmark Whisper tiny, base and small on Korean medical speech, tracked in MLflow.",
        epilog="Settings are given as --group.field VALUE, such as --train.lr 1e-5; `kmed-bench settings` lists them.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    added = parser.add_subparsers(required=True, metavar="COMMAND", dest="command_name", parser_class=CommandParser)
    commands = Commands(added, profile)
    for module in _MODULES:
        module.register(commands)
    return parser

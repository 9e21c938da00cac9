"""The command line: one function per command; exit 0 only if all was done."""

import os

# Before anything imports mlflow: nothing about a hospital's work leaves the machine.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

import argparse
import contextlib
import logging
import sys
import warnings
from collections.abc import Sequence

from kmed_bench import __version__
from kmed_bench.commands import (
    bundle,
    clean,
    curve,
    data,
    export,
    history,
    kit,
    models,
    power,
    run,
    scores,
    serve,
    settings,
    tracked,
    transcribe,
    tune,
    verify,
)
from kmed_bench.commands.completion import SHELLS, PrintCompletion
from kmed_bench.commands.options import Command, CommandParser, Commands, spell_settings, take_overrides
from kmed_bench.commands.stages import describe_call, store_refusal
from kmed_bench.core.addresses import without_password
from kmed_bench.core.callers_folder import enter_callers_folder, started_by_mlflow_run
from kmed_bench.core.console import abandon_stdout, configure_logging, hide_passwords_in_tracebacks, prepare_streams
from kmed_bench.core.errors import KmedError
from kmed_bench.core.relay import SLOT_VARIABLE, Relay
from kmed_bench.core.surroundings import prepare_user, sigterm_interrupts
from kmed_bench.core.system_errors import explain_os_error

# The order in which `kmed-bench --help` lists them.
_MODULES = (
    run,
    data,
    models,
    transcribe,
    export,
    tune,
    curve,
    scores,
    power,
    tracked,
    serve,
    verify,
    bundle,
    kit,
    history,
    clean,
    settings,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0 done, 1 done in part, 2 not done, 130 interrupted.

    SIGTERM interrupts as Ctrl-C does: what must not be left half done is finished or undone.
    """
    # The commands print what matters; a library's advice to developers is no message for users.
    warnings.filterwarnings("ignore", category=FutureWarning)
    prepare_streams()
    hide_passwords_in_tracebacks()
    enter_callers_folder()
    prepare_user()
    try:
        with sigterm_interrupts():
            args = _parse_told(sys.argv[1:] if arguments is None else arguments)
            if os.environ.pop(SLOT_VARIABLE, ""):
                Relay().start(args.log_level)
            else:
                configure_logging(args.log_level)
            command: Command = args.command
            status = _tell_store(command, args)
            sys.stdout.flush()
            return status
    except KmedError as error:
        return _fail(str(error))
    except BrokenPipeError:  # the reader of the output has left, as `head` does
        abandon_stdout()
        return 1
    except OSError as error:
        logging.getLogger(__name__).debug("Stopped:", exc_info=True)
        return _fail(explain_os_error(error))
    except KeyboardInterrupt as stop:
        print(f"kmed-bench: {str(stop) or 'interrupted.'}", file=sys.stderr)
        return 130
    except Exception as error:
        if (own := _own_cause(error)) is None:
            raise
        return _fail(str(own))


def _tell_store(command: Command, args: argparse.Namespace) -> int:
    """Run a command; the run that `mlflow run` made for it says which it was and, if it failed, why."""
    try:
        status = command(args)
    except KmedError as error:
        spelled = KmedError(spell_settings(str(error), args.flags, project=started_by_mlflow_run()))
        describe_call(args, spelled)
        raise spelled from error
    except Exception as error:
        describe_call(args, error)
        if refusal := store_refusal(error, args):
            raise refusal from error
        raise
    left = args.unfinished or f"Exit status {status}: not all was done; the messages of the command say what is left."
    describe_call(args, None if status == 0 else KmedError(left))
    return status


def _parse_told(words: Sequence[str]) -> argparse.Namespace:
    """Return a command's arguments; if they are wrong, the run that `mlflow run` made for the command says so."""
    try:
        return parse(_readable(words))
    except KmedError as error:
        name = next((word for word in words if not word.startswith("-")), "")
        describe_call(argparse.Namespace(command_name=name), error)
        raise


def _own_cause(error: BaseException) -> KmedError | None:
    """Return the KmedError from which a library's exception was raised; None if there is none."""
    cause = error.__cause__
    while cause is not None and not isinstance(cause, KmedError):
        cause = cause.__cause__
    return cause


def _fail(message: str) -> int:
    with contextlib.suppress(OSError):  # standard error may be on the full disk
        print(f"kmed-bench: {without_password(message)}", file=sys.stderr, flush=True)
    try:
        sys.stdout.flush()
    except OSError:
        abandon_stdout()
    return 2


def _readable(words: Sequence[str]) -> Sequence[str]:
    """Return the words; raise KmedError for one that is not text in the terminal's encoding."""
    for word in words:
        if word.encode(errors="ignore").decode() != word:
            raise KmedError(
                f"The argument {word!a} is not text in {sys.getfilesystemencoding()}, the encoding of this terminal's "
                "locale: set PYTHONUTF8=1 or LC_ALL=C.UTF-8, or rename the file in UTF-8 (convmv)."
            )
    return words


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
    parser.add_argument(
        "--print-completion", action=PrintCompletion, choices=SHELLS, help="print a shell's script for completion"
    )
    added = parser.add_subparsers(required=True, metavar="COMMAND", dest="command_name", parser_class=CommandParser)
    commands = Commands(added, profile)
    for module in _MODULES:
        module.register(commands)
    return parser

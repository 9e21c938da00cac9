"""Completion of commands, flags and values in a shell."""

import argparse
from pathlib import Path
from typing import Any, cast

from kmed_bench.config import PROFILES
from kmed_bench.config.describe import describe_settings

SHELLS = ("bash", "zsh", "fish")


class PrintCompletion(argparse.Action):
    """Prints a shell's script that completes what a parser takes, and ends."""

    def __call__(self, parser: argparse.ArgumentParser, *given: Any) -> None:
        """Print the script for the shell that was given, behind the namespace."""
        print(completion(parser, given[1]))
        parser.exit()


def completion(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return the script that completes a parser's commands, their flags and settings, and the values of these.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        With commands; its help and choices are changed, so it is of no other use afterwards.
    """
    import shtab

    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    for command in cast("dict[str, argparse.ArgumentParser]", commands.choices).values():
        for action in command._actions:
            _explain(action, shtab.FILE)
    return str(shtab.complete(parser, shell))


def _explain(action: argparse.Action, files: Any) -> None:
    """Show a setting, which `--help` lists in a table of its own, and say what is completed as its value."""
    path = action.type is Path or action.dest == "model"
    if setting := describe_settings().get(action.dest):
        action.help = setting.meaning.partition(". ")[0].replace("%", "%%")
        action.choices, path = setting.choices or None, setting.kind.startswith("text")
    elif action.dest == "profile":
        action.choices = PROFILES
    if path and action.choices is None:
        action.complete = files  # type: ignore[attr-defined]

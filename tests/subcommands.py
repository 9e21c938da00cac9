"""The parsers of the commands, by their names."""

import argparse

from kmed_bench.cli import _parser


def commands() -> dict[str, argparse.ArgumentParser]:
    (action,) = (action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction))
    return dict(action.choices)

"""What the commands share: how a command is added, and how its settings are resolved."""

import argparse
from collections.abc import Callable
from typing import Any, Protocol

from kmed_bench.config import Config, load_config

# The headline settings have short names, in MLproject and here; every other is `--group.field VALUE`.
ALIASES = {
    "source": "data.source",
    "sizes": "model.sizes",
    "weights": "model.weights",
    "seeds": "train.seeds",
    "epochs": "train.epochs",
    "batch_size": "train.batch_size",
    "lr": "train.lr",
    "max_len": "train.max_len",
    "audio_context": "train.audio_context",
}
# MLproject passes every declared parameter; this word means "what the profile says".
AS_PROFILE = "profile"

Command = Callable[[argparse.Namespace], int]


class Add(Protocol):
    """Adds a command to the parser; its function gets the arguments and returns the exit status."""

    def __call__(self, name: str, command: Command, text: str, *, profile: str = "sound") -> argparse.ArgumentParser:
        """Return the command's own parser, with ``--profile``."""


def resolve(args: argparse.Namespace, **more: Any) -> Config:
    """Return the settings of a command: profile, then dotted settings, then the command's own options.

    Parameters
    ----------
    **more
        Settings by dotted name with two underscores for the dot; None is left to the profile.
    """
    overrides = {key: value for key, value in args.overrides.items() if value != AS_PROFILE}
    overrides |= {key.replace("__", "."): value for key, value in more.items() if value not in (None, AS_PROFILE)}
    return load_config(args.profile, overrides)

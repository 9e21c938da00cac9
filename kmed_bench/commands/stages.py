"""Stages in the tracking store: a command that runs alone leaves a run, as a whole benchmark does."""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from kmed_bench.config import Config, TrackingConfig, flatten
from kmed_bench.core.callers_folder import OWN_RUN
from kmed_bench.core.errors import KmedError

if TYPE_CHECKING:
    from kmed_bench.tracking.stages import StageRun

TRACKED = ("tracking.uri", "tracking.experiment")
"""Settings that every command reads whose stage is tracked."""


def is_tracked(config: TrackingConfig) -> bool:
    """Return whether a stage leaves a run: a store is named, stands in the working folder, or `mlflow run` made one.

    A stage alone creates no store, which takes longer than most of them.
    """
    named = config.uri or os.environ.get("MLFLOW_TRACKING_URI") or os.environ.get(OWN_RUN)
    return bool(named) or Path("mlflow.db").is_file()


@contextlib.contextmanager
def tracked_stage(args: argparse.Namespace, config: Config, *names: str) -> Iterator["StageRun | None"]:
    """Yield the run of a command, with the settings that it reads and some of its arguments; None if untracked.

    Parameters
    ----------
    *names : str
        Arguments that decide what it does and name no path.
    """
    if not is_tracked(config.tracking):
        yield None
        return
    from kmed_bench.tracking.stages import stage_run

    flat = flatten(config)
    params = {key: flat[key] for key in args.flags if not key.startswith(("tracking.", "slurm."))}
    params |= {name: getattr(args, name) for name in names}
    with stage_run(config, kind=args.command_name, params=params) as run:
        yield run


def describe_call(args: argparse.Namespace, error: BaseException | None = None) -> None:
    """Tag the run that `mlflow run` made for a command that tracked nothing in it, with why it failed, if it did."""
    if not os.environ.get(OWN_RUN):
        return
    from kmed_bench.tracking.stages import tag_own_run

    tag_own_run(args.command_name + (" --plan" if getattr(args, "plan", "") == "true" else ""), error)


def store_refusal(error: BaseException, args: argparse.Namespace) -> KmedError | None:
    """Return what it means that the tracking server refused a command; None for any other error."""
    if isinstance(error, KmedError) or "mlflow" not in sys.modules:
        return None
    from kmed_bench.tracking.refusals import refused
    from kmed_bench.tracking.store import resolve_uri

    return refused(error, resolve_uri(args.overrides.get("tracking.uri")))

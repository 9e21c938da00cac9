"""How a run ends: its status, why it failed, and its messages without transcripts and paths.

An end that the store can't take is kept in the cache folder until a later run finds the store again.
"""

import contextlib
import io
import json
import logging
import re
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from mlflow.entities import RunStatus
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from kmed_bench.core.console import LOG_NAME
from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import cache_folder, write_json
from kmed_bench.core.surroundings import interrupts_wait
from kmed_bench.tracking.away import AwayError
from kmed_bench.tracking.privacy import describe_failure, without_speech

FAILURE_TAG = "kmed.failure"
"""Why a run failed, in one line without paths and speech."""
_STATUSES = ("FINISHED", "FAILED", "KILLED")
_package = logging.getLogger("kmed_bench")
log = logging.getLogger(__name__)


class Endable(Protocol):
    """What is needed of a `run.TrackedRun` to end it."""

    run_id: str
    ends_as: str | None
    reopened: bool
    patience_s: float

    @property
    def is_away(self) -> bool:
        """Whether the store does not answer."""

    def settle(self) -> None:
        """Wait until the store has all metrics."""

    def close(self) -> None:
        """Stop asking a store that is away."""

    @property
    def client(self) -> MlflowClient:
        """MLflow's client for the store that holds the run."""

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags of the run."""


Run = TypeVar("Run", bound=Endable)


class _RunFormatter(logging.Formatter):
    """Leaves out where exceptions came from and what they said; messages lose paths and Korean words."""

    def format(self, record: logging.LogRecord) -> str:
        text = f"{self.formatTime(record)} {record.levelname} {record.name}: {without_speech(record.getMessage())}"
        return f"{text} ({record.exc_info[0].__name__})" if record.exc_info and record.exc_info[0] else text


@contextlib.contextmanager
def run_log(run: Endable) -> Iterator[None]:
    """Log the package's messages during the block as the run's artifact; a continued run gets a further file."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_RunFormatter())
    _package.addHandler(handler)
    try:
        yield
    finally:
        _package.removeHandler(handler)
        if stream.getvalue() and run.is_away:
            log.warning("Run %s has no log in its store, which does not answer.", run.run_id)
        elif stream.getvalue():
            try:
                run.client.log_text(run.run_id, stream.getvalue(), _free_name(run))
            except (MlflowException, KmedError, OSError) as error:  # must not hide how the run ended
                log.warning("Run %s has no log in its store: %s", run.run_id, type(error).__name__)


def _free_name(run: Endable) -> str:
    """Return the name of a log that the run does not have yet."""
    if not run.reopened:
        return LOG_NAME
    pattern = re.compile(re.escape(LOG_NAME).replace(r"\.log", r"(-\d+)?\.log"))
    n = sum(bool(pattern.fullmatch(found.path)) for found in run.client.list_artifacts(run.run_id))
    return LOG_NAME if n == 0 else LOG_NAME.replace(".log", f"-{n + 1}.log")


@contextlib.contextmanager
def begun(start: Callable[[], Run]) -> Iterator[Run]:
    """Yield the run that a function starts or reopens, and end it as `ending` does; no interrupt falls in between."""
    with contextlib.ExitStack() as stack:
        with interrupts_wait(all_of_them=False):
            run = start()
            stack.enter_context(ending(run))
        yield run


@contextlib.contextmanager
def ending(run: Endable) -> Iterator[None]:
    """End the run with its `ends_as`, or FINISHED, FAILED on an error, KILLED on an interrupt; log its messages.

    A failed run gets its reason as the tag ``kmed.failure``, an interrupted one the tag ``kmed.ended``.
    """
    status = RunStatus.FAILED
    tags: dict[str, str] = {}
    try:
        with run_log(run):
            yield
            run.settle()
        status = RunStatus.FINISHED
    except (KeyboardInterrupt, GeneratorExit):  # the latter where an interrupt kept the block from being left
        status, tags = RunStatus.KILLED, {"kmed.ended": "interrupted or terminated"}
        raise
    except BaseException as error:
        tags = {} if run.ends_as else {FAILURE_TAG: describe_failure(error)}
        if isinstance(error, OSError) and error.filename is None and _is_from_mlflow(error):  # its copies name no file
            with contextlib.suppress(MlflowException):
                error.filename = run.client.get_run(run.run_id).info.artifact_uri
        raise
    finally:
        if status != RunStatus.FINISHED:  # nothing is left to wait for
            run.patience_s = 0.0
        with interrupts_wait(all_of_them=False):
            try:
                _end(run, run.ends_as or RunStatus.to_string(status), tags)
            finally:
                run.close()


def _is_from_mlflow(error: BaseException) -> bool:
    """Return whether an exception passed through MLflow; that of a full standard output did not."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(str(frame.f_globals.get("__name__", "")).startswith("mlflow.") for frame, _ in frames)


def _end(run: Endable, status: str, tags: Mapping[str, str]) -> None:
    """End a run in the store; if that fails, keep the end for `processes.end_abandoned`."""
    ended_ms = int(time.time() * 1000)
    try:
        if run.is_away:
            run.settle()
        run.set_tags(tags)
        run.client.set_terminated(run.run_id, status, ended_ms)
    except (MlflowException, AwayError) as error:
        keep_end(run.run_id, status, ended_ms)
        log.error("Run %s ended %s and is RUNNING in its store until a later run finds it.", run.run_id, status)
        if not isinstance(error, AwayError):  # what ended the run says more
            raise


def _place(run_id: str) -> Path:
    return cache_folder() / "ends" / f"{run_id}.json"


def keep_end(run_id: str, status: str, ended_ms: int) -> None:
    """Keep a run's final status and the time of its end, in milliseconds since the epoch."""
    with contextlib.suppress(OSError):  # the disk may be what is away
        write_json(_place(run_id), {"status": status, "ended_ms": ended_ms})


def read_end(run_id: str) -> tuple[str, int] | None:
    """Return the status and end that were kept for a run; None if there are none."""
    if not re.fullmatch(r"[0-9a-f]{32}", run_id):
        return None
    with contextlib.suppress(OSError, RecursionError, ValueError, TypeError, KeyError):
        kept = json.loads(_place(run_id).read_text(encoding="utf-8"))
        if kept["status"] in _STATUSES and type(kept["ended_ms"]) is int:
            return kept["status"], kept["ended_ms"]
    return None


def forget_end(run_id: str) -> None:
    """Remove what was kept for a run."""
    with contextlib.suppress(OSError):
        _place(run_id).unlink(missing_ok=True)

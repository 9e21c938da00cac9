"""Messages on standard error, by rich on a terminal and as plain lines elsewhere, and a log file beside results."""

import contextlib
import copy
import logging
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.highlighter import NullHighlighter
from rich.logging import RichHandler

from kmed_bench.core.addresses import without_password
from kmed_bench.core.progress import restart_progress

LEVELS = ("debug", "info", "warning", "error")
LOG_NAME = "kmed-bench.log"

_CONSOLE_HANDLER = "kmed-bench console"

_package = logging.getLogger("kmed_bench")


def prepare_streams() -> None:
    """Make the standard streams writable under any locale, and where the caller closed them.

    Characters that the locale's encoding lacks are shown as escapes. Closed streams (``2>&-``) are connected to the
    null device, so that no file opened later gets their descriptor and with it a library's messages.
    """
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(handle, True)
    os.close(handle)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115 (for the whole process)
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def abandon_stdout() -> None:
    """Discard what standard output still buffers; at exit Python would report its closed reader or full disk."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def configure_logging(level: str = "info") -> None:
    """Show the package's messages of a level and above on standard error; standard output is for results.

    Parameters
    ----------
    level : str
        One of ``LEVELS``.
    """
    handler: logging.Handler
    if sys.stderr.isatty():
        options: dict[str, Any] = {"show_time": False, "show_level": False, "show_path": False, "keywords": []}
        handler = RichHandler(console=Console(stderr=True), highlighter=NullHighlighter(), **options)
        handler.setFormatter(_Formatter("%(message)s"))
    else:
        handler = _StderrHandler()
        handler.setFormatter(_Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    handler.set_name(_CONSOLE_HANDLER)
    handler.setLevel(level.upper())
    for earlier in [handler for handler in _package.handlers if handler.get_name() == _CONSOLE_HANDLER]:
        _package.removeHandler(earlier)
    _package.addHandler(handler)
    _package.setLevel(level.upper())
    restart_progress()


def console_level() -> str:
    """Return the level of the messages that standard error shows."""
    levels = [handler.level for handler in _package.handlers if handler.get_name() == _CONSOLE_HANDLER]
    return logging.getLevelName(levels[0]).lower() if levels else "info"


def show(level: str, text: str) -> None:
    """Show another process's message on standard error, and in no log file: that process has its own."""
    number = logging.getLevelNamesMapping()[level.upper()]
    record = logging.LogRecord(_package.name, number, "", 0, "%s", (text,), None)
    for handler in _package.handlers:
        if handler.get_name() == _CONSOLE_HANDLER and number >= handler.level:
            handler.handle(record)
    restart_progress()


def hide_passwords_in_tracebacks() -> None:
    """Mask passwords in the traceback of an exception that nothing catches: libraries quote addresses in full."""

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        sys.stderr.write(without_password("".join(traceback.format_exception(kind, error, trace))))

    sys.excepthook = show


class _Formatter(logging.Formatter):
    """Masks passwords in messages and exceptions."""

    def format(self, record: logging.LogRecord) -> str:
        return without_password(super().format(record))


class _StderrHandler(logging.Handler):
    """Writes to what standard error is at the time of the message."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError, ValueError):  # a full disk or a closed stream is no reason to stop
            print(self.format(record), file=sys.stderr, flush=True)


@contextlib.contextmanager
def log_file(folder: Path) -> Iterator[None]:
    """Append messages of all levels to ``kmed-bench.log`` in a folder, and where an exception came from.

    They may name utterances, so a new file can be opened by its owner only.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError):  # if that fails, opening it says so
        (folder / LOG_NAME).touch(mode=0o600)
    handler = _LogFile(folder / LOG_NAME, encoding="utf-8")
    handler.setFormatter(_FileFormatter("%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"))
    level = _package.level
    _package.addHandler(handler)
    _package.setLevel(logging.DEBUG)
    try:
        yield
    except BaseException:
        _package.debug("Stopped:", exc_info=True)
        raise
    finally:
        _package.removeHandler(handler)
        _package.setLevel(level)
        handler.close()


class _LogFile(logging.FileHandler):
    """Goes without lines that a full disk does not take; what matters then fails by itself and says so."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (the library's name)
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            super().close()


class _FileFormatter(_Formatter):
    """Shortens exceptions to their type and paths to their last part: the rest may name patients or what they said."""

    def format(self, record: logging.LogRecord) -> str:
        shortened = copy.copy(record)
        shortened.exc_text = None  # as the console's handler wrote it
        if isinstance(record.args, tuple):
            shortened.args = tuple(map(_shorten, record.args))
        return super().format(shortened)

    def formatException(self, ei: Any) -> str:  # noqa: N802  (the library's name)
        return "".join(traceback.format_tb(ei[2])) + str(ei[0].__name__)


def _shorten(value: object) -> object:
    if isinstance(value, BaseException):
        return type(value).__name__
    return value.name if isinstance(value, Path) else value

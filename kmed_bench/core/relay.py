"""Messages from a slot's process to its parent over standard output; it stops when the parent is gone.

Standard output carries one JSON object a line: ``log`` (a level) and ``text``, ``progress`` (label, done, total, unit),
or ``failed``. Standard input stays open as long as the parent lives.
"""

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, TextIO

from kmed_bench.core.addresses import without_password
from kmed_bench.core.progress import relay_progress

SLOT_VARIABLE = "KMED_SLOT"
"""Set for a command that runs in a slot, and so talks to the process that started it."""
_PROGRESS_INTERVAL_S = 0.5


class Relay:
    """Sends messages from this process to its parent.

    What libraries print goes to standard error, so that standard output carries only messages.
    """

    def __init__(self) -> None:
        self._output: TextIO = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
        self._lock = threading.Lock()
        self._sent_s: dict[str, float] = {}
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def start(self, level: str) -> None:
        """Send what is logged at a level or above and how far work is, and stop when the parent is gone."""
        package, handler = logging.getLogger("kmed_bench"), _Handler(self)
        handler.setLevel(level.upper())
        package.addHandler(handler)
        package.setLevel(level.upper())
        relay_progress(self.send_progress)
        threading.Thread(target=_stop_with_parent, name="parent", daemon=True).start()

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message. If the parent no longer reads, this process is about to stop, so the error is ignored."""
        try:
            with self._lock:
                print(json.dumps(message), file=self._output, flush=True)
        except OSError:
            pass

    def send_progress(self, label: str, done: int, total: int, unit: str) -> None:
        """Send how far a block is, at most every half second, and its end."""
        now_s = time.monotonic()
        if done < total and now_s < self._sent_s.get(label, float("-inf")) + _PROGRESS_INTERVAL_S:
            return
        self._sent_s[label] = now_s
        self.send({"progress": [label, done, total, unit]})


class _Handler(logging.Handler):
    """Sends messages to the parent's console; log files have them by themselves."""

    def __init__(self, relay: Relay) -> None:
        super().__init__()
        self._relay = relay

    def emit(self, record: logging.LogRecord) -> None:
        self._relay.send({"log": record.levelname.lower(), "text": without_password(self.format(record))})


def _stop_with_parent() -> None:
    """Wait for the end of standard input, which is the parent's, and stop as on SIGTERM."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)

"""Notices of a new champion, to a program's standard input and by HTTP POST; a failed one does not undo it."""

import json
import logging
import shlex
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import TypedDict
from urllib.parse import urlsplit

from kmed_bench.config import GateConfig

METRICS = ("test/cer", "test/wer", "untouched/test_cer")

_log = logging.getLogger(__name__)


class Notice(TypedDict):
    """What is sent: names, versions and metrics; ``previous`` is the champion before, None for the first one."""

    event: str
    name: str
    version: str
    previous: str | None
    metrics: dict[str, float]


def notify(notice: Notice, gate: GateConfig) -> dict[str, str]:
    """Tell whom the settings name, and return ``done`` or why it failed by ``command`` and ``webhook``.

    A failure is a warning: the champion stays. Nothing is started or sent unless it is set.
    """
    body = json.dumps(notice, ensure_ascii=False).encode()
    channels: dict[str, tuple[str | None, Callable[[str, bytes, float], None]]] = {
        "command": (gate.command, _start),
        "webhook": (gate.webhook, _post),
    }
    told: dict[str, str] = {}
    for channel, (target, send) in channels.items():
        if target is None:
            continue
        try:
            send(target, body, gate.notify_timeout_s)
            told[channel] = "done"
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            told[channel] = f"failed: {_explain(error, gate.notify_timeout_s)}"
            _log.warning(
                "%s version %s is the champion, but the %s that should be told %s",
                notice["name"],
                notice["version"],
                channel,
                told[channel],
            )
    return told


def _start(command: str, body: bytes, timeout_s: float) -> None:
    """Start the program without a shell; what it prints goes nowhere, as standard output holds the decision."""
    subprocess.run(
        shlex.split(command), input=body, stdout=subprocess.DEVNULL, timeout=timeout_s, check=True, shell=False
    )


def _post(address: str, body: bytes, timeout_s: float) -> None:
    # Only http and https: `GateConfig` refuses other schemes, such as file.
    request = urllib.request.Request(
        address, data=body, headers={"Content-Type": "application/json; charset=utf-8"}, method="POST"
    )
    with _OPENER.open(request, timeout=timeout_s):
        pass


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Leaves redirects unfollowed: urllib would drop the body and ask another address with GET."""

    def redirect_request(self, *_: object) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirects)


def _explain(error: Exception, timeout_s: float) -> str:
    """Return the fault without the command's arguments or the address, which may hold secrets."""
    if isinstance(error, (subprocess.TimeoutExpired, TimeoutError)):
        return f"no end within {timeout_s:g} s"
    if isinstance(error, subprocess.CalledProcessError):
        return f"exit status {error.returncode}"
    if isinstance(error, urllib.error.HTTPError):
        return f"{urlsplit(error.url).hostname} answered {error.code}"
    if isinstance(error, urllib.error.URLError):
        return _explain(error.reason, timeout_s) if isinstance(error.reason, Exception) else str(error.reason)
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__

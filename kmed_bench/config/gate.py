"""Settings of the promotion gate, and of what happens after a promotion."""

import shlex
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field

from kmed_bench.config.fields import NONE, Decides, Positive, Share, group
from kmed_bench.core.errors import KmedError

GATE_LIMITS = ("gate.significance", "gate.max_elderly_gap", "gate.max_latency_s")
"""Settings that a plan seals before the training that the gate will judge."""


@group
class GateConfig:
    """What a version needs to become the champion, and who is told when it does."""

    significance: Annotated[float, Field(gt=0, le=0.05), Decides.NOTHING] = 0.05
    """Level of the tests: p-value below which a difference counts; the 95 % interval must also exclude zero."""
    max_elderly_gap: Annotated[Share, Decides.NOTHING] = 0.05
    """How much higher the CER of speakers aged 60 and over may be than that of the rest, as a fraction."""
    max_latency_s: Annotated[Positive | None, NONE, Decides.NOTHING] = 5.0
    """Largest 95th percentile of seconds per clip, decoded one at a time. none: latency is not judged."""
    max_load: Annotated[Share, Decides.NOTHING] = 0.1
    """Largest load by other processes while latency was measured, as a share of the machine's cores or of its GPU.
    Above it, latency is not judged."""
    command: Annotated[str | None, NONE, Decides.NOTHING] = None
    """Program with arguments that is started after a promotion or rollback, without a shell. It reads names, versions
    and metrics as JSON from its standard input."""
    webhook: Annotated[str | None, NONE, Decides.NOTHING] = None
    """Address, http:// or https://, that the same JSON is posted to after a promotion or rollback. none: nothing is
    sent. Addresses often hold a secret, so a profile file is a better place than a command line."""
    notify_timeout_s: Annotated[Positive, Decides.NOTHING] = 10.0
    """Seconds after which the command is stopped, or the post is given up."""

    def __post_init__(self) -> None:
        if self.webhook is not None:
            parts = urlsplit(self.webhook)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise KmedError("gate.webhook is no address; give one that begins with http:// or https://, or none.")
        try:
            named = self.command is None or any(shlex.split(self.command)[:1])
        except ValueError as error:
            raise KmedError(f"gate.command can't be read ({error}); quote its arguments as in a shell.") from None
        if not named:
            raise KmedError("gate.command names no program; name one with its arguments, or none.")

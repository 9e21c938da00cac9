"""Metrics on their way to a server or a database, which may be away for a while: kept, in order, and delivered once.

A thread sends them. While the store answers, the caller waits for the end of each sending, so it meets refusals where
they happen. If no answer comes, the metrics go to a private file in the cache folder, the caller goes on, and the
thread tries again with growing pauses. What a process that dies leaves in the file is delivered by whoever continues
or ends its run. Sending twice makes no second point: stores keep one where run, name, step, value and time are equal.
"""

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Sequence

from mlflow.entities import Metric
from mlflow.tracking import MlflowClient

from kmed_bench.core.addresses import without_password
from kmed_bench.core.files import PRIVATE_FILE, PRIVATE_FOLDER, cache_folder
from kmed_bench.core.formats import FileFormat
from kmed_bench.tracking.away import await_store, give_up, is_away, patience_for, pause_before, say_waiting
from kmed_bench.tracking.reach import check_reach

_ANSWER_WITHIN_S = 10.0
"""Longest that a caller waits for one sending; from then on the store counts as away."""
_BATCH = 1_000
"""MLflow's limit of metrics in one request."""
_BEYOND = 2**63
"""No store holds whole numbers of this size."""
_HEAD: FileFormat[dict[str, object]] = FileFormat(
    name="kmed-unsent-metrics", version=1, oldest=1, remedy="delete it; the metrics in it are then lost"
)
log = logging.getLogger(__name__)


class _File:
    """The metrics of one run that its store does not have yet: a line for each, behind a first one with the format.

    Only what is sent next is in memory.
    """

    def __init__(self, run_id: str) -> None:
        self.path = cache_folder() / "unsent" / f"{run_id}.jsonl"
        self._delivered = self._read = 0  # bytes at the beginning
        self._n_damaged = self._n_read_damaged = 0  # lines in them that hold no metric

    def append(self, metrics: Sequence[Metric]) -> None:
        """Add metrics; they survive the end of the process and of the machine."""
        self.path.parent.mkdir(PRIVATE_FOLDER, parents=True, exist_ok=True)
        lines = [json.dumps([one.key, one.value, one.timestamp, one.step]) for one in metrics]
        if not self.path.exists():
            lines.insert(0, json.dumps(_HEAD.head))
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, PRIVATE_FILE)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write("".join(f"{line}\n" for line in lines))
            stream.flush()
            os.fsync(stream.fileno())

    def next(self) -> list[Metric]:
        """Return up to `_BATCH` metrics that are not delivered; the same again until `delivered` is called."""
        metrics: list[Metric] = []
        self._read, self._n_read_damaged = self._delivered, self._n_damaged
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as stream:  # none, or others delivered it
            stream.seek(self._read)
            for line in stream:
                if not line.endswith(b"\n"):  # a process that was killed wrote half of it, and repeats that step
                    break
                value = _parse(line)
                if self._read == 0 and isinstance(value, dict):
                    _HEAD.check(value, self.path)
                elif isinstance(value, Metric):
                    metrics.append(value)
                else:
                    self._n_read_damaged += 1
                self._read += len(line)
                if len(metrics) == _BATCH:
                    break
        return metrics

    def delivered(self) -> None:
        """Note that the store has what `next` returned."""
        self._delivered, self._n_damaged = self._read, self._n_read_damaged

    def remove(self) -> None:
        """Delete the file, of which the store has everything that can be read; log how many lines can't."""
        if self._n_read_damaged:
            log.warning(
                "%s is damaged: %d of its lines can't be read, and the metrics in them are lost.",
                self.path,
                self._n_read_damaged,
            )
        self.path.unlink(missing_ok=True)
        self._delivered = self._n_damaged = self._n_read_damaged = 0


def _parse(line: bytes) -> object:
    """Return a line's metric, or the value of one that holds none; None if it is damaged."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, list):
        return value
    kinds = [type(part) for part in value]
    whole = len(kinds) == 4 and kinds[0] is str and kinds[1] in (int, float) and kinds[2:] == [int, int]
    return Metric(*value) if whole and all(abs(part) < _BEYOND for part in value[1:] if type(part) is int) else None


class Outbox:
    """Sends the metrics of one run.

    Attributes
    ----------
    is_away : bool
        Whether the store does not answer and metrics are kept for it.
    """

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self._client, self._run_id, self._uri = client, run_id, str(client.tracking_uri)
        self._file = _File(run_id)
        self._changed = threading.Condition()
        self._sending: list[Metric] | None = None
        self._error: Exception | None = None
        self._closed = False
        self.is_away = False

    def send(self, metrics: Sequence[Metric]) -> None:
        """Send metrics, or keep them for a store that is away.

        Raises
        ------
        mlflow.exceptions.MlflowException
            When the store refuses them, or refused those before.
        """
        with self._changed:
            self._raise_error()
            if self.is_away:
                self._file.append(metrics)
                return
            self._sending, begun_s = list(metrics), time.monotonic()
            threading.Thread(target=self._deliver, args=(self._sending,), name="outbox", daemon=True).start()
            try:
                self._changed.wait_for(lambda: self._sending is None or self.is_away, _ANSWER_WITHIN_S)
            finally:
                if self._sending is not None and not self.is_away:  # slow, or the caller was interrupted
                    self._keep(f"no answer within {time.monotonic() - begun_s:.0f} s")
            self._raise_error()

    def settle(self, patience_s: float) -> None:
        """Return once the store answers and has all metrics; if it does not at once, log what is waited for.

        Raises
        ------
        AwayError
            When it does not answer in time; the metrics stay where they are kept.
        """
        patience_s = patience_for(self._uri, patience_s)
        begun_s, kept = time.monotonic(), f", and metrics that it does not have yet in {self._file.path}"
        with self._changed:
            if self.is_away and self._error is None:
                say_waiting(self._uri, patience_s)
                self._changed.wait_for(lambda: self._error is not None or not self.is_away, patience_s)
            self._raise_error()
            if self.is_away:
                raise give_up(self._uri, patience_s, kept)
        await_store(self._uri, max(0.0, patience_s - (time.monotonic() - begun_s)))

    def close(self) -> None:
        """End the thread with its run; what is kept stays in the file."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _raise_error(self) -> None:
        error = self._error
        if error is None:
            return
        if not self.is_away:  # the caller has lost nothing but what was refused, and may do without
            self._error = None
        raise error

    def _keep(self, reason: str) -> None:
        """Put what is being sent into the file, which from now on takes all."""
        self._file.append(self._sending or [])
        self.is_away = True
        self._changed.notify_all()
        log.warning(
            "The tracking store %s does not answer (%s). Work goes on; metrics are kept in %s until it does.",
            without_password(self._uri),
            reason,
            self._file.path,
        )

    def _deliver(self, metrics: list[Metric]) -> None:
        """Send metrics and then, if the store was away, all that was kept meanwhile; runs in a thread.

        What goes wrong is kept for the next caller.
        """
        try:
            self._send_now(metrics)
            if self.is_away:
                self._send_kept()
        except Exception as error:
            with self._changed:
                self._error, self._sending = error, None
                self._changed.notify_all()

    def _send_now(self, metrics: list[Metric]) -> None:
        reason = None
        try:
            self._client.log_batch(self._run_id, metrics=metrics)
        except Exception as error:
            if not is_away(error):
                raise
            reason = type(error.__cause__ or error.__context__ or error).__name__
        with self._changed:
            if reason is not None and not self.is_away:
                self._keep(reason)
            self._sending = None
            self._changed.notify_all()

    def _send_kept(self) -> None:
        attempt, n_sent = 0, 0
        while True:
            with self._changed:
                if self._changed.wait_for(lambda: self._closed, pause_before(attempt)):
                    return
                metrics = self._file.next()
                if not metrics:
                    self._file.remove()
                    self.is_away = False
                    self._changed.notify_all()
                    uri = without_password(self._uri)
                    log.warning("The tracking store %s answers again and has all %d metrics.", uri, n_sent)
                    return
            try:
                check_reach(self._uri)  # MLflow itself would try for minutes, with pauses of up to two
                self._client.log_batch(self._run_id, metrics=metrics)
            except Exception as error:
                if not is_away(error):
                    raise
                attempt += 1
            else:
                self._file.delivered()
                attempt, n_sent = 0, n_sent + len(metrics)


def deliver_left(client: MlflowClient, run_id: str) -> None:
    """Deliver the metrics that a process left of a run and log their number."""
    file, n_sent = _File(run_id), 0
    while metrics := file.next():
        client.log_batch(run_id, metrics=metrics)
        file.delivered()
        n_sent += len(metrics)
    file.remove()
    if n_sent:
        log.warning("%d metrics of run %s, which its store could not take, are delivered.", n_sent, run_id)

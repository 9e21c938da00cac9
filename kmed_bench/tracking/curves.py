"""Curves by step and the machine's use while a model trains, logged beside it."""

import contextlib
import time
from collections.abc import Iterator, Mapping

from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from kmed_bench.tracking.run import TrackedRun

_FLUSH_AFTER_S = 15.0
"""Points wait up to this long, so that a slow store does not slow the steps."""


class CurveLog:
    """Points of curves by step on their way to a run."""

    def __init__(self, run: TrackedRun) -> None:
        self._run = run
        self._points: list[tuple[str, int, float, int]] = []
        self._flushed_s = time.monotonic()

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add a step's points, and log all that wait if the last call was at least 15 s ago."""
        now_ms = int(time.time() * 1000)
        self._points += [(name, step, float(value), now_ms) for name, value in metrics.items()]
        if time.monotonic() - self._flushed_s >= _FLUSH_AFTER_S:
            self.flush()

    def flush(self) -> None:
        """Log all points that wait."""
        points, self._points, self._flushed_s = self._points, [], time.monotonic()
        self._run.log_points(points)


@contextlib.contextmanager
def curve_log(run: TrackedRun) -> Iterator[CurveLog]:
    """Yield a `CurveLog`; its points are also logged when training fails, since the last ones say the most."""
    log = CurveLog(run)
    try:
        yield log
    finally:
        log.flush()


@contextlib.contextmanager
def system_metrics(run: TrackedRun, *, enabled: bool) -> Iterator[None]:
    """Log the machine's use as ``system/…`` every 10 s during the block; MLflow's own monitor does it in a thread."""
    if not enabled:
        yield
        return
    monitor = SystemMetricsMonitor(run.run_id, resume_logging=run.reopened, tracking_uri=run.uri)  # type: ignore[no-untyped-call]
    monitor.start()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        monitor.finish()  # type: ignore[no-untyped-call]

"""The points of a run's curves: a continued run logs each once, and none of them may differ from what it was."""

import math
from collections.abc import Iterable

from mlflow.entities import Metric
from mlflow.tracking import MlflowClient

from kmed_bench.core.errors import KmedError

_SAME = 1e-4
"""Relative tolerance for values logged twice: fp32 sums differ by about this much between thread counts and kernels."""
_TIMINGS = ("time/", "speed/", "latency/")
"""Metrics that differ between any two passes; the value logged first is kept."""


class Points:
    """The points of one run, by name and step.

    Attributes
    ----------
    has_read : bool
        Whether those that the store has are among them.
    """

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self._client, self._run_id = client, run_id
        self._points: dict[tuple[str, int], Metric] = {}
        self.has_read = False

    def read(self) -> None:
        """Add all that the store has, at once: it may be away later."""
        for name in self._client.get_run(self._run_id).data.metrics:
            for point in self._client.get_metric_history(self._run_id, name):
                self._points.setdefault((name, point.step), point)
        self.has_read = True

    def add(self, points: Iterable[Metric]) -> None:
        """Add points; of two at the same name and step the latter is kept."""
        self._points |= {(point.key, point.step): point for point in points}

    def find(self, name: str, step: int) -> Metric | None:
        """Return the point at a name and step, or None."""
        return self._points.get((name, step))

    def has(self, point: Metric) -> bool:
        """Return whether there is a point at the same name and step, with the same value.

        Raises
        ------
        KmedError
            When its value is another one, so that this is not the training that the run began with.
        """
        before = self.find(point.key, point.step)
        if before is None:
            return False
        same = math.isclose(before.value, point.value, rel_tol=_SAME, abs_tol=_SAME)
        if not same and not point.key.startswith(_TIMINGS):
            raise KmedError(
                f"{point.key} at step {point.step} of run {self._run_id} was {before.value!r} before the run was "
                f"continued and is {point.value!r} now: this is not the same training. Continue it with the code, "
                "the data and the machine that began it, or start a new one without --resume."
            )
        return True

"""Curves by optimizer step, from what `Stepper.collect` reads anyway: no step waits for them."""

import dataclasses
import math
from collections.abc import Callable

from kmed_bench.training.step_results import Sums


@dataclasses.dataclass(frozen=True)
class StepPoint:
    """The optimizer steps since the point before.

    Attributes
    ----------
    step : int
        The last one, counted over all epochs from 1.
    loss : float or None
        Cross-entropy in nats per token over these steps; with several processes, over this one's share. None without
        tokens.
    lr : float
        Learning rate of the last step.
    grad_norm : float or None
        Mean norm of the gradients before clipping. None if none was finite, as after overflows of fp16.
    """

    step: int
    loss: float | None
    lr: float
    grad_norm: float | None

    def metrics(self) -> dict[str, float]:
        """Return the point under the names of the tracking store, without what is None."""
        named = {"step/loss": self.loss, "step/lr": self.lr, "step/grad_norm": self.grad_norm}
        return {name: value for name, value in named.items() if value is not None}


OnPoint = Callable[[StepPoint], None]


class StepCurve:
    """Sums up steps and passes on a `StepPoint` at each multiple of an interval."""

    def __init__(self, interval: int, on_point: OnPoint) -> None:
        self.interval, self.on_point = interval, on_point
        self._sums, self._norms = Sums(), list[float]()

    def add(self, step: int, lr: float, sums: Sums, norm: float) -> None:
        """Take in the next step."""
        self._sums.add(sums)
        if math.isfinite(norm):
            self._norms.append(norm)
        if step % self.interval:
            return
        loss = self._sums.loss / self._sums.tokens if self._sums.tokens else None
        grad_norm = math.fsum(self._norms) / len(self._norms) if self._norms else None
        self._sums, self._norms = Sums(), []
        self.on_point(StepPoint(step, loss, lr, grad_norm))

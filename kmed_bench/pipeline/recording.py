"""What is recorded of a training while it runs: curves by optimizer step, and the machine's use."""

import contextlib
from collections.abc import Iterator

from kmed_bench.config import TrackingConfig
from kmed_bench.tracking.curves import curve_log, system_metrics
from kmed_bench.tracking.run import TrackedRun
from kmed_bench.training.curves import StepCurve, StepPoint


@contextlib.contextmanager
def recording(run: TrackedRun | None, config: TrackingConfig) -> Iterator[StepCurve | None]:
    """Yield what takes in a training's steps and logs them to the run; None if nothing is to be logged."""
    if run is None:
        yield None
        return
    with system_metrics(run, enabled=config.system_metrics), curve_log(run) as waiting:

        def keep(point: StepPoint) -> None:
            waiting.add(point.step, point.metrics())

        yield None if config.step_interval is None else StepCurve(config.step_interval, keep)

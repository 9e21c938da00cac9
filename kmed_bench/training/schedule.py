"""The learning rate by optimizer step: a warm-up, then constant, linear or cosine decay."""

import math
from collections.abc import Callable

from kmed_bench.config import TrainConfig
from kmed_bench.core.errors import KmedError


def rate_factor(config: TrainConfig, total_steps: int) -> Callable[[int], float]:
    """Return the factor on ``lr`` as a function of the optimizer step, 0 being the first step.

    It rises as (step + 1) / warmup_steps, so no step is wasted at a rate of 0 and step warmup_steps - 1 has the full
    rate. After that it is 1 (constant), (T - step) / (T - W) (linear) or half of 1 + cos(pi (step - W) / (T - W))
    (cosine; Loshchilov and Hutter 2017, eq. 5, without restarts), where T is total_steps and W warmup_steps: 0 at T,
    one step after the last one.

    Parameters
    ----------
    config : TrainConfig
        ``schedule`` and ``warmup_steps`` are read.
    total_steps : int
        Optimizer steps of all epochs together.

    Raises
    ------
    KmedError
        When the warm-up would be as long as the training or longer.
    """
    warmup, schedule = config.warmup_steps, config.schedule
    if warmup >= total_steps:
        raise KmedError(
            f"train.warmup_steps is {warmup}, but training has {total_steps} optimizer steps, so the rate would never "
            f"reach train.lr={config.lr}; set train.warmup_steps to less than {total_steps} "
            "(a tenth is usual), or train on more utterances or for more epochs."
        )

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        # Steps after the last one (a scheduler asks for one more than it uses) stay at 0.
        done = min(1.0, (step - warmup) / (total_steps - warmup))
        if schedule == "linear":
            return 1.0 - done
        if schedule == "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * done))
        return 1.0

    return factor

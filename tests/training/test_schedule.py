import pytest
import torch
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from kmed_bench.config import TrainConfig
from kmed_bench.core.errors import KmedError
from kmed_bench.training.schedule import rate_factor


@pytest.mark.parametrize(
    ("schedule", "warmup_steps", "total_steps", "expected"),
    [
        ("constant", 0, 3, [1, 1, 1, 1]),
        ("constant", 4, 6, [0.25, 0.5, 0.75, 1, 1, 1, 1]),
        ("linear", 0, 4, [1, 0.75, 0.5, 0.25, 0, 0]),
        ("linear", 2, 4, [0.5, 1, 1, 0.5, 0]),
        ("cosine", 0, 4, [1, 0.8535533905932737, 0.5, 0.14644660940672627, 0, 0]),
        ("cosine", 1, 3, [1, 1, 0.5, 0]),
    ],
)
def test_factors_by_step(schedule, warmup_steps, total_steps, expected):
    factor = rate_factor(TrainConfig(schedule=schedule, warmup_steps=warmup_steps), total_steps)
    assert [factor(step) for step in range(len(expected))] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("schedule", "theirs"), [("linear", get_linear_schedule_with_warmup), ("cosine", get_cosine_schedule_with_warmup)]
)
def test_descent_equals_transformers(schedule, theirs):
    warmup_steps, total_steps = 7, 50
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = theirs(optimizer, warmup_steps, total_steps)
    rates = []
    for _ in range(total_steps):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    factor = rate_factor(TrainConfig(schedule=schedule, warmup_steps=warmup_steps), total_steps)
    ours = [factor(step) for step in range(total_steps)]
    assert ours[warmup_steps:] == pytest.approx(rates[warmup_steps:], abs=1e-12)
    # Theirs spends its first step at a rate of 0; ours is one step further on in the warm-up.
    assert ours[: warmup_steps - 1] == pytest.approx(rates[1:warmup_steps], abs=1e-12)


def test_descent_equals_torchs_cosine():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
    factor = rate_factor(TrainConfig(schedule="cosine"), 20)
    for step in range(20):
        assert factor(step) == pytest.approx(scheduler.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        scheduler.step()


def test_it_drives_torchs_scheduler():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2e-5)
    config = TrainConfig(lr=2e-5, schedule="linear", warmup_steps=2)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate_factor(config, 4))
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([1e-5, 2e-5, 2e-5, 1e-5])


@pytest.mark.parametrize(("warmup_steps", "total_steps"), [(10, 10), (11, 10), (0, 0)])
def test_a_warmup_without_end_is_refused(warmup_steps, total_steps):
    with pytest.raises(KmedError, match=rf"warmup_steps is {warmup_steps}, but .* {total_steps} optimizer steps"):
        rate_factor(TrainConfig(warmup_steps=warmup_steps), total_steps)

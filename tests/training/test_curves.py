"""Curves by step: what a point sums up, and that training passes on every step once, at no further reads."""

import math

import pytest

from kmed_bench.asr.model.weights import load_weights
from kmed_bench.config import TrainConfig
from kmed_bench.training.curves import StepCurve, StepPoint
from kmed_bench.training.fit import fit
from kmed_bench.training.sources import LogMelSource
from kmed_bench.training.step_results import Sums


def test_a_point_is_the_mean_over_tokens_and_finite_norms():
    points: list[StepPoint] = []
    curve = StepCurve(2, points.append)
    curve.add(1, 0.1, Sums(6.0, 2), 3.0)
    assert points == []
    curve.add(2, 0.2, Sums(3.0, 4), math.inf)
    curve.add(3, 0.3, Sums(1.0, 1), 1.0)
    curve.add(4, 0.4, Sums(1.0, 1), 3.0)
    assert points == [StepPoint(2, 1.5, 0.2, 3.0), StepPoint(4, 1.0, 0.4, 2.0)]


def test_a_point_without_tokens_or_norms_leaves_them_out():
    points: list[StepPoint] = []
    StepCurve(1, points.append).add(1, 0.1, Sums(), math.nan)
    assert points[0].metrics() == {"step/lr": 0.1}


@pytest.mark.parametrize("interval", [1, 3])
def test_training_passes_on_every_step(tiny_checkpoint, examples, store, interval):
    config = TrainConfig(
        epochs=2, batch_size=2, lr=1e-3, audio_context="dynamic", warmup_steps=2, schedule="linear", precision="fp32"
    )
    points: list[StepPoint] = []
    curve = StepCurve(interval, points.append)
    source = LogMelSource(store)
    epochs = list(
        fit(load_weights(tiny_checkpoint), examples[:8], source, examples[8:], store, config, seed=0, curve=curve)
    )
    assert [point.step for point in points] == list(range(interval, 9, interval))
    assert all(point.grad_norm > 0 for point in points)
    assert points[-1].lr < max(point.lr for point in points) <= config.lr
    if interval == 1:  # every clip is in one step of an epoch, so the first epoch's loss lies among its steps'
        losses = [point.loss for point in points[:4]]
        assert min(losses) <= epochs[0].train_loss <= max(losses)

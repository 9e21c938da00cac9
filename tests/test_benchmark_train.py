"""What benchmarks/train.py counts: the operations of a step, and turns of equal blocks."""

import importlib.util
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
import torch
import whisper.model
from torch.utils.flop_counter import FlopCounterMode

from kmed_bench.asr.batches import IGNORED
from kmed_bench.asr.weights import load_weights
from kmed_bench.training.network import LossNetwork

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def load():
    def load_script(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
        return module

    sys.path.insert(0, str(FOLDER))
    yield load_script
    sys.path.remove(str(FOLDER))


def test_the_formula_is_what_a_step_computes(load, tiny_checkpoint):
    model = load_weights(tiny_checkpoint)
    n_clips, n_positions, n_tokens = 2, 200, 30
    mel = torch.randn(n_clips, 80, 2 * n_positions)
    tokens = torch.randint(0, 50_000, (n_clips, n_tokens))
    targets = tokens.clone()
    targets[:, :3], targets[1, 20:] = IGNORED, IGNORED
    counter = FlopCounterMode(display=False)
    with counter, whisper.model.disable_sdpa():  # the counter does not know the CPU's fused attention
        loss, _ = LossNetwork(model, "fp32")(mel, tokens, targets)
        loss.backward()
    d = model.dims.n_text_state
    # Unfused, the causal half is computed as well, which the formula leaves out.
    masked_half = 3 * 2 * n_clips * n_tokens**2 * d * model.dims.n_text_layer
    formula = 2 * load("train").multiply_adds(model.dims, n_clips, n_positions, n_tokens, 27 + 17)
    assert counter.get_total_flops() == pytest.approx(formula + masked_half, rel=1e-3)


def test_competitors_take_turns_and_only_whole_blocks_count(load):
    turns = load("turns").Turns(["a", "b"], warm_up=1, block=2, blocks=3)
    steps = []

    def work(name, pause_s):
        def run(pace):
            time.sleep(0.2)  # set-up, which is not measured
            while True:
                steps.append((name, turns.is_measuring()))
                time.sleep(pause_s)
                pace()

        return run

    turns.run({"a": work("a", 0.01), "b": work("b", 0.03)})
    assert "".join(name for name, _ in steps) == "ab" + "aabb" * 3
    assert [measured for _, measured in steps] == [False, False, *[True] * 12]
    assert [len(turns.seconds[name]) for name in ("a", "b")] == [3, 3]
    assert all(0.02 <= seconds < 0.2 for seconds in turns.seconds["a"])
    assert all(seconds >= 0.06 for seconds in turns.seconds["b"])


def test_a_failing_competitor_stops_the_others(load):
    turns = load("turns").Turns(["a", "b"], warm_up=1, block=1, blocks=5)

    def fails(pace):
        pace()
        raise ValueError("no")

    def goes_on(pace):
        while True:
            pace()

    with pytest.raises(ValueError, match="no"):
        turns.run({"a": goes_on, "b": fails})

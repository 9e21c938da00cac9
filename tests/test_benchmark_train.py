"""What benchmarks/train.py counts: the operations of a step, and turns of equal blocks."""

import functools
import importlib.util
import multiprocessing
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
import turn_works
from learned_positions import learned_positions
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from kmed_bench.asr.model.weights import load_weights
from kmed_bench.core.batching import round_up
from kmed_bench.training.batches import IGNORED, LEARNED_STEP
from kmed_bench.training.loss import LossNetwork

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
    learned = learned_positions(targets)
    learned = F.pad(learned, (0, -len(learned) % LEARNED_STEP))
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):  # the counter does not know the CPU's fused attention
        loss, _ = LossNetwork(model, "fp32")(mel, tokens, targets, learned)
        loss.backward()
    d = model.dims.n_text_state
    # Unfused, the causal half is computed as well, which the formula leaves out.
    masked_half = 3 * 2 * n_clips * n_tokens**2 * d * model.dims.n_text_layer
    formula = 2 * load("train").multiply_adds(
        model.dims, n_clips, n_positions, n_tokens, round_up(27 + 17, LEARNED_STEP)
    )
    assert counter.get_total_flops() == pytest.approx(formula + masked_half, rel=1e-3)


@pytest.fixture
def turns(load):
    load("turns")
    return importlib.import_module("turns").Turns  # by the name that new processes find it under


@pytest.mark.slow
def test_competitors_take_turns_and_only_whole_blocks_count(turns, tmp_path):
    log = tmp_path / "steps"
    taken = turns(["a", "b"], warm_up=1, block=2, blocks=3)
    taken.run(functools.partial(turn_works.steady, log, {"a": 0.01, "b": 0.03}))
    steps = log.read_text().split()
    assert "".join(step[0] for step in steps) == "ab" + "aabb" * 3
    assert [step[1] for step in steps] == ["0", "0", *"1" * 12]
    assert {name: len(seconds) for name, seconds in taken.seconds.items()} == {"a": 3, "b": 3}
    assert all(0.02 <= seconds < 0.2 for seconds in taken.seconds["a"])
    assert all(seconds >= 0.06 for seconds in taken.seconds["b"])
    assert taken.notes == {"a": {"steps": 7}, "b": {"steps": 7}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("work", "message"),
    [
        (turn_works.failing, r"Competitor b stopped: ValueError\('no'\)"),
        (turn_works.ending, "Competitor [ab] (stopped|died)"),
    ],
)
def test_a_failing_competitor_stops_the_others(turns, work, message):
    with pytest.raises(RuntimeError, match=message):
        turns(["a", "b"], warm_up=1, block=1, blocks=5).run(work)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("script", sorted(path.stem for path in FOLDER.glob("*.py")))
def test_every_benchmark_finds_the_names_it_imports(load, script):
    """They are run by hand: a name that the package has given up would show only then."""
    try:
        load(script)
    except ModuleNotFoundError as missing:
        if missing.name.startswith("kmed_bench"):
            raise
        pytest.skip(f"{missing.name}, which {script}.py compares with, is not installed")

"""Section `counts` of `gpu.py`: operations, host reads, copies and allocations of a step, launched one by one.

A CPU shows the same as a GPU, but for the norm and the clipping of gradients, which a GPU computes in a few operations
for all of them, and attention, which some of its kernels split in two.
"""

import dataclasses
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gpu_models import Bench, Clips, load_clips
from gpu_training import config_of
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from whisper.audio import N_FRAMES

from kmed_bench.asr.decoding.continuous import decoding_on
from kmed_bench.asr.decoding.options import DecodingOptions
from kmed_bench.asr.decoding.slots import Slots
from kmed_bench.asr.model.gpu_layers import GPU
from kmed_bench.asr.model.windows import FULL_WINDOW
from kmed_bench.training import cuda
from kmed_bench.training.batches import Batch, Example, make_batch
from kmed_bench.training.loss import LossNetwork
from kmed_bench.training.parallel import Parallel
from kmed_bench.training.step import Stepper

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from host_reads import reads_values

N_SLOTS = 4


@dataclasses.dataclass
class Counts(TorchDispatchMode):
    """What happens while it is entered.

    Attributes
    ----------
    operations : int
        Without views, which compute nothing.
    reads : int
        Results that the host waits for.
    copies : int
        Transfers between the host and the device.
    allocations, allocated_bytes : int
        Results with memory of their own.
    """

    operations: int = 0
    views: int = 0
    reads: int = 0
    copies: int = 0
    allocations: int = 0
    allocated_bytes: int = 0

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given, found = _tensors((args, kwargs)), _tensors(result)
        if func.is_view:
            self.views += 1
            return result
        self.operations += bool(found) or func.overloadpacket.__name__.endswith("_")
        self.reads += reads_values(func, args)
        self.copies += len({tensor.device for tensor in (*given, *found) if tensor.dim()}) > 1
        known = {tensor.untyped_storage().data_ptr() for tensor in given}
        made = [tensor for tensor in found if tensor.untyped_storage().data_ptr() not in known]
        self.allocations += len(made)
        self.allocated_bytes += sum(tensor.nbytes for tensor in made)
        return result

    def found(self) -> dict[str, int]:
        """Return the counts by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


def _tensors(values: Any) -> list[torch.Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, torch.Tensor) and not value.is_sparse]


def count_training(bench: Bench, clips: Clips, size: str) -> dict[str, Any]:
    """Return the counts of a step in bf16 with a GPU's layers, not compiled, after one that makes the state."""
    model = bench.model(size)
    config = dataclasses.replace(config_of(bench), precision="bf16")
    network = LossNetwork(model.train(), "bf16")
    network._execution, network._output_loss = cuda.execution(compiled=False), cuda.output_loss
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, fused=True)
    stepper = Stepper(model, network, optimizer, config, "bf16", Parallel())
    stepper.graphs.enabled = False
    features, chosen = clips.features(bench.device), clips.repeated(config.batch_size)

    def make(examples: Any) -> Batch:
        audio = features.window([e.utterance_id for e in examples], FULL_WINDOW.n_frames)
        return make_batch(list[Example](examples), audio, FULL_WINDOW)

    stepper.take(chosen, make, lr=config.lr, where="")
    counts = Counts()
    with counts:
        stepper.take(chosen, make, lr=config.lr, where="")
    return {**counts.found(), "parameters": len(list(model.parameters()))}


def count_decoding(bench: Bench, clips: Clips, size: str) -> dict[str, Any]:
    """Return the counts of a step in slots, with 16-bit keys."""
    model, features = bench.model(size), clips.features(bench.device)
    names = [e.utterance_id for e in clips.repeated(N_SLOTS)]
    with decoding_on(bench.device):
        slots = Slots(model, DecodingOptions(precision="bf16", no_repeat_ngram_size=3), N_SLOTS, torch.bfloat16)
        audio = model.encode(features.window(names, N_FRAMES).to(bench.device), FULL_WINDOW, GPU)
        slots.fill(names, dataclasses.replace(audio, features=audio.features.bfloat16()))
        slots.step(slots.capacity)
        counts = Counts()
        with counts:
            slots.step(slots.capacity)
    return counts.found()


def run(bench: Bench, report: Callable[[str, Callable[[], Any]], None]) -> None:
    """Count a step of training and of decoding for each size."""
    clips = load_clips(bench)
    for size in bench.sizes:
        report(f"counts {size} training", functools.partial(count_training, bench, clips, size))
        report(f"counts {size} decoding", functools.partial(count_decoding, bench, clips, size))

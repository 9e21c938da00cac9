"""Training in 16 bits on a GPU: fewer and larger kernels than torch's own layers launch.

``applies`` decides where they are used; ``execution`` and ``output_loss`` replace ``asr.model.execution.STANDARD`` and
``training.loss.output_loss`` there.
"""

import dataclasses

import torch

from kmed_bench.asr.model.device import Precision
from kmed_bench.asr.model.execution import Execution
from kmed_bench.asr.model.gpu_layers import GPU
from kmed_bench.config import TrainConfig
from kmed_bench.training.cuda.compiled import can_compile, compile_function
from kmed_bench.training.cuda.output_loss import output_loss

__all__ = ["applies", "compiling_pays", "execution", "output_loss"]

# Compiling takes half a minute and saves 1 to 2 ms a step.
_WORTH_COMPILING = 20_000


def applies(precision: Precision, device: torch.device) -> bool:
    """Return whether training in this precision on this device uses these layers."""
    return precision != "fp32" and device.type == "cuda"


def execution(*, compiled: bool) -> Execution:
    """Return how blocks are computed on a GPU, compiled or launched kernel by kernel."""
    return dataclasses.replace(GPU, compiled=compile_function) if compiled else GPU


def compiling_pays(config: TrainConfig, n_steps: int) -> bool:
    """Return whether compiled layers save more time than it takes to compile them, and can be.

    Adapters and the many shapes of dynamic windows are left to torch's own layers.
    """
    plain = config.audio_context == "full" and config.lora_rank is None
    return plain and n_steps >= _WORTH_COMPILING and can_compile()

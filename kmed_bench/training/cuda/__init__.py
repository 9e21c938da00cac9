"""Training in 16 bits on a GPU: fewer and larger kernels than torch's own layers launch.

``applies`` decides where they are used; ``execution`` and ``output_loss`` replace ``asr.model.whisper.STANDARD`` and
``training.loss.output_loss`` there.
"""

import torch

from kmed_bench.asr.model.device import Precision
from kmed_bench.asr.model.whisper import Execution
from kmed_bench.training.cuda.compiled import can_compile, compile_block
from kmed_bench.training.cuda.layers import attention, fused_projections, output_loss, project_audio

__all__ = ["applies", "execution", "output_loss", "pays"]

# Compiling takes some 20 s and saves 1 to 2 ms a step.
_WORTH_COMPILING = 20_000


def applies(precision: Precision, device: torch.device) -> bool:
    """Return whether training in this precision on this device uses these layers."""
    return precision != "fp32" and device.type == "cuda"


def execution(*, compiled: bool) -> Execution:
    """Return how blocks are computed on a GPU, compiled or launched kernel by kernel."""
    return Execution(
        attention,
        project=fused_projections,
        project_audio=project_audio,
        compiled=compile_block if compiled else None,
    )


def pays(n_steps: int) -> bool:
    """Return whether compiled blocks save more time than it takes to compile them, and can be."""
    return n_steps >= _WORTH_COMPILING and can_compile()

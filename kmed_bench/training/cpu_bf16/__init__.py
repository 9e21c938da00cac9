"""Training in bf16 on a CPU: layers and an output loss that are faster than torch's, and memory that is kept.

``applies`` decides where they are used; ``EXECUTION`` and ``output_loss`` replace ``asr.model.execution.STANDARD`` and
``training.loss.output_loss`` there. All other training (fp32, fp16, a GPU) uses torch's own.
"""

import torch

from kmed_bench.asr.model.device import Precision
from kmed_bench.asr.model.execution import Execution
from kmed_bench.training.cpu_bf16.layers import attention, layer_norm
from kmed_bench.training.cpu_bf16.output_loss import output_loss

__all__ = ["EXECUTION", "applies", "output_loss"]

EXECUTION = Execution(attention, layer_norm)


def applies(precision: Precision, device: torch.device) -> bool:
    """Return whether training in this precision on this device uses these layers."""
    return precision == "bf16" and device.type == "cpu"

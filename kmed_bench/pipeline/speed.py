"""The speed and size of a model, measured while it decoded."""

import resource
from collections.abc import Mapping
from typing import Any

import torch

from kmed_bench.asr.model.device import describe_machine, pick_device


def describe_speed(
    scores: Mapping[str, Any], *, parameters: int | None, model_bytes: int, device: torch.device | None = None
) -> dict[str, Any]:
    """Return the cost of a model: RTFx, seconds per clip, memory, parameters, bytes, and the machine.

    Parameters
    ----------
    scores : mapping
        As `score_predictions` returns them; ``decode`` holds the times.
    """
    device = device or pick_device()
    return {
        **{name: scores["decode"][name] for name in ("rtfx", "decode_s_p50", "decode_s_p95")},
        "peak_memory_bytes": peak_memory_bytes(device),
        "parameters": parameters,
        "model_bytes": model_bytes,
        "machine": describe_machine(device),
    }


def peak_memory_bytes(device: torch.device) -> int:
    """Return the peak of memory so far: torch's on the GPU, else the whole process's since its start."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

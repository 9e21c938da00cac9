"""Seconds per clip, decoded one at a time after a warm-up, with the load that other processes caused meanwhile."""

import os
import time

import numpy as np
import pandas as pd
import psutil
import torch

from kmed_bench.asr.decoding.decode import predict_part
from kmed_bench.asr.decoding.options import DecodingOptions
from kmed_bench.asr.features.store import FeatureStore
from kmed_bench.asr.model.whisper import Whisper
from kmed_bench.config import EvalConfig
from kmed_bench.core.predictions import Prediction
from kmed_bench.core.progress import track
from kmed_bench.pipeline.export import spread_clips

N_CLIPS = 20
N_WARM_UP = 2
_BUSY = ("user", "nice", "system", "irq", "softirq", "steal")
_GPU_WINDOW_S = 1.0


def measure_latency(model: Whisper, part: pd.DataFrame, features: FeatureStore, config: EvalConfig) -> dict[str, float]:
    """Return ``clip_s_p50`` and ``clip_s_p95``, their numbers of clips, and ``others_load``.

    The load is the share of the machine's processor time that other processes took meanwhile, or, if higher, the
    share of time in which the GPU was busy just before. It is left out where it can't be measured.

    Parameters
    ----------
    part : pandas.DataFrame
        Rows of a manifest; at most 20 are decoded, evenly spaced, the longest two of them first, untimed.
    features : FeatureStore
        Of the part. They are computed before, so the times are those of the encoder and of decoding.
    """
    rows, options = spread_clips(part, N_CLIPS), DecodingOptions.from_config(config)
    warm_up = rows.nlargest(N_WARM_UP, "duration_s")
    with track("Latency") as tick:
        for i in range(len(warm_up)):
            predict_part(model, warm_up.iloc[[i]], features, options)
        gpu = _gpu_load(model.device)
        before, started = _others_s(), time.perf_counter()
        decoded: list[Prediction] = []
        for i in range(len(rows)):
            decoded += predict_part(model, rows.iloc[[i]], features, options)
            tick(len(decoded), len(rows))
        elapsed, after = time.perf_counter() - started, _others_s()
    p50, p95 = np.percentile([prediction.decode_s for prediction in decoded], [50, 95])
    measured = {
        "clip_s_p50": float(p50),
        "clip_s_p95": float(p95),
        "clips": float(len(decoded)),
        "warm_up_clips": float(len(warm_up)),
    }
    if before is not None and after is not None and gpu is not None:
        share = (after - before) / (elapsed * (os.cpu_count() or 1))
        measured["others_load"] = max(gpu, min(1.0, max(0.0, share)))
    return measured


def _others_s() -> float | None:
    """Return the processor time that all other processes have taken since the machine started; None if unknown."""
    try:
        times = psutil.cpu_times()
    except (OSError, ValueError):
        return None
    own = os.times()
    return float(sum(getattr(times, name, 0.0) for name in _BUSY)) - own.user - own.system


def _gpu_load(device: torch.device) -> float | None:
    """Return the share of the last second in which a GPU was busy, while this process waits; 0 without a GPU."""
    if device.type != "cuda":
        return 0.0
    torch.cuda.synchronize(device)
    time.sleep(_GPU_WINDOW_S)
    try:
        return float(torch.cuda.utilization(device)) / 100
    except Exception:  # NVIDIA's library or its Python package is missing; torch raises several types
        return None

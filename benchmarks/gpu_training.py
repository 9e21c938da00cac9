"""Section `training` of `gpu.py`: rates of `fit` itself."""

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from gpu_models import Bench, Clips, load_clips, matmul_rate
from train import CONFIG, SEED, operations
from turns import Enough

from kmed_bench.asr.model.whisper import Whisper
from kmed_bench.config import Context, TrainConfig
from kmed_bench.training.batches import Example, epoch_order
from kmed_bench.training.fit import fit, mean_loss
from kmed_bench.training.sources import LogMelSource

LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx", "cudaGraphLaunch")


@dataclasses.dataclass(frozen=True)
class Steps:
    """Steps of a measured training: a warm-up, blocks of equal length, and some that the profiler watches."""

    warm_up: int = 80  # each shape twice: the second call records its graph
    block: int = 30
    blocks: int = 6
    profiled: int = 5

    @property
    def measured(self) -> int:
        """Number of steps until the last block's end."""
        return self.warm_up + self.block * self.blocks


class Clock:
    """Called after each step of `fit`: notes each block's seconds, counts launches after the last, and ends `fit`."""

    def __init__(self, bench: Bench, steps: Steps, ends_s: float) -> None:
        self.seconds: list[float] = []
        self.launches: dict[str, Any] | None = None
        self._bench, self._steps, self._ends_s = bench, steps, ends_s
        self._done, self._started, self._profiler = 0, 0.0, None

    def __call__(self, *_counts: int) -> None:
        """Count a step."""
        self._done += 1
        if self._profiler:
            self._watch()
            return
        past = self._done - self._steps.warm_up
        if past < 0 or past % self._steps.block:
            return
        self._bench.synchronize()
        now = time.perf_counter()
        if past:
            self.seconds.append(now - self._started)
        if self._done == self._steps.measured or (len(self.seconds) > 1 and now > self._ends_s):
            self._profile()
        self._started = time.perf_counter()

    def _profile(self) -> None:
        if self._bench.device.type != "cuda":
            raise Enough
        activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        self._profiler = torch.profiler.profile(activities=activities)
        self._done = 0
        self._watching(self._profiler.start)

    def _watch(self) -> None:
        if self._done < self._steps.profiled:
            return
        self._bench.synchronize()
        self._watching(self._profiler.stop)
        events = {event.key: event.count for event in self._profiler.key_averages()}
        self.launches = {name: events[name] / self._done for name in LAUNCHES if name in events}
        raise Enough

    def _watching(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # the rates are measured all the same
            self.launches = {"error": f"{type(error).__name__}: {error}"[:300]}
            raise Enough from error


def config_of(bench: Bench, context: Context = "full") -> TrainConfig:
    """Return the published settings, in bf16 on a GPU, with too many epochs to end: `fit` compiles long trainings."""
    precision = "bf16" if bench.device.type == "cuda" else "fp32"
    return dataclasses.replace(CONFIG, epochs=20_000, precision=precision, audio_context=context)


def train(
    model: Whisper, clips: Clips, examples: list[Example], config: TrainConfig, tick: Callable[..., None], seed: int
) -> None:
    """Train with `fit` until the tick raises `Enough`."""
    features = clips.features(model.device)
    try:
        for _ in fit(model, examples, LogMelSource(features), examples[:1], features, config, seed=seed, progress=tick):
            pass
    except Enough:
        return
    raise RuntimeError("training ended before its last block")


def measure(bench: Bench, clips: Clips, size: str, context: Context, steps: Steps, limit_s: float) -> dict[str, Any]:
    """Return the rate of `fit`, its share of the matrix product's, launches a step and the peak memory."""
    on_gpu = bench.device.type == "cuda"
    config, model = config_of(bench, context), bench.model(size)
    examples = clips.repeated((steps.measured + steps.profiled) * config.batch_size)
    peak = matmul_rate(bench)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    clock = Clock(bench, steps, time.perf_counter() + limit_s)
    train(model, clips, examples, config, clock, SEED)
    order = epoch_order(examples, config.batch_size, seed=SEED, epoch=1)[steps.warm_up :]
    shares = []
    for i, block_s in enumerate(clock.seconds):
        done = sum(operations(batch, model.dims, context) for batch in order[i * steps.block :][: steps.block])
        shares.append(done / block_s / peak)
    rates = [steps.block * config.batch_size / block_s for block_s in clock.seconds]
    return {
        "clips_per_s": statistics.median(rates),
        "low": min(rates),
        "high": max(rates),
        "blocks": len(rates),
        "share_of_matmul": statistics.median(shares),
        "matmul_tflops": peak / 1e12,
        "launches_a_step": clock.launches,
        "allocated_bytes": torch.cuda.max_memory_allocated() if on_gpu else None,
        "reserved_bytes": torch.cuda.max_memory_reserved() if on_gpu else None,
        "validated_clips_per_s": validation_rate(bench, clips, model, config),
    }


def validation_rate(bench: Bench, clips: Clips, model: Whisper, config: TrainConfig) -> float:
    """Return the clips a second of the loss on a validation part, the second time: the first one chooses kernels."""
    examples, precision = clips.repeated(8 if bench.tiny else 640), "bf16" if bench.device.type == "cuda" else "fp32"
    features = clips.features(bench.device)
    mean_loss(model, examples, features, config, precision)
    bench.synchronize()
    started = time.perf_counter()
    mean_loss(model, examples, features, config, precision)
    return len(examples) / (time.perf_counter() - started)


def run(bench: Bench, report: Callable[[str, Callable[[], Any]], None]) -> None:
    """Measure a section."""
    clips, steps = load_clips(bench), Steps(2, 1, 2) if bench.tiny else Steps()
    wanted: list[tuple[str, Context]] = [("base", "full"), ("tiny", "full"), ("small", "full"), ("base", "dynamic")]
    wanted = [(size, context) for size, context in wanted if size in bench.sizes]
    for i, (size, context) in enumerate(wanted):
        limit_s = bench.left_s() / (len(wanted) - i)
        work = functools.partial(measure, bench, clips, size, context, steps, limit_s)
        report(f"training {size} {context}", work)
        if bench.device.type == "cuda":
            torch.cuda.empty_cache()

"""What curves by step cost a training: seconds per 1,000 logged steps on SQLite, and their share of its steps.

    python benchmarks/curve_logging.py [--quick] [--json FILE]

A logged step is three points: loss, learning rate, gradient norm. Ours gathers points for up to 15 s; so a request has
one logged step where training is slow (``alone``), or more where it is fast (``ten``: one every 1.5 s). The peer is
`mlflow.log_metrics`, once for each logged step. The steps of tiny and base are those of the demo corpus, in batches of
four, with random weights. A ratio over 1 means that ours is faster.
"""

import argparse
import importlib.metadata
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import mlflow
import torch
from demo_split import prepare
from mlflow.tracking import MlflowClient
from train_memory import material

from kmed_bench.asr.model.device import describe_machine, pick_device
from kmed_bench.asr.model.weights import dimensions
from kmed_bench.asr.model.whisper import Whisper
from kmed_bench.config import TrackingConfig, TrainConfig, load_config
from kmed_bench.tracking.curves import CurveLog
from kmed_bench.tracking.run import start_run
from kmed_bench.tracking.store import experiment_id, open_store
from kmed_bench.training.fit import fit, seed_everything
from kmed_bench.training.sources import LogMelSource

SIZES = ("tiny", "base")
POINTS = {"step/loss": 1.0, "step/lr": 2e-5, "step/grad_norm": 0.5}


def ours(uri: str, together: int, n_steps: int) -> tuple[float, float]:
    """Return the seconds that logging so many steps takes, and those of the processor, so many steps in a request."""
    client = MlflowClient(tracking_uri=uri)
    run = start_run(client, experiment_id(client, uri, "curves"), "ours", {})
    curve, started_s, began_s = CurveLog(run), time.perf_counter(), time.process_time()
    for step in range(1, n_steps + 1):
        curve.add(step, POINTS)
        if step % together == 0:
            curve.flush()
    curve.flush()
    return time.perf_counter() - started_s, time.process_time() - began_s


def peer(uri: str, n_steps: int) -> float:
    """Return the seconds that logging so many steps takes with MLflow's fluent function."""
    mlflow.set_tracking_uri(uri)
    with mlflow.start_run(experiment_id=experiment_id(MlflowClient(tracking_uri=uri), uri, "curves")):
        started_s = time.perf_counter()
        for step in range(1, n_steps + 1):
            mlflow.log_metrics(POINTS, step=step)
        return time.perf_counter() - started_s


def median_step_s(size: str, folder: Path) -> float:
    """Return the median seconds of a training step of a size."""
    seed_everything(0)
    model = Whisper(dimensions(size))
    for name, parameter in model.named_parameters():
        if "embedding" in name:  # openai-whisper leaves these uninitialised
            torch.nn.init.normal_(parameter, std=0.02)
    (examples, store), valid = (material(folder, part) for part in ("train", "valid"))
    times_s: list[float] = []
    config = TrainConfig(epochs=1, batch_size=4, audio_context="dynamic")
    tick: Callable[..., None] = lambda *_: times_s.append(time.perf_counter())  # noqa: E731
    list(fit(model, examples, LogMelSource(store), *valid, config, seed=0, progress=tick))
    return statistics.median(after - before for before, after in pairwise(times_s))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="100 logged steps and 24 clips instead of 1,000 and 112")
    parser.add_argument("--json", type=Path, help="where the result is written")
    args = parser.parse_args()
    n_steps, repeats = (100, 3) if args.quick else (1000, 5)
    interval = load_config("sound").tracking.step_interval
    taken: dict[str, list[float]] = {"alone": [], "ten": [], "log_metrics": []}
    busy: dict[str, list[float]] = {"alone": [], "ten": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        uri = open_store(TrackingConfig(uri=f"sqlite:///{folder}/mlflow.db"))
        for _ in range(repeats):
            for side, together in (("alone", 1), ("ten", 10)):
                seconds, busy_s = ours(uri, together, n_steps)
                taken[side].append(seconds * 1000 / n_steps)
                busy[side].append(busy_s * 1000 / n_steps)
            taken["log_metrics"].append(peer(uri, n_steps) * 1000 / n_steps)
        prepare(load_config("demo", {"split.train": 24} if args.quick else {}), folder)
        steps_s = {size: median_step_s(size, folder) for size in SIZES}
    alone_s = statistics.median(taken["alone"]) / 1000
    ratios = {
        side: [b / a for a, b in zip(taken[side], taken["log_metrics"], strict=True)] for side in ("alone", "ten")
    }
    result = {
        "machine": {"device": describe_machine(pick_device()), "system": platform.platform()},
        "versions": {name: importlib.metadata.version(name) for name in ("mlflow", "torch")},
        "ours": {
            "seconds_per_1000_logged_steps": {side: statistics.median(taken[side]) for side in ("alone", "ten")},
            "processor_seconds_per_1000_logged_steps": {side: statistics.median(busy[side]) for side in busy},
            "step_s": steps_s,
            "interval": interval,
            "share_of_training": {size: alone_s / (interval * step_s) for size, step_s in steps_s.items()},
            "share_with_every_step_logged": {size: alone_s / step_s for size, step_s in steps_s.items()},
        },
        "peers": {"log_metrics": {"seconds_per_1000_logged_steps": statistics.median(taken["log_metrics"])}},
        "ratios": {
            side: {"median": statistics.median(each), "low": min(each), "high": max(each)}
            for side, each in ratios.items()
        },
    }
    text = json.dumps(result, indent=2)
    print(text)
    if args.json:
        args.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

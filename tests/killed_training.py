"""A small training that can kill itself with SIGKILL at any moment, forked from a server that has torch loaded."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from mlflow.tracking import MlflowClient

from kmed_bench.asr.decoding.decode import predict_part
from kmed_bench.asr.model.weights import Weights, save_weights
from kmed_bench.config import load_config
from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import write_json
from kmed_bench.pipeline import trainer
from kmed_bench.pipeline.kept_checkpoints import write_history
from kmed_bench.pipeline.train_one import train_from
from kmed_bench.pipeline.trainer import Trainer
from kmed_bench.tracking.run import TrackedRun
from kmed_bench.training.epochs import decode_part
from kmed_bench.training.fit import mean_loss
from kmed_bench.training.state import StateKeeper
from kmed_bench.training.step import Stepper

# What a training is made of: each call of these, and each return, is a moment at which it can be killed.
CALLS: dict[str, tuple[Callable[..., Any], ...]] = {
    "step": (Stepper.take, Stepper._compute, Stepper._clip, Stepper._update, Stepper.collect),
    "write": (StateKeeper.save, save_weights, os.fsync, Path.replace, write_json, write_history),
    "validate": (mean_loss, decode_part, predict_part),
    "track": (
        MlflowClient.log_batch,
        TrackedRun.log_epoch,
        MlflowClient.log_artifact,
        MlflowClient.log_text,
        Trainer._finish,
    ),
}
KINDS = {kind: {call.__name__ for call in calls} for kind, calls in CALLS.items()}
KINDS["any"] = set().union(*KINDS.values())


class Moments:
    """Counts the moments of a kind in a training and kills the process at one of them."""

    def __init__(self, kill_at: int | None, among: set[str]) -> None:
        self.kill_at, self.among, self.passed = kill_at, among, list[str]()

    def __call__(self, frame: Any, event: str, argument: Any) -> None:
        name = frame.f_code.co_name if event in ("call", "return") else getattr(argument, "__name__", "")
        if name not in self.among:
            return
        self.passed.append(name)
        if len(self.passed) == self.kill_at:
            Path("killed-in").write_text(f"{event} {name}")
            os.kill(os.getpid(), signal.SIGKILL)


def stopping(number: int, after: int = 6) -> Callable[[str], AbstractContextManager[Callable[[int, int], None]]]:
    """Return a ``track`` that sends this process a signal after so many steps."""

    @contextmanager
    def track(_label: str) -> Iterator[Callable[[int, int], None]]:
        def tick(done: int, _total: int) -> None:
            if done == after:
                os.kill(os.getpid(), number)

        yield tick

    return track


def settings(store: Path, **more: Any) -> dict[str, Any]:
    """Return the overrides of a training that takes seconds."""
    return {
        "model.sizes": "base",
        "train.epochs": 3,
        "train.batch_size": 2,
        "train.lr": 1e-3,
        "train.audio_context": "dynamic",
        "train.precision": "fp32",
        "train.checkpoint_steps": 2,
        "train.spec_augment": True,
        "eval.audio_context": "dynamic",
        "eval.max_new_tokens": 8,
        "eval.bootstrap_draws": 100,
        "tracking.uri": f"sqlite:///{store}",
        "tracking.register": False,
    } | more


def train(
    folder: Path,
    split: Path,
    checkpoint: Path,
    overrides: dict[str, Any],
    kill_at: int | None,
    kind: str,
    stop_with: int | None,
) -> None:
    """Train, or go on training, in a folder; leave the moments passed in ``moments``."""
    os.chdir(folder)
    weights = Weights("base", checkpoint, "path", "0" * 64)
    moments = Moments(kill_at, KINDS[kind])
    sys.setprofile(moments)
    config = load_config("sound", overrides)
    if stop_with:
        trainer.track = stopping(stop_with)
    try:
        train_from(weights, config, split, folder / "out", resume=True)
    except (KeyboardInterrupt, KmedError) as said:
        (folder / "said").write_text(str(said))
        sys.exit(130 if isinstance(said, KeyboardInterrupt) else 2)
    sys.setprofile(None)
    (folder / "moments").write_text("\n".join(moments.passed))

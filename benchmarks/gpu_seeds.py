"""Section `seeds` of `gpu.py`: trainings at once on one card, each a process, as `kmed-bench run --slots` starts them.

They take turns on the card unless NVIDIA's MPS lets them share it, so both are measured. Each training's first losses
are compared with those it has alone, with deterministic kernels.
"""

import contextlib
import dataclasses
import functools
import multiprocessing
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from gpu_models import Bench, Clips, load_clips
from gpu_training import Steps, config_of, train
from turns import Enough

from kmed_bench.training.fit import fit
from kmed_bench.training.sources import LogMelSource

N_SEEDS, N_LOSSES = 3, 4
CONTROL, START_LIMIT_S = "nvidia-cuda-mps-control", 10


@dataclasses.dataclass(frozen=True)
class Together:
    """What trainings at once share.

    Attributes
    ----------
    line : multiprocessing.Barrier
        Where all wait after the warm-up.
    n_done : multiprocessing.Value
        How many have taken their measured steps. Until all have, each goes on: else the last one would have the card
        for itself.
    """

    line: Any
    n_done: Any


def first_losses(bench: Bench, clips: Clips, seed: int) -> list[float]:
    """Return a training's first losses, with kernels that give the same bits in every run."""
    config = dataclasses.replace(config_of(bench), epochs=N_LOSSES, lr=1e-4, deterministic=True)
    batch, features = clips.repeated(config.batch_size), clips.features(bench.device)
    results = fit(bench.model("base", seed), batch, LogMelSource(features), batch[:1], features, config, seed=seed)
    return [result.train_loss for result in results]


def work(bench: Bench, steps: Steps, seed: int, together: Together, answer: Connection) -> None:
    """Be one of the trainings, in a process of its own; send its losses, its rate, or the error's text."""
    try:
        clips, config = load_clips(bench), config_of(bench)
        examples = clips.repeated((steps.measured + steps.block) * config.batch_size)
        losses = first_losses(bench, clips, seed)
        n_done, started, seconds = 0, 0.0, 0.0

        def tick(*_counts: int) -> None:
            nonlocal n_done, started, seconds
            n_done += 1
            if n_done == steps.warm_up:
                bench.synchronize()
                together.line.wait(max(bench.left_s(), 1))
                started = time.perf_counter()
            elif n_done == steps.measured:
                bench.synchronize()
                seconds = time.perf_counter() - started
                with together.n_done.get_lock():
                    together.n_done.value += 1
            if n_done >= steps.measured and together.n_done.value == together.line.parties:
                raise Enough

        # Fewer epochs than are compiled for: every process would compile for itself.
        train(bench.model("base", seed), clips, examples, dataclasses.replace(config, epochs=50), tick, seed)
        n_clips = (steps.measured - steps.warm_up) * config.batch_size
        answer.send({"losses": losses, "clips_per_s": n_clips / seconds})
    except Exception as error:  # the parent raises it
        together.line.abort()
        answer.send({"error": f"{type(error).__name__}: {error}"[:300]})


def at_once(bench: Bench, seeds: list[int], steps: Steps) -> dict[str, Any]:
    """Return the clips a second of trainings at once, together and each, and their first losses.

    Raises
    ------
    RuntimeError
        When one of them fails; the others are stopped.
    """
    context = multiprocessing.get_context("spawn")  # a forked process can't use a GPU that this one used
    together = Together(context.Barrier(len(seeds)), context.Value("i", 0))
    answers, workers = [], []
    for seed in seeds:
        ours, theirs = context.Pipe(duplex=False)
        workers.append(context.Process(target=work, args=(bench, steps, seed, together, theirs), daemon=True))
        workers[-1].start()
        theirs.close()
        answers.append(ours)

    try:
        found = [answer.recv() if answer.poll(max(bench.left_s(), 1)) else {"error": "late"} for answer in answers]
    except EOFError:
        found = [{"error": "a process died"}]
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()
    if errors := [each["error"] for each in found if "error" in each]:
        raise RuntimeError("; ".join(errors)[:900])
    rates = [each["clips_per_s"] for each in found]
    return {"clips_per_s": sum(rates), "of_each": rates, "losses": [each["losses"] for each in found]}


@contextlib.contextmanager
def shared_card(folder: Path) -> Iterator[None]:
    """Run NVIDIA's MPS daemon, a child of this process, for the processes that are started within."""
    folder.mkdir(exist_ok=True)
    own = {"CUDA_MPS_PIPE_DIRECTORY": str(folder), "CUDA_MPS_LOG_DIRECTORY": str(folder)}
    before = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    daemon = subprocess.Popen([CONTROL, "-f"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        waited_until = time.monotonic() + START_LIMIT_S
        while not (folder / "control").exists():
            if daemon.poll() is not None or time.monotonic() > waited_until:
                raise RuntimeError(f"{CONTROL} did not start (status {daemon.poll()})")
            time.sleep(0.1)
        yield
    finally:
        subprocess.run([CONTROL], input="quit\n", text=True, check=False, timeout=START_LIMIT_S, capture_output=True)
        with contextlib.suppress(subprocess.TimeoutExpired):
            daemon.wait(START_LIMIT_S)
        daemon.kill()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def compare(bench: Bench, steps: Steps, alone: dict[str, Any], *, mps: bool) -> dict[str, Any]:
    """Return the rates of all seeds at once over one alone, and whether their losses are those they have alone."""
    if mps and not shutil.which(CONTROL):
        return {"left_out": f"{CONTROL} is not installed"}
    with shared_card(bench.folder / "mps") if mps else contextlib.nullcontext():
        found = at_once(bench, list(range(N_SEEDS)), steps)
    same = found.pop("losses") == alone["losses"]
    return {**found, "over_one_alone": found["clips_per_s"] / alone["clips_per_s"], "losses_as_alone": same}


def one_alone(bench: Bench, steps: Steps, known: dict[str, Any]) -> dict[str, Any]:
    """Return the rate of one training alone, and each seed's first losses; put them into ``known`` as well."""
    known |= at_once(bench, [0], steps)
    clips = load_clips(bench)
    known["losses"] += [first_losses(bench, clips, seed) for seed in range(1, N_SEEDS)]
    return dict(known)


def run(bench: Bench, report: Callable[[str, Callable[[], Any]], None]) -> None:
    """Measure one training alone, then all seeds at once without and with MPS."""
    load_clips(bench)  # so that the processes find the features
    steps = Steps(2, 1, 2) if bench.tiny else Steps(warm_up=60, block=60, blocks=1)
    alone: dict[str, Any] = {}
    report("seeds alone", functools.partial(one_alone, bench, steps, alone))
    if not alone:
        return
    for name, mps in (("seeds slots", False), ("seeds slots, MPS", True)):
        report(name, functools.partial(compare, bench, steps, alone, mps=mps))

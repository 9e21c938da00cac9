"""What the competitors of test_benchmark_train.py do, each in a process of its own."""

import time
from pathlib import Path


def steady(log: Path, pauses: dict[str, float], name: str, pace) -> None:
    """Take steps of a competitor's own length and write each down."""
    time.sleep(0.2)  # set-up, which is not measured
    while True:
        with log.open("a") as stream:
            stream.write(f"{name}{pace.measuring:d} ")
        time.sleep(pauses[name])
        pace.notes["steps"] = pace.notes.get("steps", 0) + 1
        pace()


def failing(name: str, pace) -> None:
    """Fail in the second turn of b; a goes on."""
    pace()
    if name == "b":
        raise ValueError("no")
    while True:
        pace()


def ending(name: str, pace) -> None:
    """End before the last block, and the process of b at once."""
    pace()
    if name == "b":
        raise SystemExit

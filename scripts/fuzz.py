"""Damage valid files and call every reader of foreign input with them; keep what a reader may not do.

    python scripts/fuzz.py --seconds 1800 [--target wav --target yaml] [--seed 1]

A failure is an undocumented exception, over 5 s of processor time, over 1 GiB of memory or a file left open. Its
input is made smaller and written to tests/fuzz/corpus/TARGET/, from where tests/fuzz replays it. One line per target
says how many calls there were. `make fuzz HOURS=0.5` runs it.
"""

import argparse
import hashlib
import random
import shutil
import sys
import tempfile
import time
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from fuzz_targets import CORPUS, Failure, Target, damage, guard, make_targets, quiet  # noqa: E402

_TURN_S = 0.25
_SMALLER_TRIES = 300
_PER_TARGET = 20
"""Failures of one kind that are kept for a target: the first ones say enough."""


def main() -> int:
    """Run for the asked time; return 1 if a reader failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--target", action="append", default=[])
    parser.add_argument("--seed", type=int, default=None, help="default: the time")
    args = parser.parse_args()
    seed = int(time.time()) if args.seed is None else args.seed
    warnings.simplefilter("ignore")
    with quiet(), tempfile.TemporaryDirectory() as folder:
        targets = make_targets(Path(folder) / "seeds", tuple(args.target))
        for name, target in targets.items():
            for data in target.seeds:
                if failure := guard(target, data, _empty(Path(folder) / "work")):
                    print(f"{name}: its own seed fails: {failure}")
        calls, failures = run(targets, Path(folder) / "work", random.Random(seed), args.seconds)
    for name, n_calls in calls.items():
        print(f"{name:20} {n_calls:>9,} calls {failures.get(name, 0):>5} failures")
    print(f"{'all':20} {sum(calls.values()):>9,} calls {sum(failures.values()):>5} failures, seed {seed}")
    return 1 if failures else 0


def run(
    targets: dict[str, Target], place: Path, noise: random.Random, duration_s: float
) -> tuple[dict[str, int], dict[str, int]]:
    """Call the targets by turns of the same time, so the fast ones more often; return their calls and failures."""
    calls, failures = dict.fromkeys(targets, 0), {}
    kept: dict[tuple[str, str], int] = {}
    end_s = time.monotonic() + duration_s
    while time.monotonic() < end_s:
        for name, target in targets.items():
            work = _empty(place)
            turn_end_s = time.monotonic() + _TURN_S
            while time.monotonic() < turn_end_s:
                data = damage(noise, target)
                calls[name] += 1
                if failure := guard(target, data, work):
                    failures[name] = failures.get(name, 0) + 1
                    kept[name, failure.kind] = kept.get((name, failure.kind), 0) + 1
                    if kept[name, failure.kind] <= _PER_TARGET:
                        _keep(name, target, data, failure, work)
                    work = _empty(place)
    return calls, failures


def _empty(place: Path) -> Path:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    return place


def _keep(name: str, target: Target, data: bytes, failure: Failure, place: Path) -> None:
    """Write a failing input into the corpus, as small as a few tries make it."""
    if failure.kind not in ("slow", "memory", "TimeoutError"):
        data = _smaller(target, data, failure.kind, place)
    path = CORPUS / name / hashlib.sha256(data).hexdigest()[:12]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    print(f"{name}: {failure.kind}: {failure.detail[:200]} -> {path.name} ({len(data)} bytes)", flush=True)


def _smaller(target: Target, data: bytes, kind: str, place: Path) -> bytes:
    size, tries = max(1, len(data) // 2), 0
    while size and tries < _SMALLER_TRIES:
        at = 0
        while at < len(data) and tries < _SMALLER_TRIES:
            shorter, tries = data[:at] + data[at + size :], tries + 1
            failure = guard(target, shorter, _empty(place))
            if failure is not None and failure.kind == kind:
                data = shorter
            else:
                at += size
        size //= 2
    return data


if __name__ == "__main__":
    sys.exit(main())

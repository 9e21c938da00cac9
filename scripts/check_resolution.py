"""Checks that an installation without the lock gets a torch and a torchaudio that load together.

torchaudio's wheels refuse a torch of another CUDA, and state no bound on torch, so a resolver takes the newest of each.
Usage: python scripts/check_resolution.py [PYTHON_VERSION ...], with uv installed; nothing is installed. The exit status
is 1 where versions do not fit or none can be chosen, 2 where uv can't work, as without an index.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.11", "3.12", "3.13")
# The CUDA that each release of torchaudio was built with; its wheels have it in torchaudio.version.cuda.
BUILT_WITH = {"2.11": "13.0"}
TESTED = {"2.14": "2.11"}
"""torch and torchaudio that the test suite runs with; another pair is to be tested before it is named here."""


def resolve(python: str) -> dict[str, str]:
    """Return what uv chooses for a Python version, all extras included, as versions by package."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--all-extras"]
    command += ["--python-version", python, "--python-platform", "x86_64-manylinux_2_28", "pyproject.toml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"Python {python}: no resolution\n{done.stderr}", file=sys.stderr)
        raise SystemExit(done.returncode)
    return dict(re.findall(r"^([\w.-]+?)(?:\[.*\])?==([^\s;]+)", done.stdout, re.MULTILINE))


def fault(found: dict[str, str]) -> str:
    """Return what does not fit in a resolution; empty if everything does."""
    torch, audio = (".".join(found[name].split(".")[:2]) for name in ("torch", "torchaudio"))
    cuda = ".".join(found.get("cuda-toolkit", "none").split(".")[:2])
    if BUILT_WITH.get(audio) != cuda:
        return f"torch brings CUDA {cuda}, torchaudio {audio} was built with {BUILT_WITH.get(audio, 'an unknown one')}"
    if TESTED.get(torch) != audio:
        return f"torch {torch} with torchaudio {audio} is not a tested pair"
    return ""


def main(pythons: list[str]) -> int:
    """Print a line for each Python version and return the exit status."""
    faults = 0
    for python in pythons or PYTHONS:
        found = resolve(python)
        wrong = fault(found)
        faults += bool(wrong)
        pair = f"torch {found['torch']}, torchaudio {found['torchaudio']}, {len(found)} packages"
        print(f"Python {python}: {pair}: {wrong or 'fit together'}")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

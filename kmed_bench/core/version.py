"""The version of the code that runs."""

import subprocess
from pathlib import Path

from kmed_bench import __version__


def code_version() -> str:
    """Return the package version, with the commit where the package runs from a checkout."""
    root = Path(__file__).resolve().parents[2]
    if (root / ".git").exists():
        command = ["git", "-C", str(root), "describe", "--always", "--dirty"]
        try:
            described = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return __version__
        return f"{__version__}+{described}"
    return __version__

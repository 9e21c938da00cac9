"""The version of the code that runs."""

import platform
import subprocess
from importlib.metadata import version
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


def software_versions() -> str:
    """Return the versions of Python and of the packages that decide figures, without local parts such as ``+cpu``."""
    packages = ("torch", "openai-whisper", "jiwer", "mlflow")
    found = [f"{name} {version(name).partition('+')[0]}" for name in packages]
    return ", ".join([f"Python {platform.python_version()}", *found])

"""The version of the code that runs."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

from kmed_bench import __version__
from kmed_bench.core.files import sha256_of

_ROOT = Path(__file__).resolve().parents[2]


def lock_sha256() -> str | None:
    """Return the SHA-256 of requirements.lock; None for an installed package, which has no lock file beside it."""
    lock = _ROOT / "requirements.lock"
    return sha256_of(lock) if lock.is_file() else None


def code_version() -> str:
    """Return the package version, with the commit where the package runs from a checkout."""
    if (_ROOT / ".git").exists():
        command = ["git", "-C", str(_ROOT), "describe", "--always", "--dirty"]
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

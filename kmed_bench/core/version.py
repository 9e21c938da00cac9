"""The version of the code that runs."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

from kmed_bench import __version__
from kmed_bench.core.files import sha256_of

_ROOT = Path(__file__).resolve().parents[2]
_GIT_TIMEOUT_S = 10


def lock_sha256() -> str | None:
    """Return the SHA-256 of requirements.lock; None for an installed package, which has no lock file beside it."""
    lock = _ROOT / "requirements.lock"
    return sha256_of(lock) if lock.is_file() else None


def ask_git(root: Path, *words: str) -> bytes | None:
    """Return git's output if the folder is the root of a checkout, otherwise None."""
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), *words]
    try:
        return subprocess.run(command, capture_output=True, check=True, timeout=_GIT_TIMEOUT_S).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def code_version() -> str:
    """Return the package version, with the commit where the package runs from a checkout."""
    described = ask_git(_ROOT, "describe", "--always", "--dirty")
    return __version__ if described is None else f"{__version__}+{described.decode().strip()}"


def software_versions() -> str:
    """Return the versions of Python and of the packages that decide figures, without local parts such as ``+cpu``."""
    packages = ("torch", "openai-whisper", "jiwer", "mlflow")
    found = [f"{name} {version(name).partition('+')[0]}" for name in packages]
    return ", ".join([f"Python {platform.python_version()}", *found])

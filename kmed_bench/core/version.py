"""The version of the code that runs."""

import subprocess
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

"""Keyed pseudonyms: names that leave the hospital, and that only the holder of the key can resolve."""

import hashlib
import hmac
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import write_text_atomically

_KEY_BYTES = 32
_DIGITS = 16
"""Hexadecimal digits of a pseudonym: of a million names, two agree with a probability of 3e-8."""


def default_key_file() -> Path:
    """Return where the key is kept unless the user names another file; not among caches, which may be deleted."""
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "kmed-bench" / "pseudonyms.key"


class Pseudonyms:
    """Replaces names by HMAC-SHA256 of kind and name under a secret key (RFC 2104)."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def from_file(cls, path: Path, *, create: bool = True) -> "Pseudonyms":
        """Return the pseudonyms of a key file, which is made, for its owner alone, where there is none.

        Raises
        ------
        KmedError
            When the file holds no key of this program, can be read by others, or is not there and may not be made.
        """
        if not path.exists():
            if not create:
                raise KmedError(
                    f"There is no key in {path}; name with --key the file that the pseudonyms were made with."
                )
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_text_atomically(path, secrets.token_hex(_KEY_BYTES) + "\n", private=True)
        if path.stat().st_mode & 0o077:
            raise KmedError(f"The key {path} can be read by others, who could then resolve pseudonyms; `chmod 600` it.")
        text = path.read_text(encoding="utf-8").strip()
        try:
            key = bytes.fromhex(text)
        except ValueError:
            key = b""
        if len(key) != _KEY_BYTES:
            raise KmedError(
                f"{path} holds {len(text)} characters and not the {2 * _KEY_BYTES} hexadecimal digits of a key; name "
                "another file with --key, or delete it if no pseudonym was ever made with it."
            )
        return cls(key)

    def of(self, kind: str, name: str) -> str:
        """Return the pseudonym of a name: the kind and 16 hexadecimal digits, equal for equal names."""
        digest = hmac.new(self._key, f"{kind}\0{name}".encode(), hashlib.sha256).hexdigest()
        return f"{kind}-{digest[:_DIGITS]}"

    def resolve(self, wanted: Iterable[str], kind: str, names: Iterable[str]) -> dict[str, str]:
        """Return the name behind each wanted pseudonym that one of the names has."""
        asked = set(wanted)
        return {made: name for name in names if (made := self.of(kind, name)) in asked}

"""Ed25519 keys (RFC 8032) that sign what leaves a machine or enters one."""

import hashlib
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from kmed_bench.core.errors import KmedError


def read_private_key(path: Path) -> Ed25519PrivateKey:
    """Return an Ed25519 private key from a PEM file without a passphrase.

    Raises
    ------
    KmedError
        When the file is missing, or no such key.
    """
    remedy = "make one with `openssl genpkey -algorithm ed25519 -out FILE`"
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise KmedError(
            f"The signing key {path} can't be read ({error.strerror}); check the path, or {remedy}."
        ) from None
    except TypeError:
        raise KmedError(
            f"The signing key {path} has a passphrase; write it without one (`openssl pkey -in FILE -out OTHER`) where "
            "only you can read it, and give that file."
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise KmedError(f"{path} is not a private key in PEM; {remedy}.") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise KmedError(f"{path} is a {type(key).__name__.lstrip('_')}, not an Ed25519 key; {remedy}.")
    return key


def read_public_key(path: Path) -> Ed25519PublicKey:
    """Return an Ed25519 public key from a PEM file; raises KmedError like `read_private_key`."""
    remedy = "write it with `openssl pkey -in PRIVATE -pubout -out FILE`"
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise KmedError(f"The public key {path} can't be read ({error.strerror}); check the path.") from None
    except (ValueError, UnsupportedAlgorithm):
        raise KmedError(f"{path} is not a public key in PEM; {remedy}.") from None
    if not isinstance(key, Ed25519PublicKey):
        raise KmedError(f"{path} is a {type(key).__name__.lstrip('_')}, not an Ed25519 key; {remedy}.")
    return key


def fingerprint(key: Ed25519PublicKey) -> str:
    """Return the SHA-256 of a public key's 32 bytes, by which people compare keys."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()

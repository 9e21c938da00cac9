"""JSON objects with a digest of their own and, where a key is given, an Ed25519 signature (RFC 8032) of that digest."""

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from kmed_bench.core.errors import KmedError

_ALGORITHM = "Ed25519"
_SEALS = ("sha256", "signature")


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


def digest_of(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of an object as compact JSON with sorted keys, without its own digest and signature."""
    bare = {key: value for key, value in content.items() if key not in _SEALS}
    text = json.dumps(bare, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def seal(content: Mapping[str, Any], key: Ed25519PrivateKey | None) -> dict[str, Any]:
    """Return an object with ``sha256`` and ``signature`` (None without a key)."""
    digest = digest_of(content)
    signature = None
    if key is not None:
        signature = {
            "algorithm": _ALGORITHM,
            "public_key": base64.b64encode(key.public_key().public_bytes_raw()).decode(),
            "value": base64.b64encode(key.sign(digest.encode())).decode(),
        }
    return {**content, "sha256": digest, "signature": signature}


def faults_of(content: Mapping[str, Any], key: Ed25519PublicKey | None) -> list[str]:
    """Return what is wrong with a sealed object's digest and signature; an empty list if both hold.

    Parameters
    ----------
    key : Ed25519PublicKey, optional
        The key that must have signed it. None: a signature must fit the key that the object itself names, which shows
        damage but not who signed.
    """
    faults = []
    try:
        holds = content["sha256"] == digest_of(content)
    except ValueError:  # an infinite number, NaN or half a character, which JSON that was sealed does not have
        holds = False
    if not holds:
        faults.append("the passport was changed: its content does not have the SHA-256 that it states")
    if content["signature"] is None:
        return [*faults, "it is not signed, and a public key was given"] if key else faults
    try:
        named = Ed25519PublicKey.from_public_bytes(base64.b64decode(content["signature"]["public_key"], validate=True))
        value = base64.b64decode(content["signature"]["value"], validate=True)
    except (KeyError, TypeError, ValueError, binascii.Error):
        return [*faults, "its signature is damaged"]
    if key is not None and key.public_bytes_raw() != named.public_bytes_raw():
        faults.append(f"it was signed with another key ({fingerprint(named)[:16]}) than {fingerprint(key)[:16]}")
    try:
        (key or named).verify(value, content["sha256"].encode())
    except InvalidSignature:
        faults.append("its signature does not fit")
    return faults


def signer_of(content: Mapping[str, Any]) -> str:
    """Return the fingerprint of the key that a sealed object whose signature holds was signed with; empty if none."""
    if content["signature"] is None:
        return ""
    return fingerprint(Ed25519PublicKey.from_public_bytes(base64.b64decode(content["signature"]["public_key"])))

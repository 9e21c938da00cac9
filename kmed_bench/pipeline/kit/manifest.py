"""kit.json and SHA256SUMS of a kit: written last, signed where a key is given, and checked."""

import re
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from kmed_bench.core.errors import KmedError, brief
from kmed_bench.core.files import sha256_of, write_bytes_atomically, write_json, write_text_atomically
from kmed_bench.core.kit_contract import KIT, Kit, KitFile

MANIFEST, SUMS, SIGNATURE = "kit.json", "SHA256SUMS", "SHA256SUMS.sig"
UNFINISHED = ".unfinished.json"
_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")
_SHOWN = 5


def describe_files(folder: Path) -> dict[str, KitFile]:
    """Return size and SHA-256 of each file of a kit by its path in it, without the manifest and its sums."""
    paths = [path for path in _files(folder) if path not in (MANIFEST, SUMS, SIGNATURE, UNFINISHED)]
    return {path: {"bytes": (folder / path).stat().st_size, "sha256": sha256_of(folder / path)} for path in paths}


def write_manifest(folder: Path, kit: Kit, key: Ed25519PrivateKey | None) -> None:
    """Write kit.json, SHA256SUMS (of all files, kit.json included) and, with a key, its signature."""
    for name in (MANIFEST, SUMS, SIGNATURE):
        (folder / name).unlink(missing_ok=True)
    sums = {path: file["sha256"] for path, file in kit["files"].items()}
    write_json(folder / MANIFEST, kit)
    sums[MANIFEST] = sha256_of(folder / MANIFEST)
    write_text_atomically(folder / SUMS, "".join(f"{sums[path]}  {path}\n" for path in sorted(sums)))
    if key is not None:
        sign(folder, key)


def sign(folder: Path, key: Ed25519PrivateKey) -> None:
    """Write the signature of SHA256SUMS, the 64 bytes that ``openssl pkeyutl -verify -rawin`` reads."""
    write_bytes_atomically(folder / SIGNATURE, key.sign((folder / SUMS).read_bytes()))


def check_kit(folder: Path, key: Ed25519PublicKey | None = None) -> Kit:
    """Return the manifest of a kit that is whole: every file is there as it was made, and no other.

    Parameters
    ----------
    key : Ed25519PublicKey, optional
        The key that must have signed it; None: a signature is not checked.

    Raises
    ------
    KmedError
        When the folder is no kit, a file is missing, damaged or not the kit's, or the signature does not hold.
    """
    if not (folder / SUMS).is_file() or (folder / UNFINISHED).exists():
        raise KmedError(f"{folder} is no finished kit: give the `offline-kit` command that began it again.")
    if key is not None:
        _check_signature(folder, key)
    kit, sums = KIT.read(folder / MANIFEST), _read_sums(folder / SUMS)
    stated = {path: file.get("sha256") for path, file in kit["files"].items()}
    faults = [f"{path} differs between {SUMS} and {MANIFEST}" for path in sorted(stated.keys() | sums.keys())
              if path != MANIFEST and stated.get(path) != sums.get(path)]  # fmt: skip
    present = set(_files(folder)) - {SUMS, SIGNATURE}
    faults += [f"{path} is missing" for path in sorted(sums.keys() - present)]
    faults += [f"{path} is not the kit's" for path in sorted(present - sums.keys())]
    faults += [f"{path} is damaged" for path in sorted(sums.keys() & present) if sha256_of(folder / path) != sums[path]]
    if faults:
        more = f" and {len(faults) - _SHOWN} more faults" if len(faults) > _SHOWN else ""
        raise KmedError(f"{folder} is not whole: {'; '.join(map(brief, faults[:_SHOWN]))}{more}. Copy the kit again.")
    return kit


def _check_signature(folder: Path, key: Ed25519PublicKey) -> None:
    path = folder / SIGNATURE
    if not path.is_file():
        raise KmedError(f"{folder} is not signed: it has no {SIGNATURE}, and a public key was given.")
    try:
        key.verify(path.read_bytes(), (folder / SUMS).read_bytes())
    except InvalidSignature:
        raise KmedError(
            f"{path} is no signature of {SUMS} by this key: the kit was changed, or signed with another key. Don't "
            "install it; ask who made it."
        ) from None


def _read_sums(path: Path) -> dict[str, str]:
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        match = _LINE.fullmatch(line)
        if match is None or Path(match[2]).is_absolute() or ".." in Path(match[2]).parts:
            raise KmedError(f"{path} has the line {line[:80]!r}, which is no SHA-256 and path; copy the kit again.")
        found[match[2]] = match[1]
    return found


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())

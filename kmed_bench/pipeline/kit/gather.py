"""A kit is gathered in steps that each keep what is there; its manifest comes last, so only a whole kit has one."""

import logging
import shutil
import zipfile
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from packaging.utils import parse_wheel_filename

from kmed_bench import __version__
from kmed_bench.asr.model.weights import Weights, find_weights
from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import read_json, replacing, sha256_of, write_json, write_text_atomically
from kmed_bench.core.kit_contract import KIT, Kit, KitChoices, KitWeights
from kmed_bench.core.version import code_version
from kmed_bench.pipeline.kit.manifest import SUMS, UNFINISHED, check_kit, describe_files, sign, write_manifest
from kmed_bench.pipeline.kit.requirements import choose_packages
from kmed_bench.pipeline.kit.sources import ARCHIVE, SITE, build_site, copy_pages, write_source_archive
from kmed_bench.pipeline.kit.target import Target
from kmed_bench.pipeline.kit.wheels import SDISTS, build_own_wheel, fetch_wheels, lock_text, wheels_by_name

SOURCE = Path(__file__).resolve().parents[3]
"""The source tree that this package runs from; where it was installed from a wheel, a folder without one."""
_OWN = "kmed-bench"
# What the package needs beside code, and the wheel that brings it.
_CONTENTS = {
    "openai-whisper": "whisper/assets/multilingual.tiktoken",
    "koreanize-matplotlib": "koreanize_matplotlib/fonts/NanumGothic.ttf",
}

_log = logging.getLogger(__name__)


def gather_kit(
    out: Path,
    target: Target,
    *,
    sizes: Sequence[str],
    extras: Sequence[str],
    cpu: bool = False,
    key: Ed25519PrivateKey | None = None,
    source: Path = SOURCE,
) -> Kit:
    """Return the manifest of a kit that was gathered in a folder, continued there, or found finished.

    Parameters
    ----------
    out : Path
        The kit's folder; it may hold an unfinished kit of the same choices.
    sizes : sequence of str
        Whose weights to take along.
    cpu : bool
        Whether to take torch without CUDA.
    source : Path
        The source tree whose package, lock and documentation are taken.

    Raises
    ------
    KmedError
        When something can't be had, or the folder holds something else.
    """
    if not (source / "requirements.lock").is_file():
        raise KmedError(
            f"There is no requirements.lock in {source}: a kit is made from a source tree. Clone the repository, `make "
            ".venv/.installed`, and give the command there."
        )
    choices = KitChoices(
        python=target.python,
        platform=target.platform,
        cpu=cpu,
        extras=sorted(extras),
        sizes=list(sizes),
        code_version=code_version(),
        lock_sha256=sha256_of(source / "requirements.lock"),
    )
    if (finished := _finished(out, choices, key)) is not None:
        return finished
    wanted = choose_packages(source, target, extras, cpu=cpu)
    found = [find_weights(size) for size in sizes]  # before an hour of downloads
    _open(out, choices)
    _log.info("1/4 wheels")
    unlocked = fetch_wheels(wanted, target, out / "wheels")
    build_own_wheel(source, out / "wheels")
    names = {package.name for package in wanted.locked} | {_OWN, *unlocked}
    _tidy(out / "wheels", names, target)
    _log.info("2/4 weights: %s", ", ".join(sizes) or "none")
    weights = copy_weights(found, out / "weights")
    _log.info("3/4 documentation, source, kit.lock, install.sh")
    _copy_sources(source, out)
    write_text_atomically(out / "kit.lock", lock_text(out / "wheels"))
    installed = installed_bytes(out / "wheels")
    write_installer(out, target, installed)
    _log.info("4/4 manifest")
    kit = write_kit(out, choices, weights, [name for name in (*SDISTS, _OWN) if name in names], unlocked, key)
    (out / UNFINISHED).unlink()
    return kit


def write_kit(
    out: Path,
    choices: KitChoices,
    weights: dict[str, KitWeights],
    built: list[str],
    unlocked: list[str],
    key: Ed25519PrivateKey | None,
) -> Kit:
    """Write kit.json and its sums for the files in a folder, and return the manifest."""
    files = describe_files(out)
    versions = {name: str(parse_wheel_filename(p.name)[1]) for name, p in wheels_by_name(out / "wheels").items()}
    kit = Kit(
        **KIT.head,
        kmed_bench=__version__,
        **choices,
        packages=versions,
        built=built,
        unlocked=unlocked,
        weights=weights,
        files=files,
        n_bytes=sum(file["bytes"] for file in files.values()),
        installed_bytes=installed_bytes(out / "wheels"),
    )
    write_manifest(out, kit, key)
    return kit


def copy_weights(found: Iterable[Weights], folder: Path) -> dict[str, KitWeights]:
    """Copy checkpoints, and the stamp of one that was converted, into a kit's folder unless they are there."""
    copied = {}
    for weights in found:
        stamp = weights.path.with_suffix(".sha256")
        for path in [weights.path, *([stamp] if stamp.is_file() else [])]:
            target = folder / path.name
            if not target.is_file() or sha256_of(target) != sha256_of(path):
                with replacing(target) as temporary:
                    shutil.copyfile(path, temporary)
        file = f"{folder.name}/{weights.path.name}"
        copied[weights.size] = KitWeights(file=file, origin=weights.origin, sha256=weights.sha256)
    return copied


def write_installer(out: Path, target: Target, installed: int) -> None:
    """Write install.sh for the kit in a folder, of which the wheels take this many bytes installed."""
    text = resources.files("kmed_bench.pipeline.kit").joinpath("install.sh").read_text(encoding="utf-8")
    values = {
        "VERSION": __version__,
        "PYTHON": target.python,
        "MACHINE": target.machine,
        "GLIBC": target.glibc_minor,
        "N_PACKAGES": len(wheels_by_name(out / "wheels")),
        "INSTALLED_MB": installed // 10**6,
        "NEEDED_KIB": installed * 11 // 10 // 1024 + 50_000,
    }
    for name, value in values.items():
        text = text.replace(f"@{name}@", str(value))
    write_text_atomically(out / "install.sh", text)
    (out / "install.sh").chmod(0o755)


def installed_bytes(wheels: Path) -> int:
    """Return how many bytes the files in a folder's wheels take when they are installed."""
    total = 0
    for path in wheels_by_name(wheels).values():
        with zipfile.ZipFile(path) as archive:
            total += sum(entry.file_size for entry in archive.infolist())
    return total


def _finished(out: Path, choices: KitChoices, key: Ed25519PrivateKey | None) -> Kit | None:
    """Return a finished kit of the same choices, signed now if a key is given; None where there is none."""
    if (out / UNFINISHED).exists() or not (out / SUMS).exists():
        return None
    kit = check_kit(out)
    _refuse_others(out, {name: kit.get(name) for name in choices}, choices)
    if key is not None:
        sign(out, key)
    _log.info("%s is finished and whole; nothing was fetched", out)
    return kit


def _open(out: Path, choices: KitChoices) -> None:
    """Make a kit's folder, or check that what is in it is an unfinished kit of the same choices."""
    begun = out / UNFINISHED
    if begun.exists():
        _refuse_others(out, read_json(begun), choices)
        for left in out.glob(".fetch*"):
            shutil.rmtree(left)
    elif out.exists() and any(out.iterdir()):
        raise KmedError(f"{out} is not empty and holds no kit; name another folder, or remove it.")
    out.mkdir(parents=True, exist_ok=True)
    write_json(begun, choices)


def _refuse_others(out: Path, found: object, choices: KitChoices) -> None:
    if not isinstance(found, dict):
        raise KmedError(f"{out} holds a damaged list of choices; remove the folder.")
    wanted = dict(choices)
    if different := [
        f"{name} {found.get(name)!r} and not {wanted[name]!r}" for name in wanted if found.get(name) != wanted[name]
    ]:
        raise KmedError(f"{out} holds a kit of {', '.join(different)}; name another folder, or remove it.")


def _tidy(wheels: Path, names: set[str], target: Target) -> None:
    """Check that the wheels are those wanted, fit the target and bring what the package needs beside code."""
    present, tags = wheels_by_name(wheels), target.tags()
    for name in present.keys() - names:
        present.pop(name).unlink()  # of an earlier version of an extra's dependencies
    if missing := sorted(names - present.keys()):
        raise KmedError(f"{wheels} lacks the wheels of {', '.join(missing)}; give the same command again.")
    for name, path in present.items():
        if not parse_wheel_filename(path.name)[3] & tags:
            raise KmedError(f"{path.name} does not run on Python {target.python}, {target.platform}.")
        if needed := _CONTENTS.get(name):
            with zipfile.ZipFile(path) as archive:
                if needed not in archive.namelist():
                    raise KmedError(f"{path.name} lacks {needed}, which kmed-bench needs; take the locked version.")


def _copy_sources(source: Path, out: Path) -> None:
    """Take the documentation, the site where MkDocs is installed, and the source tree where git knows its files."""
    copy_pages(source, out)
    if not build_site(source, out):
        _log.info("No %s/: MkDocs is not installed here; the extra `docs` brings it. The pages are in docs/.", SITE)
    if not write_source_archive(source, out):
        _log.warning("No %s: %s is no git checkout, so `make test-fast` needs another copy of it.", ARCHIVE, source)
